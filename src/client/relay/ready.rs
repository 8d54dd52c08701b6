//! Statements under way to a connection that has not got them: prepared there first, as they were meant.

use std::sync::Arc;

use super::Relay;
use crate::error::{Fault, sqlstate};
use crate::track::params::put_literal;
use crate::track::statements::{self, Statement, Undo};
use crate::track::{Params, Reply, Request};
use crate::wire::{backend, frontend};

/// A statement that stands in for another one for the time being.
#[derive(Debug)]
pub(super) struct Variant {
    /// The number of the other one.
    pub(super) of: u64,
    pub(super) statement: Arc<Statement>,
    /// It was made for settings that are one client's own, and these have not changed.
    pub(super) holds: bool,
}

/// What getting a statement ready comes to.
pub(super) enum Ready {
    /// It is prepared, or will be when the message gets there.
    Go(Arc<Statement>),
    /// The client's message must wait for what the server says of it.
    Wait,
    /// The client is told this.
    Refused(Fault),
}

/// A statement and a portal of our own, for a moment.
const MEANWHILE: &str = "pgferry_meanwhile";

impl Relay<'_> {
    /// Sees to it that what a client knows as `name` is prepared on this connection, ahead of the message that needs it,
    /// and has the columns that the client was told. Without a `name` nobody asks for its columns.
    pub(super) fn ready(&mut self, statement: &Arc<Statement>, name: Option<&[u8]>, reply: Reply) -> Ready {
        if !statement.is_retired() && self.link.prepared.has(statement) {
            // The server itself sees to its columns.
            return Ready::Go(Arc::clone(statement));
        }
        // One that was too long to be kept is on the connection that the client stays with, or gone from there.
        let Some(text) = &statement.text else { return Ready::Go(Arc::clone(statement)) };
        let own = self.variants.iter().find(|variant| variant.of == statement.id && variant.holds);
        if let Some(own) = own.filter(|own| self.link.prepared.has(&own.statement)) {
            return Ready::Go(Arc::clone(&own.statement));
        }
        // Its constants mean what they meant when it was prepared first; but where a search_path has changed since, the
        // server looks at the text anew, under the settings of now.
        let mut params = statement.params.clone();
        let mut flavor = self.bag.flavor(&params, self.pins);
        let unchanged = flavor.is_some() && statement.flavor == flavor;
        if flavor.is_some() && !unchanged {
            params.clone_from(&self.bag.view);
            flavor = self.bag.flavor(&params, self.pins);
        }
        let catalog = &self.shared.registry.catalog;
        let same = catalog.is_current(statement) && unchanged;
        let variant = if same {
            Arc::clone(statement)
        } else {
            catalog.intern(flavor.as_ref(), &params, &text.body, || Arc::clone(text))
        };
        let told = statement.shape().filter(|_| name.is_some_and(|name| self.bag.names.was_told(name)));
        if let (Some(told), Some(shape)) = (told, variant.shape())
            && told != shape
        {
            return Ready::Refused(changed_columns());
        }
        let replaced = name.filter(|_| flavor.is_some() && statement.is_retired() && told.is_none());
        if let Some(name) = replaced {
            self.bag.names.set(name, Some(Arc::clone(&variant)));
        } else if !same && !self.variants.iter().any(|known| known.statement.id == variant.id) {
            let holds = flavor.is_none();
            self.variants.push(Variant { of: statement.id, statement: Arc::clone(&variant), holds });
        }
        let missing = !self.link.prepared.has(&variant);
        if missing {
            self.prepare(&variant, &text.body, reply);
        }
        let unknown = variant.shape().is_none();
        if told.is_some() && (missing || unknown) {
            frontend::put_renamed(&mut self.link.conn.output, frontend::DESCRIBE, b"S", &variant.name(), 0);
            let undo = Undo { describes: Some(Arc::clone(&variant)), ..Undo::default() };
            self.pipeline.request_with(Request::Describe, reply, Some(undo));
            if unknown {
                frontend::put_flush(&mut self.link.conn.output);
                return Ready::Wait;
            }
        }
        Ready::Go(variant)
    }

    /// Prepares `statement` on this connection, under the settings it was first prepared under.
    fn prepare(&mut self, statement: &Arc<Statement>, body: &[u8], reply: Reply) {
        self.add_prepared(statement);
        self.splice();
        let now = self.bag.view.clone();
        let others: Vec<_> = statement.other_settings(&now).collect();
        self.set_meanwhile(&others, &statement.params, reply);
        self.tally.server_parses += 1;
        frontend::put_parse(&mut self.link.conn.output, &statement.name(), body);
        let undo = Undo { prepared: Some(statement.id), ..Undo::default() };
        self.pipeline.request_with(Request::Parse, reply, Some(undo));
        self.set_meanwhile(&others, &now, reply);
    }

    /// Sets `names` to what they are in `params`, in the middle of whatever the client does: until the transaction ends,
    /// be it an implicit one.
    fn set_meanwhile(&mut self, names: &[&'static str], params: &Params, reply: Reply) {
        for name in names {
            let Some(value) = params.get(name.as_bytes()) else { continue };
            let mut sql = b"SET LOCAL ".to_vec();
            sql.extend_from_slice(name.as_bytes());
            sql.extend_from_slice(b" TO ");
            put_literal(&mut sql, value);
            sql.extend_from_slice(b"\0\0\0");
            let out = &mut self.link.conn.output;
            frontend::put_parse(out, MEANWHILE, &sql);
            frontend::put_bind(out, MEANWHILE, MEANWHILE);
            frontend::put_execute(out, MEANWHILE);
            frontend::put_close_portal(out, MEANWHILE);
            frontend::put_close(out, MEANWHILE);
            for request in [Request::Parse, Request::Bind, Request::Execute, Request::Close, Request::Close] {
                self.pipeline.request(request, reply);
            }
        }
    }

    /// Notes that `statement` is about to be prepared on this connection, and makes room for it.
    pub(super) fn add_prepared(&mut self, statement: &Statement) {
        self.link.prepared.add(statement);
        while let Some((id, size)) = self.link.prepared.excess(self.limits).filter(|(id, _)| *id != statement.id) {
            self.close_prepared(id, size);
        }
    }

    pub(super) fn close_prepared(&mut self, id: u64, size: usize) {
        self.splice();
        self.link.prepared.remove(id);
        frontend::put_close(&mut self.link.conn.output, &format!("{}{id}", statements::PREFIX));
        let undo = Undo { closed: Some((id, size)), ..Undo::default() };
        self.pipeline.request_with(Request::Close, Reply::Hide, Some(undo));
    }
}

/// What PostgreSQL says of a prepared statement whose result has changed since its client was told of it; drivers know it
/// by the name of the routine.
fn changed_columns() -> Fault {
    let mut error = Vec::new();
    let fields = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', sqlstate::FEATURE_NOT_SUPPORTED),
        (b'M', "cached plan must not change result type"),
        (b'F', "plancache.c"),
        (b'R', "RevalidateCachedQuery"),
    ];
    backend::put_error(&mut error, &fields);
    Fault::Upstream(error.into())
}
