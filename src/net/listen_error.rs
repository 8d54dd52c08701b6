//! Reasons why a listener can't be opened.

use std::io;

use crate::permission::{Attempt, describe};

/// The longest path that fits a unix socket's address.
pub(super) const MAX_PATH_BYTES: usize = 107;

/// Reason why a listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The path of the socket file is too long for the kernel.
    #[error(
        "{path}: the socket's path is {length} bytes long, the kernel takes at most {MAX_PATH_BYTES}: use a shorter directory"
    )]
    TooLong {
        /// The path.
        path: String,
        /// Its length.
        length: usize,
    },
    /// Another process listens there.
    #[error("{at} is in use{by}: stop it, take its place (--replace), or listen elsewhere (--listen, --port)")]
    InUse {
        /// The address.
        at: String,
        /// Process that uses it, if known.
        by: String,
    },
    /// This process listens there already: another address leads to the same place.
    #[error("{at}: pgferry listens there already, by another address of the same place: leave one of them out")]
    Twice {
        /// The address.
        at: String,
    },
    /// There is no such group.
    #[error("unix_socket_group: there is no group \"{0}\"")]
    NoGroup(String),
    /// The socket file's directory can't be made.
    #[error("{}", describe(Attempt::MakeDirectory, dir, error))]
    Directory {
        /// The directory.
        dir: String,
        /// Cause.
        error: io::Error,
    },
    /// The system refuses.
    #[error("{}", describe(Attempt::Listen, at, error))]
    Io {
        /// The address.
        at: String,
        /// Cause.
        error: io::Error,
    },
}
