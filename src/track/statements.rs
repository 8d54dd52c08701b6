//! Named prepared statements, carried from connection to connection.
//!
//! A client's name stands for a [`Statement`], which has a name of its own on every connection where it is prepared.
//! Equal texts under equal settings are one statement, so that what one client has prepared another one need not; which
//! statements a connection has is in its [`Prepared`]. All three change when a message is *sent*; what turns out not to
//! have happened, because the request failed or was discarded, is taken back with [`Undo`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::params::Params;
use super::pinning::Look;
use super::sql::{Token, Tokens};

/// What every server-side name begins with.
pub const PREFIX: &str = "pgferry_";

/// How many statements the catalog keeps that no client has a name for.
const UNUSED: usize = 5_000;

/// The settings that the meaning of a text depends on when it is prepared, as one string.
pub type Flavor = Box<[u8]>;

/// The reported settings among them: which characters a text consists of, and what its constants mean.
pub const REPORTED: [&str; 5] =
    ["client_encoding", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];

/// A text to be prepared.
#[derive(Debug)]
pub struct Text {
    /// The `Parse` message behind its first string: the query's text, and the OIDs of its parameters' types.
    pub body: Box<[u8]>,
    /// What running it does to a session.
    pub look: Look,
}

/// A text under certain settings.
#[derive(Debug)]
pub struct Statement {
    /// Its number, which is never used again.
    pub id: u64,
    /// What it says; `None` for one that was too long to be kept, and can be prepared only once.
    pub text: Option<Arc<Text>>,
    /// The settings it was first prepared under; `None` where those are one client's own.
    pub flavor: Option<Arc<Flavor>>,
    /// The settings that the server reported then.
    pub params: Params,
    /// The columns of its result, once somebody was told them; empty where it has none.
    shape: OnceLock<Box<[u8]>>,
    retired: AtomicBool,
    /// How often definitions had changed when it was made.
    epoch: u64,
}

impl Statement {
    /// Its name on every connection where it is prepared.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// The columns of its result, if somebody was told them.
    #[must_use]
    pub fn shape(&self) -> Option<&[u8]> {
        self.shape.get().map(|shape| &**shape)
    }

    /// Notes the columns of its result; says whether they are what somebody was told before.
    #[must_use]
    pub fn note_shape(&self, shape: &[u8]) -> bool {
        **self.shape.get_or_init(|| shape.into()) == *shape
    }

    /// Whether the server's plan for it is of no use any more.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The settings that must be others than in a session that reports `now` while it is prepared there.
    pub fn other_settings<'a>(&'a self, now: &'a Params) -> impl Iterator<Item = &'static str> + 'a {
        let same = self.params == *now;
        let differs = move |name: &&str| !same && self.params.get(name.as_bytes()) != now.get(name.as_bytes());
        REPORTED.into_iter().filter(differs)
    }

    fn size(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.body.len())
    }
}

type Texts = HashMap<Arc<Flavor>, HashMap<Box<[u8]>, Arc<Statement>>>;

/// Every statement of this process: equal texts (query and parameter types, whole) under equal settings are one.
#[derive(Debug, Default)]
pub struct Catalog {
    texts: Mutex<Texts>,
    next: AtomicU64,
    epoch: AtomicU64,
}

impl Catalog {
    /// Whether `statement` is what its text stands for, as far as that is known.
    #[must_use]
    pub fn is_current(&self, statement: &Statement) -> bool {
        !statement.is_retired() && statement.epoch == self.epoch.load(Ordering::Relaxed)
    }

    /// The statement for `body` under `flavor`, of which `params` are the reported settings; `text` makes its text where
    /// it is new. Without a flavor it is one that nobody shares.
    pub fn intern(
        &self,
        flavor: Option<&Arc<Flavor>>,
        params: &Params,
        body: &[u8],
        text: impl FnOnce() -> Arc<Text>,
    ) -> Arc<Statement> {
        let Some(flavor) = flavor else { return self.make(None, params, Some(text())) };
        let mut texts = self.texts();
        if let Some(known) = texts.get(flavor).and_then(|known| known.get(body)) {
            return Arc::clone(known);
        }
        if texts.values().map(HashMap::len).sum::<usize>() >= UNUSED {
            texts.retain(|_, known| {
                known.retain(|_, statement| Arc::strong_count(statement) > 1);
                !known.is_empty()
            });
        }
        let statement = self.make(Some(Arc::clone(flavor)), params, Some(text()));
        texts.entry(Arc::clone(flavor)).or_default().insert(body.into(), Arc::clone(&statement));
        statement
    }

