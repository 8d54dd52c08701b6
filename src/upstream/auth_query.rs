//! Secrets that the upstream is asked for (`auth_query`): on connections of their own, which never carry a setting of
//! any client's (CVE-2025-12819), and with the answer remembered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend as protocol;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::close::CloseReason;
use super::counters::Counters;
use super::dial::{self, Login, Secret};
use super::pools::Pools;
use super::queue::pause_while_full;
use super::rebalance::UnpooledSlot;
use super::reclaimable_slots::Reclaimable;
use super::server_conn::ServerConn;
use super::server_side::{Basis, ServerSide};
use super::simple_query::{self, Row};
use crate::auth::stored::{Kinds, Lookup};
use crate::auth::{Bucket, Credential, Stored};
use crate::config::Settings;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::lock::lock;
use crate::net::{Conn, RecvError};
use crate::track::server_state::CloseMethod;

/// Number of answers that are remembered.
const MAX_ANSWERS: usize = 10_000;

/// Bytes of the names, of database and user, of which an answer is remembered: PostgreSQL's own have 63 each. Clients that have proved
/// nothing make up longer ones.
const MAX_NAME_BYTES: usize = 256;

/// Number of failures that are logged at once, and time per failure after that.
const TELL_BURST: u32 = 20;
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of connections that are kept when they are not used: clients name databases before they have logged in.
const MAX_CONNECTIONS: usize = 4;

/// Asks the upstream for secrets.
#[derive(Debug)]
pub(crate) struct AuthQuery {
    user: String,
    query: String,
    database: Option<String>,
    ttl: Duration,
    limit: Duration,
    /// The secret of `user` itself, where it is stored here.
    own: Option<Credential>,
    /// The kinds of secrets that were among the answers.
    kinds: std::sync::Mutex<Kinds>,
    /// Limit on failures that are logged.
    told: std::sync::Mutex<Bucket>,
    /// Answers by database and user.
    known: std::sync::Mutex<Answers>,
    /// A connection for each database.
    open: std::sync::Mutex<HashMap<Vec<u8>, Arc<Place>>>,
}

/// The place of the connection to one database, with it while it is open; locked by the lookup that uses it.
type Place = Mutex<Option<(Conn, ReclaimableSlot)>>;

/// The turn of a lookup.
struct Turn {
    place: OwnedMutexGuard<Option<(Conn, ReclaimableSlot)>>,
    _permit: OwnedSemaphorePermit,
}

/// The slot of an open connection, which is given up when it is needed.
#[derive(Debug)]
struct ReclaimableSlot {
    _counted: Reclaimable,
    _slot: UnpooledSlot,
    keeper: AbortHandle,
}

impl Drop for ReclaimableSlot {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Answers by database and user.
type Answers = HashMap<(Vec<u8>, Vec<u8>), Known>;

/// An answer that is remembered.
#[derive(Clone, Debug)]
struct Known {
    since: Instant,
    secret: Option<Stored>,
}

/// Reason why a secret could not be looked up.
enum Failure {
    /// The connection is of no use any more; a new one may be.
    Broke(String),
    /// The server answered with an error, or with what can't be understood.
    Answer(String),
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        Self::Broke(error.to_string())
    }
}

impl AuthQuery {
    /// Creates it as `settings` say; `None` without an `auth_query`.
    #[must_use]
    pub(crate) fn new(settings: &Settings) -> Option<Self> {
        let user = settings.auth.auth_user.clone()?;
        let own = match settings.auth.users.get(user.as_bytes()) {
            Some(Stored::Plain(password)) => Some(Credential::Password(password.clone())),
            Some(Stored::Md5(secret)) => Some(Credential::Md5(secret.clone())),
            Some(Stored::Scram(_)) | None => None,
        };
        Some(Self {
            user,
            query: settings.auth.auth_query.clone(),
            database: settings.auth.auth_dbname.clone(),
            ttl: settings.auth.auth_query_ttl,
            limit: settings.timeouts.server_connect_timeout,
            own,
            kinds: std::sync::Mutex::default(),
            told: std::sync::Mutex::new(Bucket::new(TELL_BURST, TELL_INTERVAL, Instant::now())),
            known: std::sync::Mutex::default(),
            open: std::sync::Mutex::default(),
        })
    }

