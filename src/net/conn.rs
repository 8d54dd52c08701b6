//! A stream with its buffers: framed reading and ordered writing.
//!
//! A `Conn` implements neither `AsyncRead` nor `AsyncWrite`, so that no code reads past its buffer by mistake.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use super::stream::Stream;
use super::tls::OwnCertificate;
use crate::buffer::{Buffer, BufferPool};
use crate::wire::{self, BadLength};

/// Number of bytes for output that an idle connection keeps.
const MAX_IDLE_OUTPUT_BYTES: usize = 1024;

/// Reason why a message could not be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecvError {
    /// The other end is gone.
    #[error("connection closed")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A length field that can't be right, or is longer than this phase allows.
    #[error(transparent)]
    Length(#[from] BadLength),
}

/// A connection with what was received from it and what is to be sent to it.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: Stream,
    /// Received bytes.
    pub input: Buffer,
    /// Bytes that are sent before anything else.
    pub output: Vec<u8>,
    written: usize,
    /// Bytes that came and went since they were last taken.
    traffic: (u64, u64),
}

impl Conn {
    /// Wraps `stream`, borrowing storage from `buffers`.
    #[must_use]
    pub(crate) fn new(stream: Stream, buffers: Arc<BufferPool>) -> Self {
        Self { stream, input: Buffer::new(buffers), output: Vec::new(), written: 0, traffic: (0, 0) }
    }

    /// The socket, for its options and its peer.
    #[must_use]
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The socket, for more than bytes.
    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Number of bytes that have been received and sent since this was last asked.
    pub(crate) fn take_traffic(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.traffic)
    }

    /// Returns whether the runtime has heard that there is something to read; it may not know yet.
    #[must_use]
    pub(crate) fn is_known_readable(&self) -> bool {
        self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Receives more into [`Conn::input`]; `Ready(Ok(0))` is the end. Holds no storage while it waits with an empty
    /// buffer. The caller has seen to it that the buffer is not full.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.stream.poll_fill(cx, &mut self.input) {
            Poll::Ready(Ok(n)) => {
                self.input.received(n);
                self.traffic.0 += n as u64;
                Poll::Ready(Ok(n))
            }
            other => {
                self.input.received(0);
                other
            }
        }
    }

    /// Writes what is in [`Conn::output`].
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            match ready!(self.stream.poll_write(cx, &self.output[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.written += n;
                    self.traffic.1 += n as u64;
                }
            }
        }
        ready!(self.stream.poll_flush(cx))?;
        self.output.clear();
        self.written = 0;
        if self.output.capacity() > MAX_IDLE_OUTPUT_BYTES {
            self.trim();
        }
        Poll::Ready(Ok(()))
    }

    /// Receives what has arrived without waiting, asking the socket itself. The caller has seen to it that the buffer
    /// is not full.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub(crate) fn take_arrived(&mut self) -> io::Result<usize> {
        let taken = self.stream.take_arrived(self.input.space());
        self.input.received(*taken.as_ref().unwrap_or(&0));
        taken
    }

    /// Returns whether all that was written is with the kernel.
    #[must_use]
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.stream.is_flushed()
    }

    /// Encrypts what follows. The bytes that have been received but not looked at belong to the handshake.
    ///
    /// # Errors
    /// As [`Stream::secure`].
    pub(crate) async fn secure(&mut self, tls: rustls::Connection, own: Option<Arc<OwnCertificate>>) -> io::Result<()> {
        let received = self.input.unparsed().to_vec();
        self.consume(received.len());
        self.stream.secure(tls, own, &received).await
    }

    /// Number of bytes of [`Conn::output`] that the socket has taken.
    #[must_use]
    pub(crate) fn flushed(&self) -> usize {
        self.written
    }

    /// Writes `bytes` past the buffer, as many as fit: for bytes that lie in another connection's buffer.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = self.stream.poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = wrote {
            self.traffic.1 += n as u64;
        }
        wrote
    }

    /// Writes what is in [`Conn::output`]. Cancel-safe: what was not written stays.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes what is in [`Conn::output`] as far as it goes without waiting; says whether all of it went.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn flush_now(&mut self) -> io::Result<bool> {
        match self.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(flushed) => flushed.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Gives back the room for output, where nothing waits in it.
    pub(crate) fn trim(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Returns whether there is something to read, as far as the runtime knows; if not, the task is woken when there is. Borrows
    /// no storage.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    /// Receives more. Cancel-safe. The caller has seen to it that the buffer is not full.
    ///
    /// # Errors
    /// The socket's, or [`RecvError::Closed`] at the end.
    pub(crate) async fn fill(&mut self) -> Result<(), RecvError> {
        match poll_fn(|cx| self.poll_fill(cx)).await? {
            0 => Err(RecvError::Closed),
            _ => Ok(()),
        }
    }

    /// Receives until `size` unparsed bytes are there, and returns them; they stay until [`Conn::consume`].
    /// Cancel-safe. The caller has bounded `size`; storage grows with what comes, not with what is claimed.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub(crate) async fn peek(&mut self, size: usize) -> Result<&[u8], RecvError> {
        while self.input.unparsed().len() < size {
            if self.input.is_full() {
                self.input.reserve(size.min(2 * self.input.capacity()));
            }
            self.input.shrink();
            self.fill().await?;
        }
        Ok(&self.input.unparsed()[..size])
    }

    /// Drops the next `n` received bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.skip(n);
    }

    /// Drops the next `n` received bytes and overwrites them: they were a secret, and the storage goes to others.
    pub(crate) fn wipe(&mut self, n: usize) {
        self.input.wipe(n);
    }

    /// Drops the next `n` bytes, receiving them as needed. Not cancel-safe: after that the number left is unknown.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub(crate) async fn discard(&mut self, mut n: usize) -> Result<(), RecvError> {
        loop {
            let here = self.input.unparsed().len().min(n);
            self.consume(here);
            n -= here;
            if n == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Receives one whole message of at most `limit` bytes behind the tag, and returns it; it stays until
    /// [`Conn::consume`] with its size. Cancel-safe.
    ///
    /// # Errors
    /// As [`Conn::fill`], or a length out of bounds.
    pub(crate) async fn peek_frame(&mut self, limit: usize) -> Result<wire::Frame<'_>, RecvError> {
        let header = self.peek(wire::frame::HEADER_BYTES).await?;
        let Some(head) = wire::head(header, limit)? else { return Err(RecvError::Closed) };
        let bytes = self.peek(head.size).await?;
        Ok(wire::Frame { tag: head.tag, bytes })
    }

    /// Says that no more will be written; what the peer says is still read.
    pub(crate) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_shutdown(cx).map(drop)
    }

    /// Closes a connection while the peer may still be sending, in a way that what was written last arrives: says
    /// that nothing more comes, then reads to the end. The caller bounds the time.
    ///
    /// Closing with unread input would make the kernel send a reset, which destroys what the peer has not read yet.
    pub(crate) async fn linger(&mut self) {
        if self.flush().await.is_err() {
            return;
        }
        if poll_fn(|cx| self.stream.poll_shutdown(cx)).await.is_err() {
            return;
        }
        self.drain().await;
    }

    /// Reads and drops to the end: that of the socket, which TLS announces.
    pub(crate) async fn drain(&mut self) {
        loop {
            self.input.clear();
            if self.fill().await.is_err() {
                break;
            }
        }
        poll_fn(|cx| self.stream.poll_end(cx)).await;
    }
}
