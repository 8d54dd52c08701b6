//! What the end of the process waits for.

use std::convert::Infallible;

use tokio::sync::mpsc;

/// Held by tasks that the shutdown waits for.
pub(super) type ShutdownToken = mpsc::Sender<Infallible>;

/// The shutdown waits for tasks that hold clones of these.
#[derive(Debug)]
pub(super) struct ShutdownTrackers {
    /// Clients with work to finish.
    pub clients: mpsc::WeakSender<Infallible>,
    /// All connections, the console's too, which get a farewell.
    pub all: mpsc::WeakSender<Infallible>,
}
