//! Reasons why a session must stay with its client.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// Reasons why a session must stay with its client, and be reset before another client gets it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Pins: u16 {
        /// A setting that can't be carried to another connection.
        const SETTING = 1;
        /// `SET ROLE`, `SET SESSION AUTHORIZATION`.
        const ROLE = 1 << 1;
        /// A temporary table, view, sequence or function.
        const TEMP = 1 << 2;
        /// `LISTEN`.
        const LISTEN = 1 << 3;
        /// SQL's `PREPARE`.
        const PREPARE = 1 << 4;
        /// A named statement of the extended protocol that can't be carried to another connection.
        const STATEMENT = 1 << 5;
        /// A cursor `WITH HOLD`.
        const CURSOR = 1 << 6;
        /// A session-level advisory lock.
        const LOCK = 1 << 7;
        /// `LOAD`.
        const LOAD = 1 << 8;
        /// `currval`, `lastval`: they ask for what the session remembers.
        const SEQUENCE = 1 << 9;
        /// `DO`, or a function called by its OID: code that can do anything.
        const SERVER_CODE = 1 << 10;
        /// A text that could not be looked at: longer than the buffer, or its meaning depends on settings.
        const UNANALYZED = 1 << 11;
        /// `nextval`: the session remembers the last value, in case it is asked for.
        const NEXTVAL = 1 << 12;
        /// State that a reset does not undo: a random seed, connections that dblink keeps, replication origins, temporary
        /// replication slots, a backup that was started.
        const UNRESETTABLE = 1 << 13;

        /// A setting that can be carried to another connection once the server has been asked what it is.
        const NAMED_SETTING = 1 << 14;

        /// Reasons of which the server can tell whether they are gone.
        const QUERYABLE = Self::ROLE.bits() | Self::TEMP.bits() | Self::LISTEN.bits() | Self::PREPARE.bits() | Self::CURSOR.bits() | Self::LOCK.bits();

        /// Reasons that `DISCARD ALL` does not undo: the connection is closed.
        const SURVIVES_DISCARD = Self::LOAD.bits() | Self::UNRESETTABLE.bits() | Self::UNANALYZED.bits();

        /// Reasons that are gone if the transaction is rolled back in which they have come up.
        const ROLLED_BACK = Self::SETTING.bits() | Self::NAMED_SETTING.bits() | Self::SEQUENCE.bits();

        /// Reasons that come up by what a statement is, and those that only count if they are asked for: not by a function that it calls
        /// and that leaves something.
        const NOT_BY_CALLS = Self::TEMP.bits() | Self::PREPARE.bits() | Self::CURSOR.bits() | Self::NEXTVAL.bits() | Self::SEQUENCE.bits();

        /// State under which the meaning of a text is one session's own: temporary tables hide others, for example.
        const SESSION_LOCAL_MEANING = Self::SURVIVES_DISCARD.bits() | Self::SERVER_CODE.bits() | Self::SETTING.bits() | Self::NAMED_SETTING.bits() | Self::ROLE.bits() | Self::TEMP.bits();
    }
}

impl Pins {
    /// Each reason that a client can have between two transactions, and its name.
    pub const NAMES: [(Self, &'static str); 14] = [
        (Self::SETTING, "setting"),
        (Self::ROLE, "role"),
        (Self::TEMP, "temp"),
        (Self::LISTEN, "listen"),
        (Self::PREPARE, "prepare"),
        (Self::STATEMENT, "statement"),
        (Self::CURSOR, "cursor"),
        (Self::LOCK, "lock"),
        (Self::LOAD, "load"),
        (Self::SEQUENCE, "sequence"),
        (Self::SERVER_CODE, "code"),
        (Self::UNANALYZED, "unseen"),
        (Self::NEXTVAL, "nextval"),
        (Self::UNRESETTABLE, "unresettable"),
    ];
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (pin, name) in Self::NAMES {
            if self.contains(pin) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
