//! A client's prepared statements: by their names, and the unnamed one.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;

use super::number_hasher::NumberSet;
use super::params::ServerParams;
use super::session_command::Commands;
use super::sql_effects::SqlEffects;
use super::statements::{Columns, ParameterTypes, ParsedQuery, Statement};

/// Number of bytes of prepared statements that are kept for one client. A client with more keeps its connection.
pub const MAX_CLIENT_BYTES: usize = 16 * 1024 * 1024;

/// Number of bytes of all of a client's prepared statements, those of which the text is not kept included. Another one is refused.
pub(crate) const MAX_NAMED_BYTES: usize = 32 * 1024 * 1024;

/// Bytes that a statement takes besides its name and its text: its places in tables, and what is known of it. Texts may be short.
const OVERHEAD_BYTES: usize = 600;

/// A client's unnamed statement.
#[derive(Debug)]
pub struct Unnamed {
    /// A number of its own, by which a connection's unnamed statement is compared with it.
    pub id: u64,
    /// Text; `None` where it was too long to be kept.
    pub text: Option<Arc<ParsedQuery>>,
    /// The commands that running it runs.
    pub commands: Option<Commands>,
    /// The settings that the server reported when it was parsed.
    pub params: ServerParams,
    /// Rest of the `Parse` that the server gets of it, behind the name, where it runs or frees other statements, which have
    /// other names there.
    translated: Option<Box<[u8]>>,
    /// The columns that the client was told of it.
    described: OnceLock<Columns>,
    /// The types of its parameters that the client was told.
    types: OnceLock<ParameterTypes>,
}

impl Unnamed {
    /// Number `id`, with these `effects`, parsed under `params`.
    #[must_use]
    pub fn new(id: u64, text: Option<Arc<ParsedQuery>>, effects: &SqlEffects, params: ServerParams) -> Self {
        let commands = effects.commands.clone();
        Self { id, text, commands, params, translated: None, described: OnceLock::new(), types: OnceLock::new() }
    }

    /// With `translated` for the server.
    #[must_use]
    pub fn translated(self, translated: &[u8]) -> Self {
        Self { translated: Some(translated.into()), ..self }
    }

    /// The same as number `id`, with `translated` for the server, where it has another text for it by now.
    #[must_use]
    pub fn retranslated(&self, id: u64, translated: &[u8]) -> Option<Self> {
        (self.translated.as_deref() != Some(translated)).then(|| Self {
            id,
            text: self.text.clone(),
            commands: self.commands.clone(),
            params: self.params.clone(),
            translated: Some(translated.into()),
            described: self.described.clone(),
            types: self.types.clone(),
        })
    }

    /// Returns whether it neither runs nor frees other statements, nor runs commands that change a session.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.commands.is_none() && self.text.as_ref().is_some_and(|text| !text.effects.names_statements)
    }

    /// Bytes of its text.
    #[must_use]
    pub(super) fn size(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.body.len()) + self.translated.as_ref().map_or(0, |text| text.len())
    }

    /// The columns that the client was told of it.
    #[must_use]
    pub fn described(&self) -> Option<&Columns> {
        self.described.get()
    }

    /// Notes the types of its parameters that the client is told; the first time counts, since they don't change.
    pub fn describe_parameters(&self, types: &ParameterTypes) {
        let _ = self.types.set(Arc::clone(types));
    }

    /// Its text, with the types of its parameters that the client was told.
    #[must_use]
    pub(crate) fn typed_text(&self) -> Option<Arc<ParsedQuery>> {
        let text = self.text.as_ref()?;
        let typed = self.types.get().and_then(|types| text.typed(types));
        Some(typed.map_or_else(|| Arc::clone(text), Arc::new))
    }

    /// Notes the columns that the client is told; the first time counts, since they don't change.
    pub fn describe(&self, columns: &Columns) {
        let _ = self.described.set(Arc::clone(columns));
    }
}

/// A client's statements.
#[derive(Debug, Default)]
struct Names {
    /// By their names. A client can only slow itself down by names that collide.
    map: HashMap<Arc<[u8]>, NamedStatement, RandomState>,
    /// The numbers of those of which the text is not kept.
    unkept: NumberSet,
}

/// A client's names.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// Boxed, since most clients have none, and every idle one has room for it.
    names: Option<Box<Names>>,
    /// Bytes that they take.
    bytes: usize,
}

/// Statement to which a client's name refers.
#[derive(Clone, Debug)]
pub struct NamedStatement {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The columns that this client was told of it.
    pub described: Option<Columns>,
    /// The types of its parameters that this client was told, where its text leaves some to the server.
    pub types: Option<ParameterTypes>,
}

impl NamedStatement {
    /// One of which the client was told nothing.
    #[must_use]
    pub fn new(statement: Arc<Statement>) -> Self {
        Self { statement, described: None, types: None }
    }

    /// Its number, if its text is not kept.
    fn unkept(&self) -> Option<u64> {
        self.statement.text.is_none().then_some(self.statement.id)
    }
}