    /// Looks up the secret of `user` for `database`; `None` if there is none, and so no login. Cancel-safe: a lookup that has begun goes on
    /// to its end, so that its connection is kept, or closed as it should be.
    ///
    /// # Errors
    /// What the client is told when the upstream can't be asked.
    pub(crate) async fn secret(
        self: &Arc<Self>,
        pools: &Arc<Pools>,
        database: &[u8],
        user: &[u8],
    ) -> Result<Option<Stored>, ClientError> {
        let database = self.database.as_ref().map_or(database, |own| own.as_bytes());
        let key = (database.to_vec(), user.to_vec());
        if let Some(known) = self.remembered(&key) {
            return Ok(known.secret);
        }
        let turn = timeout(self.limit, self.turn(pools, database)).await.ok().flatten();
        let turn = turn.ok_or_else(|| self.failed("too many ask at once"))?;
        // Another task may have asked the same while this one waited for the connection.
        if let Some(known) = self.remembered(&key) {
            return Ok(known.secret);
        }
        let (auth_query, pools) = (Arc::clone(self), Arc::clone(pools));
        let lookup = tokio::spawn(async move {
            let found = auth_query.ask(&pools, turn, &key.0, &key.1).await?;
            if let Some(stored) = &found {
                lock(&auth_query.kinds).note(stored);
            }
            auth_query.remember(key, found.clone());
            Ok(found)
        });
        lookup.await.unwrap_or_else(|panic| Err(self.failed(&panic.to_string())))
    }

    /// Waits for the turn of a lookup in `database`: one at a time there, and few at a time at its server.
    async fn turn(&self, pools: &Pools, database: &[u8]) -> Option<Turn> {
        let place = self.place(database).lock_owned().await;
        let upstream_target = pools.server_side.config.upstream_target(database);
        let permit = Arc::clone(&upstream_target.lookups).acquire_owned().await.ok()?;
        Some(Turn { place, _permit: permit })
    }

