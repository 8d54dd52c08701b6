//! What the subcommands print.

use std::io::{ErrorKind, Write as _, stdout};

/// Prints `text` to standard output. A reader that has seen enough of it (`pgferry show clients | head`) is no error.
///
/// # Errors
/// The system's: a full disk, for example.
pub(super) fn print(text: &str) -> Result<(), String> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}
