//! How others reach one session: to cancel its query, to end it, to see what it does.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::cancel_key::CancelKey;
use super::startup_cache::Replication;
use crate::config::CONSOLE;
use crate::config::socket_path::split_socket_path;
use crate::lock::lock;
use crate::net::{Peer, Stream};
use crate::track::{ClientState, Pins, ServerParams};
use crate::upstream::Pool;
use crate::upstream::cancel_gate::CancelGate;
use crate::upstream::server_conn::BackendKey;
use crate::wake::Wake;

/// Phases of a session.
#[derive(Debug)]
pub(super) enum SessionPhase {
    /// Nothing that could be cancelled.
    Idle,
    /// It waits for a connection.
    Waiting,
    /// Its connection is being prepared; a cancel request must not hit that work.
    Preparing,
    /// Its query runs there.
    Running(Arc<BackendKey>, Arc<CancelGate>),
}

#[derive(Debug)]
pub(super) struct State {
    pub phase: SessionPhase,
    /// A cancel request came that has not been acted upon.
    pub cancelled: bool,
    /// Time at which it last began to wait, or its query to run: milliseconds after it came, and one.
    requested: Option<NonZeroU32>,
    /// The reported settings that it was told.
    view: ServerParams,
    /// Number of prepared statements that it has.
    names: u32,
}

impl State {
    /// Goes on to `phase`. A query that has run until now is over, and with it its cancel requests that have not been sent.
    fn leave(&mut self, phase: SessionPhase) {
        if let SessionPhase::Running(_, gate) = std::mem::replace(&mut self.phase, phase) {
            gate.query_ends();
        }
    }
}

/// Target of a session. The rare kind is boxed, since every client has one of these.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "every client has one of these")]
pub(crate) enum SessionTarget {
    /// Its connections come from a pool.
    Pool(Arc<Pool>),
    /// It has a connection of its own: its database, its role and the replication that it has asked for.
    Dedicated(Box<(Vec<u8>, Vec<u8>, Replication)>),
    /// It speaks with pgferry itself, as this user.
    Console(Box<Vec<u8>>),
}

impl SessionTarget {
    /// The replication that it has asked for.
    #[must_use]
    pub(crate) fn replication(&self) -> Replication {
        match self {
            Self::Dedicated(own) => own.2,
            Self::Pool(_) | Self::Console(_) => Replication::None,
        }
    }

    /// The database.
    #[must_use]
    pub(crate) fn database(&self) -> &[u8] {
        match self {
            Self::Pool(pool) => &pool.key.database,
            Self::Dedicated(own) => &own.0,
            Self::Console(_) => CONSOLE[0].as_bytes(),
        }
    }

    /// The role.
    #[must_use]
    pub(crate) fn user(&self) -> &[u8] {
        match self {
            Self::Pool(pool) => &pool.key.user,
            Self::Dedicated(own) => &own.1,
            Self::Console(user) => user,
        }
    }
}

/// The ends of a client's connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientAddrs {
    /// The client.
    pub peer: Peer,
    /// Our end, if it is a TCP address.
    pub local: Option<SocketAddr>,
    /// The port in the name of our end, if it is a unix or abstract socket.
    pub socket_port: Option<u16>,
    /// Description of its encryption, if it is encrypted.
    pub tls: Option<String>,
}

/// Activity of a session, for the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Nothing.
    Idle,
    /// It waits for a connection.
    Waiting,
    /// Its request is being worked on.
    Active,
}

/// A session as it was at one moment, for the console.
#[derive(Clone, Debug)]
pub(crate) struct SessionSnapshot {
    /// Activity.
    pub activity: Activity,
    /// Time at which it last asked for something.
    pub requested: Option<Instant>,
    /// Its `application_name`.
    pub application_name: String,
    /// Number of prepared statements that it has.
    pub prepared: usize,
}

/// Handle by which others reach a session.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    /// A number of its own, for logs and for the state of its connections.
    pub id: u64,
    /// The pid it was given.
    pub pid: i32,
    /// Its secret.
    pub secret: CancelKey,
    /// Wakes it to look at the process's phase, at cancel requests, and whether it is to end.
    pub wake: Wake,
    /// Target of the session.
    pub target: SessionTarget,
    /// Time at which it came.
    pub connected_at: Instant,
    killed: AtomicBool,
    /// Reason why it keeps its connection.
    pins: AtomicU16,
    /// Its addresses have been asked for.
    addrs_requested: AtomicBool,
    addrs: OnceLock<Box<ClientAddrs>>,
    state: Mutex<State>,
}

