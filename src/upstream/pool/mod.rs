//! The connections of one (database, user, startup settings).
//!
//! `idle` keeps unused ones, in a set of `deadpool`'s; `waiting` the queue of clients while all are in use,
//! to the first of whom a connection goes that comes back or opens. Opening never happens in a client's future, and at
//! most `max_connecting` times at once (`opening`). Slots are what a connection exists by.

mod admin_ops;
mod idle;
pub(crate) mod lease;
mod maintenance;
pub(in crate::upstream) mod neighbours;
mod opening;
pub(in crate::upstream) mod pool_slots;
mod returning;
mod state;
mod tentative;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use idle::Idle;
use lease::PooledConn;
use maintenance::Chore;
use neighbours::Neighbours;
use returning::Returning;
use tentative::TentativeLeases;
pub(crate) use tentative::{Recall, TentativeLease};
pub(crate) use waiting::Patience;

use super::close::{CloseReason, Closed};
use super::conn_info::ConnInfos;
use super::dial::DialError;
use super::pool_stats::PoolStats;
use super::queue::Queue;
use super::role_auth::{RoleAuth, Succession};
use super::server_conn::ServerConn;
use super::server_side::ServerSide;
use super::slots::Slots;
use super::target;
use crate::config::{Reset, Settings};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::lock::lock;
use crate::track::RequestedParams;
use crate::track::parameter_cache::ParameterCache;
use crate::track::session_code::Due;
use crate::track::statements::StatementCache;

/// The database that new ones are copied from.
const TEMPLATE: &[u8] = b"template1";

/// Key of a pool: its connections serve the same clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolKey {
    /// The database.
    pub database: Vec<u8>,
    /// The role.
    pub user: Vec<u8>,
    /// Startup parameters that can't follow a client by `SET`.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
}

impl PoolKey {
    /// The database and the role, for logs.
    #[must_use]
    pub(crate) fn shown(&self) -> (String, String) {
        (String::from_utf8_lossy(&self.database).into_owned(), String::from_utf8_lossy(&self.user).into_owned())
    }
}

/// Reason why a client gets no connection.
#[derive(Clone, Debug)]
pub(crate) enum CheckoutError {
    /// Opening one failed.
    Dial(DialError),
    /// All were in use for as long as the client may wait.
    Exhausted(ClientError),
    /// The role that the client logged in as has been renamed or dropped.
    Replaced,
    /// Sessions begin with something else by now: clients go on in another pool.
    Moved,
    /// pgferry is going away.
    Closed,
}

impl CheckoutError {
    /// Returns the error for clients.
    #[must_use]
    pub(crate) fn client_error(&self) -> ClientError {
        match self {
            Self::Dial(error) => error.client_error(),
            Self::Exhausted(client_error) => client_error.clone(),
            Self::Replaced => ClientError::fatal(
                ErrorSource::Server,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: its role was renamed or dropped, and its name is another role's",
            )
            .hint("Connect again."),
            // No client is told that it has moved: it asks again.
            Self::Moved | Self::Closed => ClientError::fatal(
                ErrorSource::Limits,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: pgferry is shutting down",
            ),
        }
    }
}

/// A client with a login that is tried upstream.
#[derive(Debug)]
pub(crate) struct LogsIn<'a>(&'a Pool);

