//! The command line.

use std::io::{IsTerminal, stderr, stdout};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pgferry::admin::probe;
use pgferry::config::source::Value;
use pgferry::config::value;
use pgferry::config::{Caller, ConfigError, LogFormat, Settings, Transport, Written};
use pgferry::doctor::{Facts, Wish, judge, report};
use pgferry::server;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

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
  pgferry doctor --upstream postgres://app@db.example/shop";

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
}

#[derive(clap::Args)]
struct HealthOptions {
    #[command(flatten)]
    options: Options,
    /// Only whether it works, not whether it can serve clients.
    #[arg(long)]
    live: bool,
}

#[derive(clap::Args)]
struct WaitOptions {
    #[command(flatten)]
    options: Options,
    /// How long to wait at most, such as 30s; then the exit status is 1 and nothing is run.
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    patience: String,
    /// The command and its arguments, behind --.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
struct DoctorOptions {
    /// Configuration file (TOML) [env: PGFERRY_CONFIG].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An upstream to look at, in place of the configured one. Repeatable.
    #[arg(short, long, value_name = "URL")]
    upstream: Vec<String>,
    /// Where a pgferry listens here, if not as configured. Repeatable.
    #[arg(short, long, value_name = "ADDR")]
    listen: Vec<String>,
    /// The port number in its socket names.
    #[arg(short, long, value_name = "PORT")]
    port: Option<String>,
    /// Count new TIME_WAITs for so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    watch: Option<u16>,
    /// Measure connecting through pgferry and directly, 100 times each.
    #[arg(long)]
    measure: bool,
    /// Say whether this user of the machine may connect to the socket files.
    #[arg(long, value_name = "UID")]
    as_uid: Option<u32>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CheckOptions {
    #[command(flatten)]
    options: Options,
    /// The role of a client: which rule would it meet?
    #[arg(long, value_name = "ROLE")]
    user: Option<String>,
    /// The database that it wants [default: named like the role].
    #[arg(long, value_name = "NAME", requires = "user")]
    database: Option<String>,
    /// How it comes: unix, abstract, tcp or tls, the last two with an address (tls:10.0.0.7).
    #[arg(long, value_name = "WAY", default_value = "unix", requires = "user")]
    from: String,
    /// Its user on this machine [default: yours].
    #[arg(long, requires = "user")]
    uid: Option<u32>,
    /// Its group on this machine [default: yours].
    #[arg(long, requires = "user")]
    gid: Option<u32>,
}

#[derive(clap::Args, Clone, Default)]
struct Options {
    /// Configuration file (TOML) [env: PGFERRY_CONFIG].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where PostgreSQL is: postgres://[user[:password]@]host[:port][/database].
    #[arg(short, long, value_name = "URL")]
    upstream: Option<String>,
    /// Where clients connect: a directory, @name (abstract socket) or host:port. Repeatable.
    #[arg(short, long, value_name = "ADDR")]
    listen: Vec<String>,
    /// The port number in socket names [default: 5432].
    #[arg(short, long, value_name = "PORT")]
    port: Option<String>,
    /// How long a client keeps its upstream connection: session or transaction [default: session].
    #[arg(short, long, value_name = "MODE")]
    mode: Option<String>,
    /// Most upstream connections per database and user [default: 20].
    #[arg(short = 's', long, value_name = "N")]
    pool_size: Option<String>,
    /// When a used session is reset: always, smart or never [default: always].
    #[arg(long, value_name = "WHEN")]
    reset: Option<String>,
    /// How clients log in: pass-through, scram-sha-256, md5, password, peer, cert, trust or reject [default: pass-through].
    #[arg(long, value_name = "HOW")]
    auth: Option<String>,
    /// text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log more; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log warnings and errors only.
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

impl Options {
    /// The options given before the subcommand, where there are none behind it.
    fn or(self, before: Self) -> Self {
        Self {
            config: self.config.or(before.config),
            upstream: self.upstream.or(before.upstream),
            listen: if self.listen.is_empty() { before.listen } else { self.listen },
            port: self.port.or(before.port),
            mode: self.mode.or(before.mode),
            pool_size: self.pool_size.or(before.pool_size),
            reset: self.reset.or(before.reset),
            auth: self.auth.or(before.auth),
            log_format: self.log_format.or(before.log_format),
            verbose: self.verbose.max(before.verbose),
            quiet: self.quiet || before.quiet,
        }
    }

    /// Reads the settings: flags, environment and file.
    fn settings(&self) -> Result<Settings, ConfigError> {
        let mut written = Written::default();
        written.env(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))),
        )?;
        let file = self.config.clone().or_else(|| std::env::var_os("PGFERRY_CONFIG").map(PathBuf::from));
        if let Some(file) = file {
            written.file(&file)?;
        }
        let flags = [
            ("upstream", "--upstream", &self.upstream),
            ("port", "--port", &self.port),
            ("mode", "--mode", &self.mode),
            ("pool_size", "--pool-size", &self.pool_size),
            ("reset", "--reset", &self.reset),
            ("auth", "--auth", &self.auth),
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
        Settings::resolve(&written)
    }
}

fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    let outcome = match command {
        Some(Command::Check(after)) => check(after, options),
        Some(Command::Doctor(after)) => return doctor(&after, &options),
        Some(Command::Health(after)) => health(after, options),
        Some(Command::Wait(after)) => wait(after, options),
        None => serve(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pgferry: {message}");
            ExitCode::FAILURE
        }
    }
}

