//! TCP and unix sockets behind one type.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket, by file or abstract name.
    Unix(UnixStream),
}

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
    },
}

impl Stream {
    /// Waits until there may be something to read, holding no buffer.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reads what is there; `Ready(Ok(0))` is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
        })?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes what fits.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Says that no more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Whether something has arrived, be it the end: one look at the socket itself, nothing is taken.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        recv(self.fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN)
    }

    /// Takes what has arrived, asking the socket itself and not the runtime, which may not know yet.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub fn take_arrived(&self, into: &mut [u8]) -> io::Result<usize> {
        recv(self.fd(), into, MsgFlags::MSG_DONTWAIT).map_err(Into::into)
    }

    fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(Peer::Tcp),
            Self::Unix(stream) => stream.peer_cred().map(|cred| Peer::Unix { uid: cred.uid(), gid: cred.gid() }),
        }
    }

    /// Sets the options of an upstream connection: no delay, keepalive, and how long data may stay unacknowledged.
    pub fn set_upstream_options(&self, keepalive: Option<Duration>, user_timeout: Option<Duration>) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
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

    /// Makes the coming close send a reset, which leaves no TIME_WAIT behind.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Where this fails the connection closes in the ordinary way.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
