//! What PostgreSQL says of its own limits, asked on one connection with the credentials that are configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::timeout;

use super::to_pgferry;
use crate::config::{CONSOLE, Endpoint, Reset, Settings};
use crate::net::tls::TlsSession;
use crate::net::{BufferPool, Conn};
use crate::track::server_state::CloseMethod;
use crate::track::session_code::{Due, Reach, SessionCode};
use crate::upstream::Secret;
use crate::upstream::conn_info::Birth;
use crate::upstream::counters::Counters;
use crate::upstream::dial::{self, Login, NewConn};
use crate::upstream::occupancy::Occupancy;
use crate::upstream::server_conn::ServerConn;
use crate::upstream::session_code;
use crate::upstream::simple_query::{self, Row};
use crate::upstream::target::UpstreamTargets;
use crate::wire::frontend;

/// Answers of a server.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Its version.
    pub version: String,
    /// Milliseconds to connect and log in.
    pub connect_ms: f64,
    /// Milliseconds of a round trip.
    pub round_trip_ms: f64,
    /// Description of the connection's encryption.
    pub tls: Option<String>,
    /// `max_connections`.
    pub max_connections: i64,
    /// Number of those reserved for superusers.
    pub reserved: i64,
    /// Number of clients that are connected now.
    pub connected: i64,
    /// The role's `CONNECTION LIMIT`; -1 = none.
    pub role_limit: i64,
    /// `idle_session_timeout` in milliseconds; 0 = never.
    pub idle_session_timeout_ms: i64,
    /// `idle_in_transaction_session_timeout` in milliseconds; 0 = never.
    pub idle_in_transaction_ms: i64,
    /// State that the code in its database may leave in sessions, where that decides about resets.
    pub session_code: Option<DatabaseCode>,
}

/// State that the code in a database may leave in sessions.
#[derive(Clone, Debug, Serialize)]
pub struct DatabaseCode {
    /// The database.
    pub database: String,
    /// True if a session has to be reset between two clients because of it.
    pub needs_resets: bool,
    /// State that it may leave: "nothing", "sequences" (their last values), "anything" or "unknown".
    pub leaves: &'static str,
    /// Some of what does, or else why that is not known.
    pub because: String,
}

/// One row of six columns, in what every version since 10 understands.
const QUESTION: &str = "select current_setting('max_connections')::bigint, \
    current_setting('superuser_reserved_connections')::bigint \
        + coalesce(current_setting('reserved_connections', true)::bigint, 0), \
    (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()), \
    (select rolconnlimit from pg_catalog.pg_roles where rolname = current_user), \
    coalesce((select setting from pg_catalog.pg_settings where name = 'idle_session_timeout'), '0')::bigint, \
    (select setting from pg_catalog.pg_settings where name = 'idle_in_transaction_session_timeout')::bigint, \
    current_setting('server_version')";

impl Server {
    /// Number of connections that a process that has none yet may have without leaving too few to others: what `max_upstream = "auto"`
    /// comes to.
    #[must_use]
    pub fn share(&self) -> usize {
        let number = |number: i64| usize::try_from(number).unwrap_or_default();
        let occupancy = Occupancy {
            max_connections: number(self.max_connections),
            reserved: number(self.reserved),
            used: number(self.connected),
            ..Occupancy::default()
        };
        occupancy.share(0)
    }
}

/// Reason why a server could not be asked, and what is known of it nevertheless.
#[derive(Clone, Debug, Serialize)]
pub struct Unasked {
    /// Cause.
    pub why: String,
    /// Occupancy of the server, as the pgferry that runs here has seen it.
    pub seen: Option<Seen>,
}

/// Occupancy of a server, as a pgferry has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// `max_connections`.
    pub max_connections: i64,
    /// Number of those reserved for superusers.
    pub reserved: i64,
    /// Number of clients that were connected.
    pub connected: i64,
}

/// Asks the upstream of `settings`, as its user, whichever of its hosts takes the connection; where none does, the pgferry that
/// listens as `settings` say is asked what it has seen of it.
///
/// # Errors
/// Why it could not be asked.
pub(crate) async fn ask(settings: &Settings) -> Result<Server, Unasked> {
    match ask_directly(settings).await {
        Ok(server) => Ok(server),
        Err(why) => Err(Unasked { why, seen: seen(settings).await }),
    }
}

/// Asks the server at `address`, one of those of `endpoint`, likewise.
///
/// # Errors
/// As [`ask`].
pub(super) async fn ask_at(settings: &Settings, endpoint: &Endpoint, address: SocketAddr) -> Result<Server, Unasked> {
    let mut only = settings.clone();
    only.upstream.url.endpoints = vec![Endpoint { host: endpoint.host.clone(), address: Some(address.ip()) }];
    // Databases with an upstream of their own are another matter.
    only.databases.clear();
    let asked = match &only.upstream.url.user {
        Some(_) => ask_directly(&only).await,
        None => reach(&only).await.and_then(|()| Err("the upstream URL names no user".to_owned())),
    };
    match asked {
        Ok(server) => Ok(server),
        Err(why) => Err(Unasked { why, seen: seen(settings).await }),
    }
}

/// Asks the console of the pgferry that runs with `settings`, if that is permitted.
async fn seen(settings: &Settings) -> Option<Seen> {
    let mut console = to_pgferry::through(settings)?;
    console.upstream.url.database = Some(CONSOLE[0].to_owned());
    let mut new_conn = connect(&console).await.ok()?;
    let answer = rows(&mut new_conn.conn, "SHOW CAPACITY", settings.timeouts.server_connect_timeout).await;
    ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
    let rows = answer.ok()?;
    let places = settings.upstream.url.places().into_bytes();
    let row = rows.iter().find(|row| row.first() == Some(&places))?;
    let number = |at: usize| std::str::from_utf8(row.get(at)?).ok()?.parse().ok();
    Some(Seen { max_connections: number(1)?, reserved: number(2)?, connected: number(3)? })
}

