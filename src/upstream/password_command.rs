//! A program that prints passwords (`password_command`), and what it has printed.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

use super::permits::Permits;
use crate::auth::Password;
use crate::config::{Host, Settings};
use crate::lock::lock;

/// The longest password that a program may print: tokens of cloud providers take kilobytes.
const MAX_PASSWORD_BYTES: usize = 65_535;

/// Longest time that the program may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of programs that run at a time: each for another database or user, of which clients that need no password make up many.
const MAX_RUNNING: usize = 4;

/// The directories in which a program is looked for where there is no PATH: those of `execvp` in glibc, or else in musl.
const DEFAULT_PATH: &str = if cfg!(target_env = "musl") { "/usr/local/bin:/bin:/usr/bin" } else { "/bin:/usr/bin" };

/// Number of (database, user)s for which what the program printed is kept: clients that need no password make up names.
const MAX_PRINTED: usize = 256;

/// The program, for one server.
#[derive(Debug)]
pub(super) struct PasswordCommand {
    name: String,
    arguments: Vec<String>,
    /// The server's host, or the directory of its socket, and port.
    at: (String, u16),
    ttl: Duration,
    /// Output of the program that is not too old.
    printed: Arc<std::sync::Mutex<Printed>>,
    /// The turns of those for which it is to run: one that hangs holds up no other database or user.
    turns: std::sync::Mutex<HashMap<Key, Arc<Mutex<()>>>>,
    running: Arc<Permits>,
}

/// A database and a user.
type Key = (Vec<u8>, Vec<u8>);

/// Passwords that were printed, and when.
type Printed = HashMap<Key, (Instant, Password)>;

impl PasswordCommand {
    /// The program that `settings` name, for the server at `host`; `None` where they name none.
    pub(super) fn new(settings: &Settings, host: &Host) -> Option<Self> {
        let (name, arguments) = settings.upstream.password_command.split_first()?;
        let at = match host {
            Host::Tcp(name, port) => (name.clone(), *port),
            Host::Unix(dir, port) => (dir.display().to_string(), *port),
        };
        Some(Self {
            name: name.clone(),
            arguments: arguments.to_vec(),
            at,
            ttl: settings.upstream.password_ttl,
            printed: Arc::default(),
            turns: std::sync::Mutex::default(),
            running: Permits::new(MAX_RUNNING),
        })
    }

    /// Returns what the program printed lately, or prints now. It runs in a task of its own: the next login has use for what
    /// it prints even if no login waits any more.
    ///
    /// # Errors
    /// Why it has printed no password.
    pub(super) async fn password(&self, database: &[u8], user: &[u8]) -> Result<Password, String> {
        let key = (database.to_vec(), user.to_vec());
        let turn = self.turn(&key).await;
        if let Some(password) = self.known(&key) {
            return Ok(password);
        }
        let mut command = Command::new(&self.name);
        let (host, port) = &self.at;
        command.args(&self.arguments).env("PGHOST", host).env("PGPORT", port.to_string());
        command.env("PGUSER", String::from_utf8_lossy(user).as_ref());
        command.env("PGDATABASE", String::from_utf8_lossy(database).as_ref());
        let (name, ttl) = (self.name.clone(), self.ttl);
        let (printed, running) = (Arc::clone(&self.printed), Arc::clone(&self.running));
        let task = tokio::spawn(async move {
            let _turn = turn;
            let _running = running.acquire().await;
            let password = match timeout(COMMAND_TIMEOUT, run(command)).await {
                Ok(outcome) => outcome.map_err(|why| format!("password_command: {name}: {why}"))?,
                Err(_) => {
                    return Err(format!("password_command: {name}: took longer than {} s", COMMAND_TIMEOUT.as_secs()));
                }
            };
            keep(&mut lock(&printed), key, password.clone(), ttl);
            Ok(password)
        });
        task.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Says that the program is not there, or can't be run, if so. Blocks.
    pub(super) fn missing(&self) -> Option<String> {
        let is_program = |path: &Path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
        let is_there = if self.name.contains('/') {
            is_program(Path::new(&self.name))
        } else {
            let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
            env::split_paths(&path).any(|dir| is_program(&dir.join(&self.name)))
        };
        (!is_there).then(|| format!("password_command: {}: there is no such program", self.name))
    }

    /// Waits for the turn of `key`.
    async fn turn(&self, key: &Key) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        turn.lock_owned().await
    }

