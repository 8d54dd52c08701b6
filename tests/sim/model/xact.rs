//! Beginning and ending a backend's transactions and savepoints: `xact.c`.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::backend::{Backend, PIPELINES_ARE_BLOCKS};
use super::catalog::{TableId, Xid};
use super::error::{Report, Stop, fail};
use super::eval::Cells;
use super::lock::{FIRST_PREPARED, Mode, Tag};
use super::portal::{Portal, Rows, State};
use super::settings::Characteristics;
use super::shared::{Notification, Shared};
use super::transaction::{Block, Listening, PreparedTransaction, Savepoint, Transaction, Undo};

fn only_in_blocks(what: &str) -> Report {
    Report::error("25P01", format!("{what} can only be used in transaction blocks"))
}

impl Backend {
    /// `start_xact_command`.
    ///
    /// # Errors
    /// XX000 where a Sync has left a transaction open that a simple query in the pipeline had gone on with: servers of
    /// version 18 do that.
    pub fn begin_command(&mut self, shared: &Shared) -> Result<(), Stop> {
        if self.in_command {
            if self.transaction.pipelining && shared.version >= PIPELINES_ARE_BLOCKS {
                self.begin_implicit();
            }
            return Ok(());
        }
        match self.transaction.block {
            Block::Default => self.start(),
            Block::Started => return fail("XX000", "StartTransactionCommand: unexpected state STARTED"),
            _ => {}
        }
        self.in_command = true;
        Ok(())
    }

    fn start(&mut self) {
        self.transaction.block = Block::Started;
        self.settings.begin();
    }

    /// `finish_xact_command`.
    pub fn finish(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        if !self.in_command {
            return Ok(());
        }
        match self.transaction.block {
            Block::Started | Block::End => {
                let (chain, characteristics) = (self.transaction.chain, self.settings.characteristics());
                self.commit(shared)?;
                self.chain(chain, characteristics);
            }
            Block::Prepare => self.prepare_transaction(shared)?,
            Block::Begin => self.transaction.block = Block::InProgress,
            Block::AbortEnd | Block::AbortPending => {
                let (chain, characteristics) = (self.transaction.chain, self.settings.characteristics());
                self.abort_all(shared);
                self.chain(chain, characteristics);
            }
            Block::Default | Block::InProgress | Block::Implicit | Block::Abort | Block::SubAbort => {}
        }
        self.in_command = false;
        Ok(())
    }

    fn chain(&mut self, chain: bool, characteristics: Characteristics) {
        if chain {
            self.start();
            self.settings.restore(characteristics);
            self.transaction.block = Block::InProgress;
        }
    }

    /// `BeginImplicitTransactionBlock`.
    pub fn begin_implicit(&mut self) {
        if self.transaction.block == Block::Started {
            self.transaction.block = Block::Implicit;
        }
    }

    /// `EndImplicitTransactionBlock`.
    pub fn end_implicit(&mut self) {
        if self.transaction.block == Block::Implicit {
            self.transaction.block = Block::Started;
        }
    }

    pub fn begin(&mut self) {
        match self.transaction.block {
            Block::Started | Block::Implicit => self.transaction.block = Block::Begin,
            _ => self.notice(&Report::warning("25001", "there is already a transaction in progress")),
        }
    }

    /// `EndTransactionBlock`; says whether the tag is COMMIT.
    pub fn commit_block(&mut self, chain: bool) -> Result<bool, Stop> {
        let no_transaction = Report::warning("25P01", "there is no transaction in progress");
        let block = self.transaction.block;
        if chain && matches!(block, Block::Started | Block::Implicit) {
            return Err(only_in_blocks("COMMIT AND CHAIN").into());
        }
        let (next, committed) = match block {
            Block::InProgress | Block::Begin => (Block::End, true),
            Block::Implicit => {
                self.notice(&no_transaction);
                (Block::End, true)
            }
            Block::Abort => (Block::AbortEnd, false),
            Block::SubAbort => (Block::AbortPending, false),
            _ => {
                self.notice(&no_transaction);
                (block, true)
            }
        };
        self.transaction.block = next;
        self.transaction.chain = chain;
        Ok(committed)
    }