fn check(mut check: CheckOptions, before: Options) -> Result<(), String> {
    check.options = std::mem::take(&mut check.options).or(before);
    let settings = check.options.settings().map_err(|error| error.to_string())?;
    server::check(&settings)?;
    match &check.user {
        None => print!("{}", settings.show()),
        Some(user) => println!("{}", check.explain(&settings, user)?),
    }
    Ok(())
}

fn health(health: HealthOptions, before: Options) -> Result<(), String> {
    let settings = health.options.or(before).settings().map_err(|error| error.to_string())?;
    probe::ask(&settings, if health.live { "/live" } else { "/ready" })
}

fn wait(wait: WaitOptions, before: Options) -> Result<(), String> {
    let settings = wait.options.or(before).settings().map_err(|error| error.to_string())?;
    let patience = value::duration(&wait.patience).map_err(|error| format!("--for: {error}"))?;
    probe::wait(&settings, patience).map_err(|why| format!("not ready within {}: {why}", wait.patience))?;
    let Some((program, arguments)) = wait.command.split_first() else { return Ok(()) };
    // Comes back only if it fails.
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(format!("{program}: {error}"))
}

impl CheckOptions {
    /// Says which rule decides about a client.
    fn explain(&self, settings: &Settings, user: &str) -> Result<String, String> {
        let (transport, address) = self.from.split_once(':').map_or((self.from.as_str(), None), |(t, a)| (t, Some(a)));
        let transport = Transport::parse(transport).map_err(|error| format!("--from: {error}"))?;
        let over_tcp = matches!(transport, Transport::Tcp | Transport::Tls);
        let address = match (over_tcp, address) {
            (false, Some(address)) => return Err(format!("--from: a unix socket has no address \"{address}\"")),
            (false, None) => None,
            (true, None) => Some(IpAddr::from([127, 0, 0, 1])),
            (true, Some(text)) => Some(text.parse().map_err(|_| format!("--from: \"{text}\" is no address"))?),
        };
        let ids = (
            self.uid.unwrap_or_else(|| nix::unistd::getuid().as_raw()),
            self.gid.unwrap_or_else(|| nix::unistd::getgid().as_raw()),
        );
        let database = self.database.as_deref().unwrap_or(user);
        let caller = Caller {
            transport,
            address,
            ids: (!over_tcp).then_some(ids),
            database: database.as_bytes(),
            user: user.as_bytes(),
        };
        let place = settings.place("rule").map_or_else(String::new, |place| format!(" ({place})"));
        Ok(match settings.rule(&caller) {
            None => format!("refused: no [[rule]] fits{place}"),
            Some((nth, rule)) if settings.has_rules() => {
                format!("rule {nth} of {}: {rule}{place}", settings.rules.len())
            }
            Some((_, rule)) => format!("auth = \"{}\"", rule.method),
        })
    }
}

fn doctor(doctor: &DoctorOptions, before: &Options) -> ExitCode {
    match examine(doctor, before) {
        Ok(status) => ExitCode::from(status),
        Err(message) => {
            eprintln!("pgferry: {message}");
            // As for the worst verdict: whoever watches must notice.
            ExitCode::from(2)
        }
    }
}

fn examine(doctor: &DoctorOptions, before: &Options) -> Result<u8, String> {
    let settings = |upstream: Option<&String>| {
        let own = Options {
            config: doctor.config.clone(),
            upstream: upstream.cloned(),
            listen: doctor.listen.clone(),
            port: doctor.port.clone(),
            ..Options::default()
        };
        own.or(before.clone()).settings().map_err(|error| error.to_string())
    };
    let all: Vec<_> = match doctor.upstream.as_slice() {
        [] => vec![settings(None)?],
        some => some.iter().map(|upstream| settings(Some(upstream))).collect::<Result<_, _>>()?,
    };
    let wish = Wish {
        watch: doctor.watch.map(|seconds| Duration::from_secs(seconds.max(1).into())),
        measure: doctor.measure,
        as_uid: doctor.as_uid,
        ..Wish::default()
    };
    let runtime = runtime(1).map_err(|error| error.to_string())?;
    let facts = runtime.block_on(Facts::gather(&all, &wish)).map_err(|error| error.to_string())?;
    let findings = judge(&facts);
    if doctor.json {
        print!("{}", report::json(&facts, &findings));
    } else {
        print!("{}", report::text(&findings, stdout().is_terminal()));
    }
    Ok(report::status(&findings))
}

fn serve(options: &Options) -> Result<(), String> {
    let settings = options.settings().map_err(|error| error.to_string())?;
    log_to_stderr(&settings);
    let runtime = runtime(settings.workers).map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(server::run(settings, || options.settings())).map_err(|error| error.to_string());
    // Whoever still has something to say has had the time.
    runtime.shutdown_background();
    outcome
}

fn runtime(workers: usize) -> std::io::Result<Runtime> {
    match workers {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}

fn log_to_stderr(settings: &Settings) {
    let filter = EnvFilter::new(format!("pgferry={}", settings.log_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
