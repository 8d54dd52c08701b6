//! Wiring: listeners, sessions, signals, and the end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::admin::{Admin, vitals};
use crate::auth::ProcessKey;
use crate::client::cancel::Sessions;
use crate::client::door::Door;
use crate::client::{self, Shared};
use crate::config::{Auth, ConfigError, Listen, Rule, Settings};
use crate::drain::{Drain, Phase};
use crate::net::{Bound, BufferPool, Conn, ListenError, Stream};
use crate::upstream::Registry;
use crate::upstream::route::Route;
use crate::upstream::slots::Slots;

/// Descriptors that are not clients' or upstreams': listeners, logs, the runtime's own, and some to spare.
const SPARE_FILES: usize = 64;

/// How long to wait before accepting again when the process or the system is out of descriptors.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// How many clients that wait in the backlog are still taken when the end begins: as many as the kernel keeps by default.
const BACKLOG_AT_END: usize = 4096;

/// How long the last farewells and closes may take once the end has come.
const LAST_CALL: Duration = Duration::from_millis(1500);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It can't listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It can't do without.
    #[error("{0}")]
    System(String),
}

/// Runs the server until it is told to end. `reload` reads the settings again.
///
/// # Errors
/// As [`StartError`] lists; nothing is served then.
pub async fn run(settings: Settings, reload: impl Fn() -> Result<Settings, ConfigError>) -> Result<(), StartError> {
    let places = raise_file_limit(&settings);
    let route = Route::new(&settings).map_err(StartError::System)?;
    let door = Door::new(&settings).map_err(StartError::System)?;
    let listeners = bind(&settings)?;
    let key = ProcessKey::generate().map_err(|error| StartError::System(format!("no randomness: {error}")))?;
    let mut signals = Signals::new().map_err(|error| StartError::System(format!("signals: {error}")))?;
    // Enough for the traffic of a burst; what is beyond goes back to the system.
    let buffers = BufferPool::new(settings.buffer_size, 2 * settings.max_upstream.min(64));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let registry = Registry::new(Arc::clone(&settings), route, key, buffers);
    let shared = Arc::new(Shared {
        registry: Arc::clone(&registry),
        sessions: Sessions::default(),
        door: ArcSwap::from_pointee(door),
        drain: Drain::default(),
        places: Slots::new(places),
    });
    let address = registry.settings.load().admin_listen.clone();
    let admin = address.map(|address| Admin::start(Arc::clone(&shared), &address));
    // It answers until the very end.
    let _admin = admin.transpose().map_err(StartError::System)?;
    announce(&registry.settings.load());
    warm_up(&shared);
    tokio::spawn(Arc::clone(&registry).janitor());
    tokio::spawn(vitals::log(Arc::clone(&shared)));
    // Every client's task holds a sender: when all are gone, so are the clients.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    for listener in listeners {
        tokio::spawn(accept(Arc::clone(&shared), listener, alive.clone()));
    }
    drop(alive);
    notify(NotifyState::Ready);
    loop {
        match signals.next().await {
            Told::Reload => apply(&shared, &reload),
            Told::Report => report(&shared),
            Told::Drain => {
                info!("shutting down: waiting for transactions to end");
                shared.drain.advance(Phase::Draining);
                break;
            }
            Told::Stop => break,
        }
    }
    notify(NotifyState::Stopping);
    shared.sessions.wake_all();
    if shared.drain.phase() == Phase::Draining {
        let limit = shared.registry.settings.load().drain_timeout;
        tokio::select! {
            _ = all_gone.recv() => {}
            () = signals.end() => warn!("told again: shutting down now"),
            () = sleep(limit) => warn!("transactions did not end within {} s (drain_timeout)", limit.as_secs_f32()),
        }
    }
    shared.drain.advance(Phase::Stopping);
    shared.sessions.wake_all();
    // Whoever does not take its farewell by then loses it.
    let _ = timeout(LAST_CALL, all_gone.recv()).await;
    close_upstreams(&shared).await;
    report(&shared);
    Ok(())
}