    /// A statement that is too long to be kept.
    pub fn unkept(&self) -> Arc<Statement> {
        self.make(None, &Params::default(), None)
    }

    /// The server's plan for `statement` is of no use any more: whoever asks for its text gets another one.
    pub fn retire(&self, statement: &Statement) {
        statement.retired.store(true, Ordering::Relaxed);
        if let (Some(flavor), Some(text)) = (&statement.flavor, &statement.text)
            && let Some(known) = self.texts().get_mut(flavor)
            && known.get(&text.body).is_some_and(|known| known.id == statement.id)
        {
            known.remove(&text.body);
        }
    }

    /// What names mean may have changed: from now on no text is a statement that was there before.
    pub fn definitions_changed(&self) {
        let mut texts = self.texts();
        self.epoch.fetch_add(1, Ordering::Relaxed);
        texts.clear();
    }

    fn make(&self, flavor: Option<Arc<Flavor>>, params: &Params, text: Option<Arc<Text>>) -> Arc<Statement> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let epoch = self.epoch.load(Ordering::Relaxed);
        Arc::new(Statement {
            id,
            text,
            flavor,
            params: params.clone(),
            shape: OnceLock::new(),
            retired: AtomicBool::new(false),
            epoch,
        })
    }

    fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's names.
#[derive(Debug, Default)]
pub struct Names {
    #[expect(clippy::box_collection, reason = "most clients have none, and every idle one has room for it")]
    map: Option<Box<HashMap<Box<[u8]>, Named>>>,
}

#[derive(Debug)]
struct Named {
    statement: Arc<Statement>,
    /// The client has asked for its columns.
    told: bool,
}

