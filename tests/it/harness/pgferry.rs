//! pgferry as a child process on a socket of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{Certs, Postgres, ProtocolClient, Signal, deadline, eventually, eventually_some};

/// A running pgferry. When it goes at a test's end it must hold nothing that a client has left.
pub struct Pgferry {
    child: Child,
    dir: TempDir,
    log: Arc<Mutex<String>>,
    /// Descriptors that were open before the first client came.
    files: usize,
    checked: bool,
}

/// The figures of a report.
#[derive(Debug)]
pub struct Report(String);

impl Report {
    /// A figure that is text, in quotes.
    pub fn text(&self, name: &str) -> &str {
        let at = self.0.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {}", self.0));
        // What follows begins like the next figure.
        &self.0[at + name.len() + 2..]
    }

    pub fn get(&self, name: &str) -> u64 {
        let at = self.0.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {}", self.0));
        let rest = &self.0[at + name.len() + 2..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().expect("a number")
    }
}

impl Pgferry {
    /// In front of `postgres`, with additional arguments.
    pub fn start(postgres: &Postgres, args: &[&str]) -> Self {
        Self::start_with(&postgres.url(), args, &[])
    }

    /// In front of `url`, with additional arguments and environment.
    pub fn start_with(url: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
        let host = dir.path().to_str().expect("UTF-8").to_owned();
        let mut all = vec!["--upstream", url, "--listen", &host, "-v"];
        all.extend_from_slice(args);
        Self::spawn(dir, &all, env)
    }

    /// In front of `url`, with a configuration file of this text, additional arguments and environment.
    pub fn start_with_file(url: &str, text: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let certs = Certs::new();
        let path = certs.write("pgferry.toml", text);
        Self::start_with(url, &[&["-c", &path], args].concat(), env)
    }

    /// With exactly these arguments, in `dir`. Where they or the environment say how large a pool is, it has no reserve.
    pub fn spawn(dir: TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let is_sized = args.contains(&"--pool-size") || env.iter().any(|(name, _)| *name == "PGFERRY_POOL_SIZE");
        let reserve = is_sized.then_some(("PGFERRY_RESERVE_POOL_SIZE", "0"));
        Self::spawn_command(dir, command().args(args).envs(reserve).envs(env.iter().copied()))
    }

    /// With exactly these arguments, and the port that pgferry chooses for its sockets.
    pub fn spawn_with_own_port(dir: TempDir, args: &[&str]) -> Self {
        Self::spawn_command(dir, command().args(args).env_remove("PGFERRY_PORT"))
    }

    fn spawn_command(dir: TempDir, command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("pgferry");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("unpoisoned");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut ferry = Self { child, dir, log, files: 0, checked: false };
        eventually("pgferry is ready", || {
            let ended = ferry.child.try_wait().expect("a child");
            assert!(ended.is_none(), "pgferry ended: {}", ferry.log());
            ferry.log().contains("ready: ")
        });
        ferry.files = ferry.open_files();
        ferry
    }

    /// The directory of its socket: what clients put as `host`.
    pub fn host(&self) -> &str {
        self.dir.path().to_str().expect("UTF-8")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(".s.PGSQL.5432")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("unpoisoned").clone()
    }

    /// A driver's connection.
    pub async fn connect(&self, user: &str) -> Client {
        self.try_connect(&format!("user={user}")).await.expect("a connection")
    }

    /// A driver's connection with `params` (`dbname` defaults to postgres).
    pub async fn try_connect(&self, params: &str) -> Result<Client, tokio_postgres::Error> {
        let config = format!("host={} dbname=postgres {params}", self.host());
        deadline::waits_for(|| format!("a driver's connection, {config}, or what is done on it"));
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection on which nothing has been said.
    pub fn raw(&self) -> ProtocolClient {
        ProtocolClient::unix(&self.socket())
    }

    /// A raw connection of trust_user to database postgres, past its welcome.
    pub fn session(&self) -> ProtocolClient {
        ProtocolClient::logged_in(self.raw(), "trust_user", "postgres")
    }

    /// The figures now.
    pub fn report(&self) -> Report {
        let before = self.log().matches("served ").count();
        self.signal(Signal::SIGUSR1);
        eventually_some("a report", || {
            let log = self.log();
            let reports: Vec<_> = log.lines().filter(|line| line.contains("served ")).collect();
            (reports.len() > before).then(|| Report(format!(" {}", reports[reports.len() - 1])))
        })
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.child.id(), signal);
    }

    /// Waits until its log contains `text`: a line may come after what the client was told at the same time.
    pub fn logs(&self, text: &str) {
        let deadline = std::time::Instant::now() + super::SOON;
        super::waits_for(|| format!("pgferry logs {text:?}"));
        while !self.log().contains(text) {
            assert!(
                std::time::Instant::now() < deadline,
                "not logged within {:?}: {text}\n{}",
                super::SOON,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.checked = true;
        eventually_some("pgferry ends", || self.child.try_wait().expect("a child"))
    }

    /// No client is left, nobody holds a connection, no descriptor has leaked.
    pub fn assert_quiet(&mut self) {
        self.checked = true;
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("pgferry has ended: {status}, signal {:?}\n{}", status.signal(), self.log());
        }
        let mut last = None;
        let mut quiet = || {
            let report = self.report();
            let files = self.open_files();
            let expected = self.files + usize::try_from(report.get("upstream_now")).expect("small");
            let quiet = report.get("clients_now") == 0 && report.get("leased_now") == 0 && files <= expected;
            last = Some((report, files, expected));
            quiet
        };
        let deadline = std::time::Instant::now() + super::SOON;
        while !quiet() {
            assert!(std::time::Instant::now() < deadline, "something is left: {last:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let panics = self.log().matches("panicked").count();
        assert_eq!(panics, 0, "{}", self.log());
    }

    /// Ends it without the check of what it holds: a fault has been found already.
    pub fn give_up(mut self) {
        self.checked = true;
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Processor time used, in ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
    }

    /// Resident memory in kB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }
}

impl Drop for Pgferry {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut quiet = Ok(());
        if failed {
            eprintln!("pgferry's log:\n{}", self.log());
        } else if !self.checked {
            quiet = catch_unwind(AssertUnwindSafe(|| self.assert_quiet()));
        }
        // It may have ended already; a process that outlived a failed test would keep the output of all of them open.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(fault) = quiet {
            resume_unwind(fault);
        }
    }
}

/// What `pgferry` with these arguments and environment prints, and how it exits.
pub fn run_pgferry(args: &[&str], env: &[(&str, &str)]) -> Output {
    command().args(args).envs(env.iter().copied()).output().expect("pgferry")
}

/// pgferry's program, with an environment that says nothing to it, but for the port in the names of its sockets: that of
/// the upstream is another one in each test.
pub fn command() -> Command {
    program(env!("CARGO_BIN_EXE_pgferry"))
}

/// A program that starts pgferry, likewise.
pub fn program(name: &str) -> Command {
    deadline::waits_for(|| format!("{name} to start or to end"));
    let mut command = Command::new(name);
    command.env(deadline::OWNER, deadline::test_name());
    for (name, _) in std::env::vars() {
        if name.starts_with("PGFERRY_") || name == "DATABASE_URL" || name == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
    command.env("PGFERRY_PORT", "5432");
    command
}