impl SessionHandle {
    /// Creates the handle of an idle session, which was told `view`.
    pub(super) fn new(
        id: u64,
        pid: i32,
        secret: CancelKey,
        target: SessionTarget,
        connected_at: Instant,
        view: ServerParams,
    ) -> Self {
        let state = State { phase: SessionPhase::Idle, cancelled: false, requested: None, view, names: 0 };
        Self {
            id,
            pid,
            secret,
            wake: Wake::default(),
            target,
            connected_at,
            killed: AtomicBool::new(false),
            pins: AtomicU16::new(0),
            addrs_requested: AtomicBool::new(false),
            addrs: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    /// The session has nothing that could be cancelled; its state is `client` by now.
    pub(crate) fn set_idle(&self, client: &ClientState) {
        let mut state = self.state();
        state.leave(SessionPhase::Idle);
        state.cancelled = false;
        state.names = u32::try_from(client.names.len()).unwrap_or(u32::MAX);
        if !state.view.is(&client.view) {
            state.view = client.view.clone();
        }
    }

    /// The session has nothing that could be cancelled.
    pub(crate) fn set_done(&self) {
        let mut state = self.state();
        state.phase = SessionPhase::Idle;
        state.cancelled = false;
    }

    /// The session waits for a connection since `since`. A cancel request that came on the way here is kept.
    pub(crate) fn set_waiting(&self, since: Instant) {
        let mut state = self.state();
        state.phase = SessionPhase::Waiting;
        state.requested = self.after(since);
    }

    /// The session has no connection any more, and its request has not been carried out. Says whether a cancel request came for it.
    #[must_use]
    pub(crate) fn set_unconnected(&self) -> bool {
        let mut state = self.state();
        state.leave(SessionPhase::Waiting);
        state.cancelled
    }

    /// The session's connection is being prepared for a request of the moment `since`. A cancel request that comes meanwhile is kept.
    pub(crate) fn set_preparing(&self, since: Instant) {
        let mut state = self.state();
        state.phase = SessionPhase::Preparing;
        state.requested = self.after(since);
    }

    /// The session's query runs since `since`. Says whether a cancel request came before that is now due.
    #[must_use]
    pub(crate) fn set_running(&self, key: &Arc<BackendKey>, gate: &Arc<CancelGate>, since: Instant) -> bool {
        let mut state = self.state();
        state.phase = SessionPhase::Running(Arc::clone(key), Arc::clone(gate));
        state.requested = self.after(since);
        std::mem::take(&mut state.cancelled)
    }

    /// Returns the time from the client's arrival to `moment`.
    fn after(&self, moment: Instant) -> Option<NonZeroU32> {
        let milliseconds = moment.saturating_duration_since(self.connected_at).as_millis();
        NonZeroU32::new(u32::try_from(milliseconds).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Returns whether a cancel request came while the session waited.
    #[must_use]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Ends the session, whatever it is doing.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.wake.wake();
    }

    /// Returns whether it has been ended by hand.
    #[must_use]
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Notes why it keeps its connection.
    pub(crate) fn set_pins(&self, pins: Pins) {
        self.pins.store(pins.bits(), Ordering::Relaxed);
    }

    /// Reason why it keeps its connection.
    #[must_use]
    pub(crate) fn pins(&self) -> Pins {
        Pins::from_bits_truncate(self.pins.load(Ordering::Relaxed))
    }

    /// Asks it for the ends of its connection.
    pub(super) fn request_addrs(&self) {
        self.addrs_requested.store(true, Ordering::SeqCst);
        self.wake.wake();
    }

    /// Publishes its addresses, if they have been asked for: not while it is short.
    pub(crate) fn publish_addrs(&self, stream: &Stream) {
        if !self.addrs_requested.load(Ordering::Relaxed) || self.addrs.get().is_some() {
            return;
        }
        if let Ok(peer) = stream.peer() {
            let tls = stream.tls().map(crate::net::tls::TlsSession::describe);
            let socket_port = stream.socket_name().and_then(|name| split_socket_path(&name)?.1.parse().ok());
            // It is set only here.
            let _ = self.addrs.set(Box::new(ClientAddrs { peer, local: stream.local(), socket_port, tls }));
        }
    }

    /// The ends of its connection, once it has said so.
    #[must_use]
    pub(crate) fn addrs(&self) -> Option<&ClientAddrs> {
        self.addrs.get().map(|addrs| &**addrs)
    }

    /// Activity.
    #[must_use]
    pub(crate) fn snapshot(&self) -> SessionSnapshot {
        let state = self.state();
        let application_name = state.view.get(b"application_name").unwrap_or_default();
        SessionSnapshot {
            activity: match state.phase {
                SessionPhase::Idle => Activity::Idle,
                SessionPhase::Waiting => Activity::Waiting,
                SessionPhase::Preparing | SessionPhase::Running(..) => Activity::Active,
            },
            requested: state
                .requested
                .map(|after| self.connected_at + Duration::from_millis(u64::from(after.get() - 1))),
            application_name: String::from_utf8_lossy(application_name).into_owned(),
            prepared: state.names as usize,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
