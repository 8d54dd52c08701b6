//! How full a server is, and what that leaves to this process: several share a server without knowing each other, and
//! what they have in common is what the server says.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::simple_query::{self, Row};
use crate::lock::lock;
use crate::net::{Conn, RecvError};
use crate::wire::frontend;

/// The most connections that a PostgreSQL has room for (`MAX_BACKENDS`); what says more is none.
const MAX_BACKENDS: usize = 262_143;

/// Places that are left to logins, which hold none before they are over.
const LOGINS: usize = 4;

/// Intervals between looks at a server that has room, and at one that is nearly full.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));

/// Time for which a server must have taken connections for a refusal to be news.
const QUIET: Duration = Duration::from_secs(60);

/// Longest wait for a look that shows which roles hold a full server's places.
const UNTOLD: Duration = Duration::from_secs(5);

/// Limits and connections of a server, a row per role, those with most idle ones. `state` and `backend_type` of other roles' connections are hidden
/// from roles without pg_read_all_stats.
const QUESTION: &str = "SELECT pg_catalog.current_setting('max_connections'), \
pg_catalog.current_setting('superuser_reserved_connections'), \
coalesce(pg_catalog.current_setting('reserved_connections', true), '0'), \
pg_catalog.sum(pg_catalog.count(*)) OVER (), \
pg_catalog.sum(pg_catalog.count(*) FILTER (WHERE state OPERATOR(pg_catalog.=) 'idle')) OVER (), \
pg_catalog.pg_get_userbyid(usesysid), \
pg_catalog.count(*) FILTER (WHERE state OPERATOR(pg_catalog.=) 'idle'), \
(SELECT pg_catalog.sum(pg_catalog.hashtext(changed::pg_catalog.text)) FROM pg_catalog.pg_db_role_setting changed), \
pg_catalog.pg_backend_pid() \
FROM pg_catalog.pg_stat_get_activity(NULL) \
WHERE datid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND usesysid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
AND coalesce(backend_type OPERATOR(pg_catalog.=) 'client backend', true) \
GROUP BY usesysid ORDER BY 7 DESC LIMIT 5";

/// A server's limits and connections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    /// `max_connections`.
    pub max_connections: usize,
    /// Number of those reserved: `superuser_reserved_connections` and `reserved_connections`.
    pub reserved: usize,
    /// Client connections there are.
    pub used: usize,
    /// Number of those known to be idle.
    pub idle: usize,
    /// A digest of what `ALTER ROLE … SET` and `ALTER DATABASE … SET` have set.
    pub settings: Vec<u8>,
    /// The roles that have most of the idle ones, with their numbers.
    pub idle_of: Vec<(String, usize)>,
    /// The server process that was asked.
    pub process: i32,
}

/// Treatment of idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All are kept for as long as the settings say.
    All,
    /// The server is filling up: each pool keeps one.
    One,
    /// The server is nearly full: none is kept that the settings don't name.
    None,
}

impl Occupancy {
    /// Reads the answer to the question.
    fn read(rows: &[Row]) -> Option<Self> {
        let number = |row: &Row, at: usize| {
            let number = std::str::from_utf8(row.get(at)?).ok()?.parse::<usize>().ok()?;
            Some(number.min(MAX_BACKENDS))
        };
        let first = rows.first()?;
        let idle_of = rows.iter().filter_map(|row| {
            let count = number(row, 6).filter(|count| *count > 0)?;
            Some((String::from_utf8_lossy(row.get(5)?).into_owned(), count))
        });
        Some(Self {
            max_connections: number(first, 0)?,
            reserved: number(first, 1)? + number(first, 2)?,
            used: number(first, 3)?,
            idle: number(first, 4)?,
            settings: first.get(7)?.clone(),
            idle_of: idle_of.collect(),
            process: std::str::from_utf8(first.get(8)?).ok()?.parse().ok()?,
        })
    }