    /// `UserAbortTransactionBlock`.
    pub fn rollback_block(&mut self, chain: bool) -> Result<(), Stop> {
        let next = match self.transaction.block {
            Block::Abort => Block::AbortEnd,
            Block::Started | Block::Implicit => {
                if chain {
                    return Err(only_in_blocks("ROLLBACK AND CHAIN").into());
                }
                self.notice(&Report::warning("25P01", "there is no transaction in progress"));
                Block::AbortPending
            }
            _ => Block::AbortPending,
        };
        self.transaction.block = next;
        self.transaction.chain = chain;
        Ok(())
    }

    fn need_block(&self, what: &str) -> Result<(), Stop> {
        match self.transaction.block {
            Block::Started | Block::Implicit | Block::Default => Err(only_in_blocks(what).into()),
            _ => Ok(()),
        }
    }

    pub fn savepoint(&mut self, name: &Rc<str>) -> Result<(), Stop> {
        self.need_block("SAVEPOINT")?;
        self.push_savepoint(Rc::clone(name));
        Ok(())
    }

    fn push_savepoint(&mut self, name: Rc<str>) {
        let transaction = &mut self.transaction;
        transaction.savepoints.push(Savepoint {
            name,
            undo: transaction.undo.len(),
            locks: transaction.locks.len(),
            listening: transaction.listening.len(),
            notifies: transaction.notifies.len(),
            read_only: self.settings.is_read_only(),
        });
        self.settings.nest(self.transaction.depth() + 1);
    }

    fn find_savepoint(&self, name: &str) -> Result<usize, Stop> {
        let found = self.transaction.savepoints.iter().rposition(|savepoint| *savepoint.name == *name);
        match found {
            Some(at) => Ok(at),
            None => fail("3B001", format!("savepoint \"{name}\" does not exist")),
        }
    }

    pub fn release(&mut self, name: &str) -> Result<(), Stop> {
        self.need_block("RELEASE SAVEPOINT")?;
        let at = self.find_savepoint(name)?;
        while self.transaction.savepoints.len() > at {
            self.settings.end(self.transaction.depth() + 1, true);
            self.pop_savepoint();
        }
        let depth = self.transaction.depth();
        for portal in self.portals.values_mut() {
            portal.level = portal.level.map(|level| level.min(depth));
        }
        Ok(())
    }

    fn pop_savepoint(&mut self) {
        if let Some(savepoint) = self.transaction.savepoints.pop() {
            self.settings.restore_read_only(savepoint.read_only);
        }
    }

    pub fn rollback_to(&mut self, shared: &mut Shared, name: &str) -> Result<(), Stop> {
        self.need_block("ROLLBACK TO SAVEPOINT")?;
        let at = self.find_savepoint(name)?;
        while self.transaction.savepoints.len() > at {
            self.abort_part(shared);
            let depth = self.transaction.depth();
            self.portals.retain(|_, portal| portal.level.is_none_or(|level| level < depth));
            self.pop_savepoint();
        }
        self.transaction.block = Block::InProgress;
        self.push_savepoint(name.into());
        Ok(())
    }

    /// Undoes what was done since the innermost savepoint. Once that is done, it has no effect to do it again.
    fn abort_part(&mut self, shared: &mut Shared) {
        let Some(savepoint) = self.transaction.savepoints.last() else { return };
        let (undo, locks) = (savepoint.undo, savepoint.locks);
        let (listening, notifies) = (savepoint.listening, savepoint.notifies);
        self.transaction.listening.truncate(listening);
        self.transaction.notifies.truncate(notifies);
        self.undo(shared, undo);
        self.unlock(shared, locks);
        let depth = self.transaction.depth();
        self.settings.end(depth + 1, false);
        for portal in self.portals.values_mut().filter(|portal| portal.level.is_some_and(|level| level >= depth)) {
            portal.state = State::Failed;
            portal.tables = Rc::new([]);
        }
    }

