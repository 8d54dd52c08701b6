//! Errors about prepared statements that clients get from pgferry: PostgreSQL's own words, and those for its own limits.

use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::track::client_statements::MAX_NAMED_BYTES;

/// PostgreSQL's error for a statement that does not exist.
pub(super) fn unknown_statement(name: &[u8]) -> ClientError {
    let name = String::from_utf8_lossy(name);
    ClientError::error(
        ErrorSource::Client,
        sqlstate::UNDEFINED_STATEMENT,
        format!("prepared statement \"{name}\" does not exist"),
    )
}

/// A name without an end as far as it is kept. PostgreSQL reads it whole, and compares its first 63 bytes.
pub(super) fn endless_name() -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        "the name of a prepared statement or portal is too long",
    )
}

/// A client in transaction mode has prepared more statements than are kept under their names.
pub(super) fn too_many_statements() -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        "too many prepared statements in this session",
    )
    .detail(format!("What pgferry keeps of them is bounded: {} MB for a client.", MAX_NAMED_BYTES >> 20))
    .hint("Free those that are not needed any more, or use pool_mode = \"session\".")
}

/// A client has prepared more statements that reset settings, and of which the texts are not kept, than are remembered.
pub(super) fn too_many_resetting() -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        "too many prepared statements that reset settings in this session",
    )
    .hint("Free some of them, or run RESET, SET … TO DEFAULT and DISCARD ALL without preparing them.")
}

/// PostgreSQL's error for a statement that exists already.
pub(super) fn existing_statement(name: &[u8]) -> ClientError {
    let name = String::from_utf8_lossy(name);
    ClientError::error(
        ErrorSource::Client,
        sqlstate::DUPLICATE_STATEMENT,
        format!("prepared statement \"{name}\" already exists"),
    )
}
