//! Reasons why a session must stay with its client.

use std::fmt;

/// Reasons why a session must stay with its client, and be reset before another client gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// A setting that can't be carried to another connection.
    pub const SETTING: Self = Self(1);
    /// `SET ROLE`, `SET SESSION AUTHORIZATION`.
    pub const ROLE: Self = Self(1 << 1);
    /// A temporary table, view, sequence or function.
    pub const TEMP: Self = Self(1 << 2);
    /// `LISTEN`.
    pub const LISTEN: Self = Self(1 << 3);
    /// SQL's `PREPARE`.
    pub const PREPARE: Self = Self(1 << 4);
    /// A named statement of the extended protocol that can't be carried to another connection.
    pub const STATEMENT: Self = Self(1 << 5);
    /// A cursor `WITH HOLD`.
    pub const CURSOR: Self = Self(1 << 6);
    /// A session-level advisory lock.
    pub const LOCK: Self = Self(1 << 7);
    /// `LOAD`.
    pub const LOAD: Self = Self(1 << 8);
    /// `currval`, `lastval`: they ask for what the session remembers.
    pub const SEQUENCE: Self = Self(1 << 9);
    /// `DO`, or a function called by its OID: code that can do anything.
    pub const SERVER_CODE: Self = Self(1 << 10);
    /// A text that could not be looked at: longer than the buffer, or its meaning depends on settings.
    pub const UNANALYZED: Self = Self(1 << 11);
    /// `nextval`, `setval`: the session remembers the last value, in case it is asked for.
    pub const NEXTVAL: Self = Self(1 << 12);

    /// What a reset does not undo: a random seed, connections that dblink keeps, replication origins, temporary
    /// replication slots, a backup that was started.
    pub const UNRESETTABLE: Self = Self(1 << 13);

    /// Reasons of which the server can tell whether they are gone.
    pub const QUERYABLE: Self =
        Self(Self::ROLE.0 | Self::TEMP.0 | Self::LISTEN.0 | Self::PREPARE.0 | Self::CURSOR.0 | Self::LOCK.0);

    /// Reasons that `DISCARD ALL` does not undo: the connection is closed.
    pub const SURVIVES_DISCARD: Self = Self(Self::LOAD.0 | Self::UNRESETTABLE.0 | Self::UNANALYZED.0);

    /// State under which the meaning of a text is one session's own: temporary tables hide others, for example.
    pub const SESSION_LOCAL_MEANING: Self =
        Self(Self::SURVIVES_DISCARD.0 | Self::SERVER_CODE.0 | Self::SETTING.0 | Self::ROLE.0 | Self::TEMP.0);

    /// Each reason and its name.
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

    /// No reason.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// The reasons as a number, which others than `from_bits` make nothing of.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The reasons that [`Pins::bits`] gave.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns whether nothing pins.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether every reason in `other` is in `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The reasons that are in both.
    #[must_use]
    pub fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The reasons in `self` that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The reasons that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Adds the reasons in `other`.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
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
