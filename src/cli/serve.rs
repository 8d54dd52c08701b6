//! Serving: the runtime, the log, and what comes from outside.

use std::backtrace::Backtrace;
use std::io::{IsTerminal, stderr};
use std::sync::Arc;

use crate::admin::console_client::OldProcess;
use crate::admin::server_command::Takeover;
use crate::config::keys::Adjustable;
use crate::config::{Contact, LogFormat, Settings};
use crate::log::{Form, Log};
use crate::net::InheritedListener;
use crate::server::{self, ServerContext};
use listenfd::ListenFd;
use tokio::runtime::{Builder, Runtime};
use tracing::error;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use super::options::Options;

/// Serves until told to end.
pub(super) fn serve(options: &Options) -> Result<(), String> {
    let settings = options.settings().map_err(|error| error.to_string())?;
    let (log, set_log_level) = log_to_stderr(&settings).map_err(|error| format!("the log: {error}"))?;
    std::panic::set_hook(Box::new(|panic| error!("{panic}; {}", Backtrace::capture())));
    let mut inherited = of_service_manager().map_err(|error| format!("LISTEN_FDS: {error}"))?;
    let contact = Contact::of(&settings);
    let asked = if options.replace {
        OldProcess::ask(&contact, Takeover::Any).map_err(|error| format!("--replace: {error}"))?
    } else if inherited.is_empty() {
        // Where that fails, what is in use can't be bound either, which says more.
        OldProcess::ask(&contact, Takeover::Ending).ok().flatten()
    } else {
        None
    };
    let (old_process, listeners) = asked.unzip();
    inherited.extend(listeners.into_iter().flatten());
    let runtime = runtime(settings.listen.workers).map_err(|error| error.to_string())?;
    let own = options.clone();
    let reload = Arc::new(move |on_top: &[(Adjustable, String)]| own.settings_with(on_top));
    let context = ServerContext { reload, set_log_level, log: log.queue(), inherited, old_process };
    let outcome = runtime.block_on(server::run(settings, context)).map_err(|error| error.to_string());
    // Tasks that still run have had their time.
    runtime.shutdown_background();
    outcome
}

/// The listeners of the service manager (`systemd.socket`).
fn of_service_manager() -> std::io::Result<Vec<InheritedListener>> {
    let mut given = ListenFd::from_env();
    let mut inherited = Vec::new();
    for at in 0..given.len() {
        // What is no unix socket is TCP, or none of ours.
        let descriptor = match given.take_unix_listener(at) {
            Ok(listener) => listener.map(Into::into),
            Err(_) => given.take_tcp_listener(at)?.map(Into::into),
        };
        if let Some(descriptor) = descriptor {
            inherited.push(InheritedListener::managed(descriptor)?);
        }
    }
    Ok(inherited)
}

pub(super) fn runtime(workers: usize) -> std::io::Result<Runtime> {
    match workers {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}

/// Makes the log as detailed as a level says.
type SetLevel = Box<dyn Fn(&str)>;

/// Logs as the settings say, by a thread of its own; what is returned besides that changes how much.
fn log_to_stderr(settings: &Settings) -> std::io::Result<(Log, SetLevel)> {
    // Only what pgferry itself says; the settings know no other levels.
    let filter = |level: &str| Targets::new().with_target("pgferry", level.parse().unwrap_or(LevelFilter::INFO));
    let (filtered, handle) = reload::Layer::<_, Registry>::new(filter(&settings.log.log_level));
    let form = match settings.log.log_format {
        LogFormat::Json => Form::Json,
        LogFormat::Text if stderr().is_terminal() => Form::Colours,
        LogFormat::Text => Form::Text,
    };
    let log = Log::to_stderr(form)?;
    let lines = fmt::layer().with_writer(log.writer()).with_target(false);
    let registry = tracing_subscriber::registry().with(filtered);
    match form {
        Form::Json => registry.with(lines.json().flatten_event(true)).init(),
        _ => registry.with(lines.with_ansi(form == Form::Colours)).init(),
    }
    let set_level = Box::new(move |level: &str| {
        // It fails only when the log is gone.
        let _ = handle.reload(filter(level));
    });
    Ok((log, set_level))
}
