//! Simple queries: `exec_simple_query`.

use std::rc::Rc;

use super::analyze::Params;
use super::backend::{Backend, aborted};
use super::error::Stop;
use super::extended::{Prepared, is_planned};
use super::portal::{CommandTag, Portal, Rows, State, Strategy};
use super::shared::Shared;
use super::sql::ast::Statement;
use super::statement::Ran;

/// The statements of a simple query, and how many have been run.
#[derive(Clone, Debug)]
pub struct Texts {
    statements: Rc<[Rc<Statement>]>,
    next: usize,
}

impl Backend {
    pub fn simple_query(&mut self, shared: &mut Shared, text: &str) -> Result<(), Stop> {
        self.begin_command(shared)?;
        self.unnamed = None;
        let is_suspended =
            |portal: &Portal| portal.strategy == Strategy::OneReturning && portal.position > 0 && !portal.at_end;
        if self.portals.values().any(is_suspended) {
            shared
                .beyond
                .push("a query behind INSERT … RETURNING with rows still to come, which does not see them yet");
        }
        let statements = shared.parse(text, self.settings.escapes())?;
        self.texts = Some(Texts { statements, next: 0 });
        self.go_on(shared)
    }

    /// Runs what is left of a simple query.
    pub fn go_on(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        while let Some(texts) = &self.texts {
            let Some(statement) = texts.statements.get(texts.next) else {
                let empty = texts.statements.is_empty();
                self.finish(shared)?;
                if empty {
                    self.output.empty(b'I');
                }
                self.texts = None;
                self.ready = true;
                break;
            };
            let statement = Rc::clone(statement);
            shared.locks.goes_on(self.id);
            if self.transaction.is_aborted() && !statement.is_exit() {
                return Err(aborted().into());
            }
            let several = texts.statements.len() > 1;
            self.begin_command(shared)?;
            if several {
                self.begin_implicit();
            }
            match self.simple_statement(shared, &statement)? {
                Some(tag) => self.simple_done(shared, &tag)?,
                None => break,
            }
        }
        Ok(())
    }

    /// One statement; its tag unless it has begun a copy.
    fn simple_statement(&mut self, shared: &mut Shared, statement: &Rc<Statement>) -> Result<Option<CommandTag>, Stop> {
        let meaning = if is_planned(statement) {
            self.settings.queried = true;
            self.analyze(shared, statement, Params::none())?
        } else {
            super::analyze::Meaning::default()
        };
        let target = meaning.target();
        self.check_waits(shared, statement, target, &[])?;
        let prepared = Prepared { statement: Some(Rc::clone(statement)), meaning: meaning.into(), from_sql: false };
        let mut portal = self.open(shared, &prepared, Rc::new([]), Rc::new([]))?;
        // It uses the unnamed portal, which stays behind where it fails in a transaction.
        self.portals.insert("".into(), Portal { state: State::Active, ..portal.clone() });
        match portal.strategy {
            Strategy::OneSelect => portal.tag = Some(CommandTag::Counted("SELECT", 0)),
            _ => match self.run_statement(shared, statement, target, &[], true)? {
                Ran::Copying => return Ok(None),
                Ran::Done(tag, _) if portal.strategy == Strategy::Multi => {
                    self.portals.remove("");
                    return Ok(Some(tag));
                }
                Ran::Done(tag, rows) => {
                    portal.rows = Rows::Result(rows.into());
                    portal.tag = Some(tag);
                }
            },
        }
        self.row_description(portal.columns.as_deref(), &[]);
        let tag = self.run_rows(shared, &mut portal, None)?;
        self.portals.remove("");
        Ok(tag)
    }

    /// A statement has been run.
    pub fn simple_done(&mut self, shared: &mut Shared, tag: &CommandTag) -> Result<(), Stop> {
        let Some(texts) = &mut self.texts else { return Ok(()) };
        let control = texts.statements.get(texts.next).is_some_and(|statement| statement.is_transaction());
        texts.next += 1;
        if texts.next == texts.statements.len() {
            if texts.statements.len() > 1 {
                self.end_implicit();
            }
            self.finish(shared)?;
        } else if control {
            self.finish(shared)?;
        }
        self.command_complete(tag);
        Ok(())
    }
}
