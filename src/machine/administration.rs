//! What the client's work means for connections of others.

use super::from_client::{Incoming, body};
use super::{Buffers, Machine};
use crate::track::Request;
use crate::track::administration::{self, RoleChange};
use crate::track::message_target::{MessageTarget, target_of};
use crate::wire::frontend;

/// Effects of the client's work on others' connections, since they were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Administration {
    /// The database to which no connection may be open.
    vacated: Option<Vec<u8>>,
}

impl Machine<'_> {
    /// The database to which the client's work wants no connection, once.
    pub fn take_vacated(&mut self) -> Option<Vec<u8>> {
        self.administration.vacated.take()
    }

    /// The effect of the client's work on roles, once.
    pub fn take_role_change(&mut self) -> RoleChange {
        self.server.for_others.take_role_change()
    }

    /// Notes the database to which the message wants no connection: by its text, or by that of the statement that it is about to run.
    pub(super) fn note_vacated(&mut self, io: &Buffers<'_>, incoming: Incoming) {
        let body = body(io, incoming);
        let vacated = match incoming.request {
            Request::Query => administration::vacated(frontend::query(body), self.client.lexis()),
            Request::Parse => {
                let Some((name, sql)) = frontend::parse(body) else { return };
                let vacated = administration::vacated(sql, self.client.lexis());
                self.client.vacating.set(name, vacated.as_deref());
                vacated
            }
            Request::Bind if !self.client.vacating.is_empty() => match target_of(frontend::BIND, body) {
                MessageTarget::Statement { name, .. } => self.client.vacating.get(name).map(<[u8]>::to_vec),
                _ => None,
            },
            _ => None,
        };
        if vacated.is_some() {
            self.administration.vacated = vacated;
        }
    }
}
