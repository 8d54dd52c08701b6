//! The listeners: opened, changed by a reload, handed over to another process.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::acceptor::AcceptorPool;
use super::listener_handle::StopSignal;
use super::shutdown::ShutdownTrackers;
use crate::admin::AdminState;
use crate::config::{ClientAddress, Settings};
use crate::net::{ListenError, Listener, ListenerTransfer};

/// A listener that clients are taken from.
#[derive(Debug)]
struct Open {
    bound: Arc<Listener>,
    stop: Arc<StopSignal>,
}

/// All listeners, by name.
#[derive(Debug)]
pub(super) struct Listeners {
    open: BTreeMap<String, Open>,
    acceptors: Arc<AcceptorPool>,
    /// True if the listeners are the service manager's, whatever the settings say.
    managed: bool,
    /// Idle time after which clients that come over TCP are probed.
    keepalive: Option<Duration>,
}

impl Listeners {
    pub(super) fn new(admin_state: Arc<AdminState>, trackers: ShutdownTrackers, managed: bool) -> Self {
        let keepalive = admin_state.shared.settings().upstream.tcp_keepidle;
        Self { open: BTreeMap::new(), acceptors: AcceptorPool::new(admin_state, trackers), managed, keepalive }
    }

    /// Takes clients from `bound`.
    pub(super) fn open(&mut self, bound: Listener) {
        let (bound, stop) = (Arc::new(bound), Arc::new(StopSignal::default()));
        // Those that were inherited have what they were made with.
        set_keepalive(&bound, self.keepalive);
        self.acceptors.open(Arc::clone(&bound), Arc::clone(&stop));
        self.open.insert(bound.name().to_owned(), Open { bound, stop });
    }

    /// Returns the open listeners.
    pub(super) fn opened(&self) -> Opened {
        let open = self.open.values().map(|open| Arc::clone(&open.bound)).collect();
        Opened { open, managed: self.managed }
    }

    /// Has those that `settings` name: `prepared` are new, others close.
    pub(super) fn change(&mut self, settings: &Settings, prepared: Vec<Listener>) {
        self.keepalive = settings.upstream.tcp_keepidle;
        for open in self.open.values() {
            set_keepalive(&open.bound, self.keepalive);
        }
        if self.managed {
            return;
        }
        let wanted = names(settings);
        self.open.retain(|name, open| {
            let stays = wanted.contains(name);
            if !stays {
                info!("stopped listening on {name}");
                open.stop.close();
            }
            stays
        });
        for bound in prepared {
            info!("listening on {}", bound.name());
            if let Some(former) = self.open.remove(bound.name()) {
                former.stop.close();
            }
            self.open(bound);
        }
    }

    /// All of them, for another process.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn hand_over(&self, admin: Option<&Listener>) -> io::Result<ListenerTransfer> {
        ListenerTransfer::of(self.open.values().map(|open| &*open.bound).chain(admin))
    }

    /// The process that they were inherited from has left them.
    pub(super) fn take_ownership(&self) {
        for open in self.open.values() {
            if let Err(error) = open.bound.take_ownership() {
                warn!("{}: {error}", open.bound.name());
            }
        }
    }

    /// Closes all, as the process ends: clients that have connected are taken to be told so.
    pub(super) fn close(&mut self) {
        for open in std::mem::take(&mut self.open).into_values() {
            open.stop.close();
        }
    }

    /// Another process has them.
    pub(super) fn detach(&mut self) {
        for open in std::mem::take(&mut self.open).into_values() {
            open.bound.detach();
            open.stop.detach();
        }
    }
}

/// The listeners that are open, for what may block: files and groups.
#[derive(Debug)]
pub(super) struct Opened {
    open: Vec<Arc<Listener>>,
    managed: bool,
}

impl Opened {
    /// Opens those that `settings` name and that are not open yet, or have lost their socket files, without taking clients from
    /// them.
    ///
    /// # Errors
    /// When one can't be opened; nothing has changed then.
    pub(super) fn prepare(&self, settings: &Settings) -> Result<Vec<Listener>, ListenError> {
        if self.managed {
            return Ok(Vec::new());
        }
        let group = settings.listen.unix_socket_group.as_deref();
        let mut prepared = Vec::new();
        for address in settings.addresses() {
            let name = address.to_string();
            match self.open.iter().find(|bound| bound.name() == name) {
                None => prepared.push(bind(&address, settings)?),
                Some(bound) if bound.has_lost_its_file() => {
                    prepared.push(bound.remake(settings.listen.unix_socket_mode, group)?);
                }
                Some(_) => {}
            }
        }
        Ok(prepared)
    }

    /// Gives the socket files of those that stay the mode and group that `settings` say.
    ///
    /// # Errors
    /// When one does not get them; those before it have.
    pub(super) fn set_access(&self, settings: &Settings) -> Result<(), ListenError> {
        let wanted = names(settings);
        let (mode, group) = (settings.listen.unix_socket_mode, settings.listen.unix_socket_group.as_deref());
        let mut stay = self.open.iter().filter(|bound| !self.managed && wanted.iter().any(|name| name == bound.name()));
        stay.try_for_each(|bound| bound.set_access(mode, group))
    }
}

/// A listener that can't be told costs comfort, not correctness.
fn set_keepalive(bound: &Listener, idle: Option<Duration>) {
    if let Err(error) = bound.set_keepalive(idle) {
        warn!("{}: keepalive: {error}", bound.name());
    }
}

/// The names of the listeners that `settings` want.
fn names(settings: &Settings) -> Vec<String> {
    settings.addresses().iter().map(ToString::to_string).collect()
}

/// Opens a listener named `address` as it is shown.
///
/// # Errors
/// As [`ListenError`] lists.
pub(super) fn bind(address: &ClientAddress, settings: &Settings) -> Result<Listener, ListenError> {
    match address {
        ClientAddress::File(path) => {
            Listener::file(path, settings.listen.unix_socket_mode, settings.listen.unix_socket_group.as_deref())
        }
        ClientAddress::Abstract(name) => Listener::abstract_name(name),
        ClientAddress::Tcp(address) => Listener::tcp(*address, settings.upstream.tcp_keepidle),
    }
}
