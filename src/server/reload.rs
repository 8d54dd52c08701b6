//! Settings that change while the process runs.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use super::Reload;
use super::banner;
use super::limits::OpenFiles;
use super::listeners::{Listeners, Opened};
use super::notify::Notifier;
use crate::admin::{AdminState, HttpServer, Place};
use crate::client::Shared;
use crate::client::client_auth::ClientAuth;
use crate::client::session_handle::SessionHandle;
use crate::config::Settings;
use crate::config::keys::Adjustable;
use crate::net::{Listener, ListenerTransfer};
use crate::upstream::PoolKey;
use crate::upstream::target::UpstreamTargets;

/// Parts that a reload changes.
pub(super) struct ReloadableServer {
    pub listeners: Listeners,
    pub admin: Option<HttpServer>,
    pub admin_state: Arc<AdminState>,
    pub reload: Reload,
    pub set_log_level: Box<dyn Fn(&str)>,
    pub notifier: Notifier,
    /// The session at the console of the process that has got the listeners and not said so yet.
    pub successor: Weak<SessionHandle>,
    /// Settings made at the console, on top of what is written.
    pub on_top: Vec<(Adjustable, String)>,
    /// Changes that are wanted, in order; the first is under way.
    pub wanted: VecDeque<Wanted>,
    pub making: Option<JoinHandle<Result<Made, String>>>,
}

/// A change that is wanted.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A reload, by a signal.
    BySignal,
    /// A reload, by a command.
    Reload(oneshot::Sender<Result<String, String>>),
    /// A setting on top of what is written, until the next reload.
    Set(Adjustable, String, oneshot::Sender<Result<String, String>>),
}

/// All that new settings need, made before any of it is in force.
#[derive(Debug)]
pub(super) struct Made {
    settings: Settings,
    on_top: Vec<(Adjustable, String)>,
    upstream_targets: UpstreamTargets,
    client_auth: ClientAuth,
    bound: Vec<Listener>,
    admin: Pages,
    live: Vec<&'static str>,
    restart: Vec<&'static str>,
    /// News that an operator had better know.
    advice: Vec<String>,
}

/// Change to the thread that answers at `admin_listen`.
#[derive(Debug)]
enum Pages {
    /// It stays.
    Stay,
    /// Another one takes its place.
    Move(HttpServer),
    /// It ends.
    End,
}

impl ReloadableServer {
    /// Begins a change, or has it wait for those before it. What is made of files is made on a thread for blocking work:
    /// neither clients nor signals wait for a file system or a name service.
    pub(super) fn want(&mut self, wanted: Wanted) {
        let is_signal = |wanted: &Wanted| matches!(wanted, Wanted::BySignal);
        // A second signal asks for what the first one, if it is still waiting, will give.
        if is_signal(&wanted) && self.wanted.iter().skip(1).any(is_signal) {
            return;
        }
        self.wanted.push_back(wanted);
        if self.making.is_none() {
            self.begin();
        }
    }

    /// Begins the first change that is wanted.
    fn begin(&mut self) {
        let on_top = match self.wanted.front() {
            None => return,
            Some(Wanted::Reload(_)) => Vec::new(),
            Some(Wanted::BySignal) => {
                // Type=notify-reload wants to know when it began and when it is over.
                match NotifyState::monotonic_usec_now() {
                    Ok(now) => self.notifier.tell(&[NotifyState::Reloading, now]),
                    Err(error) => warn!("the clock could not be read: {error}"),
                }
                Vec::new()
            }
            Some(Wanted::Set(key, value, _)) => {
                let mut on_top = self.on_top.clone();
                on_top.retain(|(other, _)| other.name() != key.name());
                on_top.push((*key, value.clone()));
                on_top
            }
        };
        let (reload, admin_state) = (Arc::clone(&self.reload), Arc::clone(&self.admin_state));
        let (opened, pages) = (self.listeners.opened(), self.admin.as_ref().map(HttpServer::listener));
        self.making = Some(spawn_blocking(move || {
            make(&reload, &admin_state, (&opened, pages), on_top)
                .map_err(|why| format!("the settings were not reloaded, the old ones stay: {why}"))
        }));
    }

    /// Waits until what a change needs has been made; for ever where nothing is being made. Cancel-safe.
    pub(super) async fn made(&mut self) -> Result<Made, String> {
        match &mut self.making {
            Some(making) => making.await.unwrap_or_else(|error| Err(error.to_string())),
            None => std::future::pending().await,
        }
    }

    /// Applies what was made, answers the command that wanted it, and begins the next change.
    pub(super) fn apply(&mut self, made: Result<Made, String>) {
        self.making = None;
        let outcome = made.map(|made| self.change(made));
        match self.wanted.pop_front() {
            Some(Wanted::BySignal) => {
                if let Err(why) = outcome {
                    error!("{}", why.replace("\n  hint: ", "; hint: "));
                }
                self.notifier.tell(&[NotifyState::Ready]);
            }
            Some(Wanted::Reload(answer) | Wanted::Set(_, _, answer)) => drop(answer.send(outcome)),
            None => {}
        }
        self.begin();
    }

