//! The flags that say how pgferry is configured.

use std::path::PathBuf;

use crate::config::error::Origin;
use crate::config::keys::Adjustable;
use crate::config::written_value::Value;
use crate::config::{ConfigError, Contact, RawConfig, Settings};

/// The variable of the environment that names the configuration file.
const CONFIG: &str = "PGFERRY_CONFIG";

#[derive(clap::Args, Clone, Default)]
pub(super) struct Options {
    /// Configuration file (TOML) [env: PGFERRY_CONFIG].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The PostgreSQL server: `postgres://[user[:password]@]host[:port][/database]`.
    #[arg(short, long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Address for clients: a directory, @name (abstract socket) or host:port. Repeatable.
    #[arg(short, long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// The port in the names of sockets, or several with commas [default: the upstream's].
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<String>,
    /// Time for which a client keeps its server connection: session or transaction [default: session].
    #[arg(short = 'm', long, value_name = "MODE")]
    pub pool_mode: Option<String>,
    /// Maximum number of server connections per database and user [default: 20].
    #[arg(short = 's', long, value_name = "N")]
    pub pool_size: Option<String>,
    /// Reset of used sessions: auto, always, on_change or never [default: auto].
    #[arg(long, value_name = "WHEN")]
    pub reset: Option<String>,
    /// Method of clients' logins: pass-through, scram-sha-256, md5, password, peer, cert, trust or reject [default: pass-through].
    #[arg(long, value_name = "HOW")]
    pub auth_type: Option<String>,
    /// Format of the log: text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Take the listeners over from a running pgferry, which ends when its clients have.
    #[arg(long)]
    pub replace: bool,
    /// Log debug messages; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log warnings and errors only.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Options {
    /// The options given before the subcommand, where there are none behind it.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            config: self.config.or(before.config),
            upstream: self.upstream.or(before.upstream),
            listen: if self.listen.is_empty() { before.listen } else { self.listen },
            port: self.port.or(before.port),
            pool_mode: self.pool_mode.or(before.pool_mode),
            pool_size: self.pool_size.or(before.pool_size),
            reset: self.reset.or(before.reset),
            auth_type: self.auth_type.or(before.auth_type),
            log_format: self.log_format.or(before.log_format),
            verbose: self.verbose.max(before.verbose),
            quiet: self.quiet || before.quiet,
            replace: self.replace || before.replace,
        }
    }

    /// Reads the settings: flags, environment and file.
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        self.settings_with(&[])
    }

    /// The ways to a running pgferry. Its upstream need not be known here.
    pub(super) fn contact(&self) -> Result<Contact, ConfigError> {
        Contact::resolve(&self.written(&[])?)
    }

    /// The same with some set on top of that.
    pub(super) fn settings_with(&self, on_top: &[(Adjustable, String)]) -> Result<Settings, ConfigError> {
        Settings::resolve(&self.written(on_top)?)
    }

    fn written(&self, on_top: &[(Adjustable, String)]) -> Result<RawConfig, ConfigError> {
        let mut written = RawConfig::default();
        written.env(text_variables()?)?;
        let file = self.config.clone().or_else(|| named_file(CONFIG));
        if let Some(file) = file {
            written.file(&file)?;
        }
        let flags = [
            ("upstream", "--upstream", &self.upstream),
            ("port", "--port", &self.port),
            ("pool_mode", "--pool-mode", &self.pool_mode),
            ("pool_size", "--pool-size", &self.pool_size),
            ("reset", "--reset", &self.reset),
            ("auth_type", "--auth-type", &self.auth_type),
            ("log_format", "--log-format", &self.log_format),
        ];
        for (key, flag, value) in flags {
            if let Some(value) = value {
                written.flag(key, flag, Value::One(value.clone()));
            }
        }
        if !self.listen.is_empty() {
            written.flag("listen", "--listen", Value::Many(self.listen.clone()));
        }
        let level = match (self.quiet, self.verbose) {
            (true, _) => Some(("--quiet", "warn")),
            (false, 0) => None,
            (false, 1) => Some(("--verbose", "debug")),
            (false, _) => Some(("--verbose", "trace")),
        };
        if let Some((flag, level)) = level {
            written.flag("log_level", flag, Value::One(level.to_owned()));
        }
        for (key, value) in on_top {
            written.set(*key, value);
        }
        Ok(written)
    }
}

/// The variables of the environment that are text.
///
/// # Errors
/// When one of pgferry's is none: with other characters in their place, a password would be another one.
fn text_variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            // A file's name may be any bytes.
            Err(_) if name.starts_with("PGFERRY_") && name != CONFIG => {
                return Err(ConfigError {
                    place: Some(Origin::Env(name)),
                    ..ConfigError::new("it is no text in UTF-8")
                });
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

/// The file that a variable of the environment names. One that is empty names none, as where a template has nothing to put there.
fn named_file(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|name| !name.is_empty()).map(PathBuf::from)
}
