//! Changes of settings that a text makes and does not show.

/// Changes of settings that a text's commands don't show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownSettings {
    /// No: its commands tell all.
    #[default]
    None,
    /// For the rest of the transaction.
    ForTransaction,
    /// For the rest of the session, and those that it changes are known ([`super::sql_effects::SqlEffects::named_settings`]): the server can be
    /// asked what they are.
    Named,
    /// For the rest of the session.
    ForSession,
}

impl UnknownSettings {
    /// Returns whether they last longer than the transaction.
    #[must_use]
    pub fn outlast_transaction(self) -> bool {
        self >= Self::Named
    }
}
