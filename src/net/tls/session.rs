//! One encrypted connection: rustls between us and the socket.
//!
//! rustls does no I/O of its own. What it has encrypted is sent before anything more is given to it, and what it has
//! decrypted is read before the socket is, so that neither side of it ever holds more than one batch.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, Connection, ProtocolVersion};

use super::server::OwnCertificate;
use crate::net::socket::Socket;

/// One encrypted connection.
pub(crate) struct TlsSession {
    tls: Connection,
    own: Option<Arc<OwnCertificate>>,
    /// Decrypted bytes that wait to be read.
    plaintext: usize,
    /// The other end has said that nothing more comes.
    ended: bool,
    /// Error of bytes that had been received before.
    failed: Option<io::Error>,
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("version", &self.tls.protocol_version()).finish_non_exhaustive()
    }
}

impl TlsSession {
    /// Creates a session before its handshake; `own` is the certificate that a client is shown, `received` is what has been
    /// taken from the socket already.
    #[must_use]
    pub(crate) fn new(tls: Connection, own: Option<Arc<OwnCertificate>>, mut received: &[u8]) -> Self {
        let mut session = Self { tls, own, plaintext: 0, ended: false, failed: None };
        while !received.is_empty() && session.failed.is_none() {
            session.failed = session.receive(&mut received).err();
        }
        session
    }

    /// Drives the handshake.
    pub(in crate::net) fn poll_handshake(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(socket, cx))?;
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_receive(socket, cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => {
                    // The other end is told why, if it listens.
                    let _ = self.poll_flush(socket, cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// The certificates that the other end has shown, its own first.
    #[must_use]
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// The certificate that the other end, a client, has been shown.
    #[must_use]
    pub(crate) fn own_certificate(&self) -> Option<&OwnCertificate> {
        self.own.as_deref()
    }

    /// The application protocol that was agreed upon.
    #[must_use]
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// The version and cipher suite in use, for logs.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let version = match self.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = self.tls.negotiated_cipher_suite().map(|suite| suite.suite());
        format!("{version}, {}", suite.and_then(|suite| suite.as_str()).unwrap_or("no cipher"))
    }

    /// Returns whether there may be something to read.
    pub(in crate::net) fn has_plaintext(&self) -> bool {
        self.plaintext > 0 || self.ended
    }

    /// Returns whether all that was written has gone to the socket.
    pub(in crate::net) fn is_flushed(&self) -> bool {
        !self.tls.wants_write()
    }

    /// Reads decrypted bytes; `Ready(Ok(0))` is the end. PostgreSQL's protocol says itself where it ends, so that an
    /// end without TLS's own farewell is one as well.
    pub(in crate::net) fn poll_read(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while !self.has_plaintext() {
            if !ready!(self.poll_receive(socket, cx))? {
                return Poll::Ready(Ok(0));
            }
        }
        Poll::Ready(self.read(into))
    }

    /// As [`TlsSession::poll_read`], from what has arrived.
    pub(in crate::net) fn take_arrived(&mut self, arrived: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
        while !self.has_plaintext() {
            if !self.receive(arrived)? {
                return Ok(0);
            }
        }
        self.read(into)
    }

    /// Encrypts what fits and sends what the socket takes. Nothing is taken on while something waits to be sent.
    pub(in crate::net) fn poll_write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(socket, cx))?;
        let taken = self.tls.writer().write(bytes)?;
        match self.poll_flush(socket, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Sends what has been encrypted.
    pub(in crate::net) fn poll_flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut NonBlocking(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that no more will be written.
    pub(in crate::net) fn farewell(&mut self) {
        self.tls.send_close_notify();
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.plaintext == 0 {
            return Ok(0);
        }
        let n = self.tls.reader().read(into)?;
        self.plaintext -= n;
        Ok(n)
    }

    fn poll_receive(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            match self.receive(&mut NonBlocking(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    // Answers to TLS's own messages; what does not fit goes out with the next write.
                    let _ = self.poll_flush(socket, cx);
                    return Poll::Ready(received);
                }
            }
        }
    }

    /// Takes in some of what `from` has; `false` at its end.
    fn receive(&mut self, from: &mut dyn Read) -> io::Result<bool> {
        if self.tls.read_tls(from)? == 0 {
            return Ok(false);
        }
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        self.plaintext = state.plaintext_bytes_to_read();
        self.ended = state.peer_has_closed();
        Ok(true)
    }
}

/// Returns whether `error`, with which a handshake ended, says that the other end does not take the certificate that it was shown.
#[must_use]
pub(crate) fn rejects_certificate(error: &io::Error) -> bool {
    use AlertDescription as A;
    let inner = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(rustls::Error::AlertReceived(alert)) = inner else { return false };
    // OpenSSL, Java, Go and Schannel each have an alert of their own for it.
    matches!(
        alert,
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateExpired | A::CertificateUnknown | A::UnknownCA
    )
}

/// The socket as rustls wants it: what can't be done now would block.
struct NonBlocking<'a>(&'a Socket);

impl Read for NonBlocking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
