//! Wiring: listeners, sessions, what the process is told, and the end.
//!
//! - `listeners`: the open listeners, each in a `listener_handle`, from which one task of the `acceptor`'s at a time takes clients.
//! - `reload`: changes of settings while the process runs.
//! - `shutdown`: what the end waits for.
//! - `signals`: what the process is told from outside; `notify`: what it tells the service manager.
//! - `banner`: what the log says at the start and at the end.
//! - `limits`: the limit on open files.

mod acceptor;
mod banner;
mod limits;
mod listener_handle;
mod listeners;
mod notify;
mod reload;
mod shutdown;
mod signals;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::admin::console_client::OldProcess;
use crate::admin::server_command::{ServerCommand, Shutdown, Takeover};
use crate::admin::{AdminState, HttpServer, Place, stats_log};
use crate::auth::ProcessKey;
use crate::client::Shared;
use crate::client::client_auth::ClientAuth;
use crate::client::client_slots::ClientSlots;
use crate::client::error_log::ErrorLog;
use crate::client::predecessor::{self, ForwardedCancel, Predecessor};
use crate::client::sessions::Sessions;
use crate::client::startup_cache::StartupCache;
use crate::client::tls_incapable::TlsIncapable;
use crate::config::keys::Adjustable;
use crate::config::{ClientAddress, ConfigError, Settings};
use crate::drain::{Drain, Phase};
use crate::log::Queue;
use crate::net::{BufferPool, Conn, InheritedListener, ListenError, Listener, ListenerTransfer, Stream, find_group};
use crate::upstream::target::UpstreamTargets;
use crate::upstream::{Pools, ServerSide};
use limits::OpenFiles;
use listeners::Listeners;
use notify::Notifier;
use reload::{ReloadableServer, Wanted};
use shutdown::ShutdownTrackers;
use signals::{SignalEvent, Signals};

/// Longest time that the last farewells and closes may take once the end has come.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Time that just accepted clients get for their work, where the successor serves later ones.
const JUST_ACCEPTED_GRACE: Duration = Duration::from_secs(2);

/// Reason why the server does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It can't listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It can't do without.
    #[error("{0}")]
    System(String),
}

/// Reads the settings again, with some keys and values on top of what is written.
pub(crate) type Reload = Arc<dyn Fn(&[(Adjustable, String)]) -> Result<Settings, ConfigError> + Send + Sync>;

/// Everything that the server gets from its caller besides the settings.
pub(crate) struct ServerContext {
    /// Reads the settings again.
    pub reload: Reload,
    /// The log's queue: what it drops is among the figures.
    pub log: Arc<Queue>,
    /// Makes the log as detailed as that.
    pub set_log_level: Box<dyn Fn(&str)>,
    /// Listeners from outside: of the service manager, or of the process that this one replaces.
    pub inherited: Vec<InheritedListener>,
    /// Process that is replaced.
    pub old_process: Option<OldProcess>,
}