    /// The place of the connection to `database`.
    fn place(&self, database: &[u8]) -> Arc<Place> {
        let mut open = lock(&self.open);
        if let Some(place) = open.get(database) {
            return Arc::clone(place);
        }
        // Those that are empty and wanted by no lookup.
        open.retain(|_, place| Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|conn| conn.is_some()));
        Arc::clone(open.entry(database.to_vec()).or_default())
    }

    fn places(&self) -> Vec<Arc<Place>> {
        lock(&self.open).values().cloned().collect()
    }

    /// The kinds of the secrets that were found so far.
    #[must_use]
    pub(crate) fn found(&self) -> Kinds {
        lock(&self.kinds).clone()
    }

    /// Drops a cached answer after a wrong password: the next client may have a newer one, so the server is asked again.
    pub(crate) fn invalidate(&self, database: &[u8], user: &[u8]) {
        let database = self.database.as_ref().map_or(database, |own| own.as_bytes());
        let mut known = self.answers();
        known.remove(&(database.to_vec(), user.to_vec()));
    }

    /// Drops all cached answers, since roles have changed.
    pub(crate) fn forget_answers(&self) {
        self.answers().clear();
    }

    /// Closes what is open, the server first.
    pub(crate) async fn close(&self, counters: &Counters) {
        for place in self.places() {
            let Some((conn, _slot)) = place.lock().await.take() else { continue };
            let how = ServerConn::close(conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Session);
        }
    }

    /// Keeps `slot` for the connection in `place` until it is needed.
    fn keep(slot: UnpooledSlot, server_side: &Arc<ServerSide>, place: &Arc<Place>) -> ReclaimableSlot {
        let (counted, needed) = server_side.auth_query_slots.add();
        let (place, server_side) = (Arc::downgrade(place), Arc::clone(server_side));
        let keeper = tokio::spawn(async move {
            needed.await;
            let Some(place) = place.upgrade() else { return };
            let reclaimed = place.lock().await.take();
            // Dropping the slot ends this task.
            tokio::spawn(async move {
                let Some((conn, slot)) = reclaimed else { return };
                let how = ServerConn::close(conn, CloseMethod::Terminate).await;
                server_side.counters.close(how, CloseReason::Surplus);
                drop(slot);
            });
        });
        ReclaimableSlot { _counted: counted, _slot: slot, keeper: keeper.abort_handle() }
    }

    /// Error for a client, of which the log has more; clients that have not logged in can have lookups fail in ever new ways.
    fn failed(&self, why: &str) -> ClientError {
        if lock(&self.told).take(Instant::now(), Duration::ZERO).is_some() {
            tracing::warn!("auth_query: {why}");
        } else {
            tracing::debug!("auth_query: {why}");
        }
        // Before the login the server's words are not passed on.
        ClientError::fatal(ErrorSource::Server, sqlstate::UNABLE_TO_CONNECT, "the user's secret could not be looked up")
            .hint("pgferry's log says why (auth_query, auth_user).")
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        lock(&self.known)
    }

    /// Returns what is remembered of `user` for `database`.
    #[must_use]
    pub(crate) fn known(&self, database: &[u8], user: &[u8]) -> Lookup {
        let database = self.database.as_ref().map_or(database, |own| own.as_bytes());
        let known = self.remembered(&(database.to_vec(), user.to_vec()));
        known.map_or(Lookup::Due, |known| Lookup::Done(known.secret))
    }

    fn remember(&self, key: (Vec<u8>, Vec<u8>), secret: Option<Stored>) {
        if key.0.len() + key.1.len() > MAX_NAME_BYTES {
            return;
        }
        let mut known = self.answers();
        if known.len() >= MAX_ANSWERS {
            known.clear();
        }
        known.insert(key, Known { since: Instant::now(), secret });
    }

    fn remembered(&self, key: &(Vec<u8>, Vec<u8>)) -> Option<Known> {
        self.answers().get(key).filter(|known| known.since.elapsed() < self.ttl).cloned()
    }

    async fn ask(
        &self,
        pools: &Pools,
        mut turn: Turn,
        database: &[u8],
        user: &[u8],
    ) -> Result<Option<Stored>, ClientError> {
        let counters = &pools.server_side.counters;
        if let Some(known) = turn.place.take() {
            match self.run(counters, known, &mut turn, user).await {
                Ok(found) => return Ok(found),
                Err(Failure::Answer(why)) => return Err(self.failed(&why)),
                // It has been idle for a while, perhaps the server was restarted.
                Err(Failure::Broke(_)) => {}
            }
        }
        let new = self.connect(pools, database, OwnedMutexGuard::mutex(&turn.place)).await?;
        match self.run(counters, new, &mut turn, user).await {
            Ok(found) => {
                self.close_surplus(counters).await;
                Ok(found)
            }
            Err(Failure::Answer(why) | Failure::Broke(why)) => Err(self.failed(&why)),
        }
    }

    /// Closes an unused connection where too many are kept.
    async fn close_surplus(&self, counters: &Counters) {
        let places = self.places();
        let unused = places.iter().filter_map(|place| place.try_lock().ok().filter(|conn| conn.is_some()));
        let mut unused: Vec<_> = unused.collect();
        // Besides the one that has just been used, which is locked.
        if unused.len() < MAX_CONNECTIONS {
            return;
        }
        let surplus = unused.pop().and_then(|mut conn| conn.take());
        drop(unused);
        if let Some((conn, slot)) = surplus {
            let how = ServerConn::close(conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Surplus);
            drop(slot);
        }
    }

    async fn connect(
        &self,
        pools: &Pools,
        database: &[u8],
        place: &Arc<Place>,
    ) -> Result<(Conn, ReclaimableSlot), ClientError> {
        let slot = pools
            .slot(None, self.limit)
            .await
            .ok_or_else(|| self.failed("no upstream connection is free (max_upstream)"))?;
        let ServerSide { counters, buffers, .. } = &*pools.server_side;
        let Basis { birth, settings, upstream_target } = pools.server_side.basis(database);
        let params = vec![
            (b"database".to_vec(), settings.real_database(database).to_vec()),
            (b"application_name".to_vec(), b"pgferry auth_query".to_vec()),
        ];
        let deadline = Instant::now() + self.limit;
        loop {
            let (params, secret) = (params.clone(), Secret::Fixed(self.own.clone()));
            let upstream_target = Arc::clone(&upstream_target);
            let login = Login { birth, user: self.user.clone().into_bytes(), params, secret, upstream_target };
            let failure = match dial::dial(&settings, login, counters, buffers, self.limit).await {
                Ok(new_conn) => {
                    return Ok((new_conn.conn, Self::keep(slot, &pools.server_side, place)));
                }
                Err(failure) => failure,
            };
            counters.fail(&failure.error.client_error());
            let error = failure.error.clone();
            failure.close(counters).await;
            if !error.is_full() || Instant::now() >= deadline {
                return Err(self.failed(&error.client_error().to_string()));
            }
            pools.server_is_full(None, database, &error);
            tokio::time::sleep(pause_while_full()).await;
        }
    }

    /// Asks over a connection, which is kept for the next lookup if it is still good.
    async fn run(
        &self,
        counters: &Counters,
        (mut conn, slot): (Conn, ReclaimableSlot),
        turn: &mut Turn,
        user: &[u8],
    ) -> Result<Option<Stored>, Failure> {
        // A time limit around all of this would leave the connection without a farewell.
        let answer = timeout(self.limit, self.exchange(&mut conn, user)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::Broke("timed out (server_connect_timeout)".into())));
        if let Err(Failure::Broke(_)) = &answer {
            let how = ServerConn::close(conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Dead);
        } else {
            *turn.place = Some((conn, slot));
        }
        answer
    }

    async fn exchange(&self, conn: &mut Conn, user: &[u8]) -> Result<Option<Stored>, Failure> {
        let mut out = BytesMut::new();
        let write = |out: &mut BytesMut| {
            protocol::parse("", &self.query, [], out)?;
            let value = |(): &(), buf: &mut BytesMut| {
                buf.extend_from_slice(user);
                Ok(IsNull::No)
            };
            protocol::bind("", "", [0], [()], |unit, buf| value(&unit, buf), [0], out)
                .map_err(|_| std::io::Error::other("a user name with a NUL"))?;
            protocol::execute("", 2, out)?;
            protocol::sync(out);
            std::io::Result::Ok(())
        };
        write(&mut out).map_err(|error| Failure::Answer(error.to_string()))?;
        conn.output.extend_from_slice(&out);
        match simple_query::rows(conn).await?.map_err(Failure::Answer)?.as_slice() {
            [] => Ok(None),
            [row] => read(row, user).map_err(Failure::Answer),
            _ => Err(Failure::Answer("it gives more than one row".into())),
        }
    }
}

