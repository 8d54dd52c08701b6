//! Opening a pool's connections: never in a client's future, and never more than slots, pauses and `max_connecting` allow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Pool;
use super::lease::PooledConn;
use super::neighbours::Among;
use super::pool_slots::PoolSlots;
use crate::config::Settings;
use crate::lock::lock;
use crate::net::tls::TlsSession;
use crate::track::server_state::CloseMethod;
use crate::track::{RequestedParams, ServerState};
use crate::upstream::cancel_gate::CancelGate;
use crate::upstream::capacity::Prospect;
use crate::upstream::close::CloseReason;
use crate::upstream::conn_info::ConnInfo;
use crate::upstream::dial::{self, DialError, DialFailure, Login, NewConn};
use crate::upstream::occupancy::Occupancy;
use crate::upstream::queue::{Next, Queue};
use crate::upstream::quota::QuotaExceeded;
use crate::upstream::server_conn::{BackendKey, ServerConn};
use crate::upstream::server_side::{Basis, ServerSide};
use crate::upstream::slots::Slot;
use crate::upstream::turnover::Turnover;

impl Pool {
    /// Opens connections for the clients that wait, as far as slots, pauses and `max_connecting` allow.
    pub(crate) fn open_as_needed(&self) {
        self.dial_for(0);
    }

    /// Takes over a connection that was opened to try a password, as soon as there is a slot for it; closes it if there is none.
    pub(crate) fn adopt(self: &Arc<Self>, new_conn: NewConn, settings: &Settings) -> impl Future<Output = ()> + use<> {
        let (pool, patience) = (Arc::clone(self), settings.timeouts.server_connect_timeout);
        // What the server told at login is known from now on, and clients that come to wait meanwhile need no other.
        let server_conn = self.server_conn(new_conn, RequestedParams::default(), settings);
        self.server_side.starvation.ends();
        let without_slots = if let Some(slots) = self.try_take_slots() {
            self.take_in(PooledConn::new(server_conn, slots, self.this.clone()));
            None
        } else {
            self.queue().dial_starts();
            Some(server_conn)
        };
        async move {
            let Some(server_conn) = without_slots else { return };
            let ends = DialEnds(&pool);
            if let Some(slots) = pool.wait_for_slots(patience).await {
                pool.take_in(PooledConn::new(server_conn, slots, pool.this.clone()));
            } else {
                let how = ServerConn::close(server_conn.conn, CloseMethod::Terminate).await;
                pool.server_side.counters.close(how, CloseReason::Login);
            }
            drop(ends);
            pool.open_as_needed();
        }
    }

    /// The slots of a connection that is open already, if they are free.
    fn try_take_slots(&self) -> Option<PoolSlots> {
        let user = self.user_slot().ok()?;
        let pool = self.slot(&self.queue())?;
        let capacity = &self.server_side.capacity;
        let process = capacity.try_take_of(capacity.share())?;
        Some(PoolSlots::waiting(self.this.clone(), pool, user).with_process(process))
    }

    /// The slots of a connection that is open already, for which an idle one of another pool makes room.
    async fn wait_for_slots(&self, patience: Duration) -> Option<PoolSlots> {
        let user = self.user_slot().ok()?;
        let pool = self.slot(&self.queue())?;
        let slots = PoolSlots::waiting(self.this.clone(), pool, user);
        let process = self.server_side.capacity.take(patience, || self.make_room(Among::All)).await?;
        Some(slots.with_process(process))
    }

    /// The slot of a connection among those of its user.
    fn user_slot(&self) -> Result<Slot, QuotaExceeded> {
        let ServerSide { config, quotas, .. } = &*self.server_side;
        quotas.upstream_slot(&config.settings, &self.key.user)
    }

    /// Has another pool close a connection that no client uses.
    fn make_room(&self, among: Among) -> Prospect {
        self.neighbours.upgrade().map_or(Prospect::None, |neighbours| neighbours.make_room(self, among))
    }

