//! What pools, logins and sessions have in common on the server's side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::active_config::ActiveConfig;
use super::capacity::Capacity;
use super::conn_info::{Birth, ConnInfos};
use super::counters::Counters;
use super::login_limits::LoginLimits;
use super::loops::LocalBackends;
use super::pause::PauseState;
use super::quota::Quotas;
use super::reclaimable_slots::ReclaimableSlots;
use super::roles::Roles;
use super::session_code::SessionCodes;
use super::starvation::Starvation;
use super::target::{UpstreamTarget, UpstreamTargets};
use crate::auth::ProcessKey;
use crate::config::Settings;
use crate::net::BufferPool;
use crate::track::statement_ids::StatementIds;

/// State that pools, logins and sessions have in common on the server's side, by concern.
#[derive(Debug)]
pub(crate) struct ServerSide {
    /// The settings in force and the targets made of them.
    pub config: ActiveConfig,
    /// Knowledge of roles.
    pub roles: Roles,
    /// The process's own key, under which passwords are remembered.
    pub key: ProcessKey,
    /// Counters of the process.
    pub counters: Counters,
    /// Slots for connections over all pools.
    pub capacity: Capacity,
    /// Quotas of users' clients and connections.
    pub quotas: Quotas,
    /// For how long connections could not be had.
    pub starvation: Starvation,
    /// The slots of connections on which secrets are looked up.
    pub(super) auth_query_slots: ReclaimableSlots,
    /// Limits on login attempts and cancel requests.
    pub logins: LoginLimits,
    /// The databases that are paused or disabled.
    pub pauses: PauseState,
    /// Knowledge of the code in the databases.
    pub session_codes: SessionCodes,
    /// Backends on this machine, some of which may be clients as well.
    pub local_backends: LocalBackends,
    /// Connections that belong to one client each, and to no pool.
    pub dedicated: ConnInfos,
    /// Storage for bytes that are under way.
    pub buffers: Arc<BufferPool>,
    /// Numbers for prepared statements.
    pub(super) statement_ids: Arc<StatementIds>,
    /// Numbers for connections.
    pub conn_ids: ConnIds,
}

/// The settings by which a connection to one database is opened, and the identity that it has from then on.
#[derive(Debug)]
pub(crate) struct Basis {
    /// Its identity.
    pub birth: Birth,
    /// The settings.
    pub settings: Arc<Settings>,
    /// The way there.
    pub upstream_target: Arc<UpstreamTarget>,
}

/// Numbers for connections, unique in the process.
#[derive(Debug)]
pub(crate) struct ConnIds(AtomicU64);

impl ServerSide {
    /// Returns what a connection to `database` is opened by.
    #[must_use]
    pub(crate) fn basis(&self, database: &[u8]) -> Basis {
        // Before the settings: where all connections are to be replaced from now on, so is this one.
        let birth = Birth { id: self.conn_ids.next() };
        let settings = self.config.settings_of(database);
        Basis { birth, settings, upstream_target: self.config.upstream_target(database) }
    }
}

impl ConnIds {
    /// The next number, higher than all before.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl ServerSide {
    /// Of a process that has opened no connection yet; it may open no more than `ceiling` where the servers alone limit them.
    #[must_use]
    pub(crate) fn new(
        settings: Arc<ArcSwap<Settings>>,
        upstream_targets: UpstreamTargets,
        key: ProcessKey,
        buffers: Arc<BufferPool>,
        ceiling: usize,
    ) -> Arc<Self> {
        let now = settings.load_full();
        let statement_ids = Arc::new(StatementIds::with_random_start(key.mac(&[b"numbers of statements"]).bytes()));
        Arc::new(Self {
            config: ActiveConfig::new(settings, upstream_targets),
            roles: Roles::default(),
            key,
            counters: Counters::default(),
            capacity: Capacity::new(now.pool.max_upstream, ceiling),
            quotas: Quotas::default(),
            starvation: Starvation::default(),
            auth_query_slots: ReclaimableSlots::default(),
            logins: LoginLimits::new(now.pool.max_connecting),
            pauses: PauseState::default(),
            session_codes: SessionCodes::new(Arc::clone(&statement_ids)),
            local_backends: LocalBackends::default(),
            dedicated: ConnInfos::default(),
            buffers,
            statement_ids,
            conn_ids: ConnIds(AtomicU64::new(1)),
        })
    }
}
