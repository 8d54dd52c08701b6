//! Prepared statements, as clients and connections share them.
//!
//! A client's name stands for a [`Statement`], which has a name of its own on every connection where it is prepared.
//! Equal texts under equal settings are one statement, so that what one client has prepared another one need not; which
//! statements a connection has is in its [`super::server_statements::ServerStatementCache`], and a client's names are its
//! [`super::client_statements::ClientStatements`]. Both change when a message is *sent*; what turns out not to have happened, because the
//! request failed or was discarded, is taken back with [`super::rollback::Rollback`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::constants::Constants;
use super::keeps_statements::KeepsStatements;
use super::params::ServerParams;
use super::sql_effects::SqlEffects;
use super::statement_ids::StatementIds;
use super::text_edit::{self, Edit, Positions};
use crate::lock::lock;
use crate::wire::frontend;

/// Prefix of every server-side name.
pub(crate) const PREFIX: &str = "pgferry_";

/// Name of a statement and a portal of pgferry's own, which are there for a moment only.
pub(crate) const MEANWHILE: &str = "pgferry_meanwhile";

/// Number of statements that a cache keeps for which no client has a name; as many as clients use where these are more.
const MAX_UNUSED: usize = 5_000;

/// Number of bytes of text that they may have, in the same way.
const MAX_UNUSED_BYTES: usize = 4 * 1024 * 1024;

/// The settings that the meaning of a text depends on when it is prepared, as one string.
pub(crate) type ParseContext = Box<[u8]>;

/// The reported settings among them: which characters a text consists of, and what its constants mean.
pub(crate) const REPORTED: [&str; 5] =
    ["client_encoding", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];

/// Reported settings that a text is read by for good: a server that looks at it anew begins with what it has read (`raw_parse_tree` in
/// `src/include/utils/plancache.h`).
const READ_BY: [&str; 2] = ["client_encoding", "standard_conforming_strings"];

/// Separator between the settings that a statement was first prepared under and those that it is used under.
const UNDER: &[u8] = b"\0under\0";

/// Meaning of a statement once the server has read its text anew, in the sessions that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rereading {
    /// The same.
    Same,
    /// Something else, perhaps: its constants are those of settings that its client has no more, or are one client's own.
    Other,
}

/// A text to be prepared.
#[derive(Debug)]
pub struct ParsedQuery {
    /// The `Parse` message behind its first string: the query's text, and the OIDs of its parameters' types.
    pub body: Box<[u8]>,
    /// Effects of running it on a session.
    pub effects: SqlEffects,
}

impl ParsedQuery {
    /// The same text with `types` of its parameters, where it does not give just these itself.
    #[must_use]
    pub(crate) fn typed(&self, types: &ParameterTypes) -> Option<Self> {
        let (sql, given) = self.body.split_at_checked(frontend::query(&self.body).len() + 1)?;
        (*given != **types).then(|| Self { body: [sql, types].concat().into(), effects: self.effects.clone() })
    }

    /// The body with `edits` of the query's text, and where they lie.
    #[must_use]
    pub fn edited(&self, edits: Vec<Edit>) -> (Vec<u8>, Positions) {
        let sql = frontend::query(&self.body);
        let (mut body, positions) = text_edit::apply(sql, edits);
        body.extend_from_slice(&self.body[sql.len()..]);
        (body, positions)
    }
}

/// A text under certain settings.
#[derive(Debug)]
pub struct Statement {
    /// Its number, which is never used again.
    pub id: u64,
    name: Box<str>,
    /// Text; `None` for one that was too long to be kept, and can be prepared only once.
    pub text: Option<Arc<ParsedQuery>>,
    /// The settings it was first prepared under; `None` where those are one client's own.
    pub parse_context: Option<Arc<ParseContext>>,
    /// The settings that the server reported then.
    pub params: ServerParams,
    retired: AtomicBool,
    /// The server has refused to prepare it anew ahead of its use.
    unrenewable: AtomicBool,
}

/// The number of the statement that has `name` on the server, if one may have it.
#[must_use]
pub(crate) fn number(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name.strip_prefix(PREFIX.as_bytes())?).ok()?.parse().ok()
}

/// The settings that must be others than in a session that reports `now` while a text is prepared there that was first
/// prepared under `params`.
pub(crate) fn other_settings<'a>(
    params: &'a ServerParams,
    now: &'a ServerParams,
) -> impl Iterator<Item = &'static str> + 'a {
    let same = *params == *now;
    let differs = move |name: &&str| !same && params.get(name.as_bytes()) != now.get(name.as_bytes());
    REPORTED.into_iter().filter(differs)
}

/// The columns of a statement's result, as [`crate::wire::backend::shape`] reads them; empty where it has none.
pub(crate) type Columns = Arc<[u8]>;

