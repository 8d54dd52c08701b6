//! A connected socket that the runtime watches.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as std_unix;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::stream::Io;

/// What a write does where there is no room, or nobody at the other end: it fails.
pub(super) const AT_ONCE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// A connected TCP or unix socket.
///
/// The runtime watches it for what comes in, and for room only once a write has found none: on a unix socket it would
/// hear of room whenever the other end has read something, and wake up for nobody.
#[derive(Debug)]
pub(super) struct Socket {
    /// Empty when it could not be watched any more, which closed it.
    watched: Option<AsyncFd<OwnedFd>>,
    tcp: bool,
    /// It is watched for room as well.
    for_room: bool,
}

impl Socket {
    /// A connected TCP socket.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn tcp(socket: OwnedFd) -> io::Result<Self> {
        Self::new(socket, true)
    }

    /// A connected unix socket.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn unix(socket: OwnedFd) -> io::Result<Self> {
        Self::new(socket, false)
    }

    fn new(socket: OwnedFd, tcp: bool) -> io::Result<Self> {
        Ok(Self { watched: Some(watch(socket, Interest::READABLE)?), tcp, for_room: false })
    }

    /// Connects to a TCP address.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn connect_tcp(to: SocketAddr) -> io::Result<Self> {
        Self::tcp(TcpStream::connect(to).await?.into_std()?.into())
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn connect_unix(to: &std::path::Path) -> io::Result<Self> {
        Self::unix(UnixStream::connect(to).await?.into_std()?.into())
    }

    /// The socket as the libraries want it that speak other protocols.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn into_io(self) -> io::Result<Box<dyn Io>> {
        let socket = self.watched.ok_or(io::ErrorKind::NotConnected)?.into_inner();
        Ok(if self.tcp {
            Box::new(TcpStream::from_std(socket.into())?)
        } else {
            Box::new(UnixStream::from_std(std_unix::UnixStream::from(socket))?)
        })
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// The socket itself.
    pub(super) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.watched()?.get_ref().as_fd())
    }

    fn watched(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.watched.as_ref().ok_or(io::ErrorKind::NotConnected.into())
    }

    /// Waits until there may be something to read.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched()?.poll_read_ready(cx).map_ok(drop)
    }

    /// Waits until there may be room to write.
    pub(super) fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.for_room {
            self.watch_for_room(cx)?;
        }
        self.watched()?.poll_write_ready(cx).map_ok(drop)
    }

    /// Reads what is there; `Ready(Ok(0))` is the end.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let watched = self.watched()?;
        loop {
            let mut ready = ready!(watched.poll_read_ready(cx))?;
            match receive(watched.get_ref(), into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(n) if 0 < n && n < into.len() => {
                    // That was all; what comes after this is heard of.
                    ready.clear_ready();
                    return Poll::Ready(Ok(n));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Writes what fits.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| send(socket, bytes, AT_ONCE))
    }

    /// Has `write` done when there is room for it.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(&mut write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_write_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }

    /// Says that no more will be written.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        Ok(shutdown(self.fd()?, Shutdown::Write)?)
    }

    /// Reads what is there as far as the runtime knows.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.watched()?.try_io(Interest::READABLE, |socket| receive(socket, into))
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing does; else the socket's.
    pub(super) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(|socket| sendmsg(socket, bytes, &mut SendAncillaryBuffer::default(), AT_ONCE))
    }

    /// Takes what has arrived, asking the socket itself and not the runtime, which may not know yet.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the socket's.
    pub(super) fn take_arrived(&self, into: &mut [u8]) -> io::Result<usize> {
        receive(self.watched()?.get_ref(), into)
    }

    /// How much has arrived, one byte at most; nothing is taken.
    pub(super) fn peek(&self) -> io::Result<usize> {
        let mut one = [0];
        Ok(recv(self.fd()?, &mut one, RecvFlags::DONTWAIT | RecvFlags::PEEK)?.1)
    }

    fn try_write(&self, mut write: impl FnMut(BorrowedFd<'_>) -> Result<usize, Errno>) -> io::Result<usize> {
        let mut write = |socket: &OwnedFd| Ok(retry_on_intr(|| write(socket.as_fd()))?);
        let watched = self.watched()?;
        if self.for_room { watched.try_io(Interest::WRITABLE, write) } else { write(watched.get_ref()) }
    }

    /// A write has found no room.
    fn watch_for_room(&mut self, cx: &Context<'_>) -> io::Result<()> {
        let socket = self.watched.take().ok_or(io::ErrorKind::NotConnected)?.into_inner();
        self.watched = Some(watch(socket, Interest::READABLE | Interest::WRITABLE)?);
        self.for_room = true;
        // Whoever waits to read waits in the old place.
        cx.waker().wake_by_ref();
        Ok(())
    }
}

fn receive(socket: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| recv(socket, &mut *into, RecvFlags::DONTWAIT))?.1)
}

/// Has the runtime tell of `what` happens at a socket.
///
/// # Errors
/// The system's.
#[expect(deprecated, reason = "an `OwnedFd` is what those who deprecated it ask for: it stays open and the same")]
pub(super) fn watch(socket: OwnedFd, what: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, what)
}