    /// `AbortCurrentTransaction`.
    pub fn abort_current(&mut self, shared: &mut Shared) {
        match self.transaction.block {
            Block::InProgress if self.transaction.savepoints.is_empty() => {
                self.abort_work(shared);
                for portal in self.portals.values_mut().filter(|portal| portal.level.is_some()) {
                    portal.state = State::Failed;
                    portal.tables = Rc::new([]);
                }
                self.transaction.block = Block::Abort;
            }
            Block::InProgress => {
                self.abort_part(shared);
                self.transaction.block = Block::SubAbort;
            }
            Block::Default | Block::Abort | Block::SubAbort => {}
            _ => self.abort_all(shared),
        }
    }

    /// Undoes all of the transaction; its block goes on as a failed one.
    fn abort_work(&mut self, shared: &mut Shared) {
        self.transaction.listening.clear();
        self.transaction.notifies.clear();
        self.undo(shared, 0);
        self.unlock(shared, 0);
        self.settings.end(1, false);
        self.end_xid(shared);
        self.transaction.pipelining = false;
        self.transaction.immediate = false;
    }

    /// Ends the transaction without effect.
    pub fn abort_all(&mut self, shared: &mut Shared) {
        if self.transaction.block == Block::Default {
            return;
        }
        while !self.transaction.savepoints.is_empty() {
            self.abort_part(shared);
            self.transaction.savepoints.pop();
        }
        self.abort_work(shared);
        self.portals.retain(|_, portal| portal.level.is_none());
        self.transaction = Transaction::default();
        self.refresh_path(shared);
    }

    fn commit(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        self.keep_held_cursors(shared)?;
        while !self.transaction.savepoints.is_empty() {
            self.settings.end(self.transaction.depth() + 1, true);
            self.transaction.savepoints.pop();
        }
        self.portals.retain(|_, portal| portal.level.is_none());
        for id in std::mem::take(&mut self.transaction.drop_at_commit) {
            self.transaction.undo.push(Undo::Dropped(id));
        }
        self.apply_listening();
        let notifies = std::mem::take(&mut self.transaction.notifies);
        self.make_final(shared);
        self.unlock(shared, 0);
        self.settings.end(1, true);
        self.end_xid(shared);
        let mut told = BTreeSet::new();
        for (channel, payload) in notifies {
            if told.insert((Rc::clone(&channel), Rc::clone(&payload))) {
                let (database, pid) = (Rc::clone(&self.database), self.pid);
                if self.listening.contains(&channel) {
                    self.notified.push((pid, Rc::clone(&channel), Rc::clone(&payload)));
                }
                let notification = Notification { database, pid, channel, payload };
                shared.notified.push(notification.clone());
                shared.notifications.push(notification);
            }
        }
        self.transaction = Transaction::default();
        self.refresh_path(shared);
        Ok(())
    }

    /// `SPI_commit` and `SPI_rollback`: the next transaction begins at once.
    pub fn end_in_procedure(&mut self, shared: &mut Shared, commit: bool) -> Result<(), Stop> {
        let active: Vec<(Box<str>, Portal)> = self
            .portals
            .iter()
            .filter(|(_, portal)| portal.state == State::Active)
            .map(|(name, portal)| (name.clone(), portal.clone()))
            .collect();
        if commit {
            self.commit(shared)?;
        } else {
            self.abort_all(shared);
        }
        self.portals.extend(active);
        self.start();
        Ok(())
    }

    /// `PrepareTransactionBlock`; says whether the tag is PREPARE TRANSACTION.
    pub fn prepare_block(&mut self, gid: &Rc<str>) -> Result<bool, Stop> {
        if !self.commit_block(false)? || self.transaction.block != Block::End {
            return Ok(false);
        }
        self.transaction.block = Block::Prepare;
        self.transaction.gid = Some(Rc::clone(gid));
        Ok(true)
    }

