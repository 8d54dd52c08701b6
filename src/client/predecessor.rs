//! The process that this one has replaced, as long as it serves clients: cancel requests for them come here.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::cancel_key::CancelKey;
use crate::net::Conn;
use crate::wire::{backend, frontend};

/// Number of cancel requests that are under way; what is beyond waits for a place.
const MAX_UNDER_WAY: usize = 64;

/// Longest time that a cancel request waits: the predecessor's own limits are shorter.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Channel of the notifications by which the predecessor's console tells that a request has been acted upon: each has the request's
/// number in place of a process id.
pub(crate) const CANCELS: &str = "cancel";

/// Payload of such a notification, where there is a client with the key.
pub(crate) const CANCELLED: &str = "known";

/// The same where there is none.
pub(crate) const UNKNOWN: &str = "unknown";

/// The longest message of the predecessor's console that is taken.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

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
        let (requests, queue) = mpsc::channel(MAX_UNDER_WAY);
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

/// Passes cancel requests on to the predecessor's console until that ends. They are acted upon side by side: one that is late holds up
/// no other.
pub(crate) async fn forward(mut console: Conn, mut queue: mpsc::Receiver<ForwardedCancel>) {
    let mut under_way: HashMap<i32, oneshot::Sender<bool>> = HashMap::new();
    let mut number = 0_i32;
    loop {
        // A client that has gone, or has waited for long enough, does not want to know.
        under_way.retain(|_, done| !done.is_closed());
        tokio::select! {
            request = queue.recv(), if under_way.len() < MAX_UNDER_WAY => {
                let Some(ForwardedCancel { pid, secret, done }) = request else { return };
                number = number.wrapping_add(1);
                let text = format!("CANCEL {number} {pid} {}", CancelKey::to_hex(&secret));
                frontend::put_query(&mut console.output, text.as_bytes());
                if console.flush().await.is_err() {
                    return;
                }
                under_way.insert(number, done);
            }
            frame = console.peek_frame(MAX_MESSAGE_BYTES) => {
                // Beside that it says that it has heard, and at its end a farewell.
                let Ok(frame) = frame else { return };
                let told = Some(frame.body()).filter(|_| frame.tag == backend::NOTIFICATION);
                if let Some((number, _, payload)) = told.and_then(backend::notification)
                    && let Some(done) = under_way.remove(&number)
                {
                    let _ = done.send(payload == CANCELLED.as_bytes());
                }
                let size = frame.bytes.len();
                console.consume(size);
            }
            // Those that have waited for long enough make room for others.
            () = sleep(CANCEL_TIMEOUT), if under_way.len() >= MAX_UNDER_WAY => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::net::{BufferPool, Stream};

    fn conn(socket: UnixStream) -> Conn {
        socket.set_nonblocking(true).expect("nonblocking");
        Conn::new(Stream::accepted_unix(socket.into()).expect("a stream"), BufferPool::new(8192, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_late_holds_up_no_other() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (predecessor, queue) = Predecessor::new();
        let predecessor = Arc::new(predecessor);
        let way = tokio::spawn(forward(conn(ours), queue));
        let mut console = conn(theirs);
        let ask = |pid| {
            let predecessor = Arc::clone(&predecessor);
            tokio::spawn(async move { predecessor.cancel(pid, b"secret").await })
        };
        let mut asked = Vec::new();
        for pid in 1..=3 {
            asked.push(ask(pid));
            let request = console.peek_frame(1000).await.expect("a request");
            assert!(request.body().starts_with(format!("CANCEL {pid} {pid} ").as_bytes()), "{:?}", request.body());
            let size = request.bytes.len();
            console.consume(size);
            backend::put_ready(&mut console.output, b'I');
        }
        backend::put_notification(&mut console.output, 3, CANCELS, CANCELLED);
        backend::put_notification(&mut console.output, 2, CANCELS, UNKNOWN);
        console.flush().await.expect("sent");
        assert!(asked.remove(2).await.expect("no panic"), "there is a client");
        assert!(!asked.remove(1).await.expect("no panic"), "there is none");
        assert!(!asked.remove(0).await.expect("no panic"), "it is not waited for without end");
        drop(console);
        way.await.expect("no panic");
    }
}
