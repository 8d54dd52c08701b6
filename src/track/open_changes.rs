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
    changes: Vec<Change>,
    bytes: usize,
    detail: Detail,
}

impl OpenChanges {
    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// Returns whether `is` holds of any.
    pub(super) fn any(&self, is: impl Fn(&Change) -> bool) -> bool {
        self.changes.iter().any(is)
    }

    /// Bytes that they take. A transaction may have any number, and this is asked after each.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes one more.
    pub(super) fn push(&mut self, change: Change) {
        if self.detail == Detail::Each {
            self.bytes += change.bytes();
            self.changes.push(change);
        }
    }

    /// Lets go of them: their client keeps its connection, so that it is enough to know that there were some.
    pub(super) fn give_up(&mut self) {
        if self.detail == Detail::Each {
            self.truncate(0);
            self.push(Change::Unknown);
            self.push(Change::Pinned);
            self.detail = Detail::GivenUp;
        }
    }

    /// The transaction ends: returns them, and keeps what a client is pinned for while anything is owed.
    pub(super) fn take(&mut self) -> Vec<Change> {
        let all = std::mem::take(self);
        if all.any(|change| matches!(change, Change::Pinned)) {
            self.push(Change::Pinned);
        }
        all.changes
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
        if self.detail == Detail::Each {
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
        self.changes.iter().rposition(|change| matches!(change, Change::Savepoint { name } if **name == *wanted))
    }

    fn truncate(&mut self, len: usize) {
        self.retain_from(len, |_| false);
    }

    /// Keeps those before `from`, and of the others those of which `keep` holds.
    fn retain_from(&mut self, from: usize, keep: impl Fn(&Change) -> bool) {
        let others = self.changes.split_off(from);
        self.bytes -= others.iter().map(Change::bytes).sum::<usize>();
        for change in others.into_iter().filter(keep) {
            self.bytes += change.bytes();
            self.changes.push(change);
        }
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
        assert_eq!((open.changes.len(), open.bytes()), (5, summed(&open)));
        open.back_to(b"s");
        assert_eq!((open.changes.len(), open.bytes()), (3, summed(&open)), "Pinned stays");
        open.settled();
        assert_eq!((open.changes.len(), open.bytes()), (2, summed(&open)));
        open.undo();
        assert_eq!((open.changes.len(), open.bytes()), (0, 0));
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
        assert!(matches!(*open.changes, [Change::Unknown, Change::Pinned]), "{open:?}");
        assert!(matches!(*open.take(), [Change::Unknown, Change::Pinned]));
        open.push(set("a"));
        assert!(matches!(*open.changes, [Change::Pinned, Change::Set { .. }]), "{open:?}");
    }
}
