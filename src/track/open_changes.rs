//! Changes to a client's settings that become lasting, or not, when the transaction ends.

/// A change that becomes lasting, or not, when the transaction ends.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Set {
        name: Box<[u8]>,
        text: Box<[u8]>,
    },
    Reset {
        name: Box<[u8]>,
    },
    ResetAll,
    /// It holds until the transaction ends.
    Local {
        name: Box<[u8]>,
        text: Box<[u8]>,
    },
    /// Something holds until the transaction ends, and what it is can't be told.
    Unknown,
    /// Something lasts that can't be carried, and may have been set behind a `RESET ALL`: noted before it is sent, for as long as
    /// anything is owed.
    Pinned,
    Savepoint {
        name: Box<[u8]>,
    },
}

impl Change {
    /// Bytes that it takes.
    fn bytes(&self) -> usize {
        let strings = match self {
            Self::Set { name, text } | Self::Local { name, text } => name.len() + text.len(),
            Self::Reset { name } | Self::Savepoint { name } => name.len(),
            Self::ResetAll | Self::Unknown | Self::Pinned => 0,
        };
        size_of::<Self>() + strings
    }
}

/// Detail in which the changes of a transaction are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Detail {
    /// Each is noted.
    #[default]
    Each,
    /// There were too many: what holds is unknown until the transaction ends, and nothing is noted.
    GivenUp,
}

/// The changes of the open transaction, in their order.
#[derive(Debug, Default)]
pub(super) struct OpenChanges {
    /// Boxed, since most clients have none, and every idle one has room for it.
    noted: Option<Box<Noted>>,
}

/// Changes, of which there are some.
#[derive(Debug, Default)]
struct Noted {
    changes: Vec<Change>,
    bytes: usize,
    detail: Detail,
}

impl OpenChanges {
    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.noted.is_none()
    }

    /// The changes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.noted.iter().flat_map(|noted| &noted.changes)
    }

    /// Returns whether `is` holds of any.
    pub(super) fn any(&self, is: impl Fn(&Change) -> bool) -> bool {
        self.iter().any(is)
    }

    /// Bytes that they take. A transaction may have any number, and this is asked after each.
    pub(super) fn bytes(&self) -> usize {
        self.noted.as_ref().map_or(0, |noted| noted.bytes)
    }

    fn detail(&self) -> Detail {
        self.noted.as_ref().map_or(Detail::Each, |noted| noted.detail)
    }

    /// Notes one more.
    pub(super) fn push(&mut self, change: Change) {
        if self.detail() == Detail::Each {
            self.noted.get_or_insert_default().push(change);
        }
    }

    /// Lets go of them: their client keeps its connection, so that it is enough to know that there were some.
    pub(super) fn give_up(&mut self) {
        if self.detail() == Detail::Each {
            let mut noted = Noted::default();
            noted.push(Change::Unknown);
            noted.push(Change::Pinned);
            self.noted = Some(Box::new(Noted { detail: Detail::GivenUp, ..noted }));
        }
    }

    /// The transaction ends: returns them, and keeps what a client is pinned for while anything is owed.
    pub(super) fn take(&mut self) -> Vec<Change> {
        let all = self.noted.take().map_or(Vec::new(), |noted| noted.changes);
        if all.iter().any(|change| matches!(change, Change::Pinned)) {
            self.push(Change::Pinned);
        }
        all
    }

    /// Takes those of which `is` holds.
    pub(super) fn take_if(&mut self, is: impl Fn(&Change) -> bool) -> Vec<Change> {
        let all = self.noted.take().map_or_else(Noted::default, |noted| *noted);
        let (taken, kept): (Vec<_>, Vec<_>) = all.changes.into_iter().partition(is);
        if !kept.is_empty() {
            let noted = self.noted.insert(Box::new(Noted { detail: all.detail, ..Noted::default() }));
            for change in kept {
                noted.push(change);
            }
        }
        taken
    }

    /// The transaction has come to nothing.
    pub(super) fn undo(&mut self) {
        self.take();
    }

    /// Nothing is owed.
    pub(super) fn settled(&mut self) {
        self.retain_from(0, |change| !matches!(change, Change::Pinned));
    }

    /// Goes back to the last savepoint of that name, which stays.
    pub(super) fn back_to(&mut self, to: &[u8]) {
        if self.detail() == Detail::Each {
            // One that is not known was set when nothing was open.
            let keep = self.last_savepoint(to).map_or(0, |at| at + 1);
            self.retain_from(keep, |change| matches!(change, Change::Pinned));
        }
    }

    /// Forgets the last savepoint of that name, and those within it.
    pub(super) fn release(&mut self, name: &[u8]) {
        if let Some(from) = self.last_savepoint(name) {
            self.retain_from(from, |change| !matches!(change, Change::Savepoint { .. }));
        }
    }

    fn last_savepoint(&self, wanted: &[u8]) -> Option<usize> {
        let changes = &self.noted.as_ref()?.changes;
        changes.iter().rposition(|change| matches!(change, Change::Savepoint { name } if **name == *wanted))
    }

    /// Keeps those before `from`, and of the others those of which `keep` holds.
    fn retain_from(&mut self, from: usize, keep: impl Fn(&Change) -> bool) {
        let Some(noted) = &mut self.noted else { return };
        let others = noted.changes.split_off(from);
        noted.bytes -= others.iter().map(Change::bytes).sum::<usize>();
        others.into_iter().filter(keep).for_each(|change| noted.push(change));
        if noted.changes.is_empty() {
            self.noted = None;
        }
    }
}

impl Noted {
    fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> Change {
        Change::Set { name: name.as_bytes().into(), text: b"set it"[..].into() }
    }

    fn savepoint(name: &str) -> Change {
        Change::Savepoint { name: name.as_bytes().into() }
    }

    #[test]
    fn bytes_are_those_of_what_is_noted() {
        let mut open = OpenChanges::default();
        let summed = |open: &OpenChanges| open.iter().map(Change::bytes).sum::<usize>();
        for change in [set("a"), savepoint("s"), Change::Pinned, set("b"), savepoint("t"), set("c")] {
            open.push(change);
            assert_eq!(open.bytes(), summed(&open));
        }
        open.release(b"t");
        assert_eq!((open.iter().count(), open.bytes()), (5, summed(&open)));
        open.back_to(b"s");
        assert_eq!((open.iter().count(), open.bytes()), (3, summed(&open)), "Pinned stays");
        open.settled();
        assert_eq!((open.iter().count(), open.bytes()), (2, summed(&open)));
        open.undo();
        assert_eq!((open.iter().count(), open.bytes()), (0, 0));
    }

    #[test]
    fn too_many_are_unknown_to_the_end_of_the_transaction() {
        let mut open = OpenChanges::default();
        open.push(savepoint("s"));
        open.push(set("a"));
        open.give_up();
        for _ in 0..1000 {
            open.push(set("b"));
            open.push(savepoint("t"));
        }
        open.back_to(b"s");
        open.release(b"s");
        assert!(matches!(*open.iter().collect::<Vec<_>>(), [Change::Unknown, Change::Pinned]), "{open:?}");
        assert!(matches!(*open.take(), [Change::Unknown, Change::Pinned]));
        open.push(set("a"));
        assert!(matches!(*open.iter().collect::<Vec<_>>(), [Change::Pinned, Change::Set { .. }]), "{open:?}");
    }
}
