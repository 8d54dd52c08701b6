//! The console's commands on a pool.

use std::sync::atomic::Ordering;

use super::Pool;
use crate::upstream::close::CloseReason;
use crate::upstream::conn_info::ConnInfo;

impl Pool {
    /// Replaces all connections there are: idle ones now, the others when they are given back.
    pub(crate) fn reconnect(&self) {
        self.oldest.store(self.server_side.conn_ids.next(), Ordering::Relaxed);
        self.close_unused(CloseReason::Command);
    }

    /// Closes idle connections because of `why`, and recalls those that clients have not used yet.
    pub(crate) fn close_unused(&self, why: CloseReason) {
        self.close_idle(why);
        while self.recall_oldest() {}
    }

    /// Closes idle connections because of `why`, longest idle first.
    pub(crate) fn close_idle(&self, why: CloseReason) {
        for mut idle in self.take_matching(|_| true) {
            idle.close_reason = why;
        }
    }

    /// Returns whether it is known that clients will come.
    #[must_use]
    pub(crate) fn expects_clients(&self) -> bool {
        self.expects_clients.load(Ordering::Relaxed)
    }

    /// Prepares for clients that will come: opens `min_pool_size` connections, or one.
    pub(crate) fn warm_up(&self) {
        self.expects_clients.store(true, Ordering::Relaxed);
        let missing = self.missing(&self.settings());
        self.dial_for(missing.max(usize::from(self.slots.used() == 0)));
    }

    /// Returns whether a connection is to be closed as soon as it is idle.
    #[must_use]
    pub(crate) fn must_close(&self, conn_info: &ConnInfo) -> bool {
        conn_info.id < self.oldest.load(Ordering::Relaxed) || conn_info.is_retired()
    }

    /// Returns whether any such connection is still open.
    #[must_use]
    pub(crate) fn has_conns_to_close(&self) -> bool {
        self.conn_infos.all().iter().any(|conn_info| self.must_close(conn_info))
    }

    /// Returns whether it has any connection, one that is being closed included.
    #[must_use]
    pub(crate) fn has_connections(&self) -> bool {
        self.slots.used() > 0
    }
}