    /// Puts in force what was made. Says what has changed.
    fn change(&mut self, made: Made) -> String {
        let Made { settings, on_top, upstream_targets, client_auth, bound, admin, live, restart, advice } = made;
        let shared = &self.admin_state.shared;
        let old = shared.server_side.config.settings.load_full();
        let new = Arc::new(settings);
        match admin {
            Pages::Stay => {}
            Pages::Move(admin) => self.admin = Some(admin),
            Pages::End => self.admin = None,
        }
        shared.server_side.config.settings.store(Arc::clone(&new));
        self.listeners.change(&new, bound);
        shared.pools.apply(&old, upstream_targets);
        if new.log.log_level != old.log.log_level {
            (self.set_log_level)(&new.log.log_level);
        }
        let old_client_auth = shared.client_auth.swap(Arc::new(client_auth));
        warm_up(shared);
        let closing = Arc::clone(&shared.server_side);
        tokio::spawn(async move { old_client_auth.secrets.close(&closing.counters).await });
        fit_clients(shared);
        self.on_top = on_top;
        // Clients of a changed upstream move at their next transaction boundary.
        shared.sessions.wake_all();
        let mut said = format!("settings reloaded; changed: {}", list(&live));
        if !restart.is_empty() {
            let waiting = format!("these settings have changed but need a restart: {}", list(&restart));
            warn!("{waiting}");
            said = format!("{said}; {waiting}");
        }
        info!("settings reloaded; changed: {}", list(&live));
        banner::advise(&advice);
        banner::advise_on_passwords(shared);
        said
    }

    /// The listeners, for another process.
    ///
    /// # Errors
    /// Why it can't have them.
    pub(super) fn hand_over(&self) -> Result<ListenerTransfer, String> {
        let admin = self.admin.as_ref().map(HttpServer::listener);
        self.listeners.hand_over(admin.as_deref()).map_err(|error| error.to_string())
    }

    /// The listeners, for the process of the session `by`; this one keeps them until that has said that it serves there.
    ///
    /// # Errors
    /// When another process has got them before, and may still say so: clients would be shared out between the two.
    pub(super) fn offer(&mut self, by: Weak<SessionHandle>) -> Result<ListenerTransfer, String> {
        if self.successor.strong_count() > 0 && !self.successor.ptr_eq(&by) {
            return Err("another process is taking its place at this moment: try again".to_owned());
        }
        let transfer = self.hand_over()?;
        self.successor = by;
        Ok(transfer)
    }

    /// The process that listeners were inherited from has left them.
    pub(super) fn take_ownership(&self) {
        self.listeners.take_ownership();
        if let Some(Err(error)) = self.admin.as_ref().map(|admin| admin.listener().take_ownership()) {
            warn!("admin_listen: {error}");
        }
    }

    /// Another process has the listeners.
    pub(super) fn detach(&mut self) {
        self.listeners.detach();
        if let Some(admin) = self.admin.take() {
            admin.detach();
        }
    }
}

/// Reads the settings and makes what they need: certificates, secrets, listeners. Blocks.
///
/// # Errors
/// Why they can't be put in force.
fn make(
    reload: &Reload,
    admin_state: &Arc<AdminState>,
    (opened, pages): (&Opened, Option<Arc<Listener>>),
    on_top: Vec<(Adjustable, String)>,
) -> Result<Made, String> {
    let config = &admin_state.shared.server_side.config;
    let old = config.settings.load_full();
    let new = reload(&on_top).map_err(|error| error.to_string())?;
    let (live, restart) = new.changed(&old);
    let settings = new.keeping_fixed_of(&old);
    let upstream_targets = UpstreamTargets::new(&settings, Some(&config.upstream_targets()))?;
    let client_auth = ClientAuth::new(&settings, Some(&admin_state.shared.client_auth.load()))?;
    let bound = opened.prepare(&settings).map_err(|error| error.to_string())?;
    let admin = match &settings.admin.admin_listen {
        same if *same == old.admin.admin_listen => match &pages {
            Some(former) if former.has_lost_its_file() => {
                Pages::Move(HttpServer::start(admin_state, Place::Again(Arc::clone(former)), &settings)?)
            }
            _ => Pages::Stay,
        },
        Some(address) => Pages::Move(HttpServer::start(admin_state, Place::New(address.clone()), &settings)?),
        None => Pages::End,
    };
    let of_pages = pages.filter(|_| matches!(admin, Pages::Stay));
    let set_access = |settings: &Settings| {
        opened.set_access(settings)?;
        let (mode, group) = (settings.listen.unix_socket_mode, settings.listen.unix_socket_group.as_deref());
        of_pages.as_ref().map_or(Ok(()), |listener| listener.set_access(mode, group))
    };
    if let Err(error) = set_access(&settings) {
        // They had this access before.
        let _ = set_access(&old);
        return Err(error.to_string());
    }
    let told = old.advice();
    let mut advice = settings.advice();
    advice.retain(|line| !told.contains(line));
    Ok(Made { settings, on_top, upstream_targets, client_auth, bound, admin, live, restart, advice })
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Adapts the number of clients to the settings in force, and to how many server connections there may be.
pub(super) fn fit_clients(shared: &Shared) {
    let clients = OpenFiles::raise_limit().clients(&shared.settings(), shared.server_side.capacity.max_upstream());
    shared.client_slots.resize(clients);
}

/// Does what takes long and is better done before the first client comes. Where it is known as whom clients will come, a
/// connection is opened, so that the first finds one, and probes learn whether that works.
pub(super) fn warm_up(shared: &Shared) {
    let settings = shared.server_side.config.settings.load_full();
    let known = settings.upstream.url.user.as_ref().zip(settings.upstream.url.database.as_ref());
    if let Some((user, database)) = known.filter(|_| !settings.is_pass_through()) {
        let (database, user) = (database.as_bytes().to_vec(), user.as_bytes().to_vec());
        shared.pools.get(&PoolKey { database, user, extra: Vec::new() }).warm_up();
    }
    let client_auth = shared.client_auth.load_full();
    if settings.needs_verifiers() {
        tokio::spawn(async move { client_auth.secrets.warm_up().await });
    }
}