impl Drop for LogsIn<'_> {
    fn drop(&mut self) {
        self.0.logging_in.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of one key.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The role that they belong to.
    pub key: PoolKey,
    /// Knowledge of that user's login.
    pub role_auth: Arc<RoleAuth>,
    idle: Idle<PooledConn>,
    queue: Mutex<Queue<PooledConn>>,
    /// As many as there may be, the reserve included.
    slots: Arc<Slots>,
    /// Number of them that are not the reserve.
    size: AtomicUsize,
    server_side: Arc<ServerSide>,
    neighbours: Weak<dyn Neighbours>,
    this: Weak<Self>,
    /// Cache of the settings that its connections report.
    pub parameters: ParameterCache,
    /// The prepared statements of its clients.
    pub statements: StatementCache,
    /// Statistics of the clients of its database and user.
    pub stats: Arc<PoolStats>,
    /// Its connections, as seen from outside.
    pub conn_infos: ConnInfos,
    /// Connections of lower numbers are to be closed.
    oldest: AtomicU64,
    /// True once the settings that it belongs to are no longer in force.
    outdated: AtomicBool,
    /// Its connections are closed as they come free: while one is open to `template1`, no database can be created.
    leaves_server: bool,
    /// It is known that clients will come.
    expects_clients: AtomicBool,
    /// Parameters in the startup packet of the last client: the next one probably asks for the same.
    asked: Mutex<RequestedParams>,
    tentative_leases: Mutex<TentativeLeases>,
    returning: Returning,
    /// Number of clients that have their login tried upstream, or wait for that.
    logging_in: AtomicUsize,
    /// Number of connections that clients have, tentative leases left out.
    leased: AtomicUsize,
    /// Number of those that wait for the server.
    active: AtomicUsize,
    /// Time at which a client last asked for a connection.
    last_used: Mutex<Instant>,
}

/// Closes connections for which there is no place any more.
fn close_surplus(surplus: impl IntoIterator<Item = PooledConn>) {
    for mut pooled in surplus {
        // Dropping it closes it.
        pooled.close_reason = CloseReason::Surplus;
    }
}

