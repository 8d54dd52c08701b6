//! Recognition of a pooler in front of PostgreSQL, by the ids of the server's processes: a pooler tells others at login.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::dial::{DialError, NewConn};
use super::simple_query;
use crate::lock::lock;
use crate::net::{Conn, RecvError};
use crate::wire::frontend;

/// The first process id that a pgferry tells where it does not tell the server's own: above every real one (Linux's `PID_MAX_LIMIT` is
/// 4194304), so that it is not taken for a process.
pub(crate) const FIRST_INVENTED: i32 = 4_194_305;

/// The ids that a pgferry comes to tell.
const PGFERRYS: Range<i32> = FIRST_INVENTED..8_388_608;

/// Kind of what answers at a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// No connection has told.
    #[default]
    Unknown,
    /// PostgreSQL itself.
    Server,
    /// A pooler, of which each connection has had one session.
    Pooler,
    /// A pooler that has given one connection two sessions.
    Lending,
}

/// Knowledge of a pooler at a target.
#[derive(Debug, Default)]
pub(crate) struct Pooler(Mutex<Kind>);

impl Pooler {
    /// Returns whether there may be one, so that a login says nothing of a server process.
    fn may_be(&self) -> bool {
        matches!(*lock(&self.0), Kind::Pooler | Kind::Lending)
    }

    /// Asks on a connection that has just been opened which process serves it, where a pooler answers: its login has been the pooler's
    /// alone, and may have no process to come.
    ///
    /// # Errors
    /// When there is none in time, or the connection is of no use any more.
    pub(super) async fn first_look(
        &self,
        new_conn: &mut NewConn,
        places: &str,
        limit: Duration,
    ) -> Result<(), DialError> {
        if !self.may_be() {
            return Ok(());
        }
        let NewConn { conn, params, .. } = new_conn;
        let asked = timeout(
            limit,
            ask(conn, |name, value| {
                params.set(name, value);
            }),
        )
        .await;
        let process = asked.map_err(|_| {
            DialError::Broke("the pooler there gave no server connection in time (server_connect_timeout)".into())
        })??;
        if let Some(process) = process {
            self.learn(&mut new_conn.process, new_conn.pid, process, places);
        }
        Ok(())
    }

    /// Notes which `process` serves a connection that was `told` another at its login, or the same, and was served by the one `before`.
    pub(super) fn learn(&self, before: &mut Option<i32>, told: i32, process: i32, places: &str) {
        let moved = before.replace(process).is_some_and(|before| before != process);
        let kind = match moved {
            true if !PGFERRYS.contains(&told) => Kind::Lending,
            _ if told != process => Kind::Pooler,
            _ => Kind::Server,
        };
        let mut known = lock(&self.0);
        let is_news = kind > *known;
        *known = kind.max(*known);
        drop(known);
        match kind {
            Kind::Lending if is_news => warn!(
                "the pooler at {places} moves a connection from one server process to another: it keeps no session state, so that \
                 clients may get other clients' settings, locks and prepared statements; put it into session mode"
            ),
            Kind::Pooler if is_news => info!(
                "a pooler answers at {places}, not PostgreSQL itself: it has to be in session mode, since another keeps no session state"
            ),
            _ => {}
        }
    }
}

/// The process that serves `conn`; `None` where it does not say.
async fn ask(conn: &mut Conn, reported: impl FnMut(&[u8], &[u8])) -> Result<Option<i32>, RecvError> {
    frontend::put_query(&mut conn.output, b"SELECT pg_catalog.pg_backend_pid()");
    let rows = simple_query::rows_and(conn, reported).await?.unwrap_or_default();
    Ok(rows.first().and_then(|row| std::str::from_utf8(row.first()?).ok()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_is_known_by_its_ids_and_by_what_it_does_with_a_connection() {
        let kind_after = |seen: &[(Option<i32>, i32, i32)]| {
            let pooler = Pooler::default();
            for (before, told, process) in seen {
                pooler.learn(&mut { *before }, *told, *process, "here");
            }
            *lock(&pooler.0)
        };
        assert_eq!(kind_after(&[]), Kind::Unknown);
        assert_eq!(kind_after(&[(None, 7, 7), (Some(7), 7, 7)]), Kind::Server);
        assert_eq!(kind_after(&[(None, -7, 7), (Some(7), -7, 7)]), Kind::Pooler);
        assert_eq!(kind_after(&[(None, -7, 7), (Some(7), -7, 8), (Some(8), -7, 8)]), Kind::Lending);
        assert_eq!(kind_after(&[(None, 4_194_310, 7), (Some(7), 4_194_310, 8)]), Kind::Pooler, "another pgferry");
    }
}
