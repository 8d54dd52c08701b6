//! The settings in force and the targets made of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::target::{TargetHost, UpstreamTarget, UpstreamTargets};
use crate::config::Settings;

/// The settings in force and the targets made of them.
#[derive(Debug)]
pub(crate) struct ActiveConfig {
    /// The settings.
    pub settings: Arc<ArcSwap<Settings>>,
    upstream_targets: ArcSwap<UpstreamTargets>,
}

impl ActiveConfig {
    /// The first ones.
    #[must_use]
    pub(super) fn new(settings: Arc<ArcSwap<Settings>>, upstream_targets: UpstreamTargets) -> Self {
        Self { settings, upstream_targets: ArcSwap::from_pointee(upstream_targets) }
    }

    /// The settings for the clients of `database`.
    #[must_use]
    pub(crate) fn settings_of(&self, database: &[u8]) -> Arc<Settings> {
        Arc::clone(self.settings.load().of(database))
    }

    /// The target of `database`.
    #[must_use]
    pub(crate) fn upstream_target(&self, database: &[u8]) -> Arc<UpstreamTarget> {
        Arc::clone(self.upstream_targets.load().of(database))
    }

    /// The targets of all databases.
    #[must_use]
    pub(crate) fn upstream_targets(&self) -> Arc<UpstreamTargets> {
        self.upstream_targets.load_full()
    }

    /// Returns whether the clients of `database` go to `upstream_target`.
    #[must_use]
    pub(super) fn is_at(&self, database: &[u8], upstream_target: &Arc<UpstreamTarget>) -> bool {
        Arc::ptr_eq(self.upstream_targets.load().of(database), upstream_target)
    }

    /// The name that the database of clients' `database` has on the server.
    #[must_use]
    pub(super) fn real_database(&self, database: &[u8]) -> Vec<u8> {
        self.settings_of(database).real_database(database).to_vec()
    }

    /// Returns the addresses of hosts' names when they were last resolved, and the time since then.
    #[must_use]
    pub(crate) fn resolved(&self) -> Vec<(String, Duration, Vec<SocketAddr>)> {
        let upstream_targets = self.upstream_targets();
        let all = upstream_targets.all();
        all.iter()
            .flat_map(|upstream_target| upstream_target.endpoints.iter().filter_map(TargetHost::resolved))
            .collect()
    }

    /// Puts the targets of new settings in force.
    pub(super) fn redirect(&self, upstream_targets: UpstreamTargets) {
        self.upstream_targets.store(Arc::new(upstream_targets));
    }
}
