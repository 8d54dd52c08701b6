//! A deadline for every test: one that hangs fails, and the report names what it waited for.
//!
//! Waits in the harness have limits of their own. This is for the rest: a join of threads that never end, a query that is never answered.
//! At the limit the pgferry processes of that test are killed, so that its waits end and it fails by itself, alone. If it still does
//! not end, the whole run does.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// The environment variable by which a child process is known as a test's own. Its value is the test's name.
pub const OWNER: &str = "TEST_OWNER";

/// The environment variable with another limit, in milliseconds: for the test of what a test that hangs tells.
pub const LIMIT_MS: &str = "TEST_LIMIT_MS";

/// A test that runs.
struct Running {
    since: Instant,
    waits_for: String,
    panic: Option<String>,
    is_told: bool,
}

static RUNNING: Mutex<BTreeMap<String, Running>> = Mutex::new(BTreeMap::new());

/// Takes the test off the list when its thread ends.
struct Entry(String);

impl Drop for Entry {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

std::thread_local! {
    /// The entry of the test whose thread this is; threads that a test starts have none.
    static ENTRY: Option<Entry> = std::thread::current().name().filter(|&name| name != "main").map(enter);
}

/// Records what the test of this thread waits for from now on.
pub fn waits_for(what: impl FnOnce() -> String) {
    // A thread that ends has no entry any more.
    let _ = ENTRY.try_with(|entry| {
        if let Some(Entry(name)) = entry
            && let Some(test) = running().get_mut(name)
        {
            test.waits_for = what();
        }
    });
}

/// The name of the test whose thread this is.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

fn running() -> MutexGuard<'static, BTreeMap<String, Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Five minutes, ten times what the longest test takes on an idle machine.
fn limit() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| match std::env::var(LIMIT_MS) {
        Ok(limit) => Duration::from_millis(limit.parse().expect("milliseconds")),
        Err(_) => Duration::from_secs(300),
    })
}

fn enter(name: &str) -> Entry {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // What libtest has captured of a test that never ends is lost.
            if let Some(test) = running().get_mut(&test_name()) {
                test.panic.get_or_insert_with(|| info.to_string());
            }
            default(info);
        }));
        std::thread::spawn(watch);
    });
    let test = Running { since: Instant::now(), waits_for: "nothing yet".to_owned(), panic: None, is_told: false };
    running().insert(name.to_owned(), test);
    Entry(name.to_owned())
}

fn watch() {
    loop {
        std::thread::sleep(limit().min(Duration::from_secs(1)));
        let mut late = Vec::new();
        for (name, test) in running().iter_mut().filter(|(_, test)| test.since.elapsed() > limit()) {
            if !test.is_told {
                test.is_told = true;
                let panic = test.panic.as_deref().map(|panic| format!("\n  it has failed before: {panic}"));
                let (limit, waits_for, panic) = (limit(), &test.waits_for, panic.unwrap_or_default());
                say(&format!("test {name} has not ended within {limit:?}\n  it waits for: {waits_for}{panic}\n"));
                late.push(name.clone());
            } else if test.since.elapsed() > limit() + limit() / 5 {
                say(&format!("test {name} still has not ended: this run ends here\n"));
                kill_children("");
                std::process::exit(101);
            }
        }
        for name in late {
            kill_children(&name);
        }
    }
}

/// Writes past libtest's capture, which keeps what macros print.
fn say(text: &str) {
    // There is nobody to tell if this fails.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Kills the processes that the test `name`, or any test if it is empty, has started by `pgferry::program`.
fn kill_children(name: &str) {
    let us = format!("{}", std::process::id());
    let owner = if name.is_empty() { format!("\0{OWNER}=") } else { format!("\0{OWNER}={name}\0") };
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        let mut environment = vec![0];
        environment.extend(std::fs::read(process.path().join("environ")).unwrap_or_default());
        if parent == Some(&us) && environment.windows(owner.len()).any(|window| window == owner.as_bytes()) {
            let pid = process.file_name().to_string_lossy().parse().expect("a process");
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
