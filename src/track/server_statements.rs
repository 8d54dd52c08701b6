//! The statements that are prepared on one connection.

use std::collections::HashMap;
use std::sync::Arc;

use super::number_hasher::{NumberHash, NumberSet};
use super::prepared_statement::{PreparedStatement, Reception, Standing};
use super::rollback::Rollback;
use super::statements::{Columns, Limits, ParameterTypes, Rereading, Statement};

/// The statements that are prepared on a connection; those used longest ago give way.
#[derive(Debug, Default)]
pub struct ServerStatementCache {
    map: HashMap<u64, PreparedStatement, NumberHash>,
    /// Bytes of their texts.
    pub(super) bytes: usize,
    clock: u64,
    /// Time at which the message at hand began, which needs all that were used since.
    began: u64,
}

impl ServerStatementCache {
    /// Returns whether `statement` is prepared there, before it is used.
    pub fn has(&mut self, statement: &Statement) -> bool {
        self.clock += 1;
        self.map.get_mut(&statement.id).map(|held| held.used = self.clock).is_some()
    }

    /// The columns of statement `id` there, where they are known.
    #[must_use]
    pub fn columns(&self, id: u64) -> Option<&Columns> {
        self.map.get(&id)?.columns.as_ref()
    }

    /// Notes the columns that statement `id` has there.
    pub fn describe(&mut self, id: u64, columns: &Columns) {
        if let Some(held) = self.map.get_mut(&id) {
            held.columns = Some(Arc::clone(columns));
        }
    }

    /// The types of statement `id`'s parameters there, where they are known.
    #[must_use]
    pub fn types(&self, id: u64) -> Option<&ParameterTypes> {
        self.map.get(&id)?.types.as_ref()
    }

    /// Notes the types that the parameters of statement `id` have there.
    pub fn describe_parameters(&mut self, id: u64, types: &ParameterTypes) {
        if let Some(held) = self.map.get_mut(&id) {
            held.types = Some(Arc::clone(types));
        }
    }

    /// Notes that `statement` is prepared there.
    pub fn add(&mut self, statement: &Statement, standing: Standing) {
        let (size, rereading) = (statement.size(), statement.rereading());
        let reception = Reception::Silent;
        let held = PreparedStatement { used: 0, size, standing, reception, rereading, columns: None, types: None };
        self.put(statement.id, held);
    }

    /// The standing of statement `id`, if it is prepared there.
    #[must_use]
    pub fn standing(&self, id: u64) -> Option<Standing> {
        self.map.get(&id).map(|held| held.standing)
    }

    /// Notes that the server has given a notice about the text of statement `id`.
    pub fn on_notice(&mut self, id: u64) {
        if let Some(held) = self.map.get_mut(&id) {
            held.reception = Reception::WithNotices;
        }
    }

    /// Returns whether a client that prepares statement `id` would be told no more than that it is prepared.
    #[must_use]
    pub fn is_silent(&self, id: u64) -> bool {
        self.map.get(&id).is_some_and(|held| held.reception == Reception::Silent)
    }

    /// Notes that statement `id` is used in a session with settings that are not known.
    pub fn use_under_unknown_settings(&mut self, id: u64) {
        if let Some(held) = self.map.get_mut(&id).filter(|held| held.standing == Standing::Trusted) {
            held.standing = Standing::Used;
        }
    }

    /// Returns whether a statement that outlives a reset may have a plan that was made under settings that are not known.
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.map.values().any(|held| held.standing == Standing::Used)
    }

    /// The session's plans are gone, and its settings are as new.
    pub fn on_discard_plans(&mut self) {
        for held in self.map.values_mut().filter(|held| held.standing == Standing::Used) {
            held.standing = Standing::Trusted;
        }
    }

    /// Numbers of the statements that don't outlive a reset.
    pub fn doubtful(&self) -> impl Iterator<Item = u64> {
        self.map.iter().filter(|(_, held)| held.standing == Standing::Doubtful).map(|(&id, _)| id)
    }

    /// Numbers of the statements that don't outlive plans.
    pub(crate) fn changed_by_rereading(&self) -> impl Iterator<Item = u64> {
        self.map.iter().filter(|(_, held)| held.rereading == Rereading::Other).map(|(&id, _)| id)
    }

    fn put(&mut self, id: u64, held: PreparedStatement) {
        self.clock += 1;
        self.bytes += held.size;
        if let Some(before) = self.map.insert(id, PreparedStatement { used: self.clock, ..held }) {
            self.bytes -= before.size;
        }
    }

    /// Notes that the statement with number `id` is not prepared there; returns what was.
    pub fn remove(&mut self, id: u64) -> Option<PreparedStatement> {
        let held = self.map.remove(&id)?;
        self.bytes -= held.size;
        Some(held)
    }

    /// Notes that another message begins, and the statements that were used so far may give way.
    pub fn begin_message(&mut self) {
        self.began = self.clock;
    }

    /// The statement that must give way to keep to `limits`; `None` where the message at hand needs all that are left. Those that are
    /// `unkept` can't be prepared again: they stay, and don't count.
    #[must_use]
    pub(crate) fn excess(&self, limits: Limits, unkept: Option<&NumberSet>) -> Option<u64> {
        let most = limits.count.saturating_add(unkept.map_or(0, NumberSet::len));
        if self.map.len() <= most && self.bytes <= limits.bytes {
            return None;
        }
        let stays = |id: &u64| unkept.is_some_and(|unkept| unkept.contains(id));
        let unused = self.map.iter().filter(|(id, held)| held.used <= self.began && !stays(id));
        unused.min_by_key(|(_, held)| held.used).map(|(&id, _)| id)
    }

    /// The session has been swept.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes back what has not happened on this connection.
    pub fn undo(&mut self, rollback: &mut Rollback) {
        if let Some(id) = rollback.prepared {
            self.remove(id);
        }
        if let Some((id, held)) = rollback.closed.take() {
            self.put(id, held);
        }
    }

    /// Number of statements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