impl Names {
    /// What `name` stands for.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.map.as_ref()?.get(significant(name)).map(|named| &named.statement)
    }

    /// Notes that the client asks for the columns of what `name` stands for.
    pub fn tell(&mut self, name: &[u8]) {
        if let Some(named) = self.map.as_mut().and_then(|map| map.get_mut(significant(name))) {
            named.told = true;
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn was_told(&self, name: &[u8]) -> bool {
        self.map.as_ref().and_then(|map| map.get(significant(name))).is_some_and(|named| named.told)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// Lets `name` stand for `statement`, or for nothing.
    pub fn set(&mut self, name: &[u8], statement: Option<Arc<Statement>>) {
        let name = significant(name);
        if let Some(statement) = statement {
            self.map.get_or_insert_default().insert(name.into(), Named { statement, told: false });
        } else if let Some(map) = &mut self.map {
            map.remove(name);
            if map.is_empty() {
                self.map = None;
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.map = None;
    }

    /// A name for the statement with number `id`.
    #[must_use]
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        let map = self.map.as_ref()?;
        map.iter().find(|(_, named)| named.statement.id == id).map(|(name, _)| &**name)
    }
}

/// The part of a name that PostgreSQL compares (`NAMEDATALEN`; the table in `commands/prepare.c` has keys of that size).
fn significant(name: &[u8]) -> &[u8] {
    &name[..name.len().min(63)]
}

/// How many statements, and how many bytes of text, may be prepared on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Statements.
    pub count: usize,
    /// Bytes of their texts.
    pub bytes: usize,
}

/// The statements that are prepared on a connection; those used longest ago give way.
#[derive(Debug, Default)]
pub struct Prepared {
    map: HashMap<u64, Held>,
    bytes: usize,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    used: u64,
    size: usize,
}

impl Prepared {
    /// Whether `statement` is prepared there; notes its use.
    pub fn has(&mut self, statement: &Statement) -> bool {
        self.clock += 1;
        let found = self.map.get_mut(&statement.id);
        found.map(|held| held.used = self.clock).is_some()
    }

    /// Notes that `statement` is prepared there.
    pub fn add(&mut self, statement: &Statement) {
        self.clock += 1;
        let held = Held { used: self.clock, size: statement.size() };
        self.bytes += held.size;
        if let Some(before) = self.map.insert(statement.id, held) {
            self.bytes -= before.size;
        }
    }

    /// Notes that the statement with number `id` is not prepared there.
    pub fn remove(&mut self, id: u64) {
        if let Some(held) = self.map.remove(&id) {
            self.bytes -= held.size;
        }
    }

    /// The statement that must give way to keep to `limits`, with its size.
    #[must_use]
    pub fn excess(&self, limits: Limits) -> Option<(u64, usize)> {
        if self.map.len() <= limits.count && (self.bytes <= limits.bytes || self.map.len() <= 1) {
            return None;
        }
        let oldest = self.map.iter().min_by_key(|(_, held)| held.used);
        oldest.map(|(&id, held)| (id, held.size))
    }

    /// The session has been swept.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes back what has not happened on this connection.
    pub fn undo(&mut self, undo: &Undo) {
        if let Some(id) = undo.prepared {
            self.remove(id);
        }
        if let Some((id, size)) = undo.closed {
            self.clock += 1;
            if self.map.insert(id, Held { used: self.clock, size }).is_none() {
                self.bytes += size;
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

/// A client's name, and what it stood for before.
type Renaming = (Box<[u8]>, Option<Arc<Statement>>);

/// What the books say too much if a request fails or is discarded.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// The client's name, and what it stood for before.
    pub name: Option<Renaming>,
    /// The statement that is not prepared on the connection after all.
    pub prepared: Option<u64>,
    /// The statement that is still prepared on the connection, with its size.
    pub closed: Option<(u64, usize)>,
    /// The client's unnamed statement is not what it was said to be.
    pub unnamed: bool,
    /// The statement that the request describes: nothing to undo, but to be known when the answer comes.
    pub describes: Option<Arc<Statement>>,
    /// The `ErrorResponse` that the client gets instead of the server's.
    pub refusal: Option<Box<[u8]>>,
}

impl Undo {
    /// Whether it is about which statements there are.
    #[must_use]
    pub fn changes_statements(&self) -> bool {
        self.name.is_some() || self.prepared.is_some() || self.closed.is_some()
    }
}

/// Where a text says `EXECUTE name` or `DEALLOCATE name` of a statement that `names` knows: SQL sees the statements of
/// the extended protocol too, but under the names they have on the server.
#[must_use]
pub fn mentions(sql: &[u8], names: &Names) -> Vec<(Range<usize>, Arc<Statement>)> {
    let mut found = Vec::new();
    if names.is_empty() {
        return found;
    }
    let mut tokens = Tokens::new(sql);
    let mut expected = false;
    loop {
        let start = sql.len() - tokens.skip_to_token();
        let Some(token) = tokens.next() else { return found };
        let name: Option<Box<[u8]>> = match token {
            Token::Word(word) => Some(word.to_ascii_lowercase().into()),
            Token::Quoted(name) => Some(name.into()),
            _ => None,
        };
        let keyword = matches!(token, Token::Word(_));
        match name {
            Some(name) if expected && names.get(&name).is_some() => {
                let end = sql.len() - tokens.rest().len();
                found.extend(names.get(&name).map(|statement| (start..end, Arc::clone(statement))));
                expected = false;
            }
            Some(word) if keyword => {
                expected = matches!(&*word, b"execute" | b"deallocate") || (expected && *word == *b"prepare");
            }
            _ => expected = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &[u8]) -> Arc<Text> {
        Arc::new(Text { body: body.into(), look: Look::default() })
    }

    fn flavor(others: &[u8]) -> Arc<Flavor> {
        Arc::new(others.into())
    }

    fn intern(catalog: &Catalog, flavor: Option<&Arc<Flavor>>, body: &[u8]) -> Arc<Statement> {
        catalog.intern(flavor, &Params::default(), body, || text(body))
    }

    #[test]
    fn equal_texts_under_equal_settings_are_one_statement() {
        let catalog = Catalog::default();
        let (a, b) = (flavor(b"a"), flavor(b"b"));
        let first = intern(&catalog, Some(&a), b"select 1\0\0\0");
        assert_eq!(intern(&catalog, Some(&flavor(b"a")), b"select 1\0\0\0").id, first.id);
        for other in [
            intern(&catalog, Some(&b), b"select 1\0\0\0"),
            intern(&catalog, Some(&a), b"select 1\0\0\x01\0\0\0\x17"),
            intern(&catalog, Some(&a), b"select 2\0\0\0"),
            intern(&catalog, None, b"select 1\0\0\0"),
        ] {
            assert_ne!(other.id, first.id);
        }
        assert_ne!(intern(&catalog, None, b"x").id, intern(&catalog, None, b"x").id, "nobody shares these");
    }

    #[test]
    fn a_number_is_never_used_again() {
        let catalog = Catalog::default();
        let a = flavor(b"a");
        let first = intern(&catalog, Some(&a), b"select 1\0\0\0");
        catalog.retire(&first);
        let second = intern(&catalog, Some(&a), b"select 1\0\0\0");
        catalog.definitions_changed();
        let third = intern(&catalog, Some(&a), b"select 1\0\0\0");
        assert!(first.is_retired() && !second.is_retired());
        assert!(first.id < second.id && second.id < third.id);
        catalog.retire(&second);
        assert_eq!(intern(&catalog, Some(&a), b"select 1\0\0\0").id, third.id, "it had been replaced before");
    }

    #[test]
    fn what_nobody_has_a_name_for_is_forgotten() {
        let catalog = Catalog::default();
        let a = flavor(b"a");
        let kept = intern(&catalog, Some(&a), b"kept");
        for n in 0..2 * UNUSED {
            intern(&catalog, Some(&a), &n.to_be_bytes());
        }
        assert!(catalog.texts().values().map(HashMap::len).sum::<usize>() <= UNUSED);
        assert_eq!(intern(&catalog, Some(&a), b"kept").id, kept.id);
    }

    #[test]
    fn sql_that_mentions_statements() {
        let catalog = Catalog::default();
        let mut names = Names::default();
        names.set(b"s1", Some(intern(&catalog, None, b"x")));
        names.set(b"S 2", Some(intern(&catalog, None, b"x")));
        for (sql, mentioned) in [
            ("deallocate s1", vec!["s1"]),
            ("DEALLOCATE PREPARE S1;", vec!["S1"]),
            ("execute \"S 2\"(1, 2); /* x */ execute /* y */ s1", vec!["\"S 2\"", "s1"]),
            ("explain analyze execute s1", vec!["s1"]),
            ("select s1, 'execute s1' from s1", vec![]),
            ("execute s3", vec![]),
            ("deallocate all", vec![]),
            ("grant execute on function s1() to s1", vec![]),
        ] {
            let found = mentions(sql.as_bytes(), &names);
            assert_eq!(found.iter().map(|(at, _)| &sql[at.clone()]).collect::<Vec<_>>(), mentioned, "{sql}");
        }
    }

    #[test]
    fn constants_and_characters_depend_on_reported_settings() {
        let params = |timezone: &[u8], name: &[u8]| {
            let mut params = Params::default();
            params.set(b"TimeZone", timezone);
            params.set(b"application_name", name);
            params
        };
        let catalog = Catalog::default();
        let statement = catalog.intern(None, &params(b"UTC", b"a"), b"x", || text(b"x"));
        let others = |now: &Params| statement.other_settings(now).collect::<Vec<_>>();
        assert_eq!(others(&params(b"UTC", b"b")), [""; 0]);
        assert_eq!(others(&params(b"GMT", b"a")), ["TimeZone"]);
    }

    #[test]
    fn those_used_longest_ago_give_way() {
        let catalog = Catalog::default();
        let statements: Vec<_> = (0u8..4).map(|n| intern(&catalog, None, &[n; 10])).collect();
        let mut prepared = Prepared::default();
        for statement in &statements {
            prepared.add(statement);
        }
        assert!(prepared.has(&statements[0]));
        assert_eq!(prepared.excess(Limits { count: 4, bytes: 40 }), None);
        assert_eq!(prepared.excess(Limits { count: 3, bytes: 40 }), Some((statements[1].id, 10)));
        assert_eq!(prepared.excess(Limits { count: 9, bytes: 39 }), Some((statements[1].id, 10)));
        prepared.remove(statements[1].id);
        assert_eq!((prepared.len(), prepared.bytes), (3, 30));
        prepared.undo(&Undo { closed: Some((statements[1].id, 10)), ..Undo::default() });
        prepared.undo(&Undo { prepared: Some(statements[2].id), ..Undo::default() });
        assert!(prepared.has(&statements[1]) && !prepared.has(&statements[2]));
        assert_eq!(prepared.bytes, 30);
        prepared.clear();
        prepared.add(&statements[0]);
        assert_eq!(prepared.excess(Limits { count: 9, bytes: 5 }), None, "the one that is used now stays");
    }
}
