//! The extended protocol at the console: prepared commands and portals.

use std::collections::HashMap;
use std::sync::Arc;

use super::command::{self, Command};
use super::{parse, shape, unsupported};
use crate::admin::table::Table;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::upstream::slots::{Slot, Slots};
use crate::wire::{backend, frontend};

/// Number of statements, and of portals, that an administrator may have at a time.
const MAX_NAMES: usize = 1000;

/// The longest name of a statement or portal, in bytes; drivers' own are a tenth as long.
const MAX_NAME_BYTES: usize = 256;

/// The longest command that is prepared, in bytes.
const MAX_PREPARED_BYTES: usize = 1024;

/// An administrator's statements and portals.
#[derive(Debug, Default)]
pub(super) struct Portals {
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
}

/// A command about to be done, or done.
#[derive(Debug)]
pub(super) struct Portal {
    pub command: Command,
    formats: Vec<i16>,
    /// Its rows, once it has been done.
    pub result: Option<Table>,
    next: usize,
    /// Its place among those of which rows are left.
    slot: Option<Slot>,
}

impl Portals {
    /// Answers a `Parse`, `Bind`, `Describe` or `Close`.
    ///
    /// # Errors
    /// What the administrator is told.
    pub(super) fn message(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), ClientError> {
        let malformed = || ClientError::violation("insufficient data left in message");
        match tag {
            frontend::PARSE => {
                let (name, text) = frontend::parse(body).ok_or_else(malformed)?;
                self.prepare(name, &String::from_utf8_lossy(text))?;
                backend::put_parse_complete(out);
            }
            frontend::BIND => {
                let bind = frontend::bind(body).ok_or_else(malformed)?;
                if bind.parameters > 0 {
                    return Err(unsupported("the console's commands take no parameters"));
                }
                let command = self.statements.get(bind.statement).ok_or_else(|| no_statement(bind.statement))?.clone();
                check_room(&self.portals, bind.portal)?;
                let portal = Portal { command, formats: bind.formats, result: None, next: 0, slot: None };
                self.portals.insert(bind.portal.to_vec(), portal);
                backend::put_bind_complete(out);
            }
            frontend::DESCRIBE => {
                let (kind, name) = frontend::target(body).ok_or_else(malformed)?;
                let (command, formats) = if kind == b'S' {
                    backend::put_no_parameters(out);
                    (self.statements.get(name).ok_or_else(|| no_statement(name))?, &[][..])
                } else {
                    let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                    (&portal.command, &portal.formats[..])
                };
                match shape(command) {
                    Some(table) => table.put_description(out, formats),
                    None => backend::put_no_data(out),
                }
            }
            _ => {
                let (kind, name) = frontend::target(body).ok_or_else(malformed)?;
                if kind == b'S' {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                backend::put_close_complete(out);
            }
        }
        Ok(())
    }

    /// The portal called `name`.
    pub(super) fn portal(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Ends the portals: there is no transaction beyond a `Sync` or a query that would keep them.
    pub(super) fn end_transaction(&mut self) {
        self.portals.clear();
    }

    fn prepare(&mut self, name: &[u8], text: &str) -> Result<(), ClientError> {
        let command = match command::statements(text)[..] {
            [] => Command::Empty,
            [one] if one.len() > MAX_PREPARED_BYTES => return Err(too_long()),
            [one] => parse(one)?,
            _ => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(ClientError::error(ErrorSource::Client, sqlstate::SYNTAX_ERROR, message));
            }
        };
        check_room(&self.statements, name)?;
        self.statements.insert(name.to_vec(), command);
        Ok(())
    }
}

impl Portal {
    /// Holds the rows of its command, in a place among those that do.
    pub(super) fn hold(&mut self, table: Table, slot: Slot) {
        self.result = Some(table);
        self.slot = Some(slot);
    }

    /// Appends the next rows, `most` of them unless that is 0, and what comes behind.
    pub(super) fn put_rows(&mut self, most: u32, out: &mut Vec<u8>) {
        let Some(table) = &mut self.result else { return };
        let most = if most == 0 { usize::MAX } else { most as usize };
        let end = table.rows.len().min(self.next.saturating_add(most));
        for at in self.next..end {
            table.put_row(out, at, &self.formats);
        }
        self.next = end;
        if self.command == Command::Empty {
            backend::put_empty_query(out);
        } else if end < table.rows.len() {
            backend::put_portal_suspended(out);
        } else {
            *table = Table::default();
            self.next = 0;
            self.slot = None;
            backend::put_command_complete(out, &self.command.tag());
        }
    }
}

/// Takes a place for a table of which rows may be left.
///
/// # Errors
/// What the administrator is told when there is none.
pub(super) fn slot_for_rows(slots: &Arc<Slots>) -> Result<Slot, ClientError> {
    slots.try_take().ok_or_else(|| {
        let message = format!("more than {} portals with rows that were not fetched: close some", slots.cap());
        ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, message)
    })
}

/// Checks that there may be one more by this name.
fn check_room<T>(map: &HashMap<Vec<u8>, T>, name: &[u8]) -> Result<(), ClientError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(too_long());
    }
    if map.len() < MAX_NAMES || map.contains_key(name) {
        return Ok(());
    }
    let message = format!("more than {MAX_NAMES} prepared commands: close some");
    Err(ClientError::error(ErrorSource::Client, sqlstate::TOO_MANY_CONNECTIONS, message))
}

fn too_long() -> ClientError {
    let message = "a prepared command or its name is too long";
    ClientError::error(ErrorSource::Client, sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}

fn no_statement(name: &[u8]) -> ClientError {
    let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
    ClientError::error(ErrorSource::Client, sqlstate::UNDEFINED_STATEMENT, message)
}

pub(super) fn no_portal(name: &[u8]) -> ClientError {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    ClientError::error(ErrorSource::Client, sqlstate::UNDEFINED_CURSOR, message)
}
