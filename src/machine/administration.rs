//! What the client's work means for connections of others.

use super::from_client::{Incoming, body};
use super::{Buffers, Machine};
use crate::track::Request;
use crate::track::administration::{self, RoleChange};
use crate::wire::frontend;

/// Effects of the client's work on others' connections, since they were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Administration {
    /// The database to which no connection may be open.
    vacated: Option<Vec<u8>>,
    /// The greatest effect of a command on roles.
    role_change: RoleChange,
}

impl Machine<'_> {
    /// The database to which the client's work wants no connection, once.
    pub fn take_vacated(&mut self) -> Option<Vec<u8>> {
        self.administration.vacated.take()
    }

    /// The effect of the client's work on roles, once.
    pub(crate) fn take_role_change(&mut self) -> RoleChange {
        std::mem::take(&mut self.administration.role_change)
    }

    pub(super) fn note_vacated(&mut self, io: &Buffers<'_>, incoming: Incoming) {
        let sql = match incoming.request {
            Request::Query => Some(frontend::query(body(io, incoming))),
            Request::Parse => frontend::parse(body(io, incoming)).map(|(_, sql)| sql),
            _ => None,
        };
        let Some(sql) = sql else { return };
        if let Some(database) = administration::vacated(sql, self.client.lexis()) {
            self.administration.vacated = Some(database);
        }
    }

    pub(super) fn note_role_change(&mut self, tag: &[u8]) {
        let before = self.administration.role_change;
        self.administration.role_change = before.max(RoleChange::by(tag));
    }
}
