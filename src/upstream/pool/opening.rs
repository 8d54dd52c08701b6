//! Opening a pool's connections: never in a client's future, and never more than slots, pauses and `max_connecting` allow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{Pool, lock};
use crate::config::Settings;
use crate::net::tls::Session;
use crate::track::server_state::Goodbye;
use crate::track::{ServerState, Wanted};
use crate::upstream::card::Card;
use crate::upstream::counters::Closing;
use crate::upstream::dial::{self, DialError, Dialled, Failed, Login};
use crate::upstream::lease::Upstream;
use crate::upstream::link::{BackendKey, Gate, Link};
use crate::upstream::queue::{Next, Queue};
use crate::upstream::registry::Registry;
use crate::upstream::slots::{Held, Slot};
use crate::upstream::turnover::Turnover;

impl Pool {
    /// Opens connections for those who wait, as far as slots, pauses and `max_connecting` allow.
    pub fn kick(&self) {
        self.dial_for(0);
    }

    /// Takes over a connection that was opened to try a password, as soon as there is a slot for it; closes it if there is none.
    pub fn adopt(self: &Arc<Self>, dialled: Dialled, settings: &Settings) -> impl Future<Output = ()> + use<> {
        let (pool, patience) = (Arc::clone(self), settings.server_connect_timeout);
        // What the server told at login is known from now on, and clients who come to wait meanwhile need no other.
        let link = self.registry.upgrade().map(|registry| {
            let link = self.link(dialled, Wanted::default(), &registry, settings);
            if let Some(slots) = self.held_now(&registry) {
                self.hand_out(Upstream::new(link, slots, self.this.clone()));
                return None;
            }
            self.queue().dial_starts();
            Some((link, registry))
        });
        async move {
            let Some((link, registry)) = link.flatten() else { return };
            let ends = DialEnds(&pool);
            if let Some(slots) = pool.held(&registry, patience).await {
                pool.hand_out(Upstream::new(link, slots, pool.this.clone()));
            } else {
                let how = Link::close(link.conn, Goodbye::Terminate).await;
                registry.closed(how, Closing::Login);
            }
            drop(ends);
            pool.kick();
        }
    }

    /// The slots of a connection that is open already, if they are free.
    fn held_now(&self, registry: &Registry) -> Option<Held> {
        let user = registry.user_slot(&self.key.user).ok()?;
        let pool = self.slot(&self.queue())?;
        Some(Held { pool, process: registry.global.try_take_of(registry.share())?, user })
    }

    /// The slots of a connection that is open already, for which an idle one of another pool makes room.
    async fn held(&self, registry: &Registry, patience: Duration) -> Option<Held> {
        let user = registry.user_slot(&self.key.user).ok()?;
        let pool = self.slot(&self.queue())?;
        Some(Held { pool, process: registry.place(Some(self), patience).await?, user })
    }

    /// As [`Pool::kick`], and `beyond` more that nobody waits for yet.
    pub(super) fn dial_for(&self, beyond: usize) {
        if self.slots.is_full() {
            return;
        }
        let Some(registry) = self.registry.upgrade() else { return };
        let settings = registry.settings_of(&self.key.database);
        if registry.switches.of(&self.key.database).paused {
            return;
        }
        let mut share = registry.share();
        loop {
            let mut queue = self.queue();
            match queue.next(beyond, settings.max_connecting, Instant::now()) {
                Next::Nothing => return,
                Next::At(at) => {
                    if queue.set_alarm() {
                        self.kick_at(at);
                    }
                    return;
                }
                Next::Dial => {}
            }
            let Some(slot) = self.slot(&queue) else {
                if queue.waiting() > 0 && !self.slots.is_full() && queue.turnover.set_watch() {
                    self.watch_turnover(settings.reserve_pool_timeout);
                }
                return;
            };
            let Some(process) = registry.global.try_take_of(share) else {
                drop(queue);
                drop(slot);
                if share == usize::MAX || registry.starve(Some(self), |_| true) {
                    return;
                }
                // Nobody can make room: what is beyond the share is taken as far as there is any.
                share = usize::MAX;
                continue;
            };
            let Ok(user) = registry.user_slot(&self.key.user) else {
                drop(queue);
                drop((slot, process));
                registry.starve(Some(self), |other| other.key.user == self.key.user);
                return;
            };
            queue.dial_starts();
            drop(queue);
            let Some(this) = self.this.upgrade() else { return };
            let slots = Held { pool: slot, process, user };
            tokio::spawn(this.dial(slots, Arc::clone(&registry), Arc::clone(&settings)));
        }
    }

