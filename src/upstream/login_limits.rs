//! Limits on what clients have done upstream before they have logged in, and on cancel requests.

use std::sync::Arc;

use super::limiter::Limiter;
use super::login_slots::LoginSlots;
use super::permits::Permits;

/// Limits on login attempts and cancel requests.
#[derive(Debug)]
pub(crate) struct LoginLimits {
    /// The attempts and cancel requests of each source.
    pub limiter: Limiter,
    /// The logins that may be under way.
    pub slots: Arc<LoginSlots>,
    /// The cancel requests that may be under way.
    pub(super) cancels: Arc<Permits>,
}

impl LoginLimits {
    /// Limits of `max_connecting` logins and as many cancel requests at a time.
    #[must_use]
    pub(super) fn new(max_connecting: usize) -> Self {
        Self {
            limiter: Limiter::default(),
            slots: LoginSlots::new(max_connecting),
            cancels: Permits::new(max_connecting),
        }
    }

    /// Changes how many there may be at a time.
    pub(super) fn resize(&self, max_connecting: usize) {
        self.slots.resize(max_connecting);
        self.cancels.resize(max_connecting);
    }
}