impl Pool {
    /// An empty pool for `size` connections, and `reserve` more while clients keep them.
    #[must_use]
    pub(super) fn new(
        key: PoolKey,
        (size, reserve): (usize, usize),
        role_auth: Arc<RoleAuth>,
        stats: Arc<PoolStats>,
        server_side: Arc<ServerSide>,
        neighbours: Weak<dyn Neighbours>,
    ) -> Arc<Self> {
        let leaves_server = server_side.config.real_database(&key.database) == TEMPLATE;
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            key,
            role_auth,
            idle: Idle::default(),
            queue: Mutex::default(),
            slots: Slots::new(size.saturating_add(reserve)),
            size: AtomicUsize::new(size),
            this: this.clone(),
            parameters: ParameterCache::default(),
            statements: StatementCache::new(Arc::clone(&server_side.statement_ids)),
            stats,
            conn_infos: ConnInfos::default(),
            oldest: AtomicU64::new(0),
            outdated: AtomicBool::new(false),
            leaves_server,
            expects_clients: AtomicBool::new(false),
            asked: Mutex::default(),
            tentative_leases: Mutex::default(),
            returning: Returning::default(),
            logging_in: AtomicUsize::new(0),
            leased: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            server_side,
            neighbours,
        })
    }

    /// Gives a connection to the client that has waited longest, or keeps it.
    pub(super) fn hand_out(&self, pooled: PooledConn) {
        self.put(&mut self.queue(), pooled);
    }

    /// The same with an idle one on which pgferry has asked something.
    pub(in crate::upstream) fn hand_out_asked(&self, mut pooled: PooledConn) {
        if let Some(why) = self.take_reports(&mut pooled, Instant::now()) {
            pooled.close_reason = why;
            return;
        }
        self.hand_out(pooled);
    }

    fn put(&self, queue: &mut Queue<PooledConn>, pooled: PooledConn) {
        if let Some(nobodys) = queue.deliver(pooled) {
            self.idle.put(nobodys);
        }
    }

    /// Takes a connection back from a lease.
    pub(super) fn take_back(&self, pooled: PooledConn) {
        let unfit = self.unfit(&pooled, pooled.returned);
        let Some(mut pooled) = self.divert_to_look(pooled, unfit) else { return };
        let mut queue = self.queue();
        queue.turnover.happened();
        let unneeded = (self.leaves_server && queue.waiting() == 0).then_some(CloseReason::Idle);
        if let Some(why) = unfit.or(unneeded) {
            drop(queue);
            pooled.close_reason = why;
            drop(pooled);
        } else {
            self.put(&mut queue, pooled);
            drop(queue);
        }
        self.note_freed();
        self.server_side.starvation.ends();
    }

    /// A slot or a connection came free, which other pools may wait for.
    fn note_freed(&self) {
        if self.server_side.capacity.note_freed()
            && let Some(neighbours) = self.neighbours.upgrade()
        {
            neighbours.open_for_waiting();
        }
    }

    /// Uses a connection that comes back to look at the code of its database where no idle one has done so for long. Returns it
    /// if there is no need.
    fn divert_to_look(&self, pooled: PooledConn, unfit: Option<CloseReason>) -> Option<PooledConn> {
        let code = pooled.state.code.code();
        if unfit.is_some() || !code.is_overdue(pooled.returned) {
            return Some(pooled);
        }
        let settings = self.settings();
        if settings.pool.reset != Reset::Auto {
            return Some(pooled);
        }
        let Some(pool) = self.this.upgrade() else { return Some(pooled) };
        let Some(inquiry) = code.claim(Due::Overdue, pooled.returned) else { return Some(pooled) };
        let returning = pool.begin_return();
        tokio::spawn(async move {
            let _returning = returning;
            pool.see_to(pooled, Chore::Look(inquiry), settings.timeouts.cleanup_timeout).await;
        });
        None
    }

    /// Notes that a connection has been closed, which still has its slots.
    pub(super) fn closed(&self, how: Closed, why: CloseReason) {
        self.server_side.counters.close(how, why);
        if why == CloseReason::Dead {
            self.parameters.note_lost(Instant::now());
        }
        self.queue().turnover.happened();
    }

    /// Takes an idle connection out: the one that has been idle longest.
    pub(super) fn take_idle(&self) -> Option<PooledConn> {
        let mut taken = false;
        self.take_matching(|_| !std::mem::replace(&mut taken, true)).into_iter().next()
    }

    /// Takes the idle connections out that `unfit` picks, longest idle first.
    fn take_matching(&self, unfit: impl FnMut(&PooledConn) -> bool) -> Vec<PooledConn> {
        // No client begins to wait while they are looked at.
        let _queue = self.queue();
        self.idle.take_matching(unfit)
    }

    /// Returns whether an idle connection can be used at `now`; if not, dropping it closes it.
    fn is_fit(&self, pooled: &mut PooledConn, now: Instant) -> bool {
        let unfit = self.unfit(pooled, now);
        if unfit.is_none() && pooled.was_just_used(now) {
            return true;
        }
        if unfit.is_some() || !pooled.check_alive() {
            pooled.close_reason = unfit.unwrap_or(CloseReason::Dead);
            return false;
        }
        if pooled.state.has_new_base()
            && let Some(why) = self.take_reports(pooled, now)
        {
            pooled.close_reason = why;
            return false;
        }
        true
    }

    /// Learns what the server has reported on a connection that no client uses, unless that must go at `now`: then returns the reason.
    fn take_reports(&self, server_conn: &mut ServerConn, now: Instant) -> Option<CloseReason> {
        // What it has just said may be that it is another kind of server by now.
        let unfit = self.unfit(server_conn, now);
        if unfit.is_none() {
            self.parameters.learn_base(&mut server_conn.state);
        }
        unfit
    }

    /// Reason why a connection must go that was right when its opening began, if what has been said since holds for it.
    fn recalled(&self, server_conn: &ServerConn) -> Option<CloseReason> {
        let conn_info = &server_conn.conn_info;
        if conn_info.id < self.oldest.load(Ordering::Acquire) {
            let is_outdated = self.outdated.load(Ordering::Acquire);
            return Some(if is_outdated { CloseReason::Reload } else { CloseReason::Command });
        }
        self.is_paused().then_some(CloseReason::Command)
    }

    /// Reason why a connection must go at `now`, if it must.
    fn unfit(&self, server_conn: &ServerConn, now: Instant) -> Option<CloseReason> {
        let conn_info = &server_conn.conn_info;
        if let Some(why) = self.recalled(server_conn) {
            return Some(why);
        }
        if self.role_auth.succession().is_some() {
            return Some(CloseReason::Identity);
        }
        if conn_info.is_retired() || target::target_mismatch(server_conn.target, &server_conn.state.params).is_some() {
            return Some(CloseReason::Moved);
        }
        if server_conn.retire_at.is_some_and(|at| now >= at) {
            return Some(CloseReason::Lifetime);
        }
        self.slots.over().then_some(CloseReason::Surplus)
    }

    /// Returns whether it belongs to settings that are no longer in force.
    #[must_use]
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Acquire) || self.role_auth.succession() == Some(Succession::SameRole)
    }

    /// Notes that other settings are in force for its clients: those that wait here get connections that are opened by these.
    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Release);
        self.oldest.fetch_max(self.server_side.conn_ids.next(), Ordering::AcqRel);
    }

    /// Adapts to a new size.
    pub(super) fn resize(&self, (size, reserve): (usize, usize)) {
        self.size.store(size, Ordering::Relaxed);
        self.slots.resize(size.saturating_add(reserve));
        let mut surplus = self.slots.used().saturating_sub(self.slots.cap());
        close_surplus(self.take_matching(|_| {
            let goes = surplus > 0;
            surplus = surplus.saturating_sub(1);
            goes
        }));
        self.open_as_needed();
    }

    /// Number of connections that it may have, the reserve not counted.
    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Number of its connections, in any state.
    pub(super) fn connections(&self) -> usize {
        self.slots.used()
    }

    /// Returns whether it has never had a connection.
    pub(super) fn never_connected(&self) -> bool {
        self.slots.used() == 0 && self.parameters.baseline().is_none()
    }

    /// Returns whether it has been unused for `span` and has no connection.
    pub(super) fn is_abandoned(&self, span: Duration) -> bool {
        self.slots.used() == 0 && self.last_used().elapsed() >= span
    }

    /// Time at which a client came last.
    pub(super) fn last_used(&self) -> Instant {
        *lock(&self.last_used)
    }

    /// Counts a client with a login that is tried upstream, until what is returned is dropped.
    #[must_use]
    pub(crate) fn logs_in(&self) -> LogsIn<'_> {
        self.logging_in.fetch_add(1, Ordering::Relaxed);
        LogsIn(self)
    }

    /// Number of clients that have their login tried upstream, or wait for that.
    #[must_use]
    pub(crate) fn logging_in(&self) -> usize {
        self.logging_in.load(Ordering::Relaxed)
    }

    /// Notes that a client came at `now`.
    pub(crate) fn touch(&self, now: Instant) {
        *lock(&self.last_used) = now;
    }

    /// Returns whether clients that want a connection may get one.
    pub(crate) fn gives_connections(&self) -> bool {
        !self.is_paused()
    }

    /// Number of connections that are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle.count()
    }

    /// Number of connections that clients have.
    pub(super) fn leased(&self) -> usize {
        self.leased.load(Ordering::Relaxed)
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.queue().waiting() > 0
    }

    fn queue(&self) -> MutexGuard<'_, Queue<PooledConn>> {
        lock(&self.queue)
    }

    /// The settings for its clients.
    fn settings(&self) -> Arc<Settings> {
        self.server_side.config.settings_of(&self.key.database)
    }

    fn is_paused(&self) -> bool {
        self.server_side.pauses.of(&self.key.database).paused
    }

    fn database(&self) -> String {
        String::from_utf8_lossy(&self.key.database).into_owned()
    }

    fn user(&self) -> String {
        String::from_utf8_lossy(&self.key.user).into_owned()
    }
}
