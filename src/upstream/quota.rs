//! How many clients and connections users may have (`[users.NAME]`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::slots::{Slot, Slots};
use crate::config::Settings;
use crate::config::user::Limits;
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

impl UserQuota {
    fn new(limits: Limits) -> Self {
        let slots = |limit: Option<usize>| Slots::new(limit.unwrap_or(usize::MAX));
        Self { clients: slots(limits.max_user_client_connections), upstream: slots(limits.max_user_connections) }
    }

    /// Returns whether any is taken.
    fn is_used(&self) -> bool {
        self.clients.used() > 0 || self.upstream.used() > 0
    }
}

/// The places of users that are limited, or have upstream connections: a limit that a reload brings holds for those that are open.
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

    /// Takes a place of `user`.
    fn take(
        &self,
        settings: &ArcSwap<Settings>,
        user: &[u8],
        of: impl Fn(&UserQuota) -> &Arc<Slots>,
    ) -> Result<Slot, QuotaExceeded> {
        let mut users = lock(&self.0);
        // Those in force under the lock: a reload that comes now adapts what is made here.
        let settings = settings.load();
        let limits = &settings.auth.limits;
        if !users.contains_key(user) {
            users.retain(|user, quota| quota.is_used() || limits.contains_key(user));
            users.insert(user.to_vec(), UserQuota::new(limits.get(user).copied().unwrap_or_default()));
        }
        // Under the lock, so that no quota is forgotten meanwhile.
        users.get(user).and_then(|quota| of(quota).try_take()).ok_or(QuotaExceeded)
    }

    /// A place for an upstream connection of `user`.
    ///
    /// # Errors
    /// When all are taken.
    pub(super) fn upstream_slot(&self, settings: &ArcSwap<Settings>, user: &[u8]) -> Result<Slot, QuotaExceeded> {
        self.take(settings, user, |quota| &quota.upstream)
    }

    /// A place for a client of `user`; none is needed where there is no limit.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn client_slot(&self, settings: &ArcSwap<Settings>, user: &[u8]) -> Result<Option<Slot>, QuotaExceeded> {
        if !settings.load().auth.limits.contains_key(user) {
            return Ok(None);
        }
        self.take(settings, user, |quota| &quota.clients).map(Some)
    }
}
