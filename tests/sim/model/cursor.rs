//! Cursors: where they go, and what is fetched on the way, as in `pquery.c`.

use std::rc::Rc;

use super::backend::Backend;
use super::error::{Stop, fail};
use super::eval::Cells;
use super::portal::{CommandTag, Portal, Rows, State, Strategy};
use super::shared::Shared;
use super::sql::ast::{Direction, From, Select, Statement};
use super::statement::Ran;

/// Whether a plan of `select` can be read backwards: `ExecSupportsBackwardScan`.
pub fn goes_back(select: &Statement) -> bool {
    matches!(select, Statement::Select(Select { from, .. }) if *from != From::Nothing)
}

impl Backend {
    /// `PerformPortalFetch`.
    pub fn fetch(&mut self, shared: &mut Shared, cursor: &str, to: Direction, moves: bool) -> Result<Ran, Stop> {
        let Some(portal) = self.portals.get(cursor) else {
            return fail("34000", format!("cursor \"{cursor}\" does not exist"));
        };
        let mut portal = portal.clone();
        if portal.state != State::Ready {
            return fail("55000", format!("portal \"{cursor}\" cannot be run"));
        }
        if portal.strategy == Strategy::Multi {
            shared.beyond.push("FETCH from what is no query");
            return fail("XX000", "unsupported portal strategy");
        }
        let filled = self.fill(shared, cursor, &mut portal);
        let gone = filled.and_then(|()| self.go(shared, &mut portal, to, moves));
        if let Err(Stop::Error(_)) = gone {
            self.set_state(cursor, State::Failed);
        }
        let (count, rows) = gone?;
        if let Some(kept) = self.portals.get_mut(cursor) {
            *kept = portal;
        }
        let tag = CommandTag::Counted(if moves { "MOVE" } else { "FETCH" }, count);
        Ok(Ran::Done(tag, if moves { Vec::new() } else { rows }))
    }

    /// Runs a command whose result is read in parts: `FillPortalStore`.
    fn fill(&mut self, shared: &mut Shared, name: &str, portal: &mut Portal) -> Result<(), Stop> {
        let Some(statement) = portal.statement.clone() else { return Ok(()) };
        if !matches!(portal.rows, Rows::Unrun) || portal.strategy == Strategy::OneSelect {
            return Ok(());
        }
        self.set_state(name, State::Active);
        let params = Rc::clone(&portal.params);
        if let Ran::Done(tag, rows) = self.run_statement(shared, &statement, portal.target, &params, false)? {
            portal.rows = Rows::Result(rows.into());
            portal.tag = Some(tag);
        }
        Ok(())
    }

    /// `DoPortalRunFetch`: how many rows it counts, and those that are wanted.
    fn go(
        &mut self,
        shared: &mut Shared,
        portal: &mut Portal,
        to: Direction,
        moves: bool,
    ) -> Result<(usize, Vec<Cells>), Stop> {
        let size = |n: i64| usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX);
        let (forward, count) = match to {
            Direction::Forward(None) => (true, None),
            Direction::Backward(None) => (false, None),
            Direction::Forward(Some(n)) => (n >= 0, Some(size(n))),
            Direction::Backward(Some(n)) => (n < 0, Some(size(n))),
            Direction::Absolute(0) => {
                rewind(portal)?;
                return self.read(shared, portal, true, Some(0));
            }
            Direction::Absolute(n) if n > 0 => {
                let n = size(n);
                if n - 1 <= portal.position / 2 {
                    rewind(portal)?;
                    if n > 1 {
                        self.read(shared, portal, true, Some(n - 1))?;
                    }
                } else {
                    let at = portal.position + usize::from(portal.at_end);
                    if n <= at {
                        self.read(shared, portal, false, Some(at - n + 1))?;
                    } else if n > at + 1 {
                        self.read(shared, portal, true, Some(n - at - 1))?;
                    }
                }
                return self.read(shared, portal, true, Some(1));
            }
            Direction::Absolute(n) => {
                self.read(shared, portal, true, None)?;
                if n < -1 {
                    self.read(shared, portal, false, Some(size(n) - 1))?;
                }
                return self.read(shared, portal, false, Some(1));
            }
            Direction::Relative(0) => (true, Some(0)),
            Direction::Relative(n) => {
                let forward = n > 0;
                if size(n) > 1 {
                    self.read(shared, portal, forward, Some(size(n) - 1))?;
                }
                return self.read(shared, portal, forward, Some(1));
            }
        };
        if count == Some(0) {
            let on_row = !portal.at_start && !portal.at_end;
            if moves {
                return Ok((usize::from(on_row), Vec::new()));
            }
            if on_row {
                self.read(shared, portal, false, Some(1))?;
                return self.read(shared, portal, true, Some(1));
            }
        }
        if !forward && count.is_none() && moves {
            let passed = portal.position.saturating_sub(usize::from(!portal.at_end));
            rewind(portal)?;
            return Ok((passed, Vec::new()));
        }
        self.read(shared, portal, forward, count)
    }

    /// `PortalRunSelect`: so many rows in a direction, or all that are left.
    fn read(
        &mut self,
        shared: &mut Shared,
        portal: &mut Portal,
        forward: bool,
        count: Option<usize>,
    ) -> Result<(usize, Vec<Cells>), Stop> {
        if !forward && !portal.scrolls {
            return fail("55000", "cursor can only scan forward");
        }
        if count == Some(0) || (if forward { portal.at_end } else { portal.at_start }) {
            return Ok((0, Vec::new()));
        }
        let total = self.source_rows(shared, portal)?;
        let mut rows = Vec::new();
        if forward {
            let from = portal.position;
            let to = count.map_or(total, |count| total.min(from.saturating_add(count)));
            for at in from..to {
                rows.push(self.project(shared, portal, at)?);
            }
            portal.at_start &= rows.is_empty();
            portal.at_end = count.is_none_or(|count| rows.len() < count);
            portal.position = to;
        } else {
            // The row that it is on is behind the last one at the end.
            let on = portal.position + usize::from(portal.at_end);
            let to = count.map_or(0, |count| on.saturating_sub(count));
            for at in (to.max(1)..on).rev() {
                rows.push(self.project(shared, portal, at - 1)?);
            }
            if !rows.is_empty() {
                portal.at_end = false;
            }
            portal.at_start = count.is_none_or(|count| rows.len() < count);
            portal.position = if portal.at_start { 0 } else { to };
        }
        Ok((rows.len(), rows))
    }
}

/// `DoPortalRewind`.
fn rewind(portal: &mut Portal) -> Result<(), Stop> {
    if portal.at_start && !portal.at_end {
        return Ok(());
    }
    if !portal.scrolls {
        return fail("55000", "cursor can only scan forward");
    }
    portal.at_start = true;
    portal.at_end = false;
    portal.position = 0;
    Ok(())
}