impl ClientStatements {
    /// Returns the statement to which `name` refers.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&NamedStatement> {
        self.names.as_ref()?.map.get(significant(name))
    }

    /// Returns the statement to which `name` refers, with its name.
    #[must_use]
    pub fn entry(&self, name: &[u8]) -> Option<(Arc<[u8]>, NamedStatement)> {
        let (name, named) = self.names.as_ref()?.map.get_key_value(significant(name))?;
        Some((Arc::clone(name), named.clone()))
    }

    /// Notes the columns that the client was told of what `name` stands for, if that is `statement` still.
    pub fn describe(&mut self, name: &[u8], statement: u64, columns: &Columns) {
        let named = self.names.as_mut().and_then(|names| names.map.get_mut(significant(name)));
        if let Some(named) = named.filter(|named| named.statement.id == statement) {
            named.described = Some(Arc::clone(columns));
        }
    }

    /// Notes the types of parameters that the client was told of what `name` stands for, if that is `statement` still.
    pub fn describe_parameters(&mut self, name: &[u8], statement: u64, types: &ParameterTypes) {
        let named = self.names.as_mut().and_then(|names| names.map.get_mut(significant(name)));
        if let Some(named) = named.filter(|named| named.statement.id == statement) {
            let is_open = named.statement.text.as_ref().is_some_and(|text| text.typed(types).is_some());
            named.types = is_open.then(|| Arc::clone(types));
        }
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_none()
    }

    /// Number of statements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.as_ref().map_or(0, |names| names.map.len())
    }

    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets `name` stand for `named`, or for nothing. Returns what it stood for.
    pub fn set(&mut self, name: &[u8], named: Option<NamedStatement>) -> Option<NamedStatement> {
        let name = significant(name);
        let size = |named: &NamedStatement| OVERHEAD_BYTES + name.len() + named.statement.size();
        let before = match named {
            Some(named) => {
                self.bytes += size(&named);
                let names = self.names.get_or_insert_default();
                names.unkept.extend(named.unkept());
                names.map.insert(name.into(), named)
            }
            None => self.names.as_mut().and_then(|names| names.map.remove(name)),
        };
        self.bytes -= before.as_ref().map_or(0, size);
        if let Some(names) = &mut self.names {
            before.iter().filter_map(NamedStatement::unkept).for_each(|id| _ = names.unkept.remove(&id));
            if names.map.is_empty() {
                self.names = None;
            }
        }
        before
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Each name, and the number of the statement that it stands for.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.names.iter().flat_map(|names| names.map.iter()).map(|(name, named)| (&**name, named.statement.id))
    }

    /// The numbers of the statements of which the text is not kept: no other connection can have them.
    #[must_use]
    pub(crate) fn unkept(&self) -> Option<&NumberSet> {
        Some(&self.names.as_ref()?.unkept)
    }

    /// The statement that each name stands for.
    pub(super) fn statements(&self) -> impl Iterator<Item = &Arc<Statement>> {
        self.names.iter().flat_map(|names| names.map.values()).map(|named| &named.statement)
    }

    /// A name for the statement with number `id`.
    #[must_use]
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        let map = &self.names.as_ref()?.map;
        map.iter().find(|(_, named)| named.statement.id == id).map(|(name, _)| &**name)
    }
}

/// The part of a name that PostgreSQL compares (`NAMEDATALEN`; the table in `commands/prepare.c` has keys of that size).
#[must_use]
pub(crate) fn significant(name: &[u8]) -> &[u8] {
    &name[..name.len().min(63)]
}

#[cfg(test)]
mod tests {
    use super::super::statements::StatementCache;
    use super::*;

    #[test]
    fn names_count_their_bytes() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        let named = |body: &[u8]| {
            let text = || Arc::new(ParsedQuery { body: body.into(), effects: SqlEffects::default() });
            let statement = cache.intern(None, &ServerParams::default(), body, text);
            Some(NamedStatement::new(statement))
        };
        names.set(b"a", named(b"0123456789"));
        names.set(b"bc", named(b"01234"));
        assert_eq!(names.bytes(), 11 + 7 + 2 * OVERHEAD_BYTES);
        names.set(b"a", named(b"0"));
        assert_eq!(names.bytes(), 2 + 7 + 2 * OVERHEAD_BYTES);
        names.set(b"a", None);
        names.set(b"a", None);
        names.set(b"bc", None);
        assert!(names.is_empty() && names.bytes() == 0);
    }

    #[test]
    fn those_that_are_not_kept_are_known_by_their_numbers() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        let [one, other] = [(); 2].map(|()| cache.uncached());
        names.set(b"a", Some(NamedStatement::new(Arc::clone(&one))));
        names.set(b"b", Some(NamedStatement::new(Arc::clone(&other))));
        names.set(b"a", None);
        let unkept: Vec<u64> = names.unkept().into_iter().flatten().copied().collect();
        assert_eq!(unkept, [other.id]);
        names.clear();
        assert!(names.unkept().is_none());
    }
}
