//! Whether pgferry does its work, for probes.

use std::time::Duration;

use crate::client::Shared;
use crate::drain::Phase;

/// For how long the workers may say nothing. They look around every second at the latest.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Returns whether the workers work.
///
/// # Errors
/// Why not.
pub(crate) fn live(shared: &Shared) -> Result<(), String> {
    let silent = shared.pools.silent_for();
    if silent > STUCK_AFTER {
        return Err(format!("the workers have done nothing for {} s", silent.as_secs()));
    }
    Ok(())
}

/// Returns whether clients should come here: the workers work, the process is not ending, and no upstream connection that is
/// needed can't be had.
///
/// # Errors
/// Why not.
pub(crate) fn ready(shared: &Shared) -> Result<(), String> {
    live(shared)?;
    if shared.drain.phase() != Phase::Running {
        return Err("shutting down".to_owned());
    }
    match shared.pools.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(()),
    }
}