    /// As [`Pool::open_as_needed`], and `beyond` more that no client waits for yet.
    pub(super) fn dial_for(&self, beyond: usize) {
        if self.slots.is_full() {
            return;
        }
        let settings = self.settings();
        if self.is_paused() {
            return;
        }
        let capacity = &self.server_side.capacity;
        let mut share = capacity.share();
        loop {
            let mut queue = self.queue();
            match queue.next(beyond, settings.pool.max_connecting, Instant::now()) {
                Next::Nothing => return,
                Next::At(at) => {
                    self.set_retry_timer(&mut queue, at);
                    return;
                }
                Next::AtOrUnserved(at) => {
                    self.set_retry_timer(&mut queue, at);
                    if queue.waiting() > 0 && queue.turnover.set_watch() {
                        self.watch_turnover(settings.timeouts.reserve_pool_timeout);
                    }
                    return;
                }
                Next::Dial => {}
            }
            let Some(slot) = self.slot(&queue) else {
                if queue.waiting() > 0 && !self.slots.is_full() && queue.turnover.set_watch() {
                    self.watch_turnover(settings.timeouts.reserve_pool_timeout);
                }
                return;
            };
            let Ok(user) = self.user_slot() else {
                drop(queue);
                drop(slot);
                self.make_room(Among::SameRole);
                return;
            };
            // Last: a slot in the process that is taken and given up again would be missed by a pool that looks for one meanwhile.
            let Some(process) = capacity.try_take_of(share) else {
                drop(queue);
                drop((slot, user));
                if share == usize::MAX || self.make_room(Among::All) == Prospect::Coming {
                    return;
                }
                // No other pool can make room: what is beyond the share is taken as far as there is any.
                share = usize::MAX;
                continue;
            };
            queue.dial_starts();
            drop(queue);
            let Some(this) = self.this.upgrade() else { return };
            let slots = PoolSlots::waiting(self.this.clone(), slot, user).with_process(process);
            tokio::spawn(this.dial(slots));
        }
    }

