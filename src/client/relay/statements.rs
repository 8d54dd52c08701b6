//! Statements under way from client to server: looked at, and in transaction mode renamed, so that a client finds its
//! own on every connection.

use std::ops::Range;
use std::sync::Arc;

use super::Relay;
use super::ready::Ready;
use crate::config::Mode;
use crate::error::{Blame, Fault, sqlstate};
use crate::track::acts::Act;
use crate::track::names::{About, about};
use crate::track::pinning::{self, Look};
use crate::track::statements::{self, Statement, Text, Undo};
use crate::track::{Pins, Reply, Request};
use crate::wire::{Head, cstr, frame, frontend};

/// How many names are remembered that a client has given up, for the sake of errors that may still come.
const FORMER_NAMES: usize = 256;

impl Relay<'_> {
    fn carries(&self) -> bool {
        self.mode == Mode::Transaction
    }

    /// The body of the client's next message, as far as it is there.
    fn body(&self, here: usize) -> &[u8] {
        self.client.input.unparsed().get(frame::HEADER..here).unwrap_or_default()
    }

    /// A simple query.
    pub(super) fn query(&mut self, head: Head, here: usize) -> bool {
        let whole = here == head.size;
        let look = if whole { pinning::of_sql(frontend::query(self.body(here))) } else { Look::unseen() };
        if let Err(refusal) = self.consider(&look) {
            return self.refuse(&refusal, Request::Query, head, here);
        }
        self.bag.unnamed = None;
        self.unnamed_here = true;
        let mentioned =
            if whole { statements::mentions(frontend::query(self.body(here)), &self.bag.names) } else { Vec::new() };
        if mentioned.is_empty() {
            self.pass(Request::Query, head, here, None);
        } else {
            let sql = frontend::query(self.body(here)).to_vec();
            if let Err(refusal) = self.consider_mentioned(&mentioned) {
                return self.refuse(&refusal, Request::Query, head, here);
            }
            let open = self.pipeline.unsynced();
            let owed = self.pipeline.owed();
            let sql = self.rename_mentioned(&sql, mentioned, (!open).then_some(Reply::Hide));
            if self.pipeline.owed() > owed {
                // Without it an error would make the server discard the query too. What is missing it will say itself.
                frontend::put_sync(&mut self.link.conn.output);
                self.pipeline.request(Request::Sync, Reply::Hide);
            }
            frontend::put_query(&mut self.link.conn.output, &sql);
            self.pipeline.request(Request::Query, Reply::Forward);
            self.drop_message(head, here);
        }
        self.note_act(look.act);
        true
    }

    /// Notes what statements do that SQL's `EXECUTE` runs.
    fn consider_mentioned(&mut self, mentioned: &[(Range<usize>, Arc<Statement>)]) -> Result<(), Fault> {
        for text in mentioned.iter().filter_map(|(_, statement)| statement.text.as_ref()) {
            // Not as an act: that takes the statement itself.
            let act = text.look.act.as_ref().map(|_| Arc::new(Act::Unclear));
            self.consider(&Look { act, ..text.look.clone() })?;
        }
        Ok(())
    }

    /// `sql` with the names that its statements have on the server, where they are prepared first if that is possible.
    fn rename_mentioned(
        &mut self,
        sql: &[u8],
        mentioned: Vec<(Range<usize>, Arc<Statement>)>,
        prepare: Option<Reply>,
    ) -> Vec<u8> {
        let mut renamed = Vec::new();
        let mut done = 0;
        self.splice();
        for (at, statement) in mentioned {
            let ready = match prepare.map(|reply| self.ready(&statement, None, reply)) {
                Some(Ready::Go(ready)) => ready,
                _ => statement,
            };
            renamed.extend_from_slice(&sql[done..at.start]);
            renamed.extend_from_slice(ready.name().as_bytes());
            done = at.end;
        }
        renamed.extend_from_slice(&sql[done..]);
        renamed
    }

    /// A function called by its OID.
    pub(super) fn function(&mut self, head: Head, here: usize) -> bool {
        let look = Look { pins: Pins::CODE, ..Look::default() };
        match self.consider(&look) {
            Ok(()) => self.pass(Request::Function, head, here, None),
            Err(refusal) => self.refuse(&refusal, Request::Function, head, here),
        }
    }

    /// A text to be prepared.
    pub(super) fn parse(&mut self, head: Head, here: usize) -> bool {
        let whole = here == head.size;
        let body = self.body(here);
        let About::Statement { name, rest, .. } = about(frontend::PARSE, body) else {
            // Malformed; the server says so.
            return self.pass(Request::Parse, head, here, None);
        };
        if self.carries() && !name.is_empty() {
            let name: Box<[u8]> = name.into();
            return if whole && is_well_formed(rest) {
                let rest: Box<[u8]> = rest.into();
                self.parse_named(&name, &rest, head, here)
            } else {
                self.parse_unkept(&name, head, here)
            };
        }
        let unnamed = name.is_empty();
        // Many clients say the same again and again.
        let same = self.bag.unnamed.as_ref().filter(|text| unnamed && whole && *text.body == *rest).map(Arc::clone);
        let (look, text) = if let Some(text) = same {
            (text.look.clone(), Some(text))
        } else {
            let look = match cstr(rest) {
                Some((sql, _)) if whole => pinning::of_sql(sql),
                _ => Look::unseen(),
            };
            let keep = unnamed && self.carries() && whole && is_well_formed(rest);
            let text = keep.then(|| Arc::new(Text { body: rest.into(), look: look.clone() }));
            (look, text)
        };
        if !unnamed {
            self.pins.add(Pins::STATEMENT);
        }
        if let Err(refusal) = self.consider(&look) {
            return self.refuse(&refusal, Request::Parse, head, here);
        }
        if !unnamed {
            return self.pass(Request::Parse, head, here, None);
        }
        self.bag.unnamed.clone_from(&text);
        self.unnamed_here = true;
        let undo = Undo { unnamed: true, ..Undo::default() };
        let mentioned = text.as_ref().map(|text| statements::mentions(frontend::query(&text.body), &self.bag.names));
        match (text, mentioned) {
            (Some(text), Some(mentioned)) if !mentioned.is_empty() => {
                if let Err(refusal) = self.consider_mentioned(&mentioned) {
                    return self.refuse(&refusal, Request::Parse, head, here);
                }
                let sql = frontend::query(&text.body);
                let types = &text.body[sql.len()..];
                let mut renamed = self.rename_mentioned(sql, mentioned, Some(Reply::Assist));
                renamed.extend_from_slice(types);
                // On another connection the names would be others.
                self.bag.unnamed = None;
                self.unnamed_look = Some(text.look.clone());
                frontend::put_parse(&mut self.link.conn.output, "", &renamed);
                self.pipeline.request_with(Request::Parse, Reply::Forward, Some(undo));
                self.drop_message(head, here)
            }
            _ => {
                self.unnamed_look = Some(look);
                self.pass(Request::Parse, head, here, Some(undo))
            }
        }
    }

    /// A named text of which not all is there, because it is too long: it goes to the server under a name of its own,
    /// and the client stays with the connection that has it.
    fn parse_unkept(&mut self, name: &[u8], head: Head, here: usize) -> bool {
        let mut look = Look::unseen();
        look.pins.add(Pins::STATEMENT);
        if let Err(refusal) = self.consider(&look) {
            return self.refuse(&refusal, Request::Parse, head, here);
        }
        let statement = self.bag.names.get(name).cloned();
        let (statement, undo) = if let Some(existing) = statement {
            // The server will say that it exists.
            match self.ready(&existing, Some(name), Reply::Assist) {
                Ready::Go(existing) => (existing, None),
                Ready::Wait => return false,
                Ready::Refused(_) => (existing, None),
            }
        } else {
            let statement = self.shared.registry.catalog.unkept();
            self.bag.names.set(name, Some(Arc::clone(&statement)));
            self.link.prepared.add(&statement);
            let undo = Undo { name: Some((name.into(), None)), prepared: Some(statement.id), ..Undo::default() };
            (statement, Some(undo))
        };
        let cut = frame::HEADER + name.len() + 1;
        self.pass_with(Request::Parse, head, here, undo, (cut, frontend::PARSE, b"", &statement.name()))
    }

    fn parse_named(&mut self, name: &[u8], rest: &[u8], head: Head, here: usize) -> bool {
        let cut = frame::HEADER + name.len() + 1;
        let make = || {
            let look = pinning::of_sql(frontend::query(rest));
            Arc::new(Text { body: rest.into(), look })
        };
        // Not what the connection reports: that is being made to be this.
        let now = self.bag.view.clone();
        let flavor = self.bag.flavor(&now, self.pins);
        let statement = self.shared.registry.catalog.intern(flavor.as_ref(), &now, rest, make);
        if let Some(text) = &statement.text
            && let Err(refusal) = self.consider(&text.look)
        {
            return self.refuse(&refusal, Request::Parse, head, here);
        }
        if let Some(existing) = self.bag.names.get(name).cloned() {
            // The server looks at the text first, and then says that the statement exists.
            let existing = match self.ready(&existing, Some(name), Reply::Assist) {
                Ready::Go(ready) => ready,
                Ready::Wait => return false,
                Ready::Refused(_) => existing,
            };
            return self.pass_with(Request::Parse, head, here, None, (cut, frontend::PARSE, b"", &existing.name()));
        }
        self.bag.names.set(name, Some(Arc::clone(&statement)));
        let mut undo = Undo { name: Some((name.into(), None)), ..Undo::default() };
        if self.link.prepared.has(&statement) {
            if self.pipeline.knows_status() && self.pipeline.status() != b'E' {
                return self.invent(Request::Parse, head, here, undo);
            }
            // In a failed transaction most texts are refused, which only the server can do.
            self.close_prepared(statement.id, rest.len());
        }
        undo.prepared = Some(statement.id);
        self.add_prepared(&statement);
        self.pass_with(Request::Parse, head, here, Some(undo), (cut, frontend::PARSE, b"", &statement.name()))
    }

    /// `Bind`, `Describe` or `Close`, of a statement or a portal.
    pub(super) fn named(&mut self, request: Request, head: Head, here: usize) -> bool {
        let body = self.body(here);
        let About::Statement { portal, name, rest } = about(head.tag, body) else {
            return self.pass(request, head, here, None);
        };
        let cut = frame::HEADER + (body.len() - rest.len());
        if name.is_empty() {
            let portal: Box<[u8]> = portal.into();
            return self.unnamed(request, &portal, head, here);
        }
        let Some(statement) = self.bag.names.get(name).cloned() else {
            if self.carries() && name.starts_with(statements::PREFIX.as_bytes()) {
                // One of ours: not this client's.
                let fault = unknown_statement(name);
                return match request {
                    Request::Close => self.invent(request, head, here, Undo::default()),
                    _ => self.refuse(&fault, request, head, here),
                };
            }
            // The server says that it does not exist; or it was made by SQL's PREPARE, and does.
            return self.pass(request, head, here, None);
        };
        let (name, mut before): (Box<[u8]>, Vec<u8>) = (name.into(), portal.to_vec());
        if request == Request::Close {
            self.forget(&name);
            let undo = Undo { name: Some((name, Some(statement))), ..Undo::default() };
            return self.invent(request, head, here, undo);
        }
        if let Some(text) = &statement.text
            && let Err(refusal) = self.consider(&text.look)
        {
            return self.refuse(&refusal, request, head, here);
        }
        let ready = match self.ready(&statement, Some(&name), Reply::Assist) {
            Ready::Go(ready) => ready,
            Ready::Wait => return false,
            Ready::Refused(fault) => return self.refuse(&fault, request, head, here),
        };
        self.uses(&ready);
        if request == Request::Bind {
            self.set_portal(&before, statement.text.as_ref().map(|text| &text.look));
            before.push(0);
        } else {
            before = b"S".to_vec();
        }
        let describes = (request == Request::Describe).then(|| Arc::clone(&ready));
        if describes.is_some() {
            self.bag.names.tell(&name);
        }
        let undo = describes.map(|describes| Undo { describes: Some(describes), ..Undo::default() });
        self.pass_with(request, head, here, undo, (cut, head.tag, &before, &ready.name()))
    }

    /// The client gives up a name.
    pub(super) fn forget(&mut self, name: &[u8]) {
        if let Some(statement) = self.bag.names.get(name) {
            if self.former.len() >= FORMER_NAMES {
                self.former.clear();
            }
            self.former.push((statement.id, name.into()));
            self.bag.names.set(name, None);
        }
    }

    /// `Bind`, `Describe` or `Close` of the unnamed statement, which may be on another connection; and what is there
    /// may be somebody else's.
    fn unnamed(&mut self, request: Request, portal: &[u8], head: Head, here: usize) -> bool {
        if request == Request::Close {
            self.bag.unnamed = None;
            self.unnamed_here = true;
            return self.pass(request, head, here, None);
        }
        if !self.unnamed_here {
            self.splice();
            self.unnamed_here = true;
            if let Some(text) = self.bag.unnamed.clone() {
                if let Err(refusal) = self.consider(&text.look) {
                    return self.refuse(&refusal, request, head, here);
                }
                frontend::put_parse(&mut self.link.conn.output, "", &text.body);
                let undo = Undo { unnamed: true, ..Undo::default() };
                self.pipeline.request_with(Request::Parse, Reply::Assist, Some(undo));
                self.unnamed_look = Some(text.look.clone());
            } else {
                frontend::put_close(&mut self.link.conn.output, "");
                self.pipeline.request(Request::Close, Reply::Hide);
            }
        }
        if request == Request::Bind {
            let look = self.unnamed_look.clone();
            self.set_portal(portal, look.as_ref());
        }
        self.pass(request, head, here, None)
    }

    /// The running of a portal.
    pub(super) fn execute(&mut self, head: Head, here: usize) -> bool {
        let About::Portal(portal) = about(frontend::EXECUTE, self.body(here)) else {
            return self.pass(Request::Execute, head, here, None);
        };
        let act = self.portals.iter().find(|(name, _)| **name == *portal).map(|(_, act)| Arc::clone(act));
        self.pass(Request::Execute, head, here, None);
        self.note_act(act);
        true
    }

    /// Notes what running a portal will do.
    fn set_portal(&mut self, portal: &[u8], look: Option<&Look>) {
        if !self.portals.is_empty() {
            self.portals.retain(|(name, _)| **name != *portal);
        }
        if let Some(act) = look.and_then(|look| look.act.clone()) {
            self.portals.push((portal.into(), act));
        }
    }
}

/// What PostgreSQL says of a statement that does not exist.
fn unknown_statement(name: &[u8]) -> Fault {
    let name = String::from_utf8_lossy(name);
    Fault::error(Blame::Client, sqlstate::UNDEFINED_STATEMENT, format!("prepared statement \"{name}\" does not exist"))
}

/// Whether what follows the name of a `Parse` is a text, a count and as many types.
fn is_well_formed(rest: &[u8]) -> bool {
    let Some((_, types)) = cstr(rest) else { return false };
    match types.split_first_chunk::<2>() {
        Some((count, oids)) => oids.len() == 4 * usize::from(u16::from_be_bytes(*count)),
        None => false,
    }
}