    /// `PrepareTransaction`: what the transaction has done has no session until it is finished.
    fn prepare_transaction(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        let gid = self.transaction.gid.clone().unwrap_or_else(|| "".into());
        let cannot = |why: &str| fail("0A000", format!("cannot PREPARE a transaction that has {why}"));
        if self.portals.values().any(|portal| portal.hold && portal.level.is_some()) {
            return cannot("created a cursor WITH HOLD");
        }
        self.portals.retain(|_, portal| portal.level.is_none());
        if self.transaction.temp {
            return cannot("operated on temporary objects");
        }
        if shared.prepared.contains_key(&gid) {
            return fail("42710", format!("transaction identifier \"{gid}\" is already in use"));
        }
        if !self.transaction.listening.is_empty() || !self.transaction.notifies.is_empty() {
            return cannot("executed LISTEN, UNLISTEN, or NOTIFY");
        }
        let both = |(tag, _): &(Tag, Mode)| matches!(tag, Tag::Advisory(_, key) if self.advisory.contains_key(key));
        if self.transaction.locks.iter().any(both) {
            return cannot("both session-level and transaction-level locks on the same object");
        }
        let xid = self.xid(shared);
        while !self.transaction.savepoints.is_empty() {
            self.settings.end(self.transaction.depth() + 1, true);
            self.transaction.savepoints.pop();
        }
        self.settings.end(1, true);
        let holder = FIRST_PREPARED + usize::try_from(xid).unwrap_or_default();
        let own = Transaction::default();
        let Transaction { undo, mut locks, .. } = std::mem::replace(&mut self.transaction, own);
        locks.push((Tag::Transaction(xid), Mode::Exclusive));
        locks.iter().for_each(|(tag, mode)| shared.locks.pass_on(*tag, *mode, self.id, holder));
        let (database, owner) = (Rc::clone(&self.database), self.current_user());
        shared.prepared.insert(gid, PreparedTransaction { database, owner, undo, locks, holder });
        self.refresh_path(shared);
        Ok(())
    }

    /// `FinishPreparedTransaction`.
    pub fn end_prepared(&mut self, shared: &mut Shared, gid: &Rc<str>, commit: bool) -> Result<(), Stop> {
        let Some(prepared) = shared.prepared.get(gid) else {
            return fail("42704", format!("prepared transaction with identifier \"{gid}\" does not exist"));
        };
        if self.current_user() != self.user && prepared.owner != self.current_user() {
            return fail("42501", "permission denied to finish prepared transaction");
        }
        if prepared.database != self.database {
            return fail("0A000", "prepared transaction belongs to another database");
        }
        let Some(prepared) = shared.prepared.remove(gid) else { return Ok(()) };
        let own = std::mem::replace(&mut self.transaction.undo, prepared.undo);
        if commit {
            self.make_final(shared);
        } else {
            self.undo(shared, 0);
        }
        self.transaction.undo = own;
        for (tag, mode) in prepared.locks {
            shared.locks.release(tag, mode, prepared.holder);
        }
        Ok(())
    }

    /// Cursors WITH HOLD are run to their end; all others end.
    fn keep_held_cursors(&mut self, shared: &mut Shared) -> Result<(), Stop> {
        let held: Vec<Box<str>> =
            self.portals.iter().filter(|(_, p)| p.hold && p.level.is_some()).map(|(name, _)| name.clone()).collect();
        for name in held {
            let Some(mut portal) = self.portals.remove(&name) else { continue };
            if portal.state != State::Failed {
                self.materialise(shared, &mut portal)?;
                portal.level = None;
                portal.tables = Rc::new([]);
                self.portals.insert(name, portal);
            }
        }
        Ok(())
    }

    fn apply_listening(&mut self) {
        for action in std::mem::take(&mut self.transaction.listening) {
            match action {
                Listening::Listen(channel) => {
                    self.has_listened = true;
                    self.listening.insert(channel);
                }
                Listening::Unlisten(channel) => {
                    self.listening.remove(&channel);
                }
                Listening::UnlistenAll => self.listening.clear(),
            }
        }
    }

    fn unlock(&mut self, shared: &mut Shared, from: usize) {
        for (tag, mode) in self.transaction.locks.drain(from..) {
            shared.locks.release(tag, mode, self.id);
        }
    }

    fn end_xid(&mut self, shared: &mut Shared) {
        if let Some(xid) = self.transaction.xid.take() {
            shared.locks.release(Tag::Transaction(xid), Mode::Exclusive, self.id);
        }
    }

