//! Effects of a session's commands on other sessions, which see them once they are committed.

use super::administration::RoleChange;

/// Definitions that the session's commands have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Definitions {
    /// None.
    #[default]
    Unchanged,
    /// Some; others see it when it is committed.
    Changed,
}

/// Effects of a session's commands on other sessions, as the tags of its `CommandComplete`s tell them.
#[derive(Debug, Default)]
pub struct ForOthers {
    definitions: Definitions,
    /// The greatest effect of a command on roles.
    role_change: RoleChange,
}

impl ForOthers {
    /// A command has completed with `tag`.
    pub(super) fn completed(&mut self, tag: &[u8]) {
        self.role_change = self.role_change.max(RoleChange::by(tag));
        if [&b"CREATE "[..], b"ALTER ", b"DROP ", b"IMPORT "].iter().any(|verb| tag.starts_with(verb)) {
            self.definitions = Definitions::Changed;
        }
    }

    /// Notes that what is sent may change definitions, whatever its tag tells in the end.
    pub(super) fn may_redefine(&mut self) {
        self.definitions = Definitions::Changed;
    }

    /// Returns whether names may mean something else, now that the server is ready; `idle` says that no transaction is open, and nothing
    /// else is to be answered.
    pub(super) fn redefines(&mut self, idle: bool) -> bool {
        let changed = self.definitions == Definitions::Changed;
        if idle {
            self.definitions = Definitions::Unchanged;
        }
        changed
    }

    /// The effect on roles, once.
    pub fn take_role_change(&mut self) -> RoleChange {
        std::mem::take(&mut self.role_change)
    }
}
