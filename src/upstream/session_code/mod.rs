//! Looks at the catalogs of databases: what the code there may leave in a session.
//!
//! A look is taken on a connection that is opening, that is idle, or that has just come back; never on one of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use super::active_config::ActiveConfig;
use super::close::CloseReason;
use super::dial::{DialError, NewConn};
use super::server_conn::ServerConn;
use super::simple_query::{self, Row};
use super::target::Address;
use crate::config::Reset;
use crate::lock::lock;
use crate::net::{Conn, RecvError};
use crate::track::plan_settings::FunctionPlans;
use crate::track::server_state::UsedBy;
use crate::track::session_code::{Answer, Due, Finding, Inquiry, News, Reach, SessionCode};
use crate::track::statement_ids::StatementIds;
use crate::track::stored_code::{self, Language, Leaving};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{ServerParams, ServerState};
use crate::wire::frontend;

/// Beginning of every look, in force until it ends: whatever settings a client has left there, or its role has, must change neither
/// what the names mean nor how the answer is written, nor have it wait or fail. There is a `transaction_timeout` from PostgreSQL 17 on.
const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL search_path TO pg_catalog, pg_temp; SET LOCAL client_encoding TO 'SQL_ASCII'; \
    SELECT WHERE CASE WHEN current_setting('server_version_num')::int4 >= 170000 \
    THEN set_config('transaction_timeout', '0', true) IS NULL END;";

/// A digest of all code, and of how often functions and views have been changed; and how often any definitions have been.
const DIGEST: &str = include_str!("digest.sql");

/// Query for code that may leave something, the names of functions that do, and the sources of others.
const CODE: &str = include_str!("code.sql");

/// Number of culprits that are remembered.
const MAX_CULPRITS: usize = 10;

/// Number of databases from which on those are forgotten to which there is no connection.
const MAX_UNUSED: usize = 100;

/// Number of characters of a culprit's name that are shown.
const MAX_SHOWN: usize = 150;

/// A database of a server, and whether that is a standby: those may lag behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CodeKey {
    address: Address,
    database: Vec<u8>,
    standby: bool,
}

/// Knowledge of the code in the databases to which there are connections.
#[derive(Debug)]
pub(crate) struct SessionCodes {
    codes: Mutex<HashMap<CodeKey, Arc<SessionCode>>>,
    statements: Arc<StatementIds>,
}

impl SessionCodes {
    /// Creates that of a process in which statements have their numbers from `statements`.
    pub(super) fn new(statements: Arc<StatementIds>) -> Self {
        Self { codes: Mutex::default(), statements }
    }

    /// Returns that of `database`, by the name that the server has for it, at a server that reports `params`.
    fn of(&self, address: &Address, database: Vec<u8>, params: &ServerParams) -> Arc<SessionCode> {
        let standby = params.get(b"in_hot_standby") == Some(b"on");
        let key = CodeKey { address: address.clone(), database, standby };
        let mut codes = lock(&self.codes);
        if codes.len() >= MAX_UNUSED && !codes.contains_key(&key) {
            codes.retain(|_, code| Arc::strong_count(code) > 1);
        }
        let code = codes.entry(key).or_insert_with(|| Arc::new(SessionCode::new(Arc::clone(&self.statements))));
        if Arc::strong_count(code) == 1 {
            // Without a connection a database may be dropped, and another one made by its name.
            code.is_doubtful();
        }
        Arc::clone(code)
    }

    /// Finds what is known of the code in clients' `database` at the server that a connection has just been opened to, and looks at
    /// the catalog if nothing is.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(super) async fn first_look(
        &self,
        new_conn: &mut NewConn,
        config: &ActiveConfig,
        database: &[u8],
        limit: Duration,
    ) -> Result<(), DialError> {
        let NewConn { conn, params, address, code, .. } = new_conn;
        *code = self.of(address, config.real_database(database), params);
        if config.settings_of(database).pool.reset != Reset::Auto {
            return Ok(());
        }
        let Some(inquiry) = code.claim(Due::Unknown, Instant::now()) else { return Ok(()) };
        let limit = Limit { time: limit, setting: "server_connect_timeout" };
        let look = ask(conn, &inquiry, limit, |name, value| {
            params.set(name, value);
        });
        let Look { answer, broken } = look.await;
        note(inquiry, answer, database);
        broken.map_or(Ok(()), Err)
    }
}

/// Describes what is known of the code in a database, for people to read: what it may leave, and some of what does, or else
/// why nothing is known.
#[must_use]
pub(crate) fn describe(code: &SessionCode) -> (&'static str, String) {
    match code.found() {
        Ok(found) => {
            let leaves = match found.reach {
                Reach::Nothing => "nothing",
                Reach::Sequences => "sequences",
                Reach::Anything => "anything",
            };
            (leaves, found.culprits.join("; "))
        }
        Err(why) => ("unknown", why.unwrap_or_default()),
    }
}

