//! The connections of one (database, user, startup settings).
//!
//! `deadpool` keeps the idle ones (last in, first out, so that those nobody needs grow old) and the queue of those
//! who wait while all are in use. Around it: opening never happens in a client's future, at most `max_dialling` at
//! once; a connection that comes back goes to whoever waits for one being opened; and slots, not deadpool's permits,
//! are what a connection exists by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use tracing::{debug, info, warn};

use super::account::Account;
use super::dial::{self, DialError, Dialled, Login};
use super::lease::{Lease, Upstream};
use super::link::{BackendKey, Gate, Link, Used};
use super::queue::{Next, Queue};
use super::registry::Registry;
use super::slots::{Slot, Slots};
use crate::config::{Mode, Settings};
use crate::error::{Blame, Fault, sqlstate};
use crate::track::{Params, Wanted};

/// How many spellings of a setting's value are remembered.
const CANONICAL_LIMIT: usize = 256;

/// What connections have in common that serve the same clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database.
    pub database: Vec<u8>,
    /// The role.
    pub user: Vec<u8>,
    /// Startup parameters that can't follow a client by `SET`.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a client gets no connection.
#[derive(Clone, Debug)]
pub enum CheckoutError {
    /// Opening one failed.
    Dial(DialError),
    /// All were in use for as long as the client may wait.
    Exhausted(Fault),
    /// pgferry is going away.
    Closed,
}

impl CheckoutError {
    /// What a client is told.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Dial(error) => error.fault(),
            Self::Exhausted(fault) => fault.clone(),
            Self::Closed => Fault::fatal(
                Blame::Limits,
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: pgferry is shutting down",
            ),
        }
    }
}

/// deadpool's manager: gets connections from the pool around it.
#[derive(Debug)]
pub struct Dialler {
    pool: Weak<Pool>,
}

impl Manager for Dialler {
    type Type = Upstream;
    type Error = CheckoutError;

    async fn create(&self) -> Result<Upstream, CheckoutError> {
        let pool = self.pool.upgrade().ok_or(CheckoutError::Closed)?;
        let entered = pool.queue().enter();
        match entered {
            Ok(spare) => Ok(spare),
            Err(receiver) => {
                pool.kick();
                receiver.await.map_err(|_| CheckoutError::Closed)?.map_err(CheckoutError::Dial)
            }
        }
    }

    async fn recycle(&self, upstream: &mut Upstream, _: &Metrics) -> RecycleResult<CheckoutError> {
        let fit = self.pool.upgrade().is_some_and(|pool| pool.is_fit(upstream));
        if fit && upstream.look() { Ok(()) } else { Err(RecycleError::message("no longer fit")) }
    }
}

