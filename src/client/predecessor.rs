//! The process that this one has replaced, as long as it serves clients: cancel requests for them come here.

use std::fmt;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::cancel_key::CancelKey;
use crate::net::Conn;
use crate::upstream::simple_query;
use crate::wire::frontend;

/// Number of cancel requests that wait for those before them; what is beyond waits for a place.
const QUEUE_LENGTH: usize = 64;

/// Longest time that a cancel request waits: the predecessor's own limits are shorter. One that is late holds up those behind it, and
/// does not end the way there.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to the process that this one has replaced.
#[derive(Debug)]
pub(crate) struct Predecessor {
    requests: mpsc::Sender<ForwardedCancel>,
}

/// A cancel request with a key that is not known here.
pub(crate) struct ForwardedCancel {
    pid: i32,
    secret: Vec<u8>,
    /// Told whether the predecessor knows the key, when it has acted.
    done: oneshot::Sender<bool>,
}

impl fmt::Debug for ForwardedCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a cancel request for {}", self.pid)
    }
}

impl Predecessor {
    /// Creates the way, and what [`forward`] takes from it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ForwardedCancel>) {
        let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
        (Self { requests }, queue)
    }

    /// Has the predecessor act upon a cancel request, and waits until it has, [`CANCEL_TIMEOUT`] at most. Returns whether it knows the key.
    pub(super) async fn cancel(&self, pid: i32, secret: &[u8]) -> bool {
        let (done, outcome) = oneshot::channel();
        let request = ForwardedCancel { pid, secret: secret.to_vec(), done };
        // The queue is gone when the predecessor is.
        let asked = async { self.requests.send(request).await.is_ok() && outcome.await.unwrap_or(false) };
        timeout(CANCEL_TIMEOUT, asked).await.unwrap_or(false)
    }

    /// Waits until the predecessor has ended, and with it all that were before it: it stays for as long as they have clients.
    pub(crate) async fn gone(&self) {
        self.requests.closed().await;
    }
}

/// Passes cancel requests on to the predecessor's console until that ends.
pub(crate) async fn forward(mut console: Conn, mut queue: mpsc::Receiver<ForwardedCancel>) {
    loop {
        let request = tokio::select! {
            request = queue.recv() => request,
            // It is asked nothing: what it says is a farewell.
            _ = console.fill() => None,
        };
        let Some(ForwardedCancel { pid, secret, done }) = request else { return };
        if done.is_closed() {
            continue;
        }
        let text = format!("CANCEL {pid} {}", CancelKey::to_hex(&secret));
        frontend::put_query(&mut console.output, text.as_bytes());
        let Ok(answer) = simple_query::rows(&mut console).await else { return };
        // A client that has gone, or has waited for long enough, does not want to know.
        let _ = done.send(answer.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::net::{BufferPool, Stream};
    use crate::wire::backend;

    fn conn(socket: UnixStream) -> Conn {
        socket.set_nonblocking(true).expect("nonblocking");
        Conn::new(Stream::accepted_unix(socket.into()).expect("a stream"), BufferPool::new(8192, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_does_not_end_the_way() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (predecessor, queue) = Predecessor::new();
        let predecessor = Arc::new(predecessor);
        let way = tokio::spawn(forward(conn(ours), queue));
        assert!(!predecessor.cancel(1, b"late").await, "it is not waited for without end");
        let mut console = conn(theirs);
        let answer = |console: &mut Conn| backend::put_ready(&mut console.output, b'I');
        answer(&mut console);
        console.flush().await.expect("sent");
        let next = tokio::spawn({
            let predecessor = Arc::clone(&predecessor);
            async move { predecessor.cancel(2, b"next").await }
        });
        for pid in [1, 2] {
            let request = console.peek_frame(1000).await.expect("a request");
            assert!(request.body().starts_with(format!("CANCEL {pid} ").as_bytes()), "{:?}", request.body());
            let size = request.bytes.len();
            console.consume(size);
        }
        answer(&mut console);
        console.flush().await.expect("sent");
        assert!(next.await.expect("no panic"));
        drop(console);
        way.await.expect("no panic");
    }
}
