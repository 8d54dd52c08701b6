//! The limit on open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Settings;

/// Descriptors that are not clients' or upstreams': listeners, logs, the runtime's own, clients without a place, and some to
/// spare.
const SPARE_FILES: usize = 128;

/// Most descriptors of a server connection: it may have a timer, while a long result comes.
const FILES_PER_SERVER_CONN: usize = 2;

/// The most files that the process may have open.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFiles(usize);

impl OpenFiles {
    /// Raises the limit as far as it goes.
    pub(super) fn raise_limit() -> Self {
        let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, hard)) if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
            Ok((soft, _)) => soft,
            Err(_) => 1024,
        };
        Self(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Most server connections where the servers alone say how many there may be: half of the files are left to clients.
    #[must_use]
    pub(super) fn most_server_conns(self) -> usize {
        (self.0 / 2 / FILES_PER_SERVER_CONN).max(1)
    }

    /// Number of clients that there is room for beside `server_conns`.
    #[must_use]
    pub(super) fn clients(self, settings: &Settings, server_conns: usize) -> usize {
        let others = SPARE_FILES + FILES_PER_SERVER_CONN * server_conns + 3 * settings.pool.max_connecting;
        let room = self.0.saturating_sub(others).max(1);
        match settings.listen.max_client_conn {
            0 => room,
            wanted if wanted > room => {
                warn!(
                    "max_client_conn is reduced from {wanted} to {room}: the limit on open files (ulimit -n) is {}",
                    self.0
                );
                room
            }
            wanted => wanted,
        }
    }
}