/// The connections of one key.
#[derive(Debug)]
pub struct Pool {
    /// Whose they are.
    pub key: PoolKey,
    /// What is known of that user there.
    pub account: Arc<Account>,
    idle: managed::Pool<Dialler>,
    queue: Mutex<Queue<Upstream>>,
    slots: Arc<Slots>,
    registry: Weak<Registry>,
    this: Weak<Self>,
    /// The reported settings of a session that asked for none.
    baseline: Mutex<Option<Params>>,
    /// What the last client asked for: the next one probably asks for the same.
    wanted: Mutex<Wanted>,
    canonical: Mutex<HashMap<(&'static str, Box<[u8]>), Box<[u8]>>>,
    /// How many connections are on loan.
    pub(super) leased: AtomicUsize,
    /// How many of those wait for the server.
    pub(super) active: AtomicUsize,
    /// When somebody last asked for a connection.
    last_used: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(key: PoolKey, account: Arc<Account>, size: usize, registry: Weak<Registry>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let builder = managed::Pool::builder(Dialler { pool: this.clone() });
            // Building fails only for timeouts without a runtime, and none is set.
            let Ok(idle) = builder.max_size(size).queue_mode(QueueMode::Lifo).build() else {
                unreachable!("a pool without timeouts needs no runtime")
            };
            Self {
                key,
                account,
                idle,
                queue: Mutex::default(),
                slots: Slots::new(size),
                registry,
                this: this.clone(),
                baseline: Mutex::default(),
                wanted: Mutex::default(),
                canonical: Mutex::default(),
                leased: AtomicUsize::new(0),
                active: AtomicUsize::new(0),
                last_used: Mutex::new(Instant::now()),
            }
        })
    }

    /// A connection, at once or when one comes free or open, in the order of asking. Cancel-safe: whoever stops
    /// waiting costs no connection.
    ///
    /// # Errors
    /// As [`CheckoutError`] lists, after `patience` at the latest.
    pub async fn checkout(self: &Arc<Self>, wanted: &Wanted, patience: Duration) -> Result<Lease, CheckoutError> {
        {
            let mut last = lock(&self.wanted);
            if *last != *wanted {
                last.clone_from(wanted);
            }
        }
        match tokio::time::timeout(patience, self.idle.get()).await {
            Ok(Ok(object)) => Ok(Lease::new(object, Arc::clone(self))),
            Ok(Err(PoolError::Backend(error))) => Err(error),
            Ok(Err(_)) => Err(CheckoutError::Closed),
            Err(_) => Err(CheckoutError::Exhausted(self.exhausted(patience))),
        }
    }

    /// A connection if one is idle right now.
    pub async fn checkout_idle(self: &Arc<Self>) -> Option<Lease> {
        if self.idle.status().available == 0 && self.queue().spares() == 0 {
            return None;
        }
        let now = managed::Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        let got = tokio::time::timeout(Duration::from_millis(100), self.idle.timeout_get(&now)).await;
        got.ok()?.ok().map(|object| Lease::new(object, Arc::clone(self)))
    }

    /// The reported settings of a client who asked for none; `None` until a connection has been opened.
    #[must_use]
    pub fn baseline(&self) -> Option<Params> {
        lock(&self.baseline).clone()
    }

    /// What the server makes of a value, if it has been seen before.
    #[must_use]
    pub fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        if name == "application_name" && value.len() < 64 {
            // Printable ASCII, as all values here are, is taken as it is.
            return Some(value.into());
        }
        lock(&self.canonical).get(&(name, value.into())).cloned()
    }

    /// Notes what the server made of the values that `wanted` asks for.
    pub fn learn_canonical(&self, wanted: &Wanted, params: &Params) {
        let mut canonical = lock(&self.canonical);
        for (name, value) in wanted.iter() {
            if let Some(seen) = params.get(name.as_bytes()) {
                if canonical.len() >= CANONICAL_LIMIT {
                    canonical.clear();
                }
                canonical.insert((name, value.into()), seen.into());
                canonical.insert((name, seen.into()), seen.into());
            }
        }
    }

    /// How many connections there are, in any state.
    #[must_use]
    pub fn size(&self) -> usize {
        self.slots.used()
    }

    /// Opens connections for those who wait, as far as slots, pauses and `max_dialling` allow.
    pub fn kick(&self) {
        self.dial_for(0);
    }

    /// Takes over a connection that was opened to try a password; closes it if there is no slot for it.
    pub fn adopt(&self, dialled: Dialled, settings: &Settings) {
        let Some(registry) = self.registry.upgrade() else { return };
        let link = self.link(dialled, Wanted::default(), &registry, settings);
        match (self.slots.try_take(), registry.global.try_take()) {
            (Some(slot), Some(global)) => self.hand_out(Upstream::new(link, (slot, global), self.this.clone())),
            _ => {
                tokio::spawn(async move {
                    let polite = Link::close(link.conn, false).await;
                    registry.closed(polite);
                });
            }
        }
    }

    /// As [`Pool::kick`], and `beyond` more that nobody waits for yet.
    fn dial_for(&self, beyond: usize) {
        let Some(registry) = self.registry.upgrade() else { return };
        let settings = registry.settings.load_full();
        loop {
            let mut queue = self.queue();
            match queue.next(beyond, settings.max_dialling, Instant::now()) {
                Next::Nothing => return,
                Next::At(at) => {
                    drop(queue);
                    return self.kick_at(at);
                }
                Next::Dial => {}
            }
            let Some(slot) = self.slots.try_take() else {
                drop(queue);
                // Closes the gap between looking for an idle connection and entering the queue.
                match self.take_idle() {
                    Some(idle) => self.hand_out(idle),
                    None => return,
                }
                continue;
            };
            let Some(global) = registry.global.try_take() else {
                drop(queue);
                drop(slot);
                return registry.starve(self);
            };
            queue.dial_starts();
            drop(queue);
            let Some(this) = self.this.upgrade() else { return };
            tokio::spawn(this.dial((slot, global), Arc::clone(&registry), Arc::clone(&settings)));
        }
    }

    fn kick_at(&self, at: Instant) {
        let pool = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            if let Some(pool) = pool.upgrade() {
                pool.kick();
            }
        });
    }

    async fn dial(self: Arc<Self>, slots: (Slot, Slot), registry: Arc<Registry>, settings: Arc<Settings>) {
        let ends = DialEnds(&self);
        // The first connection asks for nothing, so that what the server gives to clients who ask for nothing is
        // known. Later ones ask for what their client asks for, which then needs no SET.
        let asked = if self.baseline().is_some() { self.startup_wanted() } else { Wanted::default() };
        let secret = self.account.secret(&settings);
        let login = Login { user: self.key.user.clone(), params: self.startup_params(&asked), secret };
        let outcome = dial::dial(&settings, login, &registry, settings.connect_timeout).await;
        match outcome {
            Ok(dialled) => {
                if self.queue().succeeded() {
                    info!(database = %self.database(), user = %self.user(), "upstream is back");
                }
                let link = self.link(dialled, asked, &registry, &settings);
                self.hand_out(Upstream::new(link, slots, self.this.clone()));
            }
            Err(failed) => {
                let error = &failed.error;
                registry.counters.failed.add();
                self.account.note_failure(&registry, error);
                if self.queue().failed(error, Instant::now()) {
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

    /// The parameters of a startup packet: those of the key, and `asked`.
    #[must_use]
    pub fn startup_params(&self, asked: &Wanted) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut params = vec![(b"database".to_vec(), self.key.database.clone())];
        params.extend(self.key.extra.iter().cloned());
        params.extend(asked.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())));
        params
    }

    /// What the last client wanted, as far as the server is known to take it. A value that it would refuse must not
    /// get into a startup packet: that would fail the connection instead of the one client.
    fn startup_wanted(&self) -> Wanted {
        lock(&self.wanted).known(|name, value| self.canonical(name, value))
    }

    fn link(&self, dialled: Dialled, asked: Wanted, registry: &Registry, settings: &Settings) -> Link {
        let mut params = dialled.params;
        self.learn_baseline(&mut params, &asked);
        let id = registry.next_link_id();
        let now = Instant::now();
        debug!(link = id, pid = dialled.pid, database = %self.database(), user = %self.user(), "upstream opened");
        Link {
            conn: dialled.conn,
            id,
            key: Arc::new(BackendKey { address: dialled.address, pid: dialled.pid, secret: dialled.secret }),
            base: params.clone(),
            params,
            asked,
            used: Used::Fresh,
            returned: now,
            retire_at: settings.lifetime.map(|lifetime| now + jitter(lifetime, id)),
            generation: registry.generation(),
            gate: Arc::new(Gate::default()),
        }
    }

    /// Notes the settings of a session that is as new, but for what was `asked` for at its login.
    fn learn_baseline(&self, params: &mut Params, asked: &Wanted) {
        let mut baseline = lock(&self.baseline);
        let Some(known) = &mut *baseline else {
            *baseline = Some(params.clone());
            return;
        };
        for (name, value) in params.beyond(&known.clone()) {
            if !asked.iter().any(|(asked, _)| asked.as_bytes().eq_ignore_ascii_case(name)) {
                known.set(name, value);
            }
        }
        params.share(known);
    }

    /// A session has been reset: its settings are what the server gives now, which may have changed since its login.
    pub fn learn_reset(&self, link: &mut Link) {
        if link.params != link.base {
            let Link { params, asked, .. } = link;
            self.learn_baseline(params, asked);
            link.base = link.params.clone();
        }
    }

    /// Gives a connection to whoever waits for one being opened, or keeps it.
    pub(super) fn hand_out(&self, upstream: Upstream) {
        self.queue().deliver(upstream);
    }

    /// Takes a connection back from a lease.
    pub(super) fn take_back(&self, object: Object<Dialler>) {
        if !self.is_fit(&object) {
            drop(Object::take(object));
        } else if self.queue().has_waiters() {
            self.hand_out(Object::take(object));
        } else {
            drop(object);
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.feed_starving();
        }
    }

    /// Notes that a connection has been closed.
    pub(super) fn closed(&self, polite: bool) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.closed(polite);
        self.kick();
        registry.feed_starving();
    }

    /// Takes an idle or spare connection out: the one that has been idle longest.
    pub(super) fn take_idle(&self) -> Option<Upstream> {
        let spares = self.queue().take_spares(|_| true);
        let mut spares = spares.into_iter();
        if let Some(spare) = spares.next() {
            spares.for_each(|other| self.hand_out(other));
            return Some(spare);
        }
        let mut taken = false;
        let result = self.idle.retain(|_, _| std::mem::replace(&mut taken, true));
        result.removed.into_iter().next()
    }

    fn is_fit(&self, link: &Link) -> bool {
        let current = self.registry.upgrade().map(|registry| registry.generation());
        current == Some(link.generation) && link.retire_at.is_none_or(|at| Instant::now() < at) && !self.slots.over()
    }

    /// Once in a while: closes what is too old, idle for too long or dead; returns those whose reset is due; keeps
    /// `min_idle` open. Says whether anything is left to look after soon.
    pub(super) fn tidy(&self, settings: &Settings, reset_due: Option<Duration>) -> (Vec<Upstream>, bool) {
        let now = Instant::now();
        let keep = settings.min_idle;
        let mut idle = self.idle.status().available + self.queue().spares();
        let mut dirty = false;
        let mut due = |upstream: &Upstream| {
            let age = now.saturating_duration_since(upstream.returned);
            let too_old = settings.idle_timeout.is_some_and(|limit| age >= limit) && idle > keep;
            if too_old || !self.is_fit(upstream) || upstream.conn.stream().has_arrived() {
                idle = idle.saturating_sub(1);
                return true;
            }
            let Some(after) = reset_due.filter(|_| upstream.used != Used::Fresh) else { return false };
            dirty = true;
            age >= after
        };
        let mut taken = self.idle.retain(|upstream, _| !due(upstream)).removed;
        taken.extend(self.queue().take_spares(&mut due));
        let mut resets = Vec::new();
        for mut upstream in taken {
            let age = now.saturating_duration_since(upstream.returned);
            let too_old = settings.idle_timeout.is_some_and(|limit| age >= limit);
            if too_old || !self.is_fit(&upstream) || !upstream.look() {
                drop(upstream);
            } else if upstream.used == Used::Fresh {
                self.hand_out(upstream);
            } else {
                resets.push(upstream);
            }
        }
        let ready = self.idle.status().available + self.queue().spares() + resets.len();
        let known = lock(&self.baseline).is_some();
        if known && ready < settings.min_idle {
            self.dial_for(settings.min_idle - ready);
        }
        (resets, dirty)
    }

    /// Adapts to a new size.
    pub(super) fn resize(&self, size: usize) {
        self.slots.resize(size);
        self.idle.resize(size);
        self.kick();
    }

    /// Whether nobody has used it for `span` and it has no connection.
    pub(super) fn is_abandoned(&self, span: Duration) -> bool {
        self.slots.used() == 0 && lock(&self.last_used).elapsed() > span
    }

    /// Notes that a client logged in.
    pub fn touch(&self) {
        *lock(&self.last_used) = Instant::now();
    }

    /// How many connections are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle.status().available + self.queue().spares()
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.queue().has_waiters()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Upstream>> {
        lock(&self.queue)
    }

    fn database(&self) -> String {
        String::from_utf8_lossy(&self.key.database).into_owned()
    }

    fn user(&self) -> String {
        String::from_utf8_lossy(&self.key.user).into_owned()
    }

    /// What a client is told who has waited in vain: why, by whom connections are held, and which setting helps.
    fn exhausted(&self, waited: Duration) -> Fault {
        let leased = self.leased.load(Ordering::Relaxed);
        let active = self.active.load(Ordering::Relaxed).min(leased);
        let waited = format!("waited {:.1} s (wait_timeout)", waited.as_secs_f32());
        if let Some(error) = self.queue().last_error() {
            let fault = error.fault();
            return Fault::error(Blame::Upstream, sqlstate::CANNOT_CONNECT_NOW, fault.message())
                .detail(format!(
                    "{waited}; the upstream server could not be reached or refused: SQLSTATE {}",
                    fault.code()
                ))
                .hint("Check that PostgreSQL is up and accepts connections; pgferry goes on trying.");
        }
        let registry = self.registry.upgrade();
        let (mode, max) = registry.as_ref().map_or((Mode::Session, 0), |registry| {
            let settings = registry.settings.load();
            (settings.mode, settings.max_upstream)
        });
        let cap = self.slots.cap();
        let full = registry.is_some_and(|registry| registry.global.used() >= registry.global.cap());
        let fault = Fault::error(
            Blame::Limits,
            sqlstate::TOO_MANY_CONNECTIONS,
            format!("no upstream connection came free for database \"{}\", user \"{}\"", self.database(), self.user()),
        )
        .detail(format!(
            "{waited}; {leased} of {cap} connections are in use: {active} by active clients, {} by clients that are idle.",
            leased - active
        ));
        match (leased >= cap, full, mode) {
            (false, true, _) => {
                fault.hint(format!("All {max} upstream connections of this pgferry are in use: raise max_upstream."))
            }
            (_, _, Mode::Session) if leased > active => fault.hint(
                "Idle clients keep their connection in session mode: try mode = \"transaction\", or raise pool_size.",
            ),
            _ => fault.hint("Raise pool_size if the server can take more connections, or wait_timeout."),
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

/// `lifetime` ± 10 %, so that connections opened together don't end together.
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