    /// Asks the server on `conn`, which is idle; `None` where it does not say. Settings that the server reports meanwhile go
    /// to `reported`.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(crate) async fn ask(conn: &mut Conn, reported: impl FnMut(&[u8], &[u8])) -> Result<Option<Self>, RecvError> {
        frontend::put_query(&mut conn.output, format!("{} {QUESTION}", simple_query::WITHOUT_JIT).as_bytes());
        Ok(simple_query::rows_and(conn, reported).await?.ok().and_then(|rows| Self::read(&rows)))
    }

    /// Places for roles that are no superusers.
    #[must_use]
    pub(crate) fn places(&self) -> usize {
        self.max_connections.saturating_sub(self.reserved).max(1)
    }

    /// Number of those that are free.
    #[must_use]
    pub(crate) fn free(&self) -> usize {
        self.places().saturating_sub(self.used)
    }

    /// Number of connections that a process which has `ours` of them may have without leaving too few to others.
    #[must_use]
    pub(crate) fn share(&self, ours: usize) -> usize {
        let others = self.used.saturating_sub(ours);
        let left = self.places().saturating_sub(others);
        left.saturating_sub(LOGINS.min(self.places() / 8)).max(1)
    }

    /// Treatment of idle connections.
    #[must_use]
    pub(crate) fn keep(&self) -> Keep {
        match (self.free(), self.places()) {
            (free, places) if free * 8 >= places => Keep::All,
            (free, places) if free * 20 >= places => Keep::One,
            _ => Keep::None,
        }
    }

    /// Its idle connections, by role.
    #[must_use]
    pub(crate) fn idle_ones(&self) -> String {
        // Superusers have the reserved ones as well.
        let places = if self.idle > self.places() { self.max_connections } else { self.places() };
        let mut text = format!("{} of its {places} places are idle connections", self.idle);
        for (nth, (role, count)) in self.idle_of.iter().enumerate() {
            // Writing to a string can't fail.
            let _ = write!(text, "{} role \"{role}\" {count}", if nth == 0 { ":" } else { "," });
        }
        text
    }
}

/// Knowledge of the room that a server has.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Result of the last look.
    seen: Option<Occupancy>,
    /// [`Occupancy::settings`] as the pools' sessions began with them, if a look has shown them.
    settings: Option<Vec<u8>>,
    /// Time at which the last look began.
    asked: Option<Instant>,
    /// Number of this process's connections when the server refused another one, after the last look.
    refused_at: Option<usize>,
    /// Time at which it last refused one.
    refused: Option<Instant>,
    /// Time at which it did what the log has not told.
    untold: Option<Instant>,
}

/// News that a look has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// An earlier refusal is to be told.
    pub news: Option<News>,
    /// True if sessions begin with other settings now.
    pub outdated: bool,
}

/// A refusal that is to be told, with what the server's places were held by, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News(pub Option<Occupancy>);

impl Room {
    /// Result of the last look.
    #[must_use]
    pub(crate) fn seen(&self) -> Option<Occupancy> {
        lock(&self.0).seen.clone()
    }

    /// Returns whether the caller is to look, because there was no look yet, or because a refusal is to be told of.
    pub(crate) fn claim_first_look(&self, now: Instant) -> bool {
        let mut state = lock(&self.0);
        let first = state.asked.is_none() || (state.untold.is_some() && Self::is_due(&state, now));
        if first {
            state.asked = Some(now);
        }
        first
    }

    /// Returns whether the caller is to look, because the last look is long past.
    pub(crate) fn claim_look(&self, now: Instant) -> bool {
        let mut state = lock(&self.0);
        let due = Self::is_due(&state, now);
        if due {
            state.asked = Some(now);
        }
        due
    }

    fn is_due(state: &State, now: Instant) -> bool {
        let has_room =
            state.refused_at.is_none() && state.seen.as_ref().is_some_and(|seen| seen.free() * 2 >= seen.places());
        let interval = if has_room { INTERVALS.0 } else { INTERVALS.1 };
        state.asked.is_none_or(|at| now.saturating_duration_since(at) >= interval)
    }

    /// Notes what a look has shown.
    pub(crate) fn learn(&self, seen: Occupancy) -> Learned {
        let mut state = lock(&self.0);
        state.refused_at = None;
        let news = state.untold.take().map(|_| News(Some(seen.clone())));
        let before = state.settings.replace(seen.settings.clone());
        let outdated = before.is_some_and(|before| before != seen.settings);
        state.seen = Some(seen);
        Learned { news, outdated }
    }

    /// Notes that new connections take the place of all. The first of them is to see what they begin with.
    pub(crate) fn sessions_are_replaced(&self) {
        let mut state = lock(&self.0);
        (state.settings, state.asked) = (None, None);
    }

    /// Notes that the server refused a connection while this process had `ours`.
    pub(crate) fn refused(&self, ours: usize, now: Instant) {
        let mut state = lock(&self.0);
        state.refused_at = Some(ours);
        let before = state.refused.replace(now);
        if before.is_none_or(|at| now.saturating_duration_since(at) >= QUIET) {
            state.untold = Some(now);
        }
    }

    /// Returns what is to be logged of a refusal, though no look has shown which roles hold the places.
    pub(crate) fn overdue(&self, now: Instant) -> Option<News> {
        let mut state = lock(&self.0);
        state.untold.take_if(|at| now.saturating_duration_since(*at) >= UNTOLD).map(|_| News(None))
    }

