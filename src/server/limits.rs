//! The limit on open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Settings;
use crate::upstream::capacity::UNKNOWN;

/// Descriptors that are not clients' or upstreams': listeners, logs, the runtime's own, clients without a place, and some to
/// spare.
const SPARE_FILES: usize = 128;

/// Raises the limit on open files as far as it goes, and says how many clients that leaves room for.
pub(super) fn raise_file_limit(settings: &Settings) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // An upstream connection may have a timer, while a long result comes.
    let others = SPARE_FILES + 2 * settings.max_upstream.unwrap_or(UNKNOWN) + 3 * settings.max_connecting;
    let room = limit.saturating_sub(others).max(1);
    match settings.max_client_conn {
        0 => room,
        wanted if wanted > room => {
            warn!("max_client_conn = {wanted} does not fit the limit of {limit} open files (ulimit -n): {room} it is");
            room
        }
        wanted => wanted,
    }
}
