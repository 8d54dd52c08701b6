//! The unnamed statement: a client's, and a connection's.

use std::sync::{Arc, OnceLock};

use super::params::ServerParams;
use super::session_command::Commands;
use super::sql_effects::SqlEffects;
use super::statements::{Columns, ParameterTypes, ParsedQuery};

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

/// A connection's unnamed statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnnamedStatement {
    /// There is none.
    #[default]
    Absent,
    /// The one with this number ([`Unnamed::id`]).
    Is(u64),
    /// There may be one, and it is no client's.
    Unknown,
}

impl UnnamedStatement {
    /// Returns whether it is what a client has that has `unnamed`.
    #[must_use]
    pub fn is(self, unnamed: Option<&Unnamed>) -> bool {
        self == unnamed.map_or(Self::Absent, |unnamed| Self::Is(unnamed.id))
    }
}
