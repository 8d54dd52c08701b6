//! COPY FROM STDIN, and the messages that come during it.

use std::rc::Rc;

use super::backend::Backend;
use super::catalog::TableId;
use super::error::{Report, Stop};
use super::eval::Cells;
use super::portal::CommandTag;
use super::shared::Shared;
use super::value::utf8;
use super::wire::Body;

/// A copy that reads the client's data.
#[derive(Debug)]
pub struct CopyIn {
    pub table: TableId,
    pub columns: Vec<Rc<str>>,
    /// The rows so far. Whether they are unique is seen at the end, since rows are inserted in bulk.
    rows: Vec<Cells>,
    /// The line that is not complete.
    line: Vec<u8>,
    /// `\.` has come.
    ended: bool,
}

impl CopyIn {
    pub fn new(table: TableId, columns: Vec<Rc<str>>) -> Self {
        Self { table, columns, rows: Vec::new(), line: Vec::new(), ended: false }
    }
}

impl Backend {
    /// A message during a copy.
    pub fn copy_message(&mut self, shared: &mut Shared, tag: u8, mut body: Body<'_>) -> Result<(), Stop> {
        match tag {
            b'd' => self.copy_data(shared, body.0),
            b'c' => self.copy_done(shared),
            b'f' => {
                let why = String::from_utf8_lossy(body.string()?).into_owned();
                Err(Report::error("57014", format!("COPY from stdin failed: {why}")).into())
            }
            b'S' | b'H' => Ok(()),
            other => {
                self.unexpected_in_copy(shared, other);
                Ok(())
            }
        }
    }

    fn copy_data(&mut self, shared: &mut Shared, data: &[u8]) -> Result<(), Stop> {
        for &byte in data {
            let Some(copy) = &mut self.copy else { return Ok(()) };
            if copy.ended {
                return Ok(());
            }
            if byte != b'\n' {
                copy.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut copy.line);
            self.copy_line(shared, &line)?;
        }
        Ok(())
    }

    fn copy_line(&mut self, shared: &mut Shared, line: &[u8]) -> Result<(), Stop> {
        if std::mem::take(&mut self.cancelled) {
            return Err(Report::error("57014", "canceling statement due to user request").into());
        }
        let Some(copy) = &self.copy else { return Ok(()) };
        if line == b"\\." {
            if let Some(copy) = &mut self.copy {
                copy.ended = true;
            }
            return Ok(());
        }
        let cells = self.copied_row(shared, copy.table, &copy.columns, utf8(line)?)?;
        if let Some(copy) = &mut self.copy {
            copy.rows.push(cells);
        }
        Ok(())
    }

    fn copy_done(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let line = std::mem::take(&mut copy.line);
        if !line.is_empty() {
            self.copy_line(shared, &line)?;
        }
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let (table, rows) = (copy.table, copy.rows.clone());
        // All of them can be inserted, or it waits before anything is.
        let unique = shared.databases[&self.database].tables.get(&table).and_then(|table| table.unique);
        if let Some(unique) = unique {
            rows.iter().try_for_each(|row| self.check_wait(shared, table, &row[unique]))?;
        }
        let count = rows.len();
        for row in rows {
            self.insert_row(shared, table, row)?;
        }
        self.copy = None;
        // One that came behind the last row finds nothing to cancel.
        self.cancelled = false;
        let tag = CommandTag::Counted("COPY", count);
        if self.texts.is_some() {
            self.portals.remove("");
        }
        if self.texts.is_some() { self.simple_done(shared, &tag) } else { self.executed(shared, false, &tag) }
    }
}
