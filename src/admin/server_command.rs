//! Commands that the server's own loop executes.

use std::sync::Weak;

use tokio::sync::oneshot;

use crate::client::session_handle::SessionHandle;
use crate::config::keys::Adjustable;
use crate::net::ListenerTransfer;

/// Commands that the server's own loop executes.
#[derive(Debug)]
pub(crate) enum ServerCommand {
    /// Reads the settings again; the answer says what has changed, or why nothing has.
    Reload(oneshot::Sender<Result<String, String>>),
    /// The same with a setting on top of what is written, until the next reload.
    Set(Adjustable, String, oneshot::Sender<Result<String, String>>),
    /// Ends the process.
    Shutdown(Shutdown),
    /// Another process wants the listeners, which has this session at the console.
    TakeOver(Takeover, Weak<SessionHandle>, oneshot::Sender<Result<ListenerTransfer, String>>),
    /// It has them.
    TakenOver,
}

/// Processes that give their listeners to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// Any: it ends for that.
    Any,
    /// One that has been told to end, and waits for its clients.
    Ending,
}

/// Ways in which the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// At once.
    Now,
    /// Ends when transactions have ended (in session mode: requests outside of them).
    WaitForServers,
    /// Ends when clients have gone by themselves.
    WaitForClients,
}