/// The types of a statement's parameters, as a `ParameterDescription` and the end of a `Parse` have them. The server settles them when it
/// prepares the statement, for good.
pub(crate) type ParameterTypes = Arc<[u8]>;

impl Statement {
    /// The settings it was first prepared under, and behind them those `now` in force, where it is used under others; `None` where the
    /// first are one client's own.
    #[must_use]
    pub(crate) fn context_under(&self, now: &ParseContext) -> Option<Arc<ParseContext>> {
        let then = self.parse_context.as_ref()?;
        Some(Arc::new([then, UNDER, now].concat().into()))
    }

    /// The reported settings that it is prepared under where it means what it means under those of `now`.
    #[must_use]
    pub(crate) fn params_renewed(&self, now: &ServerParams) -> ServerParams {
        let mut params = now.clone();
        for name in READ_BY {
            if let Some(value) = self.params.get(name.as_bytes())
                && now.get(name.as_bytes()) != Some(value)
            {
                params.set(name.as_bytes(), value);
            }
        }
        params
    }

    /// Meaning that it has once the server has read its text anew.
    #[must_use]
    pub(crate) fn rereading(&self) -> Rereading {
        let has_own = |context: &ParseContext| !context.windows(UNDER.len()).any(|part| part == UNDER);
        if self.parse_context.as_ref().is_some_and(|context| has_own(context)) {
            Rereading::Same
        } else {
            Rereading::Other
        }
    }

    /// Its name on every connection where it is prepared.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether servers' plans for it are known to be out of date.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Returns whether it may be prepared anew ahead of its use.
    #[must_use]
    pub fn is_renewable(&self) -> bool {
        !self.unrenewable.load(Ordering::Relaxed)
    }

    /// Notes that the server has refused to prepare it anew ahead of its use.
    pub fn is_not_renewed(&self) {
        self.unrenewable.store(true, Ordering::Relaxed);
    }

    /// Bytes of its text.
    #[must_use]
    pub fn size(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.body.len())
    }
}

type Texts = HashMap<Arc<ParseContext>, HashMap<Box<[u8]>, Arc<Statement>>>;

/// The statements of one pool, which share database, role and startup parameters: equal texts (query and parameter
/// types, whole) under equal settings are one.
#[derive(Debug, Default)]
pub struct StatementCache {
    known: Mutex<Known>,
    ids: Arc<StatementIds>,
    /// Permission for resets of the pool's connections to keep their statements.
    pub keeps: KeepsStatements,
}

#[derive(Debug, Default)]
struct Known {
    texts: Texts,
    count: usize,
    bytes: usize,
    /// The number and bytes of those that clients had a name for when the others were forgotten last.
    used: (usize, usize),
    /// Number of changes of definitions when it was begun.
    definitions: u64,
}

impl StatementCache {
    /// An empty cache that takes its numbers from `ids`.
    #[must_use]
    pub fn new(ids: Arc<StatementIds>) -> Self {
        Self { ids, ..Self::default() }
    }

    /// A number of its own for anything that is told from statements by it.
    pub fn next_id(&self) -> u64 {
        self.ids.next()
    }

    /// The statement for `body` under `parse_context`, of which `params` are the reported settings; `text` makes its text where
    /// it is new. Without a context it is one that no other client shares, nor is one with constants of the moment at which it is
    /// prepared.
    pub fn intern(
        &self,
        parse_context: Option<&Arc<ParseContext>>,
        params: &ServerParams,
        body: &[u8],
        text: impl FnOnce() -> Arc<ParsedQuery>,
    ) -> Arc<Statement> {
        let Some(parse_context) = parse_context else { return self.make(None, params, Some(text())) };
        let mut known = self.known();
        let definitions = self.ids.definitions();
        if known.definitions != definitions {
            *known = Known { definitions, ..Known::default() };
        }
        if let Some(statement) = known.texts.get(parse_context).and_then(|texts| texts.get(body)) {
            return Arc::clone(statement);
        }
        let text = text();
        if text.effects.constants == Constants::OfTheMoment {
            return self.make(Some(Arc::clone(parse_context)), params, Some(text));
        }
        if known.has_many_unused(body.len()) {
            known.forget_unused();
        }
        let statement = self.make(Some(Arc::clone(parse_context)), params, Some(text));
        known.count += 1;
        known.bytes += body.len();
        known.texts.entry(Arc::clone(parse_context)).or_default().insert(body.into(), Arc::clone(&statement));
        statement
    }

    /// Creates a statement that is not kept in the cache.
    pub fn uncached(&self) -> Arc<Statement> {
        self.make(None, &ServerParams::default(), None)
    }

