//! What the subcommands print.

use std::io::{ErrorKind, Write as _, stderr, stdout};

use crate::log::visible_lines;
use crate::system_error::without_numbers;

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

/// Prints what went wrong to standard error. Parts of it may come from a server.
pub(super) fn print_error(message: &str) {
    // Where that can't be written either, the exit status still tells.
    let _ = writeln!(stderr(), "pgferry: {}", visible_lines(&without_numbers(message)));
}
