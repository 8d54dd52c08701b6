//! What the tests stand on: a private PostgreSQL, pgferry as a child process, and a client that can say anything.

pub mod certs;
pub mod child_process;
pub mod deadline;
pub mod pgferry;
pub mod postgres;
pub mod protocol_client;
pub mod tcp_proxy;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;

pub use certs::{CertOptions, Certs};
pub use child_process::ChildProcess;
pub use deadline::waits_for;
pub use nix::sys::signal::Signal;
pub use pgferry::Pgferry;
pub use postgres::Postgres;
pub use protocol_client::{Message, ProtocolClient, Received};
pub use tcp_proxy::TcpProxy;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    waits_for(|| what.to_owned());
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` yields something.
pub fn eventually_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = condition();
        found.is_some()
    });
    found.expect("just seen")
}

/// Waits until `child` ends.
pub fn ends(child: &mut Child) -> ExitStatus {
    eventually_some("a process ends", || child.try_wait().expect("a child"))
}

/// Sends a signal to the process `pid`.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to process {pid}: {error}"));
}

/// Returns whether the kernel probes an idle client of the listener on this port of 127.0.0.1.
pub fn probes_a_client(port: u16) -> bool {
    // proc_net(5): the state is 01 (ESTABLISHED), the timer 02 (keepalive).
    let local = format!("0100007F:{port:04X}");
    std::fs::read_to_string("/proc/net/tcp").expect("readable").lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1] == local && fields[3] == "01" && fields[5].starts_with("02:")
    })
}

/// Runs `program` with `args` and environment `env`; panics with its output unless it succeeds within two minutes.
pub fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> String {
    waits_for(|| format!("{program} {args:?}"));
    let output = bounded(program).args(args).envs(env.iter().copied()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// A program that is ended after two minutes, and then exits with 124.
pub fn bounded(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120", program]).env("PGCONNECT_TIMEOUT", "20").stdin(Stdio::null());
    command
}

/// What psql says when it runs `sql` over `connection`: its output, or what it complains about.
pub fn psql(connection: &str, secret: &str, sql: &str) -> Result<String, String> {
    waits_for(|| format!("psql {connection:?}: {sql}"));
    let output = bounded(&postgres::program("psql"))
        .args(["-X", "-At", "-d", connection, "-c", sql])
        .env("PGPASSWORD", secret)
        .output()
        .expect("psql");
    assert_ne!(output.status.code(), Some(124), "psql {connection:?} does not end: {sql}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
