//! Looking without serving: `check`, `doctor`, `health`, `wait`.

use std::io::{IsTerminal, stdout};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::probe;
use crate::config::value;
use crate::config::{ClientIdentity, RawConfig, Settings, Transport};
use crate::doctor::{Examination, Facts, diagnose, report, server};
use crate::import::Imported;

use super::options::Options;
use super::output::{print, print_error};
use super::serve::runtime;

/// Longest time for asking the server while the configuration is checked.
const HASTE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(super) struct HealthOptions {
    #[command(flatten)]
    pub options: Options,
    /// Check only that the process works, not that it can serve clients.
    #[arg(long)]
    pub live: bool,
}

#[derive(clap::Args)]
pub(super) struct WaitOptions {
    #[command(flatten)]
    pub options: Options,
    /// Maximum time to wait, such as 30s; then the exit status is 1 and nothing is run.
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    pub patience: String,
    /// The command and its arguments, behind --.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(clap::Args)]
pub(super) struct DoctorOptions {
    /// Configuration file (TOML) [env: PGFERRY_CONFIG].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// PostgreSQL server to look at, in place of the configured one. Repeatable.
    #[arg(short, long, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Address of pgferry's listener, if not as configured. Repeatable.
    #[arg(short, long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Port number in the names of its sockets.
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<String>,
    /// Count new TIME_WAITs for this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    pub watch: Option<u16>,
    /// Measure connecting through pgferry and directly, 100 times each.
    #[arg(long)]
    pub measure: bool,
    /// Tell whether this user of the machine may connect to the socket files.
    #[arg(long, value_name = "UID")]
    pub as_uid: Option<u32>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub(super) struct CheckOptions {
    #[command(flatten)]
    pub options: Options,
    /// Role of a client, to tell which rule it would meet.
    #[arg(long, value_name = "ROLE")]
    pub user: Option<String>,
    /// Database that the client wants [default: named like the role].
    #[arg(long, value_name = "NAME", requires = "user")]
    pub database: Option<String>,
    /// Transport of the client: unix, abstract, tcp or tls, the last two with an address (tls:10.0.0.7).
    #[arg(long, value_name = "WAY", default_value = "unix", requires = "user")]
    pub from: String,
    /// The client's user on this machine [default: yours].
    #[arg(long, requires = "user")]
    pub uid: Option<u32>,
    /// The client's group on this machine [default: yours].
    #[arg(long, requires = "user")]
    pub gid: Option<u32>,
}

pub(super) fn check(mut check: CheckOptions, before: Options) -> Result<(), String> {
    check.options = std::mem::take(&mut check.options).or(before);
    let settings = check.options.settings().map_err(|error| error.to_string())?;
    for line in crate::server::check(&settings)? {
        print_error(&format!("warning: {line}"));
    }
    match &check.user {
        None => {
            print(&settings.show())?;
            match settings.pool.max_upstream {
                None => print(&format!("# {}\n", capacity(&settings))),
                Some(_) => Ok(()),
            }
        }
        Some(user) => print(&format!("{}\n", check.explain(&settings, user)?)),
    }
}

/// Describes the result of `max_upstream = "auto"`.
fn capacity(settings: &Settings) -> String {
    let mut hasty = settings.clone();
    hasty.timeouts.server_connect_timeout = hasty.timeouts.server_connect_timeout.min(HASTE);
    let asked = match runtime(1) {
        Ok(runtime) => runtime.block_on(server::ask(&hasty)).map_err(|unasked| unasked.why),
        Err(error) => Err(error.to_string()),
    };
    match asked {
        Ok(server) => format!(
            "max_upstream = \"auto\" comes to {}: PostgreSQL has max_connections = {}, of which {} are reserved and {} in use",
            server.share(),
            server.max_connections,
            server.reserved,
            server.connected
        ),
        Err(why) => {
            format!("max_upstream = \"auto\": PostgreSQL is asked on the first connection; not asked now: {why}")
        }
    }
}

/// Prints what a configuration of PgBouncer's becomes.
///
/// # Errors
/// When PgBouncer's can't be read, or when the result does not load as it is or lacks what keeps clients out; the result is printed all
/// the same.
pub(super) fn import(file: &std::path::Path) -> Result<(), String> {
    let Imported { text, missing } = crate::import::import(file)?;
    print(&text)?;
    let mut written = RawConfig::default();
    let usable = written.file_text("the result", &text).and_then(|()| Settings::resolve(&written));
    usable.map_err(|error| format!("the result does not load until it is completed by hand: {error}"))?;
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join("\n  ");
    Err(format!("the result may let in clients that PgBouncer keeps out, until it is completed by hand:\n  {missing}"))
}

pub(super) fn health(health: HealthOptions, before: Options) -> Result<(), String> {
    let contact = health.options.or(before).contact().map_err(|error| error.to_string())?;
    probe::ask(&contact, if health.live { "/live" } else { "/ready" })
}

pub(super) fn wait(wait: WaitOptions, before: Options) -> Result<(), String> {
    let contact = wait.options.or(before).contact().map_err(|error| error.to_string())?;
    let patience = value::duration(&wait.patience).map_err(|error| format!("--for: {error}"))?;
    probe::wait(&contact, patience).map_err(|why| format!("not ready within {}: {why}", wait.patience))?;
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
        let caller = ClientIdentity {
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
                format!("rule {nth} of {}: {rule}{place}", settings.auth.rules.len())
            }
            Some((_, rule)) => format!("auth_type = \"{}\"", rule.method),
        })
    }
}

pub(super) fn doctor(doctor: &DoctorOptions, before: &Options) -> ExitCode {
    match examine(doctor, before) {
        Ok(status) => ExitCode::from(status),
        Err(message) => {
            print_error(&message);
            // As for the worst verdict: monitoring must notice.
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
    let examination = Examination {
        watch: doctor.watch.map(|seconds| Duration::from_secs(seconds.max(1).into())),
        measure: doctor.measure,
        as_uid: doctor.as_uid,
        ..Examination::default()
    };
    let runtime = runtime(1).map_err(|error| error.to_string())?;
    let facts = runtime.block_on(Facts::gather(&all, &examination)).map_err(|error| error.to_string())?;
    let findings = diagnose(&facts);
    print(&if doctor.json {
        report::json(&facts, &findings)
    } else {
        report::text(&findings, stdout().is_terminal())
    })?;
    Ok(report::status(&findings))
}
