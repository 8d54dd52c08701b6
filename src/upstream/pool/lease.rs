//! A server connection that is lent to a client.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;

use super::Pool;
use super::pool_slots::PoolSlots;
use crate::track::Clean;
use crate::upstream::server_conn::ServerConn;

/// A connection and the slots it holds. Dropping it closes the connection in the background, and frees the slots
/// when it is closed.
#[derive(Debug)]
pub(crate) struct PooledConn {
    // Boxed, because it changes hands several times per request.
    open: Option<Box<Open>>,
    pool: Weak<Pool>,
}

#[derive(Debug)]
struct Open {
    server_conn: ServerConn,
    slots: PoolSlots,
}

impl PooledConn {
    /// An open connection that holds its slots.
    #[must_use]
    pub(in crate::upstream) fn new(server_conn: ServerConn, slots: PoolSlots, pool: Weak<Pool>) -> Self {
        Self { open: Some(Box::new(Open { server_conn, slots })), pool }
    }

    fn open(&self) -> &Open {
        // `open` is taken in `drop` only.
        let Some(open) = &self.open else { unreachable!("a connection is open until it is dropped") };
        open
    }

    fn open_mut(&mut self) -> &mut Open {
        // As above.
        let Some(open) = &mut self.open else { unreachable!("a connection is open until it is dropped") };
        open
    }
}

impl Deref for PooledConn {
    type Target = ServerConn;

    fn deref(&self) -> &ServerConn {
        &self.open().server_conn
    }
}

impl DerefMut for PooledConn {
    fn deref_mut(&mut self) -> &mut ServerConn {
        &mut self.open_mut().server_conn
    }
}

impl Drop for PooledConn {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Open { server_conn, slots } = *open;
        let pool = self.pool.clone();
        // Without a runtime the process is about to end, and the kernel closes the socket.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            server_conn.gate.opened().await;
            let how = ServerConn::close(server_conn.conn, server_conn.state.close_method).await;
            if let Some(pool) = pool.upgrade() {
                pool.closed(how, server_conn.close_reason);
            }
            drop(slots);
        });
    }
}

/// A connection in use by a client.
///
/// Dropping it *closes* the connection, so that a cancelled, failed or panicking session can't hand on a connection
/// in the middle of something. Only [`Lease::release`] gives it back, and that takes a proof.
#[derive(Debug)]
pub(crate) struct Lease {
    pooled: Option<PooledConn>,
    pool: Arc<Pool>,
    active: bool,
}

impl Lease {
    pub(super) fn new(pooled: PooledConn, pool: Arc<Pool>) -> Self {
        pool.leased.fetch_add(1, Ordering::Relaxed);
        Self { pooled: Some(pooled), pool, active: false }
    }

    /// Gives the connection back, which has been used until `now`.
    pub(crate) fn release(self, _: Clean, now: Instant) {
        self.give_back(now);
    }

    /// Gives the connection back as new: its session has been reset.
    pub(crate) fn release_fresh(mut self, _: Clean) {
        let pool = Arc::clone(&self.pool);
        pool.parameters.learn_reset(&mut self.state);
        self.give_back(Instant::now());
    }

    /// Its pool, the connection itself, and how it is lent: for the relay, which looks at all of them all the time.
    pub(crate) fn parts(&mut self) -> (&Arc<Pool>, &mut ServerConn, LeaseActivity<'_>) {
        let Self { pooled, pool, active } = self;
        let pool = &*pool;
        // As in `deref_mut`.
        let Some(pooled) = pooled else { unreachable!("a lease has its connection until it ends") };
        (pool, &mut pooled.open_mut().server_conn, LeaseActivity { pool, active })
    }

    /// The pool it belongs to.
    #[must_use]
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn give_back(mut self, returned: Instant) {
        let Some(mut pooled) = self.pooled.take() else { return };
        pooled.returned = returned;
        if pooled.gate.is_open() {
            self.pool.take_back(pooled);
        } else {
            let pool = Arc::clone(&self.pool);
            tokio::spawn(async move {
                let gate = Arc::clone(&pooled.gate);
                gate.opened().await;
                pool.take_back(pooled);
            });
        }
    }
}

/// State of a lease.
#[derive(Debug)]
pub(crate) struct LeaseActivity<'a> {
    pool: &'a Arc<Pool>,
    active: &'a mut bool,
}

impl LeaseActivity<'_> {
    /// The pool it belongs to.
    #[must_use]
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        self.pool
    }

    /// Notes whether the client is waiting for the server, for the numbers in error messages.
    pub(crate) fn set_active(&mut self, active: bool) {
        if active != *self.active {
            *self.active = active;
            if active {
                self.pool.active.fetch_add(1, Ordering::Relaxed);
            } else {
                self.pool.active.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Deref for Lease {
    type Target = ServerConn;

    fn deref(&self) -> &ServerConn {
        // `pooled` is taken in `give_back` only, which consumes the lease.
        let Some(pooled) = &self.pooled else { unreachable!("a lease has its connection until it ends") };
        &pooled.open().server_conn
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ServerConn {
        // As above.
        let Some(pooled) = &mut self.pooled else { unreachable!("a lease has its connection until it ends") };
        &mut pooled.open_mut().server_conn
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LeaseActivity { pool: &self.pool, active: &mut self.active }.set_active(false);
        self.pool.leased.fetch_sub(1, Ordering::Relaxed);
    }
}
