//! Where passwords come from that no client brings: the settings, a file, a program, `.pgpass`. They are looked up when
//! the server asks for one, so that what changes on disk is followed without a restart.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::warn;
use zeroize::Zeroizing;

use super::password_command::PasswordCommand;
use crate::auth::{Password, pgpass};
use crate::config::{Host, Settings};
use crate::offload::SerialExecutor;
use crate::permission::{Attempt, describe};
use crate::small_file;

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
    /// The program that prints them, if one is to be run.
    command: Option<PasswordCommand>,
    passfile: Option<PathBuf>,
    /// Executor by which files are read.
    reading: SerialExecutor,
}

impl Credentials {
    /// The sources that `settings` name, for the server at `host`.
    #[must_use]
    pub(crate) fn new(settings: &Settings, host: &Host) -> Self {
        Self {
            host: host.clone(),
            user: settings.upstream.url.user.clone(),
            fixed: settings.upstream.url.password.clone(),
            file: settings.upstream.upstream_password_file.clone(),
            command: PasswordCommand::new(settings, host),
            passfile: settings.upstream.passfile.clone(),
            reading: SerialExecutor::default(),
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
            let read = self.reading.run(move || small_file::read(&own)).await.and_then(|read| read);
            let text = read.map_err(|error| {
                format!("upstream_password_file: {}", describe(Attempt::Read, &path.display(), &error))
            })?;
            let password = Password::in_text(text);
            return match password.expose() {
                [] => Err(is_empty(path)),
                _ => Ok(Some(password)),
            };
        }
        if let Some(command) = &self.command {
            return command.password(database, user).await.map(Some);
        }
        self.in_passfile(database, user).await
    }

    /// Says what the settings name and is not there: it may come yet, and is looked for whenever a password is. Blocks.
    #[must_use]
    pub(super) fn missing(&self) -> Option<String> {
        if self.fixed.is_some() {
            return None;
        }
        let unreadable = |key: &str, path: &Path, error: &io::Error| {
            format!("{key}: {}", describe(Attempt::Read, &path.display(), error))
        };
        if let Some(path) = &self.file {
            let opened = match fs::metadata(path) {
                Ok(file) if !file.is_file() => return None,
                Ok(file) if file.len() == 0 => return Some(is_empty(path)),
                Ok(_) => fs::File::open(path).map(drop),
                Err(error) => Err(error),
            };
            return opened.err().map(|error| unreadable("upstream_password_file", path, &error));
        }
        if let Some(command) = &self.command {
            return command.missing();
        }
        let path = self.passfile.as_ref()?;
        fs::metadata(path).err().map(|error| unreadable("passfile", path, &error))
    }

    /// The server refused what [`Credentials::password`] gave: a kept one is not used again.
    pub(crate) fn refused(&self, database: &[u8], user: &[u8], refused: &Password) {
        if let Some(command) = &self.command {
            command.refused(database, user, refused);
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
}

fn is_empty(path: &Path) -> String {
    format!("upstream_password_file: {} is empty", path.display())
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
    small_file::read(path).ok().map(Zeroizing::new)
}