/// Runs the server until a signal or a command ends it.
///
/// # Errors
/// As [`StartError`] lists; nothing is served then.
pub(crate) async fn run(settings: Settings, context: ServerContext) -> Result<(), StartError> {
    let ServerContext { reload, log, set_log_level, inherited, old_process } = context;
    let settings = settings.keeping_ports_of(inherited.iter().map(InheritedListener::name));
    let open_files = OpenFiles::raise_limit();
    let upstream_targets = UpstreamTargets::new(&settings, None).map_err(StartError::System)?;
    let client_auth = ClientAuth::new(&settings, None).map_err(StartError::System)?;
    let mut given = inherited;
    let admin_name = settings.admin.admin_listen.as_ref().map(ToString::to_string);
    let admin_given = take_by_name(&mut given, admin_name.as_deref());
    let managed = given.iter().any(InheritedListener::is_managed);
    let (bound, not_wanted) = bind_all(&settings, given)?;
    let mut signals = Signals::new().map_err(|error| StartError::System(format!("signals: {error}")))?;
    let address = settings.admin.admin_listen.clone();
    let (predecessor, cancel_requests) = old_process.as_ref().map(|_| Predecessor::new()).unzip();
    let shared = new_shared(settings, upstream_targets, client_auth, open_files, log, predecessor)?;
    let (admin_state, mut commands) = AdminState::new(Arc::clone(&shared));
    let place = address.map(|address| admin_given.map_or(Place::New(address), Place::Given));
    let admin = place.map(|place| HttpServer::start(&admin_state, place, &shared.settings())).transpose();
    // Every client's task holds senders: when all of these are gone, so are the tasks.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    let (present, mut none_left) = mpsc::channel::<Infallible>(1);
    let trackers = ShutdownTrackers { clients: alive.downgrade(), all: present.downgrade() };
    let mut running = ReloadableServer {
        listeners: Listeners::new(Arc::clone(&admin_state), trackers, managed),
        // It answers until the very end.
        admin: admin.map_err(StartError::System)?,
        admin_state: Arc::clone(&admin_state),
        reload,
        set_log_level,
        notifier: Notifier::new(),
        successor: Weak::new(),
        on_top: Vec::new(),
        wanted: VecDeque::new(),
        making: None,
    };
    let names: Vec<_> = bound.iter().map(|bound| bound.name().to_owned()).collect();
    banner::announce(&shared.settings(), &names);
    banner::advise(&shared.settings().advice());
    banner::advise_on_passwords(&shared);
    reload::warm_up(&shared);
    tokio::spawn(Arc::clone(&shared.pools).janitor());
    tokio::spawn(stats_log::log(Arc::clone(&shared)));
    tokio::spawn(admin_state.run_sampler());
    for bound in bound {
        running.listeners.open(bound);
    }
    if let Some(old_process) = old_process {
        take_over(old_process, cancel_requests, &mut running, &shared).await?;
    }
    // What is not configured any more goes, its socket file too.
    drop(not_wanted.into_iter().inspect(|bound| drop(bound.take_ownership())).collect::<Vec<_>>());
    running.notifier.tell(&[NotifyState::Ready]);
    let mut policy = serve(&mut running, &shared, &mut signals, &mut commands).await;
    running.notifier.tell(&[NotifyState::Stopping]);
    if managed {
        if policy == DrainPolicy::Drain {
            policy = DrainPolicy::Kept;
        }
        // Clients in the backlog are the successor's: the service manager starts it now, or when the next client comes.
        running.listeners.detach();
    }
    drop(alive);
    let mut ending = ShutdownController { signals, commands, running: &mut running };
    wait_for_clients(&shared, policy, &mut ending, &mut all_gone).await;
    // Later commands fail, since the receiver is gone.
    drop(ending);
    shared.drain.advance(Phase::Stopping);
    running.listeners.close();
    shared.sessions.wake_all();
    drop(present);
    // A client that does not take its farewell by then loses it.
    let _ = timeout(CLOSE_TIMEOUT, none_left.recv()).await;
    close_server_conns(&shared).await;
    banner::report(&shared);
    Ok(())
}

/// Acknowledges to the process that is replaced that its clients are served here, and has the `cancel_requests` for those that it
/// still has passed on to it.
///
/// # Errors
/// [`StartError::System`] where the acknowledgement could not be made.
async fn take_over(
    old_process: OldProcess,
    cancel_requests: Option<mpsc::Receiver<ForwardedCancel>>,
    running: &mut ReloadableServer,
    shared: &Shared,
) -> Result<(), StartError> {
    // It may take its time, while clients are served here.
    let acknowledged = spawn_blocking(move || old_process.acknowledge()).await;
    let console = acknowledged.map_err(|error| StartError::System(error.to_string()))?;
    running.take_ownership();
    if let Some((console, cancel_requests)) = console.zip(cancel_requests) {
        forward_cancel_requests(console, cancel_requests, shared);
    }
    Ok(())
}

/// Has cancel requests for the clients of the process that was replaced passed on to it, by the connection to its console.
fn forward_cancel_requests(console: UnixStream, requests: mpsc::Receiver<ForwardedCancel>, shared: &Shared) {
    let stream = console.set_nonblocking(true).and_then(|()| Stream::accepted_unix(console.into()));
    match stream {
        Ok(stream) => {
            let console = Conn::new(stream, Arc::clone(&shared.server_side.buffers));
            tokio::spawn(predecessor::forward(console, requests));
        }
        Err(error) => warn!("cancel requests can't be passed on to the process that was replaced: {error}"),
    }
}

