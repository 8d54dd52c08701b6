//! What a relay counts: the client's work, and the reasons for keeping its connection.

use std::time::Instant;

use super::Relay;
use crate::machine::Counts;
use crate::track::Pins;
use crate::upstream::pool_stats::LocalStats;

impl Relay<'_> {
    pub(super) fn count_pins(&mut self, pins: Pins) {
        let new = pins.difference(self.counted);
        if !new.is_empty() {
            self.counted.insert(new);
            self.handle.set_pins(pins);
            self.shared.counters().pinned(new);
            let (client, server_conn) = (self.handle.id, self.server.about.conn_info.id);
            tracing::debug!(client, server_conn, "keeps its connection because of: {new}");
        }
    }

    /// Takes over what the machine has counted.
    pub(super) fn count(&mut self) {
        let counts = self.machine.take_counts();
        add_messages(&mut self.tally, &counts);
        if counts.readies.queries == 0 {
            return;
        }
        if counts.readies.transactions > 0 {
            self.role_changed();
        }
        let now = Instant::now();
        self.ready = Some(now);
        let timings = &self.shared.counters().timings;
        for nth in 0..counts.readies.queries {
            let idle = nth >= counts.readies.queries - counts.readies.transactions;
            let more = nth + 1 < counts.readies.queries || !self.machine.is_answered();
            timings.query.observe(self.tally.query_ends(now));
            if idle {
                timings.transaction.observe(self.tally.transaction_ends(now));
            }
            if more {
                self.tally.begins(now);
            }
        }
    }

    fn role_changed(&mut self) {
        let change = self.machine.take_role_change();
        self.shared.role_changed(change, &self.server.activity.pool().key.database);
    }

    /// Hands what was counted to the pool.
    pub(super) fn settle_accounts(&mut self) {
        self.count();
        let (received, sent) = self.client.take_traffic();
        self.server.activity.pool().stats.take(&mut self.tally, received, sent);
    }
}

/// Adds the messages among `counts` to a client's tally.
pub(super) fn add_messages(tally: &mut LocalStats, counts: &Counts) {
    tally.client_parses += counts.client_parses;
    tally.server_parses += counts.server_parses;
    tally.binds += counts.binds;
}
