//! How many clients and connections users may have (`[users.NAME]`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::registry::{Registry, lock};
use super::slots::{Slot, Slots};
use crate::config::Settings;

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A user's places.
#[derive(Clone, Debug)]
struct Places {
    clients: Arc<Slots>,
    upstream: Arc<Slots>,
}

/// The places of users that are limited.
#[derive(Debug, Default)]
pub(super) struct Quotas(Mutex<HashMap<Vec<u8>, Places>>);

impl Quotas {
    /// Adapts to new limits.
    pub fn resize(&self, settings: &Settings) {
        for (user, places) in &*lock(&self.0) {
            let limits = settings.limits.get(user).copied().unwrap_or_default();
            places.clients.resize(limits.max_user_client_connections.unwrap_or(usize::MAX));
            places.upstream.resize(limits.max_user_connections.unwrap_or(usize::MAX));
        }
    }
}

impl Registry {
    /// The places of `user`, if its clients or connections are limited.
    fn places_of(&self, user: &[u8]) -> Option<Places> {
        let settings = self.settings.load();
        let limits = settings.limits.get(user)?;
        let mut users = lock(&self.quotas.0);
        let unlimited = |limit: Option<usize>| Slots::new(limit.unwrap_or(usize::MAX));
        let places = users.entry(user.to_vec()).or_insert_with(|| Places {
            clients: unlimited(limits.max_user_client_connections),
            upstream: unlimited(limits.max_user_connections),
        });
        Some(places.clone())
    }

    /// A place for an upstream connection of `user`; none is needed where there is no limit.
    ///
    /// # Errors
    /// When all are taken.
    pub(super) fn user_slot(&self, user: &[u8]) -> Result<Option<Slot>, Full> {
        self.places_of(user).map(|places| places.upstream.try_take().ok_or(Full)).transpose()
    }

    /// A place for a client of `user`; none is needed where there is no limit.
    ///
    /// # Errors
    /// When all are taken.
    pub fn client_slot(&self, user: &[u8]) -> Result<Option<Slot>, Full> {
        self.places_of(user).map(|places| places.clients.try_take().ok_or(Full)).transpose()
    }
}
