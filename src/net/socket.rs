//! A connected socket that the runtime watches.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::SetStruct};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::byte_stream::ByteStream;
use crate::buffer::Buffer;

/// Number of bytes that must be there before a reader is woken.
#[derive(Clone, Debug)]
struct LowWater;

nix::setsockopt_impl!(LowWater, libc::SOL_SOCKET, libc::SO_RCVLOWAT, u32, SetStruct<'_, u32>);

/// Flags of a write that fails where there is no room, or no peer any more.
pub(super) const AT_ONCE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Space that is read into.
pub(super) trait Space {
    /// The room that there is.
    fn space(&mut self) -> &mut [u8];
}

impl Space for [u8] {
    fn space(&mut self) -> &mut [u8] {
        self
    }
}

impl Space for Buffer {
    fn space(&mut self) -> &mut [u8] {
        Buffer::space(self)
    }
}

/// A connected TCP or unix socket.
///
/// The runtime watches it for what comes in, and for room only once a write has found none: on a unix socket it would
/// hear of room whenever the other end has read something, and wake up for nothing.
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

    /// The socket as the libraries want it that speak other protocols.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn into_io(self) -> io::Result<Box<dyn ByteStream>> {
        let socket = self.watched.ok_or(io::ErrorKind::NotConnected)?.into_inner();
        Ok(if self.tcp {
            Box::new(TcpStream::from_std(socket.into())?)
        } else {
            Box::new(UnixStream::from_std(socket.into())?)
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

    /// Has readers woken when `bytes` are there, or the end; what is there can be read all the same.
    ///
    /// # Errors
    /// The system's; unix sockets know no such thing.
    pub(super) fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        if !self.tcp {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(setsockopt(&self.fd()?, LowWater, &bytes)?)
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

    /// Reads what is there; `Ready(Ok(0))` is the end. `into` is asked for space only when there may be something.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, into: &mut (impl Space + ?Sized)) -> Poll<io::Result<usize>> {
        let watched = self.watched()?;
        loop {
            let mut ready = ready!(watched.poll_read_ready(cx))?;
            let space = into.space();
            match receive(watched.get_ref(), space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(n) if 0 < n && n < space.len() => {
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

    /// Returns whether the other end has closed both directions, or is gone: then nothing that is sent arrives. Of TCP this is
    /// known only once something was sent.
    pub(super) fn is_hung_up(&self) -> bool {
        let Ok(fd) = self.fd() else { return true };
        let mut socket = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        let polled = poll(&mut socket, Some(&Timespec::default()));
        polled.is_err() || socket[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Waits until the other end has hung up: it has said before that it sends no more. That is not heard of where the socket is watched for
    /// room, since there mostly is some.
    pub(super) fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_hung_up() {
            return Poll::Ready(());
        }
        match self.watched() {
            Ok(watched) if !self.for_room => watched.poll_write_ready(cx).map(drop),
            _ => Poll::Pending,
        }
    }

    /// Returns the number of bytes that have arrived, one at most, without taking any.
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
        // A task that waits to read waits in the old place.
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
#[expect(deprecated, reason = "an `OwnedFd` is what the deprecation asks for: it stays open and the same")]
pub(super) fn watch(socket: OwnedFd, what: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, what)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as StdTcp};
    use std::os::unix::net::UnixStream as StdUnix;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    fn unix() -> (Socket, StdUnix) {
        let (ours, theirs) = StdUnix::pair().expect("a pair");
        (Socket::unix(ours.into()).expect("watched"), theirs)
    }

    fn tcp() -> (Socket, StdTcp) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let theirs = StdTcp::connect(listener.local_addr().expect("an address")).expect("connected");
        (Socket::tcp(listener.accept().expect("a client").0.into()).expect("watched"), theirs)
    }

    /// Writes until nothing more fits; how much that was.
    fn fill(socket: &mut Socket, cx: &mut Context<'_>) -> usize {
        let mut sum = 0;
        while let Poll::Ready(written) = socket.poll_write(cx, &[b'x'; 4096]) {
            sum += written.expect("written");
        }
        sum
    }

    /// All that is written arrives though the reader is slow, and a waiting reader hears of what comes while the writer
    /// waits for room.
    async fn slow_reader(mut socket: Socket, mut theirs: impl Read + Write + Send + 'static) {
        assert!(!socket.for_room);
        let filled = fill(&mut socket, &mut Context::from_waker(Waker::noop()));
        assert!(socket.for_room && filled > 0);
        let (mut rest, mut heard) = (1 << 20, 0);
        let reader = std::thread::spawn(move || {
            theirs.write_all(b"hello").expect("written");
            theirs.read_exact(&mut vec![0; filled + rest]).expect("all of it");
            theirs
        });
        poll_fn(|cx| {
            if let Poll::Ready(n) = socket.poll_read(cx, &mut [0; 100][..]) {
                heard += n.expect("read");
            }
            while rest > 0 {
                match socket.poll_write(cx, &vec![b'x'; rest]) {
                    Poll::Ready(n) => rest -= n.expect("written"),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if heard < 5 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        drop(reader.join().expect("the reader"));
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut [0; 100][..])).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_all() {
        let (socket, theirs) = unix();
        slow_reader(socket, theirs).await;
        let (socket, theirs) = tcp();
        slow_reader(socket, theirs).await;
    }

    #[tokio::test]
    async fn who_waits_to_read_is_woken_when_room_is_waited_for() {
        let (mut socket, mut theirs) = unix();
        let mut polls = 0;
        let waits = poll_fn(|cx| {
            polls += 1;
            let read = socket.poll_read(cx, &mut [0; 100][..]);
            if polls == 1 {
                assert!(read.is_pending(), "nothing has come");
                fill(&mut socket, cx);
                theirs.write_all(b"hello").expect("written");
            }
            read
        });
        assert_eq!(waits.await.expect("read"), 5);
    }

    #[tokio::test]
    async fn it_is_heard_that_the_other_end_hangs_up() {
        let (socket, theirs) = unix();
        theirs.shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut [0; 100][..])).await.expect("the end"), 0);
        let mut hung_up = std::pin::pin!(poll_fn(|cx| socket.poll_hung_up(cx)));
        let waited = tokio::time::timeout(Duration::from_millis(20), hung_up.as_mut()).await;
        assert!(waited.is_err(), "it still reads");
        drop(theirs);
        hung_up.await;
    }

    #[tokio::test]
    async fn a_batch_is_waited_for_and_less_can_be_read() {
        let (socket, mut theirs) = tcp();
        let heard = || tokio::time::timeout(Duration::from_millis(20), poll_fn(|cx| socket.poll_read_ready(cx)));
        socket.set_low_water(100).expect("TCP");
        for _ in 0..2 {
            theirs.write_all(b"hello").expect("written");
            assert!(heard().await.is_err(), "no reader is woken for so little");
            assert_eq!(socket.take_arrived(&mut [0; 100]).expect("all"), 5);
        }
        theirs.write_all(&[b'x'; 100]).expect("written");
        poll_fn(|cx| socket.poll_read_ready(cx)).await.expect("told");
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut [0; 1000][..])).await.expect("all"), 100);
        theirs.write_all(b"hello").expect("written");
        assert!(heard().await.is_err(), "no reader is woken for so little");
        socket.set_low_water(1).expect("TCP");
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut [0; 100][..])).await.expect("all"), 5);
        socket.set_low_water(100).expect("TCP");
        drop(theirs);
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut [0; 100][..])).await.expect("the end"), 0);
        assert!(unix().0.set_low_water(100).is_err(), "the kernel takes it there and does not heed it");
    }

    #[tokio::test]
    async fn what_has_arrived_is_there_for_a_look() {
        let (socket, mut theirs) = unix();
        let nothing = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(nothing(socket.peek()) && nothing(socket.take_arrived(&mut [0; 9])));
        theirs.write_all(b"hello").expect("written");
        assert_eq!(socket.peek().expect("something"), 1);
        assert_eq!(socket.take_arrived(&mut [0; 9]).expect("all"), 5);
        drop(theirs);
        assert_eq!(socket.peek().expect("the end"), 0);
        assert!(socket.try_write_vectored(&[IoSlice::new(b"x")]).is_err(), "no peer takes it, and no signal comes");
    }
}
