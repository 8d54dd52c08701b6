//! Simple queries of pgferry's own, on connections that no client has: a few short rows.

use crate::net::{Conn, RecvError};
use crate::wire::backend;

/// The longest message that is taken.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The columns of a row; NULL is as empty as an empty text.
pub(crate) type Row = Vec<Vec<u8>>;

/// Sends what is in the connection's output, and receives the rows of the answer up to the `ReadyForQuery`; or else the
/// server's complaint.
///
/// # Errors
/// When the connection is of no use any more.
pub(crate) async fn rows(conn: &mut Conn) -> Result<Result<Vec<Row>, String>, RecvError> {
    rows_and(conn, |_, _| ()).await
}

/// As [`rows`]; settings that the server reports meanwhile, by name and value, go to `reported`.
///
/// # Errors
/// As [`rows`].
pub(crate) async fn rows_and(
    conn: &mut Conn,
    mut reported: impl FnMut(&[u8], &[u8]),
) -> Result<Result<Vec<Row>, String>, RecvError> {
    conn.flush().await?;
    let mut answer = Ok(Vec::new());
    loop {
        let frame = conn.peek_frame(MAX_MESSAGE_BYTES).await?;
        match (frame.tag, &mut answer) {
            (backend::DATA_ROW, Ok(rows)) => {
                rows.push(
                    backend::values(frame.body()).into_iter().map(|value| value.unwrap_or_default().to_vec()).collect(),
                );
            }
            (backend::ERROR, Ok(_)) => {
                let message = backend::error_field(frame.body(), b'M').unwrap_or_default();
                answer = Err(String::from_utf8_lossy(message).into_owned());
            }
            (backend::PARAMETER_STATUS, _) => {
                if let Some((name, value)) = backend::parameter_status(frame.body()) {
                    reported(name, value);
                }
            }
            _ => {}
        }
        let (ready, size) = (frame.tag == backend::READY, frame.bytes.len());
        conn.consume(size);
        if ready {
            return Ok(answer);
        }
    }
}