/// Reads what `settings` name without serving anybody: certificates, keys, files of secrets.
///
/// # Errors
/// Which of them can't be used, and why.
pub fn check(settings: &Settings) -> Result<(), String> {
    Route::new(settings)?;
    Door::new(settings).map(drop)
}

/// Takes clients until the process ends; nothing that happens to one of them holds up the next.
async fn accept(shared: Arc<Shared>, listener: Bound, alive: mpsc::Sender<Infallible>) {
    let serve = |stream: Stream| {
        let (shared, alive) = (Arc::clone(&shared), alive.clone());
        let mut conn = Conn::new(stream, Arc::clone(&shared.registry.buffers));
        tokio::spawn(async move {
            client::serve(&shared, &mut conn).await;
            drop(alive);
        });
    };
    while shared.drain.phase() == Phase::Running {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok(stream) => serve(stream),
                Err(error) => out_of_luck(&error).await,
            },
            () = shared.drain.reached(Phase::Draining) => {}
        }
    }
    // Those who have connected by now are told; a closed backlog would only break their connections.
    for _ in 0..BACKLOG_AT_END {
        match timeout(Duration::ZERO, listener.accept()).await {
            Ok(Ok(stream)) => serve(stream),
            _ => break,
        }
    }
}

/// A failure to accept concerns one client, or everything is in use for the moment; the listener goes on.
async fn out_of_luck(error: &io::Error) {
    let errno = error.raw_os_error().map(Errno::from_raw);
    if let Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) = errno {
        warn!("can't accept clients for the moment: {error}; they wait in the backlog");
        sleep(OUT_OF_FILES).await;
    } else {
        warn!("a client could not be accepted: {error}");
    }
}

/// Reads the settings again and applies what can be applied; mistakes change nothing.
fn apply(shared: &Shared, reload: &impl Fn() -> Result<Settings, ConfigError>) {
    let registry = &shared.registry;
    let old = registry.settings.load_full();
    let new = match reload() {
        Ok(new) => new,
        Err(error) => return error!("the settings were not reloaded, the old ones stay: {error}"),
    };
    let made = Route::new(&new).and_then(|route| Ok((route, Door::new(&new)?)));
    let (route, door) = match made {
        Ok(made) => made,
        Err(error) => return error!("the settings were not reloaded, the old ones stay: {error}"),
    };
    let (live, restart) = new.changed(&old);
    registry.settings.store(Arc::new(new.keeping_fixed_of(&old)));
    registry.apply(&old, route);
    let old_door = shared.door.swap(Arc::new(door));
    warm_up(shared);
    let closing = Arc::clone(registry);
    tokio::spawn(async move { old_door.secrets.close(&closing).await });
    shared.places.resize(raise_file_limit(&registry.settings.load()));
    if !restart.is_empty() {
        warn!("these settings have changed but need a restart: {}", restart.join(", "));
    }
    let changed = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
    info!("settings reloaded; changed: {changed}");
}

/// Closes the upstream connections in good order, as far as there is time.
async fn close_upstreams(shared: &Shared) {
    shared.registry.close_idle();
    shared.door.load().secrets.close(&shared.registry).await;
    let closed = async {
        while shared.registry.open() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // What is left is closed by the kernel.
    let _ = timeout(LAST_CALL, closed).await;
}

/// Does what takes long and is better done before the first client comes.
fn warm_up(shared: &Shared) {
    let door = shared.door.load_full();
    if shared.registry.settings.load().needs_verifiers() {
        tokio::spawn(async move { door.secrets.warm_up().await });
    }
}

fn bind(settings: &Settings) -> Result<Vec<Bound>, ListenError> {
    let bind = |listen: &Listen| match listen {
        Listen::Dir(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", settings.port));
            Bound::file(&path, settings.socket_mode, settings.socket_group.as_deref())
        }
        Listen::Abstract(name) => Bound::abstract_name(&format!("{name}/.s.PGSQL.{}", settings.port)),
        Listen::Tcp(address) => Bound::tcp(*address),
    };
    settings.listen.iter().map(bind).collect()
}

/// Raises the limit on open files as far as it goes, and says how many clients that leaves room for.
fn raise_file_limit(settings: &Settings) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let room = limit.saturating_sub(SPARE_FILES + settings.max_upstream + 3 * settings.max_dialling).max(1);
    match settings.max_clients {
        0 => room,
        wanted if wanted > room => {
            warn!("max_clients = {wanted} does not fit the limit of {limit} open files (ulimit -n): {room} it is");
            room
        }
        wanted => wanted,
    }
}

