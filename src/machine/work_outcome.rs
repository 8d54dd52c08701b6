//! What has become of the transactions of a piece of work.

/// Outcome of the transactions of a piece of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkOutcome {
    /// Outcome of the open transaction, so far.
    open: TransactionOutcome,
    /// Outcome of those that are over; `None` where none is.
    over: Option<TransactionOutcome>,
}

/// Outcome of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TransactionOutcome {
    /// Its effects last.
    #[default]
    Lasts,
    /// Its effects are undone.
    Undone,
}

impl WorkOutcome {
    /// A command has ended the transaction by undoing it.
    pub(super) fn rolled_back(&mut self) {
        self.open = TransactionOutcome::Undone;
    }

    /// A command has completed with `tag`, and undone nothing.
    pub(super) fn completed(&mut self, tag: &[u8]) {
        self.open = TransactionOutcome::Lasts;
        // Code may have committed.
        if matches!(tag, b"COMMIT" | b"PREPARE TRANSACTION" | b"CALL" | b"DO") {
            self.over = Some(TransactionOutcome::Lasts);
        }
    }

    /// A command has run in part, and is behind what had undone the transaction.
    pub(super) fn suspended(&mut self) {
        self.open = TransactionOutcome::Lasts;
    }

    /// Code is run that may commit, and fail then.
    pub(super) fn may_be_committed(&mut self) {
        self.over = Some(TransactionOutcome::Lasts);
    }

    /// Something has failed.
    pub(super) fn failed(&mut self) {
        self.open = TransactionOutcome::Undone;
    }

    /// The server is ready outside a transaction.
    pub(super) fn ended(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.over = Some(if self.over == Some(TransactionOutcome::Lasts) { TransactionOutcome::Lasts } else { open });
    }

    /// Returns whether all of it is undone.
    pub(super) fn was_rolled_back(self) -> bool {
        self.over == Some(TransactionOutcome::Undone)
    }
}