async fn ask_directly(settings: &Settings) -> Result<Server, String> {
    let started = Instant::now();
    let mut new_conn = connect(settings).await?;
    let connect_ms = milliseconds(started);
    let tls = new_conn.conn.stream().tls().map(TlsSession::describe);
    let looked = look(&mut new_conn.conn, settings).await;
    ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
    let (row, round_trip_ms, session_code) = looked?;
    let text = |at: usize| row.get(at).cloned().unwrap_or_default();
    let number = |at: usize| text(at).parse().unwrap_or_default();
    Ok(Server {
        version: text(6),
        connect_ms,
        round_trip_ms,
        tls,
        max_connections: number(0),
        reserved: number(1),
        connected: number(2),
        role_limit: number(3),
        idle_session_timeout_ms: number(4),
        idle_in_transaction_ms: number(5),
        session_code,
    })
}

/// Asks what there is to ask: the row of answers, the milliseconds of a round trip, and what the database's code may leave.
async fn look(conn: &mut Conn, settings: &Settings) -> Result<(Vec<String>, f64, Option<DatabaseCode>), String> {
    let limit = settings.timeouts.server_connect_timeout;
    let row = query(conn, QUESTION, limit).await?;
    let started = Instant::now();
    query(conn, "", limit).await?;
    let round_trip_ms = milliseconds(started);
    let code = if settings.pool.reset == Reset::Auto { look_at_code(conn, settings).await } else { None };
    Ok((row, round_trip_ms, code))
}

/// Looks at the code in the database, as pgferry does.
async fn look_at_code(conn: &mut Conn, settings: &Settings) -> Option<DatabaseCode> {
    let (code, now) = (Arc::new(SessionCode::default()), Instant::now());
    let inquiry = code.claim(Due::Unknown, now)?;
    let limit =
        session_code::Limit { time: settings.timeouts.server_connect_timeout, setting: "server_connect_timeout" };
    let look = session_code::ask(conn, &inquiry, limit, |_, _| ()).await;
    inquiry.ends(look.answer, Instant::now());
    let (leaves, because) = session_code::describe(&code);
    let (database, user) = (&settings.upstream.url.database, &settings.upstream.url.user);
    Some(DatabaseCode {
        database: database.clone().or_else(|| user.clone()).unwrap_or_default(),
        needs_resets: code.found().map_or(true, |found| found.reach == Reach::Anything),
        leaves,
        because,
    })
}

/// Milliseconds to connect, log in and get a row.
///
/// # Errors
/// Why that can't be done.
pub(crate) async fn first_row_ms(settings: &Settings) -> Result<f64, String> {
    let started = Instant::now();
    let mut new_conn = connect(settings).await?;
    let answer = query(&mut new_conn.conn, "select 1", settings.timeouts.server_connect_timeout).await;
    let took = milliseconds(started);
    ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
    answer.map(|_| took)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

async fn connect(settings: &Settings) -> Result<NewConn, String> {
    let upstream_targets = UpstreamTargets::new(settings, None)?;
    let buffers = BufferPool::new(settings.listen.buffer_size, 1);
    let counters = Counters::default();
    let user = settings.upstream.url.user.clone().ok_or("the upstream URL names no user")?;
    let database = settings.upstream.url.database.clone().unwrap_or_else(|| user.clone());
    let upstream_target = Arc::clone(upstream_targets.of(database.as_bytes()));
    let params =
        vec![(b"database".to_vec(), database.into_bytes()), (b"application_name".to_vec(), b"pgferry doctor".to_vec())];
    let login = Login {
        birth: Birth::default(),
        user: user.into_bytes(),
        params,
        secret: Secret::Fixed(None),
        upstream_target,
    };
    match dial::dial(settings, login, &counters, &buffers, settings.timeouts.server_connect_timeout).await {
        Ok(new_conn) => Ok(new_conn),
        Err(failed) => {
            let error = failed.error.client_error().to_string();
            failed.close(&counters).await;
            Err(error)
        }
    }
}

/// Connects without a word.
///
/// # Errors
/// Why that can't be done.
async fn reach(settings: &Settings) -> Result<(), String> {
    let (targets, limit) = (UpstreamTargets::new(settings, None)?, settings.timeouts.server_connect_timeout);
    for host in &targets.of(b"").endpoints {
        let why = match timeout(limit, async { host.place().await?.connect().await }).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("timed out after {limit:?} (server_connect_timeout)"),
        };
        return Err(format!("could not connect to the upstream server at {}: {why}", host.host));
    }
    Ok(())
}

/// Runs a query that gives one row at most, within `limit`.
async fn query(conn: &mut Conn, sql: &str, limit: Duration) -> Result<Vec<String>, String> {
    let row = rows(conn, sql, limit).await?.into_iter().next().unwrap_or_default();
    Ok(row.iter().map(|column| String::from_utf8_lossy(column).into_owned()).collect())
}

/// Runs a query within `limit`: a server that has let pgferry in may stop answering all the same.
async fn rows(conn: &mut Conn, sql: &str, limit: Duration) -> Result<Vec<Row>, String> {
    frontend::put_query(&mut conn.output, sql.as_bytes());
    match timeout(limit, simple_query::rows(conn)).await {
        Ok(answer) => answer.map_err(|error| error.to_string())?,
        Err(_) => Err("the server did not answer in time (server_connect_timeout)".into()),
    }
}
