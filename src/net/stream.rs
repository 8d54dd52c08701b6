//! TCP and unix sockets behind one type, encrypted or not.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Session;

/// A connection to somebody, encrypted or not.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<Session>>,
    /// Nobody has tried yet to read, to write.
    untried: (bool, bool),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { socket: Socket::Tcp(stream), tls: None, untried: (false, false) }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self { socket: Socket::Unix(stream), tls: None, untried: (false, false) }
    }
}

/// Bytes in and out, whatever carries them.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
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
    /// One that has just been accepted. What its client says first has mostly come by then, and what it is answered fits:
    /// that is tried before the runtime, which does not know the socket yet, is asked.
    #[must_use]
    pub fn accepted(stream: impl Into<Self>) -> Self {
        Self { untried: (true, true), ..stream.into() }
    }

    /// Encrypts what follows: runs the handshake of `tls`, to which the bytes in `received` belong. `end_point` is what
    /// our own certificate gives the other end to bind its login to.
    ///
    /// # Errors
    /// The socket's, or the handshake's; the stream is of no use then.
    pub async fn secure(
        &mut self,
        tls: rustls::Connection,
        end_point: Option<Vec<u8>>,
        received: &[u8],
    ) -> io::Result<()> {
        let session = self.tls.insert(Box::new(Session::new(tls, end_point, received)));
        poll_fn(|cx| session.poll_handshake(&self.socket, cx)).await
    }

    /// The socket itself, for those who speak another protocol on it, in clear text.
    #[must_use]
    pub fn into_io(self) -> Box<dyn Io> {
        match self.socket {
            Socket::Tcp(stream) => Box::new(stream),
            Socket::Unix(stream) => Box::new(stream),
        }
    }

    /// The unix socket that it is, if it is one.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixStream> {
        match &self.socket {
            Socket::Unix(stream) => Some(stream),
            Socket::Tcp(_) => None,
        }
    }

    /// The encryption, if there is one.
    #[must_use]
    pub fn tls(&self) -> Option<&Session> {
        self.tls.as_deref()
    }

    /// Waits until there may be something to read, holding no buffer.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) if tls.has_plaintext() => Poll::Ready(Ok(())),
            None if self.untried.0 => Poll::Ready(Ok(())),
            _ => self.socket.poll_read_ready(cx),
        }
    }

    /// Reads what is there; `Ready(Ok(0))` is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_read(&self.socket, cx, into);
        }
        if std::mem::take(&mut self.untried.0) {
            let tried = Arrived(self.socket.fd()).read(into);
            if !tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(tried);
            }
        }
        self.socket.poll_read(cx, into)
    }

    /// Writes what fits. What has been encrypted may still wait to be sent: see [`Stream::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_write(&self.socket, cx, bytes);
        }
        if std::mem::take(&mut self.untried.1) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.fd(), bytes, flags) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                tried => return Poll::Ready(tried.map_err(Into::into)),
            }
        }
        self.socket.poll_write(cx, bytes)
    }

    /// Sends what was written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            Some(tls) => tls.poll_flush(&self.socket, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Whether all that was written is with the kernel.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_flushed())
    }

    /// Says that no more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            tls.farewell();
            ready!(tls.poll_flush(&self.socket, cx))?;
        }
        self.socket.poll_shutdown(cx)
    }

    /// Waits until the other end has closed, after it has said that nothing more comes. Whoever closes first has the
    /// TIME_WAIT, and TLS's farewell comes before that.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.tls.is_none() {
            return Poll::Ready(());
        }
        loop {
            match ready!(self.socket.poll_read(cx, &mut [0; 256])) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Whether something has arrived, be it the end: one look at the socket itself, nothing is taken.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        recv(self.socket.fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN)
    }

    /// Whether bytes have arrived that nobody has taken.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        recv(self.socket.fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0)
    }

    /// Takes what has arrived, asking the socket itself and not the runtime, which may not know yet.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub fn take_arrived(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut arrived = Arrived(self.socket.fd());
        match &mut self.tls {
            Some(tls) => tls.take_arrived(&mut arrived, into),
            None => arrived.read(into),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        match &self.socket {
            Socket::Tcp(stream) => stream.peer_addr().map(Peer::Tcp),
            Socket::Unix(stream) => stream.peer_cred().map(|cred| Peer::Unix {
                uid: cred.uid(),
                gid: cred.gid(),
                pid: cred.pid().filter(|pid| *pid > 0),
            }),
        }
    }

    /// Our own end, if it is a TCP address.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Whether it is TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    /// Whether it came over an abstract socket.
    #[must_use]
    pub fn is_abstract(&self) -> bool {
        match &self.socket {
            Socket::Tcp(_) => false,
            Socket::Unix(stream) => stream.local_addr().is_ok_and(|address| address.as_pathname().is_none()),
        }
    }

    /// Sets the options of an upstream connection: no delay, keepalive, and how long data may stay unacknowledged.
    pub fn set_upstream_options(&self, keepalive: Option<Duration>, user_timeout: Option<Duration>) -> io::Result<()> {
        let Socket::Tcp(stream) = &self.socket else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if let Some(idle) = keepalive {
            let probes =
                TcpKeepalive::new().with_time(idle).with_interval(idle / 4 + Duration::from_secs(1)).with_retries(3);
            socket.set_tcp_keepalive(&probes)?;
        }
        if user_timeout.is_some() {
            socket.set_tcp_user_timeout(user_timeout)?;
        }
        Ok(())
    }

    /// Makes the coming close send a reset, which leaves no TIME_WAIT behind; `false` where that can't be done, and the
    /// connection closes in the ordinary way.
    #[must_use]
    pub fn reset_on_close(&self) -> bool {
        match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)).is_ok(),
            Socket::Unix(_) => true,
        }
    }
}

macro_rules! either {
    ($self:expr, $stream:ident => $what:expr) => {
        match $self {
            Socket::Tcp($stream) => $what,
            Socket::Unix($stream) => $what,
        }
    };
}

impl Socket {
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(into))
    }

    pub(super) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(bytes))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(either!(self, stream => Pin::new(stream).poll_read(cx, &mut buf)))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn fd(&self) -> RawFd {
        either!(self, stream => stream.as_raw_fd())
    }
}

/// What has arrived at a socket.
struct Arrived(RawFd);

impl Read for Arrived {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        recv(self.0, into, MsgFlags::MSG_DONTWAIT).map_err(Into::into)
    }
}