/// Returns whether what a client may have left in a session has to be reset before another gets it, with `reset` in force.
#[must_use]
pub fn needs_reset(reset: Reset, state: &ServerState, now: Instant) -> bool {
    let is_used = state.used != UsedBy::Nothing;
    is_used
        && match reset {
            Reset::Always => true,
            Reset::Auto => state.code.reach(now) == Reach::Anything,
            Reset::OnChange | Reset::Never => false,
        }
}

/// Time that a look may take, and the setting that gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// The time.
    pub time: Duration,
    /// The setting.
    pub setting: &'static str,
}

impl Limit {
    /// Time that the server may take for one statement, in milliseconds: it ends what takes too long itself, so that none of it goes on
    /// without the connection.
    fn statement_timeout(self) -> u128 {
        (self.time * 4 / 5).as_millis().clamp(1, i32::MAX as u128)
    }

    fn exceeded(self) -> String {
        format!("the server did not answer in time ({})", self.setting)
    }
}

/// Result of a look.
#[derive(Debug)]
pub(crate) struct Look {
    /// Its answer.
    pub answer: Answer,
    /// Reason why the connection is of no use any more, if so.
    pub broken: Option<DialError>,
}

/// Looks at the catalog of clients' `database` on a connection that no client has; returns whether that is of use still.
pub(super) async fn look(server_conn: &mut ServerConn, inquiry: Inquiry, database: &[u8], limit: Duration) -> bool {
    server_conn.state.unnamed = UnnamedStatement::Absent;
    let (state, mut has_room) = (&mut server_conn.state, true);
    let before = state.params.clone();
    let limit = Limit { time: limit, setting: "cleanup_timeout" };
    let report = |name: &[u8], value: &[u8]| has_room &= state.on_report(name, value);
    let Look { mut answer, broken } = ask(&mut server_conn.conn, &inquiry, limit, report).await;
    if !has_room {
        answer = Answer::Failed("the server reports more settings than can be kept".into());
    }
    server_conn.state.on_new_defaults_since(&before);
    note(inquiry, answer, database);
    let is_of_use = has_room && broken.is_none();
    if !is_of_use {
        server_conn.close_reason = CloseReason::Dead;
    }
    is_of_use
}

/// Takes note of what a look has shown, and tells what is news.
fn note(inquiry: Inquiry, answer: Answer, database: &[u8]) {
    let database = String::from_utf8_lossy(database);
    match inquiry.ends(answer, Instant::now()) {
        None => {}
        Some(News::Failed(why)) => {
            warn!(%database, "its code could not be looked at, so every session is reset between two clients: {why}");
        }
        Some(News::Found(Reach::Nothing, _)) => {
            info!(%database, "its code leaves nothing in a session: sessions are reset only after statements that do");
        }
        Some(News::Found(Reach::Sequences, culprits)) => info!(
            %database,
            "its code leaves no more than what sequences have given, which a session forgets between two clients: {}",
            culprits.join("; ")
        ),
        Some(News::Found(Reach::Anything, culprits)) => info!(
            %database,
            "its code may leave something in a session, so every session is reset between two clients: {}",
            culprits.join("; ")
        ),
    }
}

/// Asks the server on `conn`, which is idle, about the code that `inquiry` is about, within `limit`. Settings that it reports meanwhile go
/// to `reported`.
pub(crate) async fn ask(conn: &mut Conn, inquiry: &Inquiry, limit: Limit, reported: impl FnMut(&[u8], &[u8])) -> Look {
    match timeout(limit.time, ask_patiently(conn, inquiry, limit, reported)).await {
        Ok(Ok(answer)) => Look { answer, broken: None },
        Ok(Err(error)) => Look { answer: Answer::Failed(error.to_string()), broken: Some(error.into()) },
        Err(_) => Look { answer: Answer::Failed(limit.exceeded()), broken: Some(DialError::Broke(limit.exceeded())) },
    }
}

/// As [`ask`], for as long as the server takes.
///
/// # Errors
/// When the connection is of no use any more.
async fn ask_patiently(
    conn: &mut Conn,
    inquiry: &Inquiry,
    limit: Limit,
    mut reported: impl FnMut(&[u8], &[u8]),
) -> Result<Answer, RecvError> {
    let code = inquiry.code();
    let statement_timeout = limit.statement_timeout();
    let begin = format!("SET LOCAL statement_timeout TO {statement_timeout}; {} {BEGIN}", simple_query::WITHOUT_JIT);
    let started = Instant::now();
    let failed = |why| {
        let is_late = started.elapsed().as_millis() >= statement_timeout;
        Ok(Answer::Failed(if is_late { limit.exceeded() } else { why }))
    };
    let note_definitions =
        |rows: &[Row]| value(rows, b"definitions").iter().for_each(|changes| code.on_definitions(changes));
    if let Some(known) = &inquiry.known {
        frontend::put_query(&mut conn.output, format!("{begin} {DIGEST}").as_bytes());
        match simple_query::rows_and(conn, &mut reported).await? {
            Ok(rows) => {
                note_definitions(&rows);
                if value(&rows, b"digest") == Some(known) {
                    return Ok(Answer::Same);
                }
            }
            Err(why) => return failed(why),
        }
    }
    // The digest first: what changes in between shows the next time.
    frontend::put_query(&mut conn.output, format!("{begin} {DIGEST}; {CODE}").as_bytes());
    let rows = match simple_query::rows_and(conn, &mut reported).await? {
        Ok(rows) => rows,
        Err(why) => return failed(why),
    };
    note_definitions(&rows);
    // Megabytes of sources may have to be read.
    let found = tokio::task::spawn_blocking(move || read(&rows)).await.unwrap_or_default();
    Ok(found.map_or_else(|| Answer::Failed("the server's answer is not understood".into()), Answer::Found))
}

