//! A real PostgreSQL of our own: initdb in a temporary directory, a free port, fsync off.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{Certs, Signal};

/// The password of every user that has one.
pub const PASSWORD: &str = "pa ss'w\\ord";

const HBA: &str = "\
local all all trust
host all md5_user 127.0.0.1/32 md5
host all scram_user 127.0.0.1/32 scram-sha-256
host all plain_user 127.0.0.1/32 password
host all rejected 127.0.0.1/32 reject
host replication scram_user 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 trust
host all all 127.0.0.1/32 trust
";

const SETUP: &str = "\
create role trust_user login superuser replication;
set password_encryption = 'md5';
create role md5_user login superuser password 'pa ss''w\\ord';
set password_encryption = 'scram-sha-256';
create role scram_user login superuser replication password 'pa ss''w\\ord';
create role plain_user login superuser password 'pa ss''w\\ord';
create role rejected login;
create role limited login;
create database other;
create table numbers as select n from generate_series(1, 1000) n;
create table copied (a int, b text);
create table deferred (a int unique deferrable initially deferred);
create sequence shared_sequence;
create sequence in_a_transaction;
create table hidden as select 'there' as v;
create schema one_path;
create table one_path.pathed as select 'one' as v;
create schema two_path;
create table two_path.pathed as select 'two' as v;
";

/// A running server. It ends with the test process, however that ends.
pub struct Postgres {
    pub port: u16,
    pub dir: PathBuf,
    server: Option<Server>,
    temp: TempDir,
}

/// The server process, below a shell that stops it when our end of its standard input closes.
struct Server {
    shell: Child,
    kill_on_parent_exit: Option<ChildStdin>,
}

