//! What somebody has told a pool by hand.

use std::sync::atomic::Ordering;

use super::Pool;
use crate::upstream::card::Card;
use crate::upstream::counters::Closing;

impl Pool {
    /// Replaces all connections there are: those that nobody uses now, the others when they are given back.
    pub fn reconnect(&self) {
        let Some(registry) = self.registry.upgrade() else { return };
        self.oldest.store(registry.next_link_id(), Ordering::Relaxed);
        self.shed(Closing::Command);
    }

    /// Closes the connections that nobody uses because of `why`, and calls in those that clients have not used yet.
    pub fn shed(&self, why: Closing) {
        while let Some(mut idle) = self.take_idle() {
            idle.closing = why;
        }
        while self.call_in() {}
    }

    /// Whether it is known that clients will come.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Prepares for clients that will come: opens `min_pool_size` connections, or one.
    pub fn warm_up(&self) {
        let Some(registry) = self.registry.upgrade() else { return };
        self.awaited.store(true, Ordering::Relaxed);
        let missing = self.missing(&registry.settings_of(&self.key.database));
        self.dial_for(missing.max(usize::from(self.slots.used() == 0)));
    }

    /// Whether a connection is to be closed as soon as nobody uses it.
    #[must_use]
    pub fn must_close(&self, card: &Card) -> bool {
        let generation = self.registry.upgrade().map(|registry| registry.generation());
        card.id < self.oldest.load(Ordering::Relaxed) || card.is_retired() || generation != Some(card.generation)
    }

    /// Whether any such connection is still open.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        self.cards.all().iter().any(|card| self.must_close(card))
    }

    /// Whether it has any connection, one that is being closed included.
    #[must_use]
    pub fn has_connections(&self) -> bool {
        self.slots.used() > 0
    }
}