/// The value of the first row of this kind in an answer.
fn value<'a>(rows: &'a [Row], kind: &[u8]) -> Option<&'a Vec<u8>> {
    rows.iter().find(|row| row.first().is_some_and(|first| first == kind)).and_then(|row| row.get(3))
}

/// Reads the rows of an answer; `None` where they are not what was asked for.
fn read(rows: &[Row]) -> Option<Finding> {
    let digest = value(rows, b"digest")?.clone();
    let mut found = Finding { digest, plans: FunctionPlans::None, ..Finding::default() };
    let mut leaving = Leaving::new();
    for row in rows.iter().filter(|row| row.first().is_some_and(|kind| kind == b"names")) {
        let reach = reach(row.get(2)?)?;
        let names = row.get(3)?.split(|byte| *byte == b' ').map(|name| (name.to_ascii_lowercase(), reach));
        leaving.extend(names);
    }
    // There are such functions in every PostgreSQL.
    leaving.get(b"pg_advisory_lock".as_slice()).filter(|reach| **reach == Reach::Anything)?;
    let mut culprits = Vec::new();
    for row in rows {
        let [kind, name, detail, text] = row.as_slice() else { return None };
        let one = match kind.as_slice() {
            b"found" => Some((reach(detail)?, String::from_utf8_lossy(text).into_owned())),
            b"source" => {
                let language = match detail.as_slice() {
                    b"sql" => Language::Sql,
                    b"plpgsql" => Language::PlPgSql,
                    _ => return None,
                };
                stored_code::reach(text, language, &leaving).map(|(reach, word)| (reach, format!("it says \"{word}\"")))
            }
            b"plans" => {
                found.plans = match detail.as_slice() {
                    b"moment" => FunctionPlans::OfTheMoment,
                    _ => FunctionPlans::Kept,
                };
                None
            }
            b"digest" | b"definitions" | b"names" => None,
            _ => return None,
        };
        if let Some((reach, why)) = one {
            culprits.push((reach, format!("{} ({why})", String::from_utf8_lossy(name))));
        }
    }
    culprits.sort_by_key(|(reach, _)| std::cmp::Reverse(*reach));
    found.reach = culprits.first().map(|(reach, _)| *reach).unwrap_or_default();
    found.culprits = culprits.iter().map(|(_, culprit)| shown(culprit)).take(MAX_CULPRITS).collect();
    Some(found)
}

/// A name as far as it is shown, on one line.
fn shown(name: &str) -> String {
    name.chars().take(MAX_SHOWN).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Reads what code may leave, as an answer writes it.
fn reach(written: &[u8]) -> Option<Reach> {
    match written {
        b"1" => Some(Reach::Sequences),
        b"2" => Some(Reach::Anything),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 4]]) -> Vec<Row> {
        rows.iter().map(|row| row.iter().map(|value| value.as_bytes().to_vec()).collect()).collect()
    }

    const NAMES: [[&str; 4]; 2] = [["names", "", "1", "nextval"], ["names", "", "2", "pg_advisory_lock set_config"]];

    #[test]
    fn what_leaves_most_decides() {
        let mut all = vec![["digest", "", "", "a"]];
        all.extend(NAMES);
        assert_eq!(read(&rows(&all)).map(|found| found.reach), Some(Reach::Nothing));
        all.push(["source", "function f()", "sql", "select 1"]);
        all.push(["found", "view v", "1", "what it calls"]);
        let found = read(&rows(&all)).expect("an answer");
        assert_eq!((found.reach, found.culprits), (Reach::Sequences, vec!["view v (what it calls)".to_owned()]));
        all.push(["source", "function g()", "plpgsql", "begin listen x; end"]);
        let found = read(&rows(&all)).expect("an answer");
        assert_eq!((found.reach, found.culprits[0].as_str()), (Reach::Anything, "function g() (it says \"listen\")"));
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        let whole = [[["digest", "", "", "a"]].as_slice(), &NAMES].concat();
        assert!(
            read(&rows(&whole)).is_some() && read(&rows(&whole[1..])).is_none() && read(&rows(&whole[..2])).is_none()
        );
        for odd in [["other", "", "", ""], ["found", "x", "3", ""], ["source", "x", "plperl", ""]] {
            assert_eq!(read(&rows(&[whole.as_slice(), &[odd]].concat())), None, "{odd:?}");
        }
    }
}
