//! What the tests stand on: a private PostgreSQL, pgferry as a child process, and a client that can say anything.

pub mod certs;
pub mod ferry;
pub mod postgres;
pub mod raw;
pub mod wire;

use std::time::{Duration, Instant};

pub use certs::{Certs, Wish};
pub use ferry::Ferry;
pub use postgres::Postgres;
pub use raw::{Message, Raw, Received};
pub use wire::Wire;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
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

/// Runs `program` with `args` and environment `env`; panics with its output unless it succeeds within two minutes.
pub fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> String {
    let output = std::process::Command::new("timeout")
        .args(["--kill-after=5", "120", program])
        .args(args)
        .env("PGCONNECT_TIMEOUT", "20")
        .envs(env.iter().copied())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// What psql says when it runs `sql` over `connection`: its output, or what it complains about.
pub fn psql(connection: &str, secret: &str, sql: &str) -> Result<String, String> {
    let output = std::process::Command::new(postgres::program("psql"))
        .args(["-X", "-At", "-d", connection, "-c", sql])
        .env("PGPASSWORD", secret)
        .env("PGCONNECT_TIMEOUT", "20")
        .output()
        .expect("psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
