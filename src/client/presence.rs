//! The presence of a client while it waits for others.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use crate::net::Conn;

/// Completes when the client is gone. What it sends meanwhile is kept, as far as the buffer goes. One that sends no more still waits
/// for the answers to what it has sent.
pub(super) fn poll_gone(conn: &mut Conn, cx: &mut Context<'_>) -> Poll<()> {
    while !conn.input.is_full() {
        // As many may wait as there are clients; and not before something comes is there need for more storage.
        conn.input.shrink();
        if ready!(conn.poll_readable(cx)).is_err() {
            return Poll::Ready(());
        }
        match ready!(conn.poll_fill(cx)) {
            Ok(1..) => {}
            Ok(0) if !conn.input.is_empty() => return conn.stream().poll_hung_up(cx),
            Ok(0) | Err(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

/// Waits until the client is gone, as [`poll_gone`] does.
pub(super) async fn gone(conn: &mut Conn) {
    poll_fn(|cx| poll_gone(conn, cx)).await;
}

/// Does `work`, which waits for others; `None` when the client goes away before: one that does not wait takes no turn.
pub(super) async fn while_present<T>(conn: &mut Conn, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = gone(conn) => None,
        done = work => Some(done),
    }
}