/// Creates the state that all sessions share.
fn new_shared(
    settings: Settings,
    upstream_targets: UpstreamTargets,
    client_auth: ClientAuth,
    open_files: OpenFiles,
    log: Arc<Queue>,
    predecessor: Option<Predecessor>,
) -> Result<Arc<Shared>, StartError> {
    let key = ProcessKey::generate().map_err(|error| StartError::System(format!("no randomness: {error}")))?;
    // Enough for the traffic of a burst; what is beyond goes back to the system.
    let buffers =
        BufferPool::new(settings.listen.buffer_size, 2 * settings.pool.max_upstream.map_or(64, |most| most.min(64)));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let ceiling = open_files.most_server_conns();
    let server_side = ServerSide::new(Arc::clone(&settings), upstream_targets, key, buffers, ceiling);
    let client_slots = open_files.clients(&settings.load(), server_side.capacity.max_upstream());
    Ok(Arc::new(Shared {
        pools: Pools::new(Arc::clone(&server_side)),
        server_side,
        sessions: Sessions::default(),
        predecessor,
        client_auth: ArcSwap::from_pointee(client_auth),
        tls_incapable: TlsIncapable::default(),
        startup_cache: StartupCache::default(),
        errors: ErrorLog::default(),
        drain: Drain::default(),
        log,
        client_slots: ClientSlots::new(client_slots),
    }))
}

/// Serves signals and commands until one of them ends the process.
async fn serve(
    running: &mut ReloadableServer,
    shared: &Shared,
    signals: &mut Signals,
    commands: &mut mpsc::Receiver<ServerCommand>,
) -> DrainPolicy {
    loop {
        tokio::select! {
            told = signals.next() => match told {
                SignalEvent::Reload => running.want(Wanted::BySignal),
                SignalEvent::Report => banner::report(shared),
                SignalEvent::Drain => return DrainPolicy::Drain,
                SignalEvent::Stop => return DrainPolicy::None,
            },
            made = running.made() => running.apply(made),
            () = shared.server_side.capacity.resized() => reload::fit_clients(shared),
            Some(order) = commands.recv() => match order {
                ServerCommand::Reload(answer) => running.want(Wanted::Reload(answer)),
                ServerCommand::Set(key, value, answer) => running.want(Wanted::Set(key, value, answer)),
                ServerCommand::TakeOver(Takeover::Any, by, answer) => drop(answer.send(running.offer(by))),
                ServerCommand::TakeOver(Takeover::Ending, _, answer) => {
                    let _ = answer.send(Err("the process is not ending".to_owned()));
                }
                ServerCommand::TakenOver => {
                    running.detach();
                    return DrainPolicy::Replaced;
                }
                ServerCommand::Shutdown(Shutdown::Now) => return DrainPolicy::None,
                ServerCommand::Shutdown(Shutdown::WaitForServers) => return DrainPolicy::Drain,
                ServerCommand::Shutdown(Shutdown::WaitForClients) => return DrainPolicy::Clients,
            },
        }
    }
}

/// Policies on connected clients at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainPolicy {
    /// Not at all.
    None,
    /// To their next safe point, within `drain_timeout`.
    Drain,
    /// As long as they like.
    Clients,
    /// As long as they like within `drain_timeout`, and then to their next safe point: new ones go to another process.
    Replaced,
    /// As long as they like for [`JUST_ACCEPTED_GRACE`], and then to their next safe point, within `drain_timeout` altogether: new ones
    /// wait in the backlog, which the service manager keeps for the next process.
    Kept,
}

/// A second request to end the process.
struct ShutdownController<'a> {
    signals: Signals,
    commands: mpsc::Receiver<ServerCommand>,
    running: &'a mut ReloadableServer,
}

impl ShutdownController<'_> {
    /// Waits for the next signal or command to end. Meanwhile another process may have the listeners; other commands come too
    /// late, and fail.
    async fn next(&mut self) -> SignalEvent {
        loop {
            tokio::select! {
                told = self.signals.next() => if matches!(told, SignalEvent::Drain | SignalEvent::Stop) { return told },
                Some(order) = self.commands.recv() => match order {
                    ServerCommand::Shutdown(Shutdown::Now) => return SignalEvent::Stop,
                    ServerCommand::Shutdown(Shutdown::WaitForServers) => return SignalEvent::Drain,
                    ServerCommand::TakeOver(_, _, answer) => drop(answer.send(self.leave())),
                    ServerCommand::TakenOver => self.running.detach(),
                    other => drop(other),
                },
            }
        }
    }

    /// Leaves the listeners to another process, at once: this one may have ended before it is told that they have arrived.
    fn leave(&mut self) -> Result<ListenerTransfer, String> {
        let transfer = self.running.hand_over()?;
        info!("another process takes over: new clients are its own");
        self.running.detach();
        Ok(transfer)
    }
}