/// The one line that says what a newcomer must know.
fn announce(settings: &Settings) {
    let dsns: Vec<_> = settings
        .listen
        .iter()
        .map(|listen| {
            let port = match listen {
                Listen::Tcp(address) => address.port(),
                _ => settings.port,
            };
            format!("\"host={} port={port}\"", listen.dsn_host())
        })
        .collect();
    info!(
        "ready: clients connect with {}, PostgreSQL is at {}; {} mode, at most {} connections per pool",
        dsns.join(" or "),
        settings.upstream.host,
        settings.mode,
        settings.pool_size
    );
    if settings.is_pass_through() && settings.upstream.password.is_some() {
        warn!("the password in the upstream URL is not used: with auth = \"pass-through\" clients bring their own");
    }
    let shows_certificate = settings.upstream.encryption.options().is_ok_and(|options| options.identity.is_some());
    if settings.rules.iter().any(|rule| rule.method == Auth::PassThrough) && shows_certificate {
        warn!(
            "pgferry shows PostgreSQL a certificate of its own (sslcert): whoever is let in by that needs no password \
             here with the method \"pass-through\""
        );
    }
    let trusts_all = settings.rules.iter().any(|rule| *rule == Rule::for_all(Auth::Trust));
    if trusts_all && settings.listen.iter().any(Listen::is_remote) {
        warn!("a [[rule]] without conditions trusts everybody, and other machines can connect");
    }
    if let Some(address) = settings.admin_listen.as_ref().filter(|address| address.is_remote()) {
        warn!("admin_listen = \"{address}\": every machine that gets there can read the figures");
    }
    if trusts_all && settings.socket_mode & 0o007 != 0 {
        warn!(
            "auth = \"trust\" and socket_mode = \"{:04o}\": every user of this machine gets in without a password",
            settings.socket_mode
        );
    }
}

/// The figures in one line.
fn report(shared: &Shared) {
    let counters = &shared.registry.counters;
    info!(
        clients = counters.logins.get(),
        refused = counters.refused.get(),
        upstream_opened = counters.opened.get(),
        upstream_closed = counters.closed.get(),
        close_reasons = %counters.close_reasons(),
        upstream_reset = counters.reset.get(),
        time_waits = counters.time_waits.get(),
        no_port = counters.no_port.get(),
        ports_saved = counters.ports_saved(),
        upstream_failed = counters.failed.get(),
        logins_tried_upstream = counters.tried.get(),
        cancels = counters.cancels.get(),
        pinned = counters.pins.get(),
        pin_reasons = %counters.pin_reasons(),
        clients_now = shared.sessions.count(),
        pools_now = shared.registry.pools(),
        upstream_now = shared.registry.open(),
        idle_now = shared.registry.idle(),
        leased_now = shared.registry.leased(),
        waiting_now = shared.sessions.waiting(),
        "served {} client connections over {} upstream connections",
        counters.logins.get(),
        counters.opened.get(),
    );
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("systemd could not be notified: {error}");
    }
}

/// What the process is told from outside.
enum Told {
    Reload,
    Report,
    Drain,
    Stop,
}

struct Signals {
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.user.recv() => Told::Report,
            _ = self.terminate.recv() => Told::Drain,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.quit.recv() => Told::Stop,
        }
    }

    /// Any signal to end.
    async fn end(&mut self) {
        while !matches!(self.next().await, Told::Drain | Told::Stop) {}
    }
}