impl Postgres {
    /// The server that most tests share. Tests that stop it, or count its connections, start their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&["max_connections=300"]))
    }

    /// A server of one's own with additional settings.
    pub fn start_with(settings: &[&str]) -> Self {
        let mut postgres = Self::stopped(settings);
        postgres.start();
        postgres
    }

    fn stopped(settings: &[&str]) -> Self {
        let temp = temp_dir();
        let dir = temp.path().join("data");
        as_owner(&["cp", "-a", &path(template()), &path(&dir)]);
        let port = free_port();
        let postgres = Self { port, dir, server: None, temp };
        for setting in settings {
            postgres.configure(setting);
        }
        postgres
    }

    /// A server with TLS: `certificate` and `key`, and `authority` for the certificates of clients.
    pub fn start_tls((certificate, key): &(String, String), authority: &str) -> Self {
        let mut postgres = Self::stopped(&["ssl=on", "log_connections=on"]);
        postgres.configure("ssl_cert_file='server.crt'\nssl_key_file='server.key'\nssl_ca_file='clients.crt'");
        postgres.install(certificate, "server.crt");
        postgres.install(key, "server.key");
        postgres.install(authority, "clients.crt");
        postgres.start();
        postgres
    }

    /// A standby of this server, which follows it. It is made while the server is down, which takes its programs only.
    pub fn standby(&mut self) -> Self {
        self.stop();
        let temp = temp_dir();
        let dir = temp.path().join("data");
        as_owner(&["cp", "-a", &path(&self.dir), &path(&dir)]);
        as_owner(&["touch", &path(&dir.join("standby.signal"))]);
        self.start();
        let mut standby = Self { port: free_port(), dir, server: None, temp };
        standby.configure(&format!("primary_conninfo='host=127.0.0.1 port={} user=trust_user'", self.port));
        standby.start();
        standby
    }

    /// Puts a copy of `file` into the data directory; the server reads certificates when it is told to reload.
    pub fn install(&self, file: &str, name: &str) {
        let to = self.dir.join(name);
        std::fs::copy(file, &to).expect("copied");
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name(owner()).ok().flatten().expect("a user");
            nix::unistd::chown(&to, Some(user.uid), Some(user.gid)).expect("chown");
        }
    }

    /// Appends to postgresql.conf.
    pub fn configure(&self, setting: &str) {
        append(&self.dir.join("postgresql.conf"), &format!("{setting}\n"));
    }

    /// Puts a line in front of pg_hba.conf and makes the server read it.
    pub fn prepend_hba(&self, line: &str) {
        let file = self.dir.join("pg_hba.conf");
        let old = std::fs::read_to_string(&file).expect("readable");
        std::fs::write(&file, format!("{line}\n{old}")).expect("writable");
        self.signal(Signal::SIGHUP);
    }

    /// Starts the server, and returns when it accepts connections.
    pub fn start(&mut self) {
        self.start_unready();
        self.wait_ready();
    }

    /// Starts the server, and returns at once.
    pub fn start_unready(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let program = format!("{}/postgres", bin());
        let mut args = owner_prefix();
        args.extend([program, "-D".into(), path(&self.dir), "-p".into(), self.port.to_string()]);
        let script =
            "\"$@\" & child=$!; trap 'kill -INT $child' TERM; read _ <&3; kill -INT $child 2>/dev/null; wait $child";
        let mut shell = Command::new("sh")
            .args(["-c", &format!("exec 3<&0; {script}"), "sh"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("sh");
        let kill_on_parent_exit = shell.stdin.take();
        self.server = Some(Server { shell, kill_on_parent_exit });
    }

    /// Waits until the server accepts connections.
    pub fn wait_ready(&self) {
        let connect = || async {
            let config = format!("host=127.0.0.1 port={} user=trust_user dbname=postgres", self.port);
            tokio_postgres::connect(&config, NoTls).await.is_ok() || {
                let config = format!("host=127.0.0.1 port={} user={} dbname=postgres", self.port, owner());
                tokio_postgres::connect(&config, NoTls).await.is_ok()
            }
        };
        let wait = async {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !connect().await {
                assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", self.log());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // On a thread of its own, since the caller may be inside a runtime.
        let block =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(wait);
        std::thread::scope(|scope| scope.spawn(block).join().expect("no panic"));
    }

    /// Stops the server as `pg_ctl stop -m fast` does.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        drop(server.kill_on_parent_exit.take());
        super::waits_for(|| format!("PostgreSQL at port {} to stop", self.port));
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.shell.try_wait().expect("a child").is_none() {
            if Instant::now() > deadline {
                // A test that failed may have left it stopped by SIGSTOP, which a fast shutdown does not end.
                self.signal(Signal::SIGKILL);
                server.shell.wait().expect("waited for");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.dir.join("postmaster.pid")).expect("a running server");
        super::signal(pid.lines().next().expect("a pid").parse().expect("a pid"), signal);
    }

    /// A connection that goes past pgferry.
    pub async fn connect(&self) -> Client {
        let config = format!("host=127.0.0.1 port={} user=trust_user dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    /// Runs SQL on a connection of its own, past pgferry.
    pub fn sql(&self, sql: &str) -> String {
        let port = self.port.to_string();
        let out = super::run(
            &program("psql"),
            &["-X", "-h", "127.0.0.1", "-p", &port, "-U", "trust_user", "-d", "postgres", "-Atc", sql],
            &[],
        );
        out.trim().to_owned()
    }

    /// How many connections of clients there are, other than the one that asks.
    pub fn backends(&self) -> usize {
        self.sql(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
        .parse()
        .expect("a number")
    }

    /// How many connections the server has logged; needs `log_connections=on`.
    pub fn connections_received(&self) -> usize {
        self.log().matches("connection received").count()
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        static VERSION: OnceLock<u32> = OnceLock::new();
        let ask = || self.sql("select current_setting('server_version_num')::int / 10000").parse().expect("a number");
        *VERSION.get_or_init(ask)
    }

    /// The upstream URL for pgferry. With `TEST_SSLMODE=require` in the environment everything goes through TLS.
    pub fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}?sslmode={}", self.port, ssl_mode())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.temp.path().join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where the server's programs are: `PGFERRY_TEST_PG_BIN`, or what Debian installed last.
pub fn bin() -> &'static str {
    static BIN: OnceLock<String> = OnceLock::new();
    BIN.get_or_init(|| {
        if let Ok(dir) = std::env::var("PGFERRY_TEST_PG_BIN") {
            return dir;
        }
        let debian = debian().filter(|dir| Path::new(dir).join("postgres").exists());
        debian.expect("PostgreSQL's server programs: run tests/setup.sh, or set PGFERRY_TEST_PG_BIN")
    })
}

fn ssl_mode() -> String {
    std::env::var("TEST_SSLMODE").unwrap_or_else(|_| "disable".to_owned())
}

/// A client program: the server's own, or what Debian installed last.
pub fn program(name: &str) -> String {
    let own = format!("{}/{name}", bin());
    if Path::new(&own).exists() { own } else { format!("{}/{name}", debian().expect("PostgreSQL's client programs")) }
}

fn debian() -> Option<String> {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|dir| dir.join("psql").exists())
        .collect();
    found.sort();
    found.pop().map(|dir| path(&dir))
}

/// A cluster with our users and tables, to be copied.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, TempDir)> = OnceLock::new();
    let (dir, _) = TEMPLATE.get_or_init(|| {
        let temp = temp_dir();
        let dir = temp.path().join("data");
        let initdb = format!("{}/initdb", bin());
        as_owner(&[&initdb, "-D", &path(&dir), "-U", owner(), "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        append(
            &dir.join("postgresql.conf"),
            "fsync=off\nfull_page_writes=off\nunix_socket_directories=''\nlisten_addresses='127.0.0.1'\n\
             max_wal_senders=10\npassword_encryption=scram-sha-256\nshared_buffers=16MB\nlog_min_messages=info\nmin_wal_size=32MB\n",
        );
        std::fs::write(dir.join("pg_hba.conf"), HBA).expect("writable");
        let mut postgres = Postgres { port: free_port(), dir: dir.clone(), server: None, temp: temp_dir() };
        if ssl_mode() != "disable" {
            let certs = Certs::new();
            let (certificate, key) = certs.make_self_signed("server", &["localhost"]);
            postgres.install(&certificate, "server.crt");
            postgres.install(&key, "server.key");
            postgres.configure("ssl=on");
        }
        postgres.start();
        let port = postgres.port.to_string();
        let psql = program("psql");
        let mut args =
            vec!["-X", "-h", "127.0.0.1", "-p", &port, "-U", owner(), "-d", "postgres", "-v", "ON_ERROR_STOP=1"];
        // One at a time: CREATE DATABASE must stand alone.
        args.extend(SETUP.split_terminator(";\n").flat_map(|statement| ["-c", statement]));
        super::run(&psql, &args, &[]);
        postgres.stop();
        (dir, temp)
    });
    dir
}

/// PostgreSQL does not run as root: where we are root, it runs as `postgres` (or `nobody`).
fn owner() -> &'static str {
    static OWNER: OnceLock<String> = OnceLock::new();
    OWNER.get_or_init(|| {
        let user = |name| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.name);
        if nix::unistd::geteuid().is_root() {
            user("postgres").or_else(|| user("nobody")).expect("a user to run PostgreSQL as")
        } else {
            nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().expect("a user").name
        }
    })
}

fn owner_prefix() -> Vec<String> {
    if nix::unistd::geteuid().is_root() {
        ["setpriv", "--reuid", owner(), "--regid", &group(), "--clear-groups"].map(str::to_owned).to_vec()
    } else {
        Vec::new()
    }
}

fn group() -> String {
    let user = nix::unistd::User::from_name(owner()).ok().flatten().expect("a user");
    user.gid.to_string()
}

fn as_owner(command: &[&str]) {
    let mut all = owner_prefix();
    all.extend(command.iter().map(|&word| word.to_owned()));
    let args: Vec<_> = all[1..].iter().map(String::as_str).collect();
    super::run(&all[0], &args, &[]);
}

/// Removes directories when this process has ended, however it ends: statics, which most tests share, are never dropped.
fn remove_at_exit(dir: &Path) {
    static REAPER: OnceLock<Mutex<Child>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        // A server may be at its end in there: until it is through, some of it comes back.
        let script = "trap '' INT TERM; while read -r dir; do set -- \"$@\" \"$dir\"; done; \
            for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf \"$@\" 2>/dev/null && sleep 1 && [ ! -e \"$1\" ] && break; sleep 1; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(command.spawn().expect("sh"))
    });
    let mut reaper = reaper.lock().expect("unpoisoned");
    writeln!(reaper.stdin.as_mut().expect("piped"), "{}", dir.display()).expect("a reaper");
}

fn temp_dir() -> TempDir {
    let temp = tempfile::Builder::new().prefix("pgferry-test-").tempdir().expect("a directory");
    remove_at_exit(temp.path());
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name(owner()).ok().flatten().expect("a user");
        nix::unistd::chown(temp.path(), Some(user.uid), Some(user.gid)).expect("chown");
    }
    temp
}

fn append(file: &Path, text: &str) {
    let mut file = std::fs::File::options().append(true).open(file).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