    /// Returns the password that was printed for `key`, if that is not too long ago.
    fn known(&self, key: &Key) -> Option<Password> {
        lock(&self.printed).get(key).filter(|(at, _)| at.elapsed() < self.ttl).map(|(_, password)| password.clone())
    }

    /// The server refused `refused`: it is not used again.
    pub(super) fn refused(&self, database: &[u8], user: &[u8], refused: &Password) {
        let mut printed = lock(&self.printed);
        let key = (database.to_vec(), user.to_vec());
        if printed.get(&key).is_some_and(|(_, password)| password == refused) {
            printed.remove(&key);
        }
    }
}

/// Keeps what the program has just printed, and forgets what is older than `ttl`, or oldest where there is too much.
fn keep(printed: &mut Printed, key: (Vec<u8>, Vec<u8>), password: Password, ttl: Duration) {
    printed.retain(|_, (at, _)| at.elapsed() < ttl);
    while printed.len() >= MAX_PRINTED {
        let oldest = printed.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
        oldest.and_then(|oldest| printed.remove(&oldest));
    }
    printed.insert(key, (Instant::now(), password));
}

/// Runs the program, its complaints going to the log, and gives what it printed.
async fn run(mut command: Command) -> Result<Password, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // It returns when the program has been found and loaded, which takes a file system that answers.
    let spawned = spawn_blocking(move || command.spawn()).await.map_err(|error| error.to_string())?;
    let mut child = spawned.map_err(|error| error.to_string())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = async {
        let mut lines = stderr.map(|stderr| BufReader::new(stderr.take(MAX_PASSWORD_BYTES as u64)).lines());
        while let Some(Ok(Some(line))) = match &mut lines {
            Some(lines) => Some(lines.next_line().await),
            None => None,
        } {
            // How much there is of it is bounded; the log bounds the line.
            info!("password_command: {line}");
        }
    };
    let output = async {
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_PASSWORD_BYTES as u64 + 2).read_to_end(&mut text).await?;
        }
        io::Result::Ok(text)
    };
    let (text, ()) = tokio::join!(output, complaints);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    let password = Password::in_text(text.map_err(|error| error.to_string())?);
    judge(status, password)
}

/// Returns the password, or why there is none: to clients as well, so that what the program has said is in the log only.
fn judge(status: ExitStatus, password: Password) -> Result<Password, String> {
    if password.expose().len() > MAX_PASSWORD_BYTES {
        return Err(format!("printed more than {MAX_PASSWORD_BYTES} bytes"));
    }
    if !status.success() {
        return Err(status.to_string());
    }
    match password.expose() {
        [] => Err("printed nothing".into()),
        text if text.contains(&0) => Err("printed a NUL byte".into()),
        _ => Ok(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_that_a_program_printed_are_kept_within_bounds() {
        let key = |nth: usize| (b"d".to_vec(), format!("user_{nth}").into_bytes());
        let password = || Password::new(b"secret".to_vec());
        let mut printed = Printed::new();
        for nth in 0..2 * MAX_PRINTED {
            keep(&mut printed, key(nth), password(), Duration::from_secs(600));
        }
        assert!(printed.len() == MAX_PRINTED && printed.contains_key(&key(2 * MAX_PRINTED - 1)));
        assert!(!printed.contains_key(&key(0)), "the oldest go");
        keep(&mut printed, key(0), password(), Duration::ZERO);
        assert_eq!(printed.len(), 1, "what is too old is of no use");
    }
}