    /// A place in the pool: one of the reserve while clients wait and those who have the others keep them.
    fn slot(&self, queue: &Queue<Upstream>) -> Option<Slot> {
        let reserve = queue.waiting() > 0 && queue.turnover.has_ceased();
        self.slots.try_take_of(if reserve { usize::MAX } else { self.size() })
    }

    /// Looks again and again whether connections come free, for as long as clients wait; opens others once none has for
    /// `timeout`.
    fn watch_turnover(&self, timeout: Duration) {
        let pool = self.this.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Turnover::interval(timeout)).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut queue = pool.queue();
                if queue.waiting() == 0 {
                    queue.turnover.watch_ends();
                    return;
                }
                // What is being opened comes soon.
                if queue.dialling() == 0 {
                    queue.turnover.looked();
                }
                let ceased = queue.turnover.has_ceased();
                drop(queue);
                if ceased {
                    pool.kick();
                }
            }
        });
    }

    fn kick_at(&self, at: Instant) {
        let pool = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            if let Some(pool) = pool.upgrade() {
                pool.queue().alarm_rings();
                pool.kick();
            }
        });
    }

    async fn dial(self: Arc<Self>, slots: Held, registry: Arc<Registry>, settings: Arc<Settings>) {
        let ends = DialEnds(&self);
        // The first connection asks for nothing, so that what the server gives to clients who ask for nothing is
        // known. Later ones ask for what their client asks for, which then needs no SET.
        let asked = if self.parameters.baseline().is_some() { self.startup_wanted() } else { Wanted::default() };
        let secret = self.account.secret(&settings);
        let route = registry.route(&self.key.database);
        let login =
            Login { user: self.key.user.clone(), params: self.startup_params(&asked, &settings), secret, route };
        let began = Instant::now();
        let outcome = dial::dial(&settings, login, &registry, settings.server_connect_timeout).await;
        let outcome = self.looked_at(outcome, &registry, &settings).await;
        match outcome {
            Ok(dialled) => {
                registry.hunger.stilled();
                registry.counters.timings.connect.observe(began.elapsed());
                self.account.note_success();
                if self.queue().succeeded() {
                    info!(database = %self.database(), user = %self.user(), "upstream is back");
                }
                let link = self.link(dialled, asked, &registry, &settings);
                self.hand_out(Upstream::new(link, slots, self.this.clone()));
            }
            Err(failed) => {
                let error = &failed.error;
                registry.counters.fail(&error.fault());
                if self.key.extra.is_empty() && self.account.is_denied(&registry, error) {
                    self.account.deny(&registry, error);
                    registry.retire(&self.account);
                } else {
                    self.account.note_failure(&registry, error);
                }
                if error.is_full() {
                    registry.server_is_full(Some(&self), &self.key.database, error);
                }
                if self.tell_of(error) && !error.is_server_full() {
                    let again = if error.may_pass() { "; clients wait while it is tried again" } else { "" };
                    warn!(database = %self.database(), user = %self.user(), "{}{again}", error.fault());
                }
                failed.close(&registry).await;
                drop(slots);
            }
        }
        drop(ends);
        self.kick();
    }

    /// The outcome of opening a connection, on which the server was asked how full it is where nobody had.
    pub(in crate::upstream) async fn looked_at(
        &self,
        outcome: Result<Dialled, Failed>,
        registry: &Registry,
        settings: &Settings,
    ) -> Result<Dialled, Failed> {
        let mut dialled = outcome?;
        match registry.first_look(&mut dialled, &self.key.database, settings.server_connect_timeout).await {
            Ok(()) => Ok(dialled),
            Err(error) => Err(Failed::with(error, dialled.conn)),
        }
    }

    /// The parameters of a startup packet: those of the key, and `asked`.
    #[must_use]
    pub fn startup_params(&self, asked: &Wanted, settings: &Settings) -> Vec<(Vec<u8>, Vec<u8>)> {
        let database =
            settings.dbname.as_ref().map_or_else(|| self.key.database.clone(), |name| name.as_bytes().to_vec());
        let mut params = vec![(b"database".to_vec(), database)];
        params.extend(self.key.extra.iter().cloned());
        params.extend(asked.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())));
        params
    }

    /// What the last client wanted, as far as the server is known to take it. A value that it would refuse must not
    /// get into a startup packet: that would fail the connection instead of the one client.
    /// Tells those who wait of a failed attempt, where waiting won't help. Says whether it is news.
    fn tell_of(&self, error: &DialError) -> bool {
        let mut queue = self.queue();
        let live = self.slots.used().saturating_sub(queue.dialling());
        // Who waits for one of those that are open waits on.
        let places = if live == 0 { usize::MAX } else { self.size().saturating_sub(live) };
        queue.failed(error, places, Instant::now())
    }

    fn startup_wanted(&self) -> Wanted {
        lock(&self.wanted).known(|name, value| self.parameters.canonical(name, value))
    }

    fn link(&self, dialled: Dialled, asked: Wanted, registry: &Registry, settings: &Settings) -> Link {
        let mut params = dialled.params;
        self.parameters.learn_baseline(&mut params, &asked);
        let id = registry.next_link_id();
        let now = Instant::now();
        let tls = dialled.conn.stream().tls().map(Session::describe);
        let gate = Arc::new(Gate::default());
        let card = Card::new(id, dialled.pid, dialled.address.clone(), registry.generation(), Arc::clone(&gate));
        let card = Arc::new(card.over(dialled.conn.stream().local(), tls.clone()));
        self.cards.add(&card);
        debug!(server = id, pid = dialled.pid, database = %self.database(), user = %self.user(), tls, "upstream opened");
        Link {
            conn: dialled.conn,
            id,
            key: Arc::new(BackendKey {
                address: dialled.address,
                encryptor: dialled.encryptor,
                pid: dialled.pid,
                secret: dialled.secret,
            }),
            state: ServerState::new(params, asked),
            returned: now,
            retire_at: settings.server_lifetime.map(|lifetime| now + jitter(lifetime, id)),
            generation: registry.generation(),
            closing: Closing::default(),
            gate,
            target: settings.upstream.target,
            card,
        }
    }
}

/// Counts an attempt out, also when it panics.
struct DialEnds<'a>(&'a Pool);

impl Drop for DialEnds<'_> {
    fn drop(&mut self) {
        self.0.queue().dial_ends();
    }
}

/// `server_lifetime` ± 10 %, so that connections opened together don't end together.
fn jitter(lifetime: Duration, id: u64) -> Duration {
    // The golden ratio spreads consecutive numbers evenly.
    let spread = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u32 % 2001;
    lifetime / 10_000 * (9_000 + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread() {
        let hour = Duration::from_secs(3600);
        let spread: Vec<_> = (0..20).map(|id| jitter(hour, id)).collect();
        assert!(spread.iter().all(|life| (hour * 9 / 10..=hour * 11 / 10).contains(life)));
        let mut sorted = spread.clone();
        sorted.sort();
        sorted.dedup();
        assert!(sorted.len() > 15);
    }
}
