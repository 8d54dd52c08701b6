//! How many clients and connections users may have (`[users.NAME]`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::slots::{Slot, Slots};
use crate::config::Settings;
use crate::lock::lock;

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuotaExceeded;

/// A user's places.
#[derive(Clone, Debug)]
struct UserQuota {
    clients: Arc<Slots>,
    upstream: Arc<Slots>,
}

/// The places of users that are limited.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<Vec<u8>, UserQuota>>);

impl Quotas {
    /// Adapts to new limits.
    pub(super) fn resize(&self, settings: &Settings) {
        for (user, quota) in &*lock(&self.0) {
            let limits = settings.auth.limits.get(user).copied().unwrap_or_default();
            quota.clients.resize(limits.max_user_client_connections.unwrap_or(usize::MAX));
            quota.upstream.resize(limits.max_user_connections.unwrap_or(usize::MAX));
        }
    }

    /// The places of `user`, if `settings` limit its clients or connections.
    fn of(&self, settings: &Settings, user: &[u8]) -> Option<UserQuota> {
        let limits = settings.auth.limits.get(user)?;
        let mut users = lock(&self.0);
        let unlimited = |limit: Option<usize>| Slots::new(limit.unwrap_or(usize::MAX));
        let quota = users.entry(user.to_vec()).or_insert_with(|| UserQuota {
            clients: unlimited(limits.max_user_client_connections),
            upstream: unlimited(limits.max_user_connections),
        });
        Some(quota.clone())
    }

    /// A place for an upstream connection of `user`; none is needed where there is no limit.
    ///
    /// # Errors
    /// When all are taken.
    pub(super) fn upstream_slot(&self, settings: &Settings, user: &[u8]) -> Result<Option<Slot>, QuotaExceeded> {
        self.of(settings, user).map(|quota| quota.upstream.try_take().ok_or(QuotaExceeded)).transpose()
    }

    /// A place for a client of `user`; none is needed where there is no limit.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn client_slot(&self, settings: &Settings, user: &[u8]) -> Result<Option<Slot>, QuotaExceeded> {
        self.of(settings, user).map(|quota| quota.clients.try_take().ok_or(QuotaExceeded)).transpose()
    }
}