    /// A place in the pool: one of the reserve while clients wait and others keep theirs.
    fn slot(&self, queue: &Queue<PooledConn>) -> Option<Slot> {
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
                    pool.open_as_needed();
                }
            }
        });
    }

    /// Tries again `at` that time, unless that is to be done already.
    fn set_retry_timer(&self, queue: &mut Queue<PooledConn>, at: Instant) {
        if !queue.set_retry_timer(at) {
            return;
        }
        let pool = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            if let Some(pool) = pool.upgrade() {
                pool.queue().retry_timer_fired(at);
                pool.open_as_needed();
            }
        });
    }

    /// Hands out a connection that has been opened, unless what has been said of all connections meanwhile holds for it.
    fn take_in(&self, mut pooled: PooledConn) {
        match self.recalled(&pooled) {
            // Dropping it closes it, and another is opened for those that wait.
            Some(why) => pooled.close_reason = why,
            None => self.hand_out(pooled),
        }
    }

    async fn dial(self: Arc<Self>, slots: PoolSlots) {
        let ServerSide { counters, buffers, starvation, key, .. } = &*self.server_side;
        let ends = DialEnds(&self);
        // The first connection asks for nothing, so that what the server gives to clients that ask for nothing is
        // known. Later ones ask for what their client asks for, which then needs no SET.
        let asked =
            if self.parameters.baseline().is_some() { self.startup_asked() } else { RequestedParams::default() };
        let Basis { birth, settings, upstream_target } = self.server_side.basis(&self.key.database);
        let secret = self.role_auth.secret(&settings);
        let login = Login {
            birth,
            user: self.key.user.clone(),
            params: self.startup_params(&asked, &settings),
            secret,
            upstream_target,
        };
        let began = Instant::now();
        let outcome = dial::dial(&settings, login, counters, buffers, settings.timeouts.server_connect_timeout).await;
        let outcome = self.looked_at(outcome, &settings).await;
        match outcome {
            Ok(new_conn) => {
                starvation.ends();
                counters.timings.connect.observe(began.elapsed());
                self.role_auth.note_success();
                if self.queue().succeeded() {
                    info!(database = %self.database(), user = %self.user(), "upstream is back");
                }
                let server_conn = self.server_conn(new_conn, asked, &settings);
                self.take_in(PooledConn::new(server_conn, slots, self.this.clone()));
            }
            Err(failed) => {
                let failed = failed.map(|error| self.role_auth.reason(error));
                let error = &failed.error;
                counters.fail(&error.client_error());
                let neighbours = self.neighbours.upgrade();
                if self.key.extra.is_empty() && self.role_auth.is_denied(key, error) {
                    if let Some(neighbours) = &neighbours {
                        neighbours.deny(&self.role_auth, error);
                    }
                } else {
                    self.role_auth.note_failure(key, error);
                }
                if let Some(neighbours) = neighbours.filter(|_| error.is_full()) {
                    neighbours.server_is_full(&self, error);
                }
                if self.report_failure(error) && !error.is_server_full() {
                    let again = if error.may_pass() { "; clients wait while it is tried again" } else { "" };
                    warn!(database = %self.database(), user = %self.user(), "{}{again}", error.client_error());
                }
                failed.close(counters).await;
                drop(slots);
            }
        }
        drop(ends);
        self.open_as_needed();
    }

    /// The outcome of opening a connection, on which the server was asked how full it is, and what code the database has, if it had
    /// not been.
    pub(in crate::upstream) async fn looked_at(
        &self,
        outcome: Result<NewConn, DialFailure>,
        settings: &Settings,
    ) -> Result<NewConn, DialFailure> {
        let mut new_conn = outcome?;
        match self.look(&mut new_conn, settings.timeouts.server_connect_timeout).await {
            Ok(()) => Ok(new_conn),
            Err(error) => Err(DialFailure::with(error, new_conn.conn)),
        }
    }

    async fn look(&self, new_conn: &mut NewConn, limit: Duration) -> Result<(), DialError> {
        let ServerSide { config, session_codes, .. } = &*self.server_side;
        let upstream_target = config.upstream_target(&self.key.database);
        upstream_target.pooler.first_look(new_conn, &upstream_target.places(), limit).await?;
        self.first_look(new_conn, limit).await?;
        session_codes.first_look(new_conn, config, &self.key.database, limit).await
    }

    /// Asks on a connection that has just been opened how full the server is, if it has not been asked.
    async fn first_look(&self, new_conn: &mut NewConn, limit: Duration) -> Result<(), DialError> {
        let upstream_target = self.server_side.config.upstream_target(&self.key.database);
        if !upstream_target.room.claim_first_look(Instant::now()) {
            return Ok(());
        }
        let NewConn { conn, params, .. } = new_conn;
        let ask = Occupancy::ask(conn, |name, value| {
            params.set(name, value);
        });
        let seen = timeout(limit, ask).await;
        let seen =
            seen.map_err(|_| DialError::Broke("the server did not answer in time (server_connect_timeout)".into()))?;
        let Some(seen) = seen? else { return Ok(()) };
        upstream_target.pooler.learn(&mut new_conn.process, new_conn.pid, seen.process, &upstream_target.places());
        if let Some(neighbours) = self.neighbours.upgrade() {
            neighbours.learn(&upstream_target, seen);
        }
        Ok(())
    }

    /// The parameters of a startup packet: those of the key, and `asked`.
    #[must_use]
    pub(crate) fn startup_params(&self, asked: &RequestedParams, settings: &Settings) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut params = vec![(b"database".to_vec(), settings.real_database(&self.key.database).to_vec())];
        params.extend(self.key.extra.iter().cloned());
        params.extend(asked.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())));
        params
    }

    /// Passes a failure on to the clients that wait, where waiting won't help. Returns whether it is news.
    fn report_failure(&self, error: &DialError) -> bool {
        let mut queue = self.queue();
        let live = self.open(&queue);
        // A client that waits for one of the open ones waits on.
        let places = (live > 0).then(|| self.size().saturating_sub(live));
        queue.failed(error, places, Instant::now())
    }

    /// Returns what the last client's startup packet asked for, as far as the server is known to take it. A value that it would refuse
    /// must not get into a startup packet: that would fail the connection instead of the one client. What the client has set since does
    /// not belong there either: code that runs `RESET` would go back to it.
    fn startup_asked(&self) -> RequestedParams {
        lock(&self.asked).known(|name, value| self.parameters.canonical(name, value))
    }

    fn server_conn(&self, new_conn: NewConn, asked: RequestedParams, settings: &Settings) -> ServerConn {
        let ServerSide { local_backends, .. } = &*self.server_side;
        let mut params = new_conn.params;
        let now = Instant::now();
        // What sessions begin with by now is not what the clients of a former pool have been told.
        if self.role_auth.succession().is_none() || self.parameters.baseline().is_none() {
            self.parameters.learn_login(&mut params, &asked, now);
        }
        let id = new_conn.birth.id;
        let tls = new_conn.conn.stream().tls().map(TlsSession::describe);
        let gate = Arc::new(CancelGate::default());
        let conn_info = ConnInfo::new(new_conn.birth, new_conn.pid, new_conn.address.clone(), Arc::clone(&gate));
        let code = new_conn.code;
        let conn_info = conn_info.over(new_conn.conn.stream().local(), tls.clone()).served_by(new_conn.process);
        let conn_info = Arc::new(conn_info.in_database_with(Arc::clone(&code)));
        self.conn_infos.add(&conn_info);
        local_backends.add(&conn_info);
        debug!(server = id, pid = new_conn.pid, database = %self.database(), user = %self.user(), tls, "upstream opened");
        ServerConn {
            conn: new_conn.conn,
            key: Arc::new(BackendKey {
                address: new_conn.address,
                server_tls: new_conn.server_tls,
                pid: new_conn.pid,
                secret: new_conn.secret,
            }),
            state: ServerState::new(params, asked).in_database_with(code),
            returned: now,
            retire_at: settings.timeouts.server_lifetime.map(|lifetime| now + jitter(lifetime, id)),
            close_reason: CloseReason::default(),
            gate,
            target: settings.upstream.url.target,
            conn_info,
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
