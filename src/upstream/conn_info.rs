//! Metadata of an open server connection, for the console and the metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

use super::cancel_gate::CancelGate;
use super::looped_clients::LoopedClients;
use super::target::Address;

use crate::lock::lock;
use crate::track::session_code::SessionCode;

/// No client has it.
const NO_CLIENT: u64 = u64::MAX;

/// Identity of a connection, from the moment on in which its opening begins: what is said of all connections then, such as that they are
/// to be replaced, is said of this one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Birth {
    /// Its number.
    pub id: u64,
}

/// Metadata of an open server connection.
#[derive(Debug)]
pub(crate) struct ConnInfo {
    /// The connection's number.
    pub id: u64,
    /// Its backend's process id.
    pub pid: i32,
    /// The server process that served it when that was last asked, if it was.
    pub process: Mutex<Option<i32>>,
    /// Time at which it was opened.
    pub opened: SystemTime,
    /// Remote address.
    pub remote: Address,
    /// Local address, if that is a TCP address.
    pub local: Option<std::net::SocketAddr>,
    /// Description of its encryption, if it is encrypted.
    pub tls: Option<String>,
    /// Its cancel requests.
    pub gate: Arc<CancelGate>,
    /// The clients of pgferry that its backend is.
    pub looped: LoopedClients,
    /// Knowledge of the code in its database.
    pub code: Arc<SessionCode>,
    client: AtomicU64,
    prepared: AtomicU64,
    retired: AtomicBool,
}

impl ConnInfo {
    /// Creates the metadata of a connection that no client has yet.
    #[must_use]
    pub(crate) fn new(birth: Birth, pid: i32, remote: Address, gate: Arc<CancelGate>) -> Self {
        Self {
            id: birth.id,
            pid,
            process: Mutex::default(),
            opened: SystemTime::now(),
            remote,
            local: None,
            tls: None,
            gate,
            looped: LoopedClients::default(),
            code: Arc::default(),
            client: AtomicU64::new(NO_CLIENT),
            prepared: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        }
    }

    /// The same, with what is known of the socket.
    #[must_use]
    pub(crate) fn over(self, local: Option<std::net::SocketAddr>, tls: Option<String>) -> Self {
        Self { local, tls, ..self }
    }

    /// The same, served by this process of the server.
    #[must_use]
    pub(crate) fn served_by(self, process: Option<i32>) -> Self {
        Self { process: Mutex::new(process), ..self }
    }

    /// The same, in a database with this code.
    #[must_use]
    pub(crate) fn in_database_with(self, code: Arc<SessionCode>) -> Self {
        Self { code, ..self }
    }

    /// Notes that client number `client` has it.
    pub(crate) fn taken(&self, client: u64) {
        self.client.store(client, Ordering::Relaxed);
    }

    /// Notes that no client has it any more; `prepared` statements are there.
    pub(crate) fn left(&self, prepared: usize) {
        self.client.store(NO_CLIENT, Ordering::Relaxed);
        self.prepared.store(prepared as u64, Ordering::Relaxed);
    }

    /// Marks it as to be closed as soon as it is unused.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is marked so.
    #[must_use]
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The client that has it.
    #[must_use]
    pub(crate) fn client(&self) -> Option<u64> {
        Some(self.client.load(Ordering::Relaxed)).filter(|client| *client != NO_CLIENT)
    }

    /// Number of statements that were prepared there when it was last returned.
    #[must_use]
    pub(crate) fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }
}

/// Open connections, by number: those of a pool, or those that belong to none.
#[derive(Debug, Default)]
pub(crate) struct ConnInfos(Mutex<BTreeMap<u64, Weak<ConnInfo>>>);

impl ConnInfos {
    /// Notes a connection that has been opened. Those that are gone are forgotten.
    pub(crate) fn add(&self, conn_info: &Arc<ConnInfo>) {
        let mut conn_infos = self.conn_infos();
        conn_infos.retain(|_, conn_info| conn_info.strong_count() > 0);
        conn_infos.insert(conn_info.id, Arc::downgrade(conn_info));
    }

    /// All connections that are open, the oldest first.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<ConnInfo>> {
        self.conn_infos().values().filter_map(Weak::upgrade).collect()
    }

    fn conn_infos(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<ConnInfo>>> {
        lock(&self.0)
    }
}
