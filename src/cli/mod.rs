//! The command line: `options` says how pgferry is configured, `serve` serves, `inspect`, `ctl` and `completions`
//! are the subcommands, and `output` prints what they say.

mod completions;
mod ctl;
mod inspect;
mod options;
mod output;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use ctl::{CtlOptions, ShowOptions};
use inspect::{CheckOptions, DoctorOptions, HealthOptions, WaitOptions};
use options::Options;

/// A PostgreSQL sidecar for short-lived connections, which it serves over a few long-lived ones.
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

Signals: TERM shuts down when transactions have ended, INT at once; HUP reloads the settings;
USR1 logs statistics.

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
    /// With --user, tell which rule a client of that name would meet.
    Check(CheckOptions),
    /// Diagnose port exhaustion on this host. Changes nothing; exit status 0, 1 or 2 by the worst verdict.
    Doctor(DoctorOptions),
    /// Check the health of a running pgferry; exit status 0 or 1. For exec probes.
    ///
    /// Where the configuration has no admin_listen, checks that clients can connect.
    Health(HealthOptions),
    /// Wait until pgferry is ready, then run a command in place of this one.
    Wait(WaitOptions),
    /// Translate a configuration of PgBouncer and print it.
    ImportPgbouncer {
        /// PgBouncer's configuration file.
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,
    },
    /// Print every setting with its default and meaning.
    Settings,
    /// Show a table of a running pgferry: pools, clients, servers, stats, ports, …
    Show(ShowOptions),
    /// Send a command to a running pgferry: PAUSE, RESUME, RECONNECT, KILL, RELOAD, SET, SHUTDOWN, …
    Ctl(CtlOptions),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: completions::Shell,
    },
}

/// The definition of the command line, of which completions and man pages are made.
pub fn definition() -> clap::Command {
    Cli::command()
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
        Some(Command::Settings) => output::print(&crate::config::keys::reference()),
        Some(Command::Show(after)) => ctl::show(after, options),
        Some(Command::Ctl(after)) => ctl::ctl(after, options),
        Some(Command::Completions { shell }) => completions::print(shell, &mut definition()),
        None => serve::serve(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            output::print_error(&message);
            ExitCode::FAILURE
        }
    }
}