    /// Servers' plans for `statement` are out of date: its text becomes another statement when it is prepared again.
    pub fn retire(&self, statement: &Statement) {
        statement.retired.store(true, Ordering::Relaxed);
        let (Some(parse_context), Some(text)) = (&statement.parse_context, &statement.text) else { return };
        let mut known = self.known();
        let Some(texts) = known.texts.get_mut(parse_context) else { return };
        if texts.get(&text.body).is_some_and(|now| now.id == statement.id) {
            texts.remove(&text.body);
            known.count -= 1;
            known.bytes -= text.body.len();
        }
    }

    /// Notes that the meaning of names may have changed ([`StatementIds::definitions_changed`]).
    pub fn definitions_changed(&self) {
        self.ids.definitions_changed();
    }

    fn make(
        &self,
        parse_context: Option<Arc<ParseContext>>,
        params: &ServerParams,
        text: Option<Arc<ParsedQuery>>,
    ) -> Arc<Statement> {
        let (retired, unrenewable) = (AtomicBool::new(false), AtomicBool::new(false));
        let id = self.ids.next();
        let name = format!("{PREFIX}{id}").into();
        Arc::new(Statement { id, name, text, parse_context, params: params.clone(), retired, unrenewable })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Known {
    /// Returns whether so many may be unused, with `more` bytes to come, that it is worth going through all of them. Clients may use any
    /// number: these are gone through anew only when as many others have come.
    fn has_many_unused(&self, more: usize) -> bool {
        let (count, bytes) = self.used;
        self.count >= count + MAX_UNUSED.max(count) || self.bytes + more > bytes + MAX_UNUSED_BYTES.max(bytes)
    }

    /// Forgets statements that no client has a name for.
    fn forget_unused(&mut self) {
        let (mut count, mut bytes) = (0, 0);
        self.texts.retain(|_, texts| {
            texts.retain(|body, statement| {
                let used = Arc::strong_count(statement) > 1;
                if used {
                    count += 1;
                    bytes += body.len();
                }
                used
            });
            !texts.is_empty()
        });
        (self.count, self.bytes) = (count, bytes);
        self.used = (count, bytes);
    }
}

/// Limits on the statements, and the bytes of text, that may be prepared on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Statements.
    pub count: usize,
    /// Bytes of their texts.
    pub bytes: usize,
    /// Bytes of the names and texts of one client.
    pub client_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::super::prepared_statement::Standing;
    use super::super::rollback::Rollback;
    use super::super::server_statements::ServerStatementCache;
    use super::*;

    fn text(body: &[u8]) -> Arc<ParsedQuery> {
        Arc::new(ParsedQuery { body: body.into(), effects: SqlEffects::default() })
    }

    fn parse_context(others: &[u8]) -> Arc<ParseContext> {
        Arc::new(others.into())
    }

    fn intern(cache: &StatementCache, parse_context: Option<&Arc<ParseContext>>, body: &[u8]) -> Arc<Statement> {
        cache.intern(parse_context, &ServerParams::default(), body, || text(body))
    }

    #[test]
    fn statements_that_are_used_are_not_gone_through_for_each_that_comes() {
        let (cache, context) = (StatementCache::default(), parse_context(b"a"));
        let nth = |nth: usize| intern(&cache, Some(&context), format!("select {nth}\0\0\0").as_bytes());
        let used: Vec<_> = (0..6 * MAX_UNUSED).map(nth).collect();
        assert_eq!(cache.known().used.0, 4 * MAX_UNUSED, "gone through when they had doubled");
        for at in used.len()..3 * used.len() {
            nth(at);
            assert!(cache.known().count <= 2 * used.len(), "no more unused ones than used");
        }
        drop(used);
        for at in 0..40 * MAX_UNUSED {
            nth(at);
        }
        assert!(cache.known().count <= MAX_UNUSED, "unused ones are forgotten");
    }

    #[test]
    fn equal_texts_under_equal_settings_are_one_statement() {
        let cache = StatementCache::default();
        let (a, b) = (parse_context(b"a"), parse_context(b"b"));
        let first = intern(&cache, Some(&a), b"select 1\0\0\0");
        assert_eq!(intern(&cache, Some(&parse_context(b"a")), b"select 1\0\0\0").id, first.id);
        for other in [
            intern(&cache, Some(&b), b"select 1\0\0\0"),
            intern(&cache, Some(&a), b"select 1\0\0\x01\0\0\0\x17"),
            intern(&cache, Some(&a), b"select 2\0\0\0"),
            intern(&cache, None, b"select 1\0\0\0"),
        ] {
            assert_ne!(other.id, first.id);
        }
        assert_ne!(intern(&cache, None, b"x").id, intern(&cache, None, b"x").id, "these are not shared");
        let of_the_moment = SqlEffects { constants: Constants::OfTheMoment, ..SqlEffects::default() };
        let made = |effects: SqlEffects| move || Arc::new(ParsedQuery { body: (*b"select 'now'").into(), effects });
        let intern = || cache.intern(Some(&a), &ServerParams::default(), b"select 'now'", made(of_the_moment.clone()));
        assert_ne!(intern().id, intern().id, "nor are these");
    }

    #[test]
    fn a_number_is_never_used_again() {
        let ids = Arc::<StatementIds>::default();
        let (cache, other) = (StatementCache::new(Arc::clone(&ids)), StatementCache::new(ids));
        let a = parse_context(b"a");
        let first = intern(&cache, Some(&a), b"select 1\0\0\0");
        cache.retire(&first);
        let second = intern(&cache, Some(&a), b"select 1\0\0\0");
        cache.definitions_changed();
        let third = intern(&cache, Some(&a), b"select 1\0\0\0");
        assert!(first.is_retired() && !second.is_retired());
        assert!(first.id < second.id && second.id < third.id);
        cache.retire(&second);
        assert_eq!(intern(&cache, Some(&a), b"select 1\0\0\0").id, third.id, "it had been replaced before");
        assert_ne!(intern(&other, Some(&a), b"select 1\0\0\0").id, third.id, "another pool");
    }

    #[test]
    fn statements_without_a_name_are_bounded_by_count_and_bytes() {
        let cache = StatementCache::default();
        let a = parse_context(b"a");
        let kept = intern(&cache, Some(&a), b"kept");
        for n in 0..2 * MAX_UNUSED {
            intern(&cache, Some(&a), &n.to_be_bytes());
        }
        assert!(cache.known().count <= MAX_UNUSED);
        for n in 0..100_u8 {
            intern(&cache, Some(&a), &vec![n; 100_000]);
        }
        assert!(cache.known().bytes <= MAX_UNUSED_BYTES);
        assert_eq!(intern(&cache, Some(&a), b"kept").id, kept.id);
    }

    #[test]
    fn constants_and_characters_depend_on_reported_settings() {
        let params = |timezone: &[u8], name: &[u8]| {
            let mut params = ServerParams::default();
            params.set(b"TimeZone", timezone);
            params.set(b"application_name", name);
            params
        };
        let cache = StatementCache::default();
        let statement = cache.intern(None, &params(b"UTC", b"a"), b"x", || text(b"x"));
        let others = |now: &ServerParams| other_settings(&statement.params, now).collect::<Vec<_>>();
        assert_eq!(others(&params(b"UTC", b"b")), [""; 0]);
        assert_eq!(others(&params(b"GMT", b"a")), ["TimeZone"]);
    }

    fn limits(count: usize, bytes: usize) -> Limits {
        Limits { count, bytes, client_bytes: usize::MAX }
    }

    #[test]
    fn those_used_longest_ago_give_way() {
        let cache = StatementCache::default();
        let statements: Vec<_> = (0u8..4).map(|n| intern(&cache, None, &[n; 10])).collect();
        let mut prepared = ServerStatementCache::default();
        for statement in &statements {
            prepared.add(statement, Standing::Trusted);
        }
        assert!(prepared.has(&statements[0]) && prepared.doubtful().next().is_none());
        assert_eq!(prepared.excess(limits(1, 10), None), None, "the message at hand needs all of them");
        prepared.begin_message();
        assert!(prepared.has(&statements[0]));
        assert_eq!(prepared.excess(limits(4, 40), None), None);
        assert_eq!(prepared.excess(limits(3, 40), None), Some(statements[1].id));
        assert_eq!(prepared.excess(limits(9, 39), None), Some(statements[1].id));
        let held = prepared.remove(statements[1].id).expect("it was there");
        assert_eq!((prepared.len(), prepared.bytes), (3, 30));
        prepared.undo(&mut Rollback { closed: Some((statements[1].id, held)), ..Rollback::default() });
        prepared.undo(&mut Rollback { prepared: Some(statements[2].id), ..Rollback::default() });
        assert!(prepared.has(&statements[1]) && !prepared.has(&statements[2]));
        assert_eq!(prepared.bytes, 30);
        prepared.clear();
        prepared.add(&statements[0], Standing::Doubtful);
        assert_eq!(prepared.excess(limits(9, 5), None), None, "the one that is used now stays");
        prepared.begin_message();
        assert_eq!(prepared.excess(limits(9, 5), None), Some(statements[0].id));
        let unkept = cache.uncached();
        prepared.clear();
        for statement in [&unkept, &statements[0]] {
            prepared.add(statement, Standing::Trusted);
        }
        prepared.begin_message();
        let numbers = [unkept.id].into_iter().collect();
        assert_eq!(
            prepared.excess(limits(0, 99), Some(&numbers)),
            Some(statements[0].id),
            "one that can't be prepared again stays"
        );
        assert_eq!(prepared.excess(limits(1, 99), Some(&numbers)), None, "and does not count");
        assert_eq!(prepared.excess(limits(1, 99), None), Some(unkept.id), "unless no client has a name for it");
    }
}
