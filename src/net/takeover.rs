//! Listeners on their way to another process: descriptors that travel with a message over a unix socket.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SocketAddrUnix,
    getsockname, recvmsg, sendmsg, sockopt,
};

use super::conn::Conn;
use super::listen::Listener;
use super::listen_error::ListenError;
use super::socket::AT_ONCE;
use crate::wire::backend;

/// The most descriptors that are handed over: the kernel takes 253 with a message.
const MAX_DESCRIPTORS: usize = 64;

/// Listeners on their way to another process.
#[derive(Debug)]
pub(crate) struct ListenerTransfer {
    items: Vec<Item>,
}

/// One listener: its name, its descriptor, and that of its socket file's lock.
#[derive(Debug)]
struct Item {
    name: String,
    listener: OwnedFd,
    lock: Option<OwnedFd>,
}

impl ListenerTransfer {
    /// The listeners; their owner keeps them as well until it is told that the other process has them.
    ///
    /// # Errors
    /// The system's, or when there are too many.
    pub(crate) fn of<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> io::Result<Self> {
        let items = listeners.into_iter().map(|bound| {
            let (listener, lock) = bound.try_clone_fd()?;
            Ok(Item { name: bound.name().to_owned(), listener, lock })
        });
        let items = items.collect::<io::Result<Vec<_>>>()?;
        if items.len() * 2 > MAX_DESCRIPTORS {
            return Err(io::Error::other("too many listeners"));
        }
        Ok(Self { items })
    }

    /// Returns what the other process needs to tell the descriptors apart: each listener's name, behind a `+` where the lock
    /// of its socket file follows.
    #[must_use]
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |item: &Item| format!("{}{}", if item.lock.is_some() { "+" } else { "-" }, item.name);
        self.items.iter().map(name).collect()
    }

    /// Sends the descriptors to the other end, with a notice.
    ///
    /// # Errors
    /// The socket's; anything but a unix socket can't carry them.
    pub(crate) async fn send(&self, conn: &mut Conn) -> io::Result<()> {
        if conn.stream().is_tcp() || conn.stream().tls().is_some() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "they can only go over a unix socket, without TLS"));
        }
        let mut notice = Vec::new();
        backend::put_notice(&mut notice, &[(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', "listeners")]);
        let descriptors: Vec<BorrowedFd<'_>> = self
            .items
            .iter()
            .flat_map(|item| [Some(item.listener.as_fd()), item.lock.as_ref().map(AsFd::as_fd)])
            .flatten()
            .collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let write = |socket: BorrowedFd<'_>| {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(Errno::TOOBIG);
            }
            sendmsg(socket, &[IoSlice::new(&notice)], &mut control, AT_ONCE)
        };
        // A message of a few bytes goes as a whole or not at all where nothing else waits.
        match conn.stream_mut().send(write).await? {
            sent if sent == notice.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// A listener from outside: of the process that this one replaces, or of the service manager.
#[derive(Debug)]
pub(crate) struct InheritedListener {
    name: String,
    listener: OwnedFd,
    lock: Option<OwnedFd>,
    managed: bool,
}

impl InheritedListener {
    /// The listeners of another process, by what [`ListenerTransfer::names`] and [`receive`] gave.
    ///
    /// # Errors
    /// When they don't belong together.
    pub(crate) fn from_process(names: &[String], descriptors: Vec<OwnedFd>) -> Result<Vec<Self>, String> {
        let mut descriptors = descriptors.into_iter();
        let all: Option<Vec<_>> = names
            .iter()
            .map(|name| {
                let listener = descriptors.next()?;
                let (name, lock) = match name.strip_prefix('+') {
                    Some(name) => (name, Some(descriptors.next()?)),
                    None => (name.strip_prefix('-')?, None),
                };
                Some(Self { name: name.to_owned(), listener, lock, managed: false })
            })
            .collect();
        all.filter(|_| descriptors.next().is_none()).ok_or_else(|| "listeners and their names don't match".to_owned())
    }

    /// A listener of the service manager's.
    ///
    /// # Errors
    /// When it is no listening socket.
    pub(crate) fn managed(listener: OwnedFd) -> io::Result<Self> {
        if !sockopt::socket_acceptconn(&listener)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket that does not listen"));
        }
        let address = getsockname(&listener)?;
        let name = if let Ok(address) = SocketAddr::try_from(address.clone()) {
            address.to_string()
        } else {
            let address = SocketAddrUnix::try_from(address)?;
            match (address.path_bytes(), address.abstract_name()) {
                (Some(path), _) => Path::new(OsStr::from_bytes(path)).display().to_string(),
                (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
                (None, None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket without an address")),
            }
        };
        Ok(Self { name, listener, lock: None, managed: true })
    }

    /// Returns the address: a path, `@name`, or an address and port.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether it is the service manager's, which removes its files itself.
    #[must_use]
    pub(crate) fn is_managed(&self) -> bool {
        self.managed
    }

    /// Listens there.
    ///
    /// # Errors
    /// As [`Listener::adopt`].
    pub(crate) fn adopt(self) -> Result<Listener, ListenError> {
        Listener::adopt(&self.name, self.listener, self.lock)
    }

    /// Listens there, and makes the socket file again with `mode` and `group` if it was removed.
    ///
    /// # Errors
    /// As [`Listener::adopt`] and [`Listener::remake`].
    pub(crate) fn adopt_reachable(self, mode: u32, group: Option<&str>) -> Result<Listener, ListenError> {
        let adopted = self.adopt()?;
        if adopted.has_lost_its_file() { adopted.remake(mode, group) } else { Ok(adopted) }
    }
}

/// Receives bytes, and the descriptors that come with them.
///
/// # Errors
/// The socket's.
pub(crate) fn receive(socket: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{BufferPool, Stream};

    #[tokio::test]
    async fn a_listener_moves_with_its_socket_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(".s.PGSQL.5432");
        let first = Listener::file(&path, 0o777, None).expect("free");
        let tcp = Listener::tcp("127.0.0.1:0".parse().expect("an address"), None).expect("free");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let transfer = ListenerTransfer::of([&first, &tcp]).expect("descriptors");
        let ours = Stream::accepted_unix(ours.into()).expect("a stream");
        transfer.send(&mut Conn::new(ours, BufferPool::new(1024, 1))).await.expect("sent");
        let (mut bytes, mut descriptors) = ([0; 1000], Vec::new());
        assert!(receive(&theirs, &mut bytes, &mut descriptors).expect("received") > 20);
        assert_eq!(transfer.names()[0], format!("+{}", path.display()));
        assert_eq!(descriptors.len(), 3, "two listeners and a lock");
        let mut descriptors = descriptors.into_iter();
        let (listener, lock) = (descriptors.next().expect("it"), descriptors.next());
        let second = Listener::adopt(first.name(), listener, lock).expect("a listener");
        first.detach();
        drop(first);
        second.take_ownership().expect("signed");
        assert!(path.exists(), "it is the second's now");
        let _client = tokio::net::UnixStream::connect(&path).await.expect("a listener");
        second.accept().await.expect("a client");
        assert!(Listener::file(&path, 0o777, None).is_err(), "it is locked still");
        drop(second);
        assert!(!path.exists());
    }
}
