//! The command line: `options` says how pgferry is configured, `serve` serves, `inspect` and `talk` are the subcommands.

mod ctl;
mod inspect;
mod options;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use ctl::{CtlOptions, ShowOptions};
use inspect::{CheckOptions, DoctorOptions, HealthOptions, WaitOptions};
use options::Options;

/// A PostgreSQL sidecar: serves short-lived connections over a few long-lived ones.
///
/// Clients change the host in their connection string to the directory of pgferry's socket, and nothing else.
#[derive(Parser)]
#[command(version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

const AFTER_HELP: &str = "\
Every setting of the configuration file can also be given in the environment, as PGFERRY_ and
its name in capitals (PGFERRY_POOL_SIZE=50); secrets also as a file
(PGFERRY_UPSTREAM_FILE=/run/secrets/url). Without an upstream of its own pgferry takes
DATABASE_URL. A flag beats the environment, which beats the file.

Signals: TERM ends when transactions have ended, INT at once, HUP reloads the settings,
USR1 logs the figures.

Examples:
  pgferry --upstream postgres://db.example:5432 --listen /run/pgferry
  psql \"host=/run/pgferry dbname=shop user=app\"
  pgferry doctor --upstream postgres://app@db.example/shop
  pgferry show pools
  pgferry ctl RELOAD";

#[derive(Subcommand)]
enum Command {
    /// Check the configuration and print the settings in force, secrets hidden.
    ///
    /// With --user, also say which rule a client of that name would meet.
    Check(CheckOptions),
    /// Say why ports run out on this host, and what would help. Reads only; exit status 0, 1 or 2 by the worst verdict.
    Doctor(DoctorOptions),
    /// Ask a running pgferry whether it is well; exit status 0 or 1. For exec probes.
    ///
    /// Where the configuration has no admin_listen, looks whether clients can connect.
    Health(HealthOptions),
    /// Wait until a pgferry is ready, then run a command in place of this one.
    Wait(WaitOptions),
    /// Say in pgferry's words what a configuration of PgBouncer says; print it.
    ImportPgbouncer {
        /// PgBouncer's configuration file.
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,
    },
    /// Print every setting with its default and meaning.
    Settings,
    /// Show a table of a running pgferry's console: pools, clients, servers, stats, ports, …
    Show(ShowOptions),
    /// Tell a running pgferry something: PAUSE, RESUME, RECONNECT, KILL, RELOAD, SET, SHUTDOWN, …
    Ctl(CtlOptions),
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    let outcome = match command {
        Some(Command::Check(after)) => inspect::check(after, options),
        Some(Command::Doctor(after)) => return inspect::doctor(&after, &options),
        Some(Command::Health(after)) => inspect::health(after, options),
        Some(Command::Wait(after)) => inspect::wait(after, options),
        Some(Command::ImportPgbouncer { file }) => inspect::import(&file),
        Some(Command::Settings) => {
            print!("{}", crate::config::keys::reference());
            Ok(())
        }
        Some(Command::Show(after)) => ctl::show(after, options),
        Some(Command::Ctl(after)) => ctl::ctl(after, options),
        None => serve::serve(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pgferry: {message}");
            ExitCode::FAILURE
        }
    }
}
