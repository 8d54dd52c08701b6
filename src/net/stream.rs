//! A connection over a socket, encrypted or not.

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix, getpeername, getsockname, sockopt as net_sockopt};
use tokio::net::{TcpSocket, UnixStream};

use super::byte_stream::ByteStream;
use super::namespace::PeerProcess;
use super::socket::Socket;
use super::tls::{OwnCertificate, TlsSession};
use crate::buffer::Buffer;

/// A connection to a peer, encrypted or not.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Box<TlsSession>>,
    /// No read has been tried yet.
    untried: bool,
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self { socket, tls: None, untried: false }
    }
}

/// The peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process on this machine, as the kernel knew it when it connected (`SO_PEERCRED`).
    Unix {
        /// Its effective user.
        uid: u32,
        /// Its effective group.
        gid: u32,
        /// Its process id, where the kernel tells it to this process.
        pid: Option<i32>,
    },
}

impl Stream {
    /// Connects to a TCP address. Until [`Self::take_up`] a close resets the connection: one that is not used leaves no TIME_WAIT.
    /// Writes are not delayed: what follows a TLS handshake would wait for the server's acknowledgement of it, 40 ms.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn connect_tcp(to: SocketAddr) -> io::Result<Self> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        socket.set_zero_linger()?;
        Ok(Socket::tcp(socket.connect(to).await?.into_std()?.into())?.into())
    }

    /// Makes the coming close of one that has connected an orderly one.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn take_up(&self) -> io::Result<()> {
        if self.is_tcp() { Ok(net_sockopt::set_socket_linger(self.socket.fd()?, None)?) } else { Ok(()) }
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn connect_unix(to: &Path) -> io::Result<Self> {
        Ok(Socket::unix(UnixStream::connect(to).await?.into_std()?.into())?.into())
    }

    /// A TCP socket that has just been accepted. What its client says first has mostly come by then: that is tried before
    /// the runtime, which does not know the socket yet, is asked.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn accepted_tcp(socket: OwnedFd) -> io::Result<Self> {
        net_sockopt::set_tcp_nodelay(&socket, true)?;
        Ok(Self { untried: true, ..Socket::tcp(socket)?.into() })
    }

    /// The same for a unix socket.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn accepted_unix(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { untried: true, ..Socket::unix(socket)?.into() })
    }

    /// Encrypts what follows: runs the handshake of `tls`, to which the bytes in `received` belong. `own` is the
    /// certificate that a client is shown.
    ///
    /// # Errors
    /// The socket's, or the handshake's; the stream is of no use then.
    pub(crate) async fn secure(
        &mut self,
        tls: rustls::Connection,
        own: Option<Arc<OwnCertificate>>,
        received: &[u8],
    ) -> io::Result<()> {
        let session = self.tls.insert(Box::new(TlsSession::new(tls, own, received)));
        poll_fn(|cx| session.poll_handshake(&mut self.socket, cx)).await
    }

    /// The socket itself, for another protocol in clear text.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn into_io(self) -> io::Result<Box<dyn ByteStream>> {
        self.socket.into_io()
    }

    /// Has `write` done to the socket itself when there is room for it.
    pub(super) async fn send(
        &mut self,
        mut write: impl FnMut(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> io::Result<usize> {
        poll_fn(|cx| self.socket.poll_send(cx, &mut write)).await
    }

    /// The encryption, if there is one.
    #[must_use]
    pub(crate) fn tls(&self) -> Option<&TlsSession> {
        self.tls.as_deref()
    }

    /// Has readers woken when `bytes` have arrived, encrypted or not, or the end.
    ///
    /// # Errors
    /// The system's; unix sockets know no such thing.
    pub(super) fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        self.socket.set_low_water(bytes)
    }

    /// Waits until there may be something to read, holding no buffer.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) if tls.has_plaintext() => Poll::Ready(Ok(())),
            None if self.untried => Poll::Ready(Ok(())),
            _ => self.socket.poll_read_ready(cx),
        }
    }

    /// Reads what is there, before there is encryption; `Ready(Ok(0))` is the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, into)
    }

    /// Reads what is there into `buffer`, which lends storage only when there may be something; `Ready(Ok(0))` is the end.
    /// The caller tells the buffer how much it was.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            if buffer.is_empty() && !tls.has_plaintext() {
                ready!(self.socket.poll_read_ready(cx))?;
            }
            return tls.poll_read(&mut self.socket, cx, buffer.space());
        }
        if std::mem::take(&mut self.untried) {
            let tried = self.socket.take_arrived(buffer.space());
            if !tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(tried);
            }
        }
        self.socket.poll_read(cx, buffer)
    }

    /// Writes what fits. What has been encrypted may still wait to be sent: see [`Stream::poll_flush`].
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            Some(tls) => tls.poll_write(&mut self.socket, cx, bytes),
            None => self.socket.poll_write(cx, bytes),
        }
    }

    /// Sends what was written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            Some(tls) => tls.poll_flush(&mut self.socket, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Returns whether all that was written is with the kernel.
    #[must_use]
    pub(crate) fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_flushed())
    }

    /// Says that no more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            tls.farewell();
            ready!(tls.poll_flush(&mut self.socket, cx))?;
        }
        Poll::Ready(self.socket.shutdown())
    }

    /// Waits until the other end has closed, after it has said that nothing more comes. The side that closes first has the
    /// TIME_WAIT, and TLS's farewell comes before that.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.tls.is_none() {
            return Poll::Ready(());
        }
        loop {
            match ready!(self.socket.poll_read(cx, &mut [0; 256][..])) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Returns whether the other end is gone altogether, as far as the kernel knows. One that has only said that it sends no more
    /// is not.
    #[must_use]
    pub(crate) fn is_hung_up(&self) -> bool {
        self.socket.is_hung_up()
    }

    /// Waits until the other end, which sends no more, is gone altogether, as far as that is heard of.
    pub(crate) fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_hung_up(cx)
    }

    /// Returns whether something has arrived, be it the end: one look at the socket itself, nothing is taken.
    #[must_use]
    pub(crate) fn has_arrived(&self) -> bool {
        !self.socket.peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Returns whether bytes have arrived that have not been read.
    #[must_use]
    pub(crate) fn has_unread(&self) -> bool {
        self.socket.peek().is_ok_and(|n| n > 0)
    }

    /// Takes what has arrived, asking the socket itself and not the runtime, which may not know yet.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub(crate) fn take_arrived(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.take_arrived(&mut ArrivedBytes(&self.socket), into),
            None => self.socket.take_arrived(into),
        }
    }

    /// The peer.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        let socket = self.socket.fd()?;
        if self.is_tcp() {
            let address = getpeername(socket)?.and_then(|address| SocketAddr::try_from(address).ok());
            return address.map(Peer::Tcp).ok_or(io::ErrorKind::Unsupported.into());
        }
        let cred = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok(Peer::Unix { uid: cred.uid(), gid: cred.gid(), pid: Some(cred.pid()).filter(|pid| *pid > 0) })
    }

    /// The process at the other end of a unix socket, as far as this process sees it.
    #[must_use]
    pub(crate) fn peer_process(&self) -> Option<PeerProcess> {
        let Ok(Peer::Unix { pid, .. }) = self.peer() else { return None };
        PeerProcess::of(self.socket.fd().ok()?, pid)
    }

    /// Our own end, if it is a TCP address.
    #[must_use]
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(self.own_address()?).ok()
    }

    fn own_address(&self) -> Option<SocketAddrAny> {
        getsockname(self.socket.fd().ok()?).ok()
    }

    /// Our own end's name, if it is a unix or abstract socket.
    #[must_use]
    pub(crate) fn socket_name(&self) -> Option<String> {
        let address = SocketAddrUnix::try_from(self.own_address()?).ok()?;
        let name = address.path_bytes().or_else(|| address.abstract_name());
        name.map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Returns whether it is TCP.
    #[must_use]
    pub(crate) fn is_tcp(&self) -> bool {
        self.socket.is_tcp()
    }

    /// Returns whether it came over an abstract socket.
    #[must_use]
    pub(crate) fn is_abstract(&self) -> bool {
        let address = self.own_address().and_then(|address| SocketAddrUnix::try_from(address).ok());
        address.is_some_and(|address| address.path_bytes().is_none())
    }

    /// Sets the options of an upstream connection: keepalive, and how long data may stay unacknowledged.
    pub(crate) fn set_upstream_options(
        &self,
        keepalive: Option<Duration>,
        user_timeout: Option<Duration>,
    ) -> io::Result<()> {
        if !self.is_tcp() {
            return Ok(());
        }
        let socket = self.socket.fd()?;
        if let Some(idle) = keepalive {
            set_keepalive(socket, idle)?;
        }
        if let Some(timeout) = user_timeout {
            net_sockopt::set_tcp_user_timeout(socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    /// Makes the coming close send a reset, which leaves no TIME_WAIT behind; `false` where that can't be done, and the
    /// connection closes in the ordinary way.
    #[must_use]
    pub(crate) fn reset_on_close(&self) -> bool {
        let reset = |socket| net_sockopt::set_socket_linger(socket, Some(Duration::ZERO)).is_ok();
        !self.is_tcp() || self.socket.fd().is_ok_and(reset)
    }
}

/// Has TCP probe a connection that has been idle for `idle`: it counts as dead after three probes without an answer.
///
/// # Errors
/// The system's.
pub(super) fn set_keepalive(socket: impl AsFd, idle: Duration) -> io::Result<()> {
    net_sockopt::set_socket_keepalive(&socket, true)?;
    net_sockopt::set_tcp_keepidle(&socket, idle)?;
    net_sockopt::set_tcp_keepintvl(&socket, idle / 4 + Duration::from_secs(1))?;
    net_sockopt::set_tcp_keepcnt(&socket, 3)?;
    Ok(())
}

/// Bytes that have arrived at a socket.
struct ArrivedBytes<'a>(&'a Socket);

impl Read for ArrivedBytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.take_arrived(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cancel request would come 40 ms late behind its TLS handshake.
    #[tokio::test]
    async fn writes_to_a_server_are_not_held_back_for_its_acknowledgements() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = Stream::connect_tcp(listener.local_addr().expect("an address")).await.expect("a connection");
        assert!(net_sockopt::tcp_nodelay(stream.socket.fd().expect("a descriptor")).expect("an option"));
    }
}
