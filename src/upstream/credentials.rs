//! Where passwords come from that no client brings: the settings, a file, a program, `.pgpass`. They are looked up when
//! the server asks for one, so that what changes on disk is followed without a restart.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::auth::{Password, pgpass};
use crate::config::{Host, Settings};
use crate::offload::SerialExecutor;
use crate::permission::{Attempt, describe};

/// The longest password that a program may print: tokens of cloud providers take kilobytes.
const MAX_PASSWORD_BYTES: usize = 65_535;

/// Longest time that the program may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of (database, user)s for which what the program printed is kept: clients that need no password make up names.
const MAX_PRINTED: usize = 256;

/// The directory that libpq's password files know as `localhost`.
const DEFAULT_SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Sources of passwords.
#[derive(Debug)]
pub(crate) struct Credentials {
    host: Host,
    /// The user that the settings give a password for, if they name one.
    user: Option<String>,
    fixed: Option<Password>,
    file: Option<PathBuf>,
    command: Vec<String>,
    ttl: Duration,
    passfile: Option<PathBuf>,
    /// Executor by which files are read.
    reading: SerialExecutor,
    /// Output of the program, by database and user.
    printed: Arc<Mutex<Printed>>,
}

type Printed = HashMap<(Vec<u8>, Vec<u8>), (Instant, Password)>;

impl Credentials {
    /// The sources that `settings` name, for the server at `host`.
    #[must_use]
    pub(crate) fn new(settings: &Settings, host: &Host) -> Self {
        Self {
            host: host.clone(),
            user: settings.upstream.url.user.clone(),
            fixed: settings.upstream.url.password.clone(),
            file: settings.upstream.upstream_password_file.clone(),
            command: settings.upstream.password_command.clone(),
            ttl: settings.upstream.password_ttl,
            passfile: settings.upstream.passfile.clone(),
            reading: SerialExecutor::default(),
            printed: Arc::default(),
        }
    }

    /// The password of `user` for `database`; `None` where there is none.
    ///
    /// # Errors
    /// Why the source that should have one can't give it.
    pub(crate) async fn password(&self, database: &[u8], user: &[u8]) -> Result<Option<Password>, String> {
        if self.user.as_ref().is_some_and(|fixed| fixed.as_bytes() != user) {
            // What is given with a user is that user's.
            return self.in_passfile(database, user).await;
        }
        if let Some(fixed) = &self.fixed {
            return Ok(Some(fixed.clone()));
        }
        if let Some(path) = &self.file {
            let own = path.clone();
            let read = self.reading.run(move || fs::read(own)).await.and_then(|read| read);
            let text = read.map_err(|error| {
                format!("upstream_password_file: {}", describe(Attempt::Read, &path.display(), &error))
            })?;
            let password = one_line(text);
            return match password.expose() {
                [] => Err(format!("upstream_password_file: {} is empty", path.display())),
                _ => Ok(Some(password)),
            };
        }
        if !self.command.is_empty() {
            return self.printed(database, user).await.map(Some);
        }
        self.in_passfile(database, user).await
    }

    /// The server refused what [`Credentials::password`] gave: a kept one is not used again.
    pub(crate) async fn refused(&self, database: &[u8], user: &[u8], refused: &Password) {
        let mut printed = self.printed.lock().await;
        let key = (database.to_vec(), user.to_vec());
        if printed.get(&key).is_some_and(|(_, password)| password == refused) {
            printed.remove(&key);
        }
    }

    /// The password in `passfile`, if it is there and has one.
    async fn in_passfile(&self, database: &[u8], user: &[u8]) -> Result<Option<Password>, String> {
        let Some(path) = self.passfile.clone() else { return Ok(None) };
        let read = self.reading.run(move || private_file(&path)).await.map_err(|error| format!("passfile: {error}"))?;
        let Some(content) = read else { return Ok(None) };
        let (host, port) = match &self.host {
            Host::Tcp(name, port) => (name.clone(), *port),
            Host::Unix(dir, port) if DEFAULT_SOCKET_DIRS.iter().any(|default| dir == Path::new(default)) => {
                ("localhost".to_owned(), *port)
            }
            Host::Unix(dir, port) => (dir.display().to_string(), *port),
        };
        Ok(pgpass::look_up(&content, &pgpass::PassfileKey { host: &host, port, database, user }))
    }

    /// Returns what the program printed lately, or prints now. It runs in a task of its own: the next login has use for what
    /// it prints even if no login waits any more.
    async fn printed(&self, database: &[u8], user: &[u8]) -> Result<Password, String> {
        let printed = Arc::clone(&self.printed).lock_owned().await;
        let key = (database.to_vec(), user.to_vec());
        if let Some((at, password)) = printed.get(&key)
            && at.elapsed() < self.ttl
        {
            return Ok(password.clone());
        }
        let (host, port) = match &self.host {
            Host::Tcp(name, port) => (name.clone(), *port),
            Host::Unix(dir, port) => (dir.display().to_string(), *port),
        };
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env("PGHOST", host).env("PGPORT", port.to_string());
        command.env("PGUSER", String::from_utf8_lossy(user).as_ref());
        command.env("PGDATABASE", String::from_utf8_lossy(database).as_ref());
        let (name, ttl) = (self.command[0].clone(), self.ttl);
        let task = tokio::spawn(async move {
            let mut printed = printed;
            let password = match timeout(COMMAND_TIMEOUT, run(command)).await {
                Ok(outcome) => outcome.map_err(|why| format!("password_command: {name}: {why}"))?,
                Err(_) => {
                    return Err(format!("password_command: {name}: took longer than {} s", COMMAND_TIMEOUT.as_secs()));
                }
            };
            keep(&mut printed, key, password.clone(), ttl);
            Ok(password)
        });
        task.await.unwrap_or_else(|error| Err(error.to_string()))
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

/// The content of a password file, if it is one that libpq would use. Blocks.
fn private_file(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let file = fs::metadata(path).ok()?;
    if !file.is_file() {
        warn!("password file \"{}\" is not a plain file: it is not used", path.display());
        return None;
    }
    if file.mode() & 0o077 != 0 {
        warn!(
            "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less: it is not used",
            path.display()
        );
        return None;
    }
    fs::read(path).ok().map(Zeroizing::new)
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
        let mut last = String::new();
        while let Some(Ok(Some(line))) = match &mut lines {
            Some(lines) => Some(lines.next_line().await),
            None => None,
        } {
            // How much there is of it is bounded; the log bounds the line.
            info!("password_command: {line}");
            last = line;
        }
        last
    };
    let output = async {
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_PASSWORD_BYTES as u64 + 2).read_to_end(&mut text).await?;
        }
        io::Result::Ok(text)
    };
    let (text, last) = tokio::join!(output, complaints);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    let password = one_line(text.map_err(|error| error.to_string())?);
    judge(status, &last, password)
}

fn judge(status: ExitStatus, last: &str, password: Password) -> Result<Password, String> {
    if password.expose().len() > MAX_PASSWORD_BYTES {
        return Err(format!("printed more than {MAX_PASSWORD_BYTES} bytes"));
    }
    if !status.success() {
        let said = if last.is_empty() { String::new() } else { format!(": {last}") };
        return Err(format!("{status}{said}"));
    }
    match password.expose() {
        [] => Err("printed nothing".into()),
        text if text.contains(&0) => Err("printed a NUL byte".into()),
        _ => Ok(password),
    }
}

/// Returns the text of a file or a program, without the end of its last line.
fn one_line(mut text: Vec<u8>) -> Password {
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    Password::new(text)
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