    /// The most connections that the server has for this process, which has `ours`, and how many of them may be had without
    /// leaving too few to others; `None` where nothing is known.
    #[must_use]
    pub(crate) fn limits(&self, ours: usize) -> Option<(usize, usize)> {
        let state = lock(&self.0);
        let seen = state.seen.as_ref()?;
        let share = seen.share(ours).min(state.refused_at.unwrap_or(usize::MAX)).max(1);
        // Whether the last of them are to be had is the server's to say.
        Some((seen.max_connections.max(1), share))
    }

    /// Treatment of idle connections.
    #[must_use]
    pub(crate) fn keep(&self) -> Keep {
        let state = lock(&self.0);
        match (&state.refused_at, &state.seen) {
            (Some(_), _) => Keep::None,
            (None, Some(seen)) => seen.keep(),
            (None, None) => Keep::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(max_connections: usize, reserved: usize, used: usize) -> Occupancy {
        Occupancy { max_connections, reserved, used, ..Occupancy::default() }
    }

    #[test]
    fn a_share_leaves_room_for_logins_and_for_others() {
        assert_eq!(server(100, 3, 1).share(1), 93);
        assert_eq!(server(100, 3, 61).share(1), 33);
        assert_eq!(server(100, 3, 97).share(10), 6);
        assert_eq!(server(100, 3, 97).share(0), 1, "one may be tried");
        assert_eq!(server(5, 3, 1).share(1), 2);
    }

    #[test]
    fn numbers_that_no_server_has_overflow_nothing() {
        let most = usize::MAX.to_string();
        let row: Row =
            [&*most, &most, &most, &most, &most, "role", &most, "x", "7"].map(|cell| cell.as_bytes().to_vec()).into();
        let seen = Occupancy::read(&[row]).expect("numbers");
        assert_eq!((seen.places(), seen.free(), seen.share(0), seen.keep()), (1, 0, 1, Keep::None));
    }

    #[test]
    fn connections_are_given_back_as_a_server_fills_up() {
        let keep = |used| server(100, 3, used).keep();
        assert_eq!(
            [0, 84, 85, 92, 93, 97, 100].map(keep),
            [Keep::All, Keep::All, Keep::One, Keep::One, Keep::None, Keep::None, Keep::None]
        );
    }

    #[test]
    fn a_refusal_is_told_once_with_numbers_where_there_are_any() {
        let (room, now) = (Room::default(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        assert!(room.claim_first_look(now) && !room.claim_first_look(now));
        assert_eq!(room.learn(server(100, 3, 50)).news, None);
        assert_eq!(room.limits(20), Some((100, 63)));
        room.refused(20, at(2));
        assert_eq!((room.limits(20), room.keep()), (Some((100, 20)), Keep::None));
        assert!(room.claim_first_look(at(3)));
        assert_eq!(room.learn(server(100, 3, 97)).news, Some(News(Some(server(100, 3, 97)))));
        room.refused(20, at(30));
        assert_eq!((room.overdue(at(60)), room.learn(server(100, 3, 97)).news), (None, None), "it has been told");
        room.refused(20, at(95));
        assert_eq!((room.overdue(at(99)), room.overdue(at(100))), (None, Some(News(None))));
        assert_eq!((room.overdue(at(105)), room.learn(server(100, 3, 97)).news), (None, None));
    }

    #[test]
    fn changed_settings_outdate_sessions_once() {
        let (room, now) = (Room::default(), Instant::now());
        let with = |settings: &str| Occupancy { settings: settings.into(), ..server(100, 3, 1) };
        let outdated = |settings| room.learn(with(settings)).outdated;
        assert!(room.claim_first_look(now));
        assert_eq!(["a", "a", "b", "b"].map(outdated), [false, false, true, false]);
        room.sessions_are_replaced();
        assert!(room.claim_first_look(now) && !room.claim_first_look(now), "by the first of the new ones");
        assert_eq!(
            ["c", "c", "d"].map(outdated),
            [false, false, true],
            "the change that they were replaced for is known"
        );
    }

    proptest! {
        #[test]
        fn shares_of_processes_that_look_one_after_another_fit_the_server(
            max in 10usize..500,
            reserved in 0usize..10,
            wants in proptest::collection::vec(0usize..100, 1..40),
        ) {
            let mut used = 0;
            let places = server(max, reserved, 0).places();
            for want in wants {
                let share = server(max, reserved, used).share(0);
                // The one that each may try is the server's to refuse.
                let taken = want.min(share).min(places - used);
                used += taken;
                prop_assert!(used <= places);
                prop_assert!(taken <= 1 || used <= places - LOGINS.min(places / 8));
            }
        }
    }
}