/// A row of user and secret. A row about another user would let that user's password in (CVE-2015-6817).
fn read(row: &Row, user: &[u8]) -> Result<Option<Stored>, String> {
    match row.as_slice() {
        [name, _] if name != user => Err("it returned another user's secret".into()),
        // No secret, or none that is still valid.
        [_, secret] if secret.is_empty() => Ok(None),
        [_, secret] => {
            let text = std::str::from_utf8(secret).map_err(|_| "it gives a secret that is not text".to_owned())?;
            match Stored::parse(text) {
                // pg_authid has no plain passwords: what looks like one is of a kind that is not known here.
                Ok(Stored::Plain(_)) | Err(_) => {
                    Err("it gives a secret that is neither md5… nor SCRAM-SHA-256$…".into())
                }
                Ok(stored) => Ok(Some(stored)),
            }
        }
        columns => Err(format!("it gives {} columns, not the user's name and secret", columns.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn answers_about_names_that_no_server_has_are_not_kept() {
        let mut written = RawConfig::default();
        written.file_text("f", "upstream = \"postgres://h\"\nauth_user = \"looks\"").expect("a configuration");
        let auth_query = AuthQuery::new(&Settings::resolve(&written).expect("settings")).expect("an auth_query");
        let long = vec![b'x'; 9000];
        for (database, user) in [(&b"d"[..], &b"u"[..]), (b"d", &long), (&long, b"u")] {
            auth_query.remember((database.to_vec(), user.to_vec()), None);
            let is_known = matches!(auth_query.known(database, user), Lookup::Done(None));
            assert_eq!(is_known, database.len() + user.len() < 100);
        }
    }
}
