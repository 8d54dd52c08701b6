//! The state of a pool, for the console and for errors to clients that got no connection.

use std::sync::atomic::Ordering;

use super::{Patience, Pool};
use crate::config::Mode;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::upstream::dial::DialError;

/// A pool in numbers, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Connections in clients' hands.
    pub leased: usize,
    /// Idle connections.
    pub idle: usize,
    /// Connections that are being opened.
    pub opening: usize,
    /// Clients that wait for one.
    pub waiting: usize,
    /// The most there may be, the reserve not counted.
    pub size: usize,
}

impl Pool {
    /// Returns the pool's numbers.
    #[must_use]
    pub(crate) fn state(&self) -> State {
        let queue = self.queue();
        State {
            leased: self.leased.load(Ordering::Relaxed),
            idle: self.idle_count(),
            opening: queue.dialling(),
            waiting: queue.waiting(),
            size: self.size(),
        }
    }

    /// Reason why there is no connection, if that is not only that the server has none left: see [`Pool::trouble`].
    #[must_use]
    pub(crate) fn outage(&self) -> Option<ClientError> {
        let queue = self.queue();
        let is_full = queue.last_error().is_some_and(DialError::is_full);
        drop(queue);
        self.trouble().filter(|_| !is_full)
    }

    /// Reason why there is no connection, if there is none and the last attempt to open one failed in a way that may pass. What
    /// concerns one user only, as a wrong password does, is no trouble of the upstream's, unless it is pgferry's own.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<ClientError> {
        let queue = self.queue();
        let has_some = self.open(&queue) > 0;
        queue
            .last_error()
            .filter(|error| !has_some && (error.may_pass() || self.expects_clients()))
            .map(DialError::client_error)
    }

    /// Builds the error for a client that has waited in vain: the cause, the users of the connections, the setting that helps.
    pub(super) fn exhausted(&self, patience: Patience) -> ClientError {
        let Patience { limit, setting } = patience;
        if self.is_paused() {
            let paused = format!("database \"{}\" is paused", self.database());
            return ClientError::error(ErrorSource::Limits, sqlstate::CANNOT_CONNECT_NOW, paused)
                .detail(format!("waited {:.1} s", limit.as_secs_f32()))
                .hint("RESUME at pgferry's console ends the pause.");
        }
        let leased = self.leased.load(Ordering::Relaxed);
        let active = self.active.load(Ordering::Relaxed).min(leased);
        let waited = format!("waited {:.1} s ({setting})", limit.as_secs_f32());
        if let Some(error) = self.queue().last_error() {
            let client_error = error.client_error();
            if error.is_full() {
                // As if the client had connected directly.
                return ClientError::error(ErrorSource::Server, sqlstate::TOO_MANY_CONNECTIONS, client_error.message())
                    .detail(format!(
                        "{waited}; the upstream server refused another connection; {leased} of this pool's are in use: {active} by \
                         active clients, {} by clients that are idle.",
                        leased - active
                    ))
                    .hint("The limits are PostgreSQL's: max_connections, and CONNECTION LIMIT of roles and databases.");
            }
            return ClientError::error(ErrorSource::Server, sqlstate::CANNOT_CONNECT_NOW, client_error.message())
                .detail(format!(
                    "{waited}; the upstream server could not be reached or refused: SQLSTATE {}",
                    client_error.code()
                ))
                .hint(error.hint_behind_wait());
        }
        let mode = self.settings().pool.pool_mode;
        let capacity = &self.server_side.capacity;
        let (max, full) = (capacity.max_upstream(), capacity.is_full());
        let cap = self.slots.cap().min(max);
        let client_error = ClientError::error(
            ErrorSource::Limits,
            sqlstate::TOO_MANY_CONNECTIONS,
            format!("no upstream connection came free for database \"{}\", user \"{}\"", self.database(), self.user()),
        )
        .detail(format!(
            "{waited}; {leased} of {cap} connections are in use: {active} by active clients, {} by clients that are idle.",
            leased - active
        ));
        match (leased >= cap, full, mode) {
            (false, true, _) => {
                client_error.hint(format!("All {max} upstream connections of this pgferry are in use: raise max_upstream."))
            }
            (_, _, Mode::Session) if leased > active => client_error.hint(
                "Idle clients keep their connection in session mode: try pool_mode = \"transaction\", or raise pool_size or reserve_pool_size.",
            ),
            _ => client_error.hint(format!("Raise pool_size if the server can take more connections, or {setting}.")),
        }
    }
}