/// Waits until the clients are gone, as long as the policy says, or until a second request to end.
async fn wait_for_clients(
    shared: &Shared,
    policy: DrainPolicy,
    ending: &mut ShutdownController<'_>,
    all_gone: &mut mpsc::Receiver<Infallible>,
) {
    let timeout = shared.settings().timeouts.drain_timeout;
    let mut limit = timeout;
    let first = match policy {
        DrainPolicy::None => return,
        DrainPolicy::Drain => None,
        DrainPolicy::Clients => Some((Phase::Closed, "shutting down", Duration::MAX)),
        DrainPolicy::Replaced => Some((Phase::Left, "replaced by another process", limit)),
        DrainPolicy::Kept => {
            Some((Phase::Left, "shutting down, new clients wait for the next process", JUST_ACCEPTED_GRACE.min(limit)))
        }
    };
    if let Some((phase, why, time)) = first {
        info!("{why}: waiting for clients to end");
        shared.drain.advance(phase);
        shared.sessions.wake_all();
        // No clients come that could need them, and the next process may find none where the server is full.
        shared.pools.close_idle();
        tokio::select! {
            () = no_clients(shared, all_gone) => return,
            told = ending.next() => if told == SignalEvent::Stop { return },
            () = sleep(time) => {}
        }
        if policy == DrainPolicy::Kept {
            // Service managers kill what takes longer than they were told.
            limit = limit.saturating_sub(time);
        }
    }
    info!("shutting down: waiting for transactions to end");
    shared.drain.advance(Phase::Draining);
    shared.sessions.wake_all();
    tokio::select! {
        _ = all_gone.recv() => {}
        _ = ending.next() => warn!("second shutdown signal: shutting down now"),
        () = sleep(limit) => warn!("transactions did not end within {} s (drain_timeout)", timeout.as_secs_f32()),
    }
}

/// Waits until neither this process nor one before it has clients: cancel requests for theirs come by way of this one.
async fn no_clients(shared: &Shared, all_gone: &mut mpsc::Receiver<Infallible>) {
    all_gone.recv().await;
    if let Some(predecessor) = &shared.predecessor {
        shared.pools.close();
        predecessor.gone().await;
    }
}

/// Looks up what `settings` name without serving clients: certificates, keys, files of secrets, a group. Returns what an operator had
/// better know of the rest.
///
/// # Errors
/// Which of them can't be used, and why.
pub(crate) fn check(settings: &Settings) -> Result<Vec<String>, String> {
    let upstream_targets = UpstreamTargets::new(settings, None)?;
    ClientAuth::new(settings, None)?;
    let group = settings.listen.unix_socket_group.as_deref();
    group.map(find_group).transpose().map_err(|error| error.to_string())?;
    let mut advice = settings.advice();
    advice.extend(upstream_targets.missing_passwords());
    Ok(advice)
}

/// Takes the listener called `name` out of `given`.
fn take_by_name(given: &mut Vec<InheritedListener>, name: Option<&str>) -> Option<InheritedListener> {
    let at = given.iter().position(|listener| Some(listener.name()) == name)?;
    Some(given.swap_remove(at))
}

/// The listeners: those that the service manager gives stand for all that are configured; those of the process that is
/// replaced, for the ones of the same name. Those that are not configured come second.
fn bind_all(
    settings: &Settings,
    mut given: Vec<InheritedListener>,
) -> Result<(Vec<Listener>, Vec<Listener>), ListenError> {
    let adopt =
        |given: Vec<InheritedListener>| given.into_iter().map(InheritedListener::adopt).collect::<Result<Vec<_>, _>>();
    if given.iter().any(InheritedListener::is_managed) {
        return Ok((adopt(given)?, Vec::new()));
    }
    let (mode, group) = (settings.listen.unix_socket_mode, settings.listen.unix_socket_group.as_deref());
    let one = |address: &ClientAddress| match take_by_name(&mut given, Some(&address.to_string())) {
        Some(listener) => listener.adopt_reachable(mode, group),
        None => listeners::bind(address, settings),
    };
    let bound = settings.addresses().iter().map(one).collect::<Result<_, _>>()?;
    Ok((bound, adopt(given)?))
}

/// Closes the upstream connections in good order, as far as there is time.
async fn close_server_conns(shared: &Shared) {
    shared.pools.close_idle();
    shared.client_auth.load().secrets.close(shared.counters()).await;
    let closed = async {
        while shared.server_side.capacity.used() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    // What is left is closed by the kernel.
    let _ = timeout(CLOSE_TIMEOUT, closed).await;
}
