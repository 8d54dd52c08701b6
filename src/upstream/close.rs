//! How and why server connections are closed.

use crate::net::Stream;

/// Reason why an upstream connection was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// A client's session could not be made fit for another one, or was its own.
    #[default]
    Session,
    /// It was idle for too long.
    Idle,
    /// It was too old.
    Lifetime,
    /// The settings it was opened under are no longer in force.
    Reload,
    /// The limit was exceeded, or another pool needs the slot.
    Surplus,
    /// The server closed it, or it broke.
    Dead,
    /// The login failed, or was a try that is not needed any more.
    Login,
    /// The process ends.
    Shutdown,
    /// A command at the console.
    Command,
    /// Its role has another password or is another one by now, or is let in no more.
    Identity,
    /// The host's name no longer resolves to its address, or the server no longer satisfies `target_session_attrs`.
    Moved,
    /// Its backend has clients here, which no reset ends.
    Looped,
}

impl CloseReason {
    /// Every reason, with its name.
    pub(crate) const NAMES: [(Self, &'static str); 12] = [
        (Self::Session, "session"),
        (Self::Idle, "idle"),
        (Self::Lifetime, "lifetime"),
        (Self::Reload, "reload"),
        (Self::Surplus, "surplus"),
        (Self::Dead, "dead"),
        (Self::Login, "login"),
        (Self::Shutdown, "shutdown"),
        (Self::Command, "command"),
        (Self::Identity, "identity"),
        (Self::Moved, "moved"),
        (Self::Looped, "looped"),
    ];
}

/// Ways in which a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The server closed first, and has the TIME_WAIT.
    Politely,
    /// With a reset, which leaves no TIME_WAIT.
    Reset,
    /// We closed first, and have the TIME_WAIT.
    First,
}

impl Closed {
    /// Makes the coming close of `stream` a reset.
    #[must_use]
    pub(crate) fn by_us(stream: &Stream) -> Self {
        if stream.reset_on_close() { Self::Reset } else { Self::First }
    }
}
