//! What is known of roles, by database and user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::counter::Counter;
use super::pool_stats::PoolStats;
use super::role_auth::RoleAuth;
use crate::lock::lock;

/// Number of (database, user)s that may be remembered without ever having logged in.
pub(super) const MAX_UNVERIFIED_ROLES: usize = 1000;

/// A database and a user.
pub(crate) type DatabaseUser = (Vec<u8>, Vec<u8>);

/// Knowledge of roles, by database and user: their logins, and their clients' statistics.
#[derive(Debug, Default)]
pub(crate) struct Roles {
    auths: Mutex<HashMap<DatabaseUser, Arc<RoleAuth>>>,
    /// The statistics outlive the pools.
    stats: Mutex<HashMap<DatabaseUser, Arc<PoolStats>>>,
    /// Counts the statistics of which a client has logged in.
    ranks: Counter,
}

impl Roles {
    /// Returns the knowledge of `user`'s login.
    #[must_use]
    pub(crate) fn auth(&self, database: &[u8], user: &[u8]) -> Arc<RoleAuth> {
        let mut auths = lock(&self.auths);
        let key = (database.to_vec(), user.to_vec());
        if let Some(role_auth) = auths.get(&key) {
            return Arc::clone(role_auth);
        }
        if auths.len() >= MAX_UNVERIFIED_ROLES {
            auths.retain(|_, role_auth| Arc::strong_count(role_auth) > 1 || !role_auth.is_blank());
        }
        Arc::clone(auths.entry(key).or_default())
    }

    /// Lets `next` follow `role_auth`.
    pub(super) fn replace(&self, role_auth: &Arc<RoleAuth>, next: &Arc<RoleAuth>) {
        for known in lock(&self.auths).values_mut().filter(|known| Arc::ptr_eq(known, role_auth)) {
            *known = Arc::clone(next);
        }
    }

    /// Forgets which passwords were refused: roles have changed, so that they may be right.
    pub(crate) fn forget_refusals(&self) {
        for role_auth in lock(&self.auths).values() {
            role_auth.forget_refusals();
        }
    }

    /// Forgets the logins to the databases that `changes` picks.
    pub(super) fn forget_auths(&self, changes: impl Fn(&[u8]) -> bool) {
        lock(&self.auths).retain(|(database, _), _| !changes(database));
    }

    /// The statistics of `user`.
    #[must_use]
    pub(crate) fn stats(&self, database: &[u8], user: &[u8]) -> Arc<PoolStats> {
        let mut stats = lock(&self.stats);
        if stats.len() >= MAX_UNVERIFIED_ROLES {
            // Those that have never logged in.
            stats.retain(|_, stats| Arc::strong_count(stats) > 1 || stats.logins().get() > 0);
        }
        Arc::clone(stats.entry((database.to_vec(), user.to_vec())).or_default())
    }

    /// A client has logged in that counts in `stats`.
    pub(crate) fn note_login(&self, stats: &PoolStats) {
        stats.note_login(&self.ranks);
    }

    /// The statistics since the process began, by database and user, in the order in which their first clients logged in: where
    /// only the first are shown by name, these stay the same.
    #[must_use]
    pub(crate) fn all_stats(&self) -> Vec<(DatabaseUser, Arc<PoolStats>)> {
        let stats = lock(&self.stats);
        let mut all: Vec<_> = stats.iter().map(|(key, stats)| (key.clone(), Arc::clone(stats))).collect();
        drop(stats);
        all.sort_by_cached_key(|(_, stats)| stats.rank());
        all
    }
}