    /// The number of this transaction, which it has from now on.
    pub fn xid(&mut self, shared: &mut Shared) -> Xid {
        if let Some(xid) = self.transaction.xid {
            return xid;
        }
        let xid = shared.new_xid();
        shared.locks.take(Tag::Transaction(xid), Mode::Exclusive, self.id);
        self.transaction.xid = Some(xid);
        xid
    }

    fn undo(&mut self, shared: &mut Shared, from: usize) {
        if self.transaction.undo.len() <= from {
            return;
        }
        let undo: Vec<Undo> = self.transaction.undo.drain(from..).rev().collect();
        for undo in undo {
            let version = shared.new_version();
            let Some(database) = shared.databases.get_mut(&self.database) else { return };
            match undo {
                Undo::Inserted(table, row) => {
                    if let Some(table) = database.tables.get_mut(&table) {
                        table.remove(row);
                    }
                }
                Undo::Deleted(table, row) => {
                    if let Some(row) = database.tables.get_mut(&table).and_then(|table| table.row_mut(row)) {
                        row.deleted_by = None;
                    }
                }
                Undo::Created(id) => {
                    database.remove(id);
                    self.transaction.drop_at_commit.retain(|other| *other != id);
                }
                Undo::Dropped(id) => {
                    if let Some(table) = database.tables.get_mut(&id) {
                        table.dropped_by = None;
                    }
                }
                Undo::Altered(id, columns, cells) => {
                    if let Some(table) = database.tables.get_mut(&id) {
                        table.alter(columns, version, cells);
                    }
                }
                Undo::TempNamespace => self.temp_namespace = false,
                Undo::Beginning(..) => {}
            }
        }
        self.refresh_path(shared);
    }

    fn make_final(&mut self, shared: &mut Shared) {
        let Some(database) = shared.databases.get_mut(&self.database) else { return };
        for undo in self.transaction.undo.drain(..) {
            match undo {
                Undo::Inserted(table, row) => {
                    if let Some(row) = database.tables.get_mut(&table).and_then(|table| table.row_mut(row)) {
                        row.inserted_by = None;
                    }
                }
                Undo::Deleted(table, row) => {
                    if let Some(table) = database.tables.get_mut(&table) {
                        table.remove(row);
                    }
                }
                Undo::Created(id) => {
                    if let Some(table) = database.tables.get_mut(&id) {
                        table.created_by = None;
                    }
                }
                Undo::Dropped(id) => database.remove(id),
                Undo::Altered(..) | Undo::TempNamespace => {}
                Undo::Beginning(sessions, name, value) => {
                    Shared::alter_beginning(&mut shared.beginnings, sessions, name, value);
                }
            }
        }
    }

    /// `RemoveTempRelations`, for good.
    pub fn drop_temp(&mut self, shared: &mut Shared) {
        let Some(database) = shared.databases.get_mut(&self.database) else { return };
        let temp = &self.temp_schema;
        let gone: Vec<TableId> =
            database.tables.iter().filter(|(_, table)| table.schema == *temp).map(|(id, _)| *id).collect();
        for id in gone {
            database.remove(id);
        }
    }

    /// Releases the session's advisory locks.
    pub fn unlock_all(&mut self, shared: &mut Shared) {
        let Some(number) = shared.databases.get(&self.database).map(|database| database.number) else { return };
        for (key, count) in std::mem::take(&mut self.advisory) {
            for _ in 0..count {
                shared.locks.release(Tag::Advisory(number, key), Mode::Exclusive, self.id);
            }
        }
    }

    /// Runs a portal's select to its end, and keeps the rows.
    pub fn materialise(&mut self, shared: &mut Shared, portal: &mut super::portal::Portal) -> Result<(), Stop> {
        let mut rows = Vec::new();
        let total = self.source_rows(shared, portal)?;
        for at in 0..total {
            // What it can't go back to is not looked at again.
            let passed = !portal.scrolls && (at < portal.position || portal.at_end);
            rows.push(if passed { Cells::from([]) } else { self.project(shared, portal, at)? });
        }
        portal.rows = Rows::Result(rows.into());
        Ok(())
    }
}
