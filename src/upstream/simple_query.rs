//! Simple queries of pgferry's own, on connections that no client has: a few short rows.

use crate::net::{Conn, RecvError};
use crate::wire::backend;

/// The longest message that is taken.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Most memory, in bytes, that an answer may take: the functions of a database are several megabytes at most. What is beyond is
/// read and dropped, so that the connection stays of use.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Beginning of a question about catalogs or processes: a planner that a client or a role has forbidden something (`enable_seqscan`)
/// believes it to be so dear that compiling it takes the server seconds, in which it hears nothing.
pub(crate) const WITHOUT_JIT: &str = "SET LOCAL jit TO off;";

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
    let (mut answer, mut bytes) = (Ok(Vec::new()), 0);
    loop {
        let frame = conn.peek_frame(MAX_MESSAGE_BYTES).await?;
        match (frame.tag, &mut answer) {
            (backend::DATA_ROW, Ok(rows)) => {
                let row: Row =
                    backend::values(frame.body()).into_iter().map(|value| value.unwrap_or_default().to_vec()).collect();
                bytes += size_of::<Row>() + row.len() * size_of::<Vec<u8>>() + frame.bytes.len();
                rows.push(row);
                if bytes > MAX_ANSWER_BYTES {
                    answer = Err(format!("its answer is longer than {MAX_ANSWER_BYTES} bytes"));
                }
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::net::{BufferPool, Stream};

    /// Reads a server's answer that consists of these messages.
    async fn answer(messages: Vec<u8>) -> Result<Vec<Row>, String> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("nonblocking");
        let mut conn = Conn::new(Stream::accepted_unix(ours.into()).expect("a stream"), BufferPool::new(8192, 1));
        let server = std::thread::spawn(move || theirs.write_all(&messages).expect("taken"));
        let rows = rows(&mut conn).await.expect("a connection");
        server.join().expect("no panic");
        rows
    }

    fn answer_of(count: usize, columns: &[&str]) -> Vec<u8> {
        let mut messages = Vec::new();
        for _ in 0..count {
            backend::put_data_row(&mut messages, columns.iter().map(|column| Some(column.as_bytes().to_vec())));
        }
        backend::put_ready(&mut messages, b'I');
        messages
    }

    #[tokio::test]
    async fn an_answer_is_bounded_by_what_its_rows_take() {
        let few = answer(answer_of(3, &["a", ""])).await.expect("short");
        assert_eq!(few, [[b"a".to_vec(), Vec::new()], [b"a".to_vec(), Vec::new()], [b"a".to_vec(), Vec::new()]]);
        let long = "x".repeat(60_000);
        assert!(answer(answer_of(MAX_ANSWER_BYTES / 61_000, &[&long])).await.is_ok());
        let error = answer(answer_of(MAX_ANSWER_BYTES / 60_000 + 1, &[&long])).await.expect_err("long");
        assert!(error.contains("longer than"), "{error}");
        // Rows without columns, and columns without bytes, take memory as well.
        assert!(answer(answer_of(MAX_ANSWER_BYTES / size_of::<Row>(), &[])).await.is_err());
        assert!(answer(answer_of(MAX_ANSWER_BYTES / 24 / 1000, &[""; 1000])).await.is_err());
    }
}
