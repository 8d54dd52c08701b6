//! Names that statements of the client have on the connection besides their own.

use std::sync::Arc;

use crate::track::constants::Constants;
use crate::track::statements::{ParseContext, ParsedQuery, Statement};

/// Number of names that are remembered that a client has given up, for the sake of errors that may still come.
const MAX_FORMER_NAMES: usize = 256;

/// Number of statements that are remembered to stand in for others. Older ones are prepared anew where they are wanted again.
const MAX_VARIANTS: usize = 1024;

/// A statement that stands in for another one for the time being.
#[derive(Debug)]
pub(super) struct Variant {
    /// The number of the other one.
    pub(super) of: u64,
    pub(super) statement: Arc<Statement>,
    /// It was made for settings that are one client's own, which last for this transaction.
    pub(super) for_transaction: bool,
}

/// The names that statements of the client have on the connection besides their own.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    pub(super) variants: Vec<Variant>,
    /// Names that the client has given up lately, by the numbers of their statements.
    former: Vec<(u64, Box<[u8]>)>,
    /// Statements that `DEALLOCATE` of a client's name frees on the connection.
    placeholders: Vec<(Box<[u8]>, Arc<Statement>)>,
}

impl Aliases {
    /// Notes that the client has given up `name`.
    pub(super) fn given_up(&mut self, statement: u64, name: &[u8]) {
        if self.former.len() >= MAX_FORMER_NAMES {
            self.former.clear();
        }
        self.former.push((statement, name.into()));
    }

    /// Notes that `statement` stands in for the one with number `of`.
    pub(super) fn stands_for(&mut self, statement: &Arc<Statement>, of: u64) {
        self.add_variant(Variant { of, statement: Arc::clone(statement), for_transaction: false });
    }

    /// Notes that a statement stands in for another one.
    pub(super) fn add_variant(&mut self, variant: Variant) {
        if self.variants.iter().any(|known| known.statement.id == variant.statement.id) {
            return;
        }
        if self.variants.len() >= MAX_VARIANTS {
            self.variants.drain(..MAX_VARIANTS / 2);
        }
        self.variants.push(variant);
    }

    /// The variants of the statement with number `of` that have this text.
    pub(super) fn with_text(&self, of: u64, text: &ParsedQuery) -> impl Iterator<Item = &Arc<Statement>> {
        let has_text = |statement: &Statement| statement.text.as_ref().is_some_and(|known| known.body == text.body);
        let those = self.variants.iter().filter(move |variant| variant.of == of && has_text(&variant.statement));
        those.map(|variant| &variant.statement)
    }

    /// Returns whether `DEALLOCATE` may free something that it has not freed so far.
    pub(super) fn is_freeing(&self) -> bool {
        !self.placeholders.is_empty()
    }

    /// The number of what the client means by statement `id` of the server.
    pub(super) fn original(&self, id: u64) -> u64 {
        self.variants.iter().find(|variant| variant.statement.id == id).map_or(id, |variant| variant.of)
    }

    /// The name that the client has had for statement `id` until lately.
    pub(super) fn former_name(&self, id: u64) -> Option<&[u8]> {
        self.former.iter().rfind(|(former, _)| *former == id).map(|(_, name)| &**name)
    }

    /// Returns the variant of `statement` under `parse_context`, where it is one that is not shared, so that the cache does not have it.
    pub(super) fn own_variant(
        &self,
        statement: &Statement,
        text: &ParsedQuery,
        parse_context: Option<&Arc<ParseContext>>,
    ) -> Option<Arc<Statement>> {
        let is_own = |variant: &&Variant| {
            variant.of == statement.id
                && variant.statement.parse_context.as_ref() == parse_context
                && !variant.statement.is_retired()
        };
        let is_unshared = parse_context.is_some() && text.effects.constants == Constants::OfTheMoment;
        let known = self.variants.iter().filter(|_| is_unshared).find(is_own)?;
        Some(Arc::clone(&known.statement))
    }

    /// Returns the statement that `DEALLOCATE` of `name` frees.
    pub(super) fn placeholder(&self, name: &[u8]) -> Option<Arc<Statement>> {
        self.placeholders.iter().find(|(known, _)| **known == *name).map(|(_, placeholder)| Arc::clone(placeholder))
    }

    /// Lets `DEALLOCATE` of `name` free `placeholder`.
    pub(super) fn set_placeholder(&mut self, name: &[u8], placeholder: &Arc<Statement>) {
        self.take_placeholder(name);
        if self.placeholders.len() >= MAX_FORMER_NAMES {
            // What is not freed is closed to make room for others in the end.
            self.placeholders.clear();
        }
        self.placeholders.push((name.into(), Arc::clone(placeholder)));
    }

    /// Forgets what `DEALLOCATE` of `name` frees.
    pub(super) fn take_placeholder(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        let at = self.placeholders.iter().position(|(known, _)| **known == *name)?;
        Some(self.placeholders.swap_remove(at).1)
    }

    /// The transaction is over.
    pub(super) fn end_transaction(&mut self) {
        self.variants.iter_mut().for_each(|variant| variant.for_transaction = false);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.variants.clear();
        self.former.clear();
        self.placeholders.clear();
    }
}
