//! Listeners: socket files with one owner, abstract sockets, TCP.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::unistd::{Gid, Group, chown};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::lock::lock;

use super::listen_error::{ListenError, MAX_PATH_BYTES};
use super::socket;
use super::socket_lock::{SocketFile, SocketLock};
use super::stream::{Stream, set_keepalive};
use super::unix_client::connect_within;

/// Longest wait for a listener of another program at the path of a socket file.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(100);

/// A listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    tcp: bool,
    name: String,
    /// A client has been taken since it was last certain that another waits.
    taken: AtomicBool,
    /// Removes the socket file when the listener goes.
    file: Mutex<Option<SocketFile>>,
}

impl Listener {
    /// Listens on a TCP address. Clients are probed as with [`Self::set_keepalive`], the first ones too: the kernel takes them from here on.
    ///
    /// # Errors
    /// As [`ListenError`] lists.
    pub(crate) fn tcp(address: SocketAddr, keepalive: Option<Duration>) -> Result<Self, ListenError> {
        let open = || {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = new_socket(family)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            // What the system does not take is reported where the listener is opened.
            let _ = set_probes(&socket, keepalive);
            bind_and_listen(socket, &address)
        };
        let listener = open().map_err(|error| failed(address.to_string(), error))?;
        Ok(Self::new(listener, true, address.to_string(), None))
    }

    /// Listens on an abstract socket: `name` without the leading `@`.
    ///
    /// # Errors
    /// As [`ListenError`] lists.
    pub(crate) fn abstract_name(name: &str) -> Result<Self, ListenError> {
        let shown = format!("@{name}");
        if name.len() > MAX_PATH_BYTES {
            return Err(ListenError::TooLong { path: shown, length: name.len() });
        }
        let open = || listen_unix(&SocketAddrUnix::new_abstract_name(name.as_bytes())?);
        let listener = open().map_err(|error| failed(shown.clone(), error))?;
        Ok(Self::new(listener, false, shown, None))
    }

    /// Listens on the socket file `path`.
    ///
    /// It is bound under the name that it keeps, which is what clients are told it is (`getpeername`): some connect there once
    /// more to cancel. Between its appearance and the first client that may connect lies one system call. A lock file beside
    /// it, as PostgreSQL keeps one, tells a live owner from a stale file.
    ///
    /// # Errors
    /// As [`ListenError`] lists.
    pub(crate) fn file(path: &Path, mode: u32, group: Option<&str>) -> Result<Self, ListenError> {
        let shown = path.display().to_string();
        let length = path.as_os_str().len();
        if length > MAX_PATH_BYTES {
            return Err(ListenError::TooLong { path: shown, length });
        }
        let group = group.map(find_group).transpose()?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)
                .map_err(|error| ListenError::Directory { dir: dir.display().to_string(), error })?;
        }
        let mut claim = SocketLock::lock(path)?;
        let io = |error| ListenError::Io { at: shown.clone(), error };
        // Nothing is written into a stranger's lock.
        let opened = refuse_strangers(path)
            .and_then(|()| claim.sign().map_err(io))
            .and_then(|()| listen_file(path, mode, group).map_err(io));
        match opened {
            Ok(listener) => {
                let file = claim.of_file().map_err(io)?;
                Ok(Self::new(listener, false, shown, Some(file)))
            }
            Err(error) => {
                claim.withdraw();
                Err(error)
            }
        }
    }

    /// Returns whether clients can't get here any more, since the socket file was removed.
    #[must_use]
    pub(crate) fn has_lost_its_file(&self) -> bool {
        let has_file = lock(&self.file).is_some();
        let is_gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        has_file && fs::symlink_metadata(&self.name).is_err_and(is_gone)
    }

    /// Opens a listener in place of this one after its socket file was removed. This one still has the clients that had connected.
    ///
    /// # Errors
    /// As [`ListenError`] lists.
    pub(crate) fn remake(&self, mode: u32, group: Option<&str>) -> Result<Self, ListenError> {
        let mut file = lock(&self.file);
        let claim = file.as_mut().and_then(SocketFile::surrender).filter(SocketLock::is_in_place);
        // The lock, which is held by this process already, goes along with the place.
        let path = Path::new(&self.name);
        let Some(claim) = claim else { return Self::file(path, mode, group) };
        let made = group.map(find_group).transpose().and_then(|group| {
            listen_file(path, mode, group).map_err(|error| ListenError::Io { at: self.name.clone(), error })
        });
        match made {
            Ok(listener) => {
                let new = claim.of_file().map_err(|error| ListenError::Io { at: self.name.clone(), error })?;
                Ok(Self::new(listener, false, self.name.clone(), Some(new)))
            }
            Err(error) => {
                *file = Some(SocketFile::without_file(claim));
                Err(error)
            }
        }
    }

    /// A listener that another process has opened, under the name that it has there; `lock` is that of its socket file.
    ///
    /// # Errors
    /// When it is none of ours to use.
    pub(crate) fn adopt(name: &str, listener: OwnedFd, lock: Option<OwnedFd>) -> Result<Self, ListenError> {
        let io = |error| ListenError::Io { at: name.to_owned(), error };
        ioctl_fionbio(&listener, true).map_err(|error| io(error.into()))?;
        let tcp = sockopt::socket_domain(&listener).map_err(|error| io(error.into()))? != AddressFamily::UNIX;
        let listener = watch(listener).map_err(io)?;
        let file = match lock {
            Some(lock) => Some(SocketFile::inherited(SocketLock::inherit(Path::new(name), lock)?)),
            None => None,
        };
        Ok(Self::new(listener, tcp, name.to_owned(), file))
    }

    fn new(socket: AsyncFd<OwnedFd>, tcp: bool, name: String, file: Option<SocketFile>) -> Self {
        Self { socket, tcp, name, taken: AtomicBool::new(false), file: Mutex::new(file) }
    }

    /// Returns the address: a path, `@name`, or an address and port.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether it is TCP.
    #[must_use]
    pub(crate) fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// Has TCP probe clients that come from now on when they have been idle for that long; `None` leaves it to the system. The
    /// kernel gives each client's socket what the listener's has.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        if !self.tcp {
            return Ok(());
        }
        set_probes(self.socket.get_ref(), idle)
    }

    /// The listener's descriptor once more, and that of its socket file's lock, for another process.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn try_clone_fd(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let listener = self.socket.get_ref().try_clone()?;
        let file = lock(&self.file);
        Ok((listener, file.as_ref().map(SocketFile::lock).transpose()?))
    }

    /// Gives its socket file, if it has one, another mode and group.
    ///
    /// # Errors
    /// As [`ListenError`] lists.
    pub(crate) fn set_access(&self, mode: u32, group: Option<&str>) -> Result<(), ListenError> {
        let file = lock(&self.file);
        if file.is_none() {
            return Ok(());
        }
        set_access(Path::new(&self.name), mode, group.map(find_group).transpose()?)
            .map_err(|error| ListenError::Io { at: self.name.clone(), error })
    }

    /// Another process has it now: nothing is removed when this goes.
    pub(crate) fn detach(&self) {
        if let Some(mut file) = lock(&self.file).take() {
            file.detach();
        }
    }

    /// The process that it was inherited from has left it: its socket file goes when this goes.
    ///
    /// # Errors
    /// When our pid could not be written into the lock's file; it is ours all the same.
    pub(crate) fn take_ownership(&self) -> io::Result<()> {
        let mut file = lock(&self.file);
        file.as_mut().map_or(Ok(()), SocketFile::take_ownership)
    }

    /// Takes the next client. Only one task may wait for it.
    ///
    /// # Errors
    /// The kernel's; none of them ends the listener.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            // The kernel makes a socket and a file before it looks whether a client waits: looking first is a tenth of the
            // price of accepting in vain.
            let may_wait = !self.taken.load(Ordering::Relaxed) || self.has_waiting();
            if may_wait && let Some(accepted) = self.accept_now() {
                self.taken.store(true, Ordering::Relaxed);
                return Poll::Ready(accepted);
            }
            self.taken.store(false, Ordering::Relaxed);
            ready.clear_ready();
        }
    }

    /// Takes the next client if one waits, whatever the runtime has heard.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn accept_now(&self) -> Option<io::Result<Stream>> {
        match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Err(Errno::AGAIN) => None,
            accepted => Some(accepted.map_err(Into::into).and_then(|socket| self.stream(socket))),
        }
    }

    /// Returns whether a client waits to be taken.
    fn has_waiting(&self) -> bool {
        let mut listener = [PollFd::new(&self.socket, PollFlags::IN)];
        // What is wrong with it, `accept` says.
        poll(&mut listener, Some(&Timespec::default())) != Ok(0)
    }

    fn stream(&self, socket: OwnedFd) -> io::Result<Stream> {
        if !self.tcp {
            return Stream::accepted_unix(socket);
        }
        // A client that is not probed costs comfort, not correctness.
        let _ = copy_probes(self.socket.get_ref(), &socket);
        Stream::accepted_tcp(socket)
    }

    /// The same, as a future.
    ///
    /// # Errors
    /// As [`Listener::poll_accept`].
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}

/// As many waiting clients as the kernel lets us have: a full unix backlog fails a client at once.
fn backlog() -> i32 {
    i32::MAX
}

/// Fails where a process listens at `path` that has not locked the place.
fn refuse_strangers(path: &Path) -> Result<(), ListenError> {
    let found = std_unix::SocketAddr::from_pathname(path).and_then(|at| connect_within(OTHERS_TIMEOUT, &at));
    if found.map_or_else(|error| error.kind() == io::ErrorKind::TimedOut, |_| true) {
        let at = path.display().to_string();
        return Err(ListenError::InUse { at, by: " by a process that holds no lock".into() });
    }
    Ok(())
}

/// Makes a socket file with `mode` and `group` in place of a stale one, and listens there.
fn listen_file(path: &Path, mode: u32, group: Option<Gid>) -> io::Result<AsyncFd<OwnedFd>> {
    remove_socket(path)?;
    // The group that it has at first gets no permissions where it is to have another one.
    let at_first = if group.is_some() { mode & !0o070 } else { mode };
    let mask = nix::sys::stat::Mode::from_bits_truncate(0o777 & !at_first);
    let address = SocketAddrUnix::new(path)?;
    let old = nix::sys::stat::umask(mask);
    let listener = listen_unix(&address);
    nix::sys::stat::umask(old);
    let listener = listener?;
    set_access(path, mode, group)?;
    Ok(listener)
}

fn listen_unix(address: &SocketAddrUnix) -> io::Result<AsyncFd<OwnedFd>> {
    bind_and_listen(new_socket(AddressFamily::UNIX)?, address)
}

/// Has TCP probe a connection that has been idle for that long; `None` leaves the time to the system.
fn set_probes(socket: impl AsFd, idle: Option<Duration>) -> io::Result<()> {
    match idle {
        Some(idle) => set_keepalive(socket, idle),
        None => Ok(sockopt::set_socket_keepalive(socket, true)?),
    }
}

/// Has TCP probe a client as its listener says. The kernel has seen to that, unless the client had connected before the listener was
/// told: one that is inherited has a backlog.
fn copy_probes(listener: &OwnedFd, client: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_keepalive(client)? || !sockopt::socket_keepalive(listener)? {
        return Ok(());
    }
    sockopt::set_socket_keepalive(client, true)?;
    sockopt::set_tcp_keepidle(client, sockopt::tcp_keepidle(listener)?)?;
    sockopt::set_tcp_keepintvl(client, sockopt::tcp_keepintvl(listener)?)?;
    sockopt::set_tcp_keepcnt(client, sockopt::tcp_keepcnt(listener)?)?;
    Ok(())
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

fn bind_and_listen(socket: OwnedFd, address: &impl SocketAddrArg) -> io::Result<AsyncFd<OwnedFd>> {
    bind(&socket, address)?;
    listen(&socket, backlog())?;
    watch(socket)
}

/// Registers the listener with the runtime.
fn watch(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    socket::watch(listener, Interest::READABLE)
}

fn failed(at: String, error: io::Error) -> ListenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { at, by: String::new() },
        _ => ListenError::Io { at, error },
    }
}

fn set_access(path: &Path, mode: u32, group: Option<Gid>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The group with this name, or this number.
///
/// # Errors
/// When there is none.
pub(crate) fn find_group(name: &str) -> Result<Gid, ListenError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(ListenError::NoGroup(name.to_owned())),
    }
}

/// Makes room for a socket file where there is a stale one; what is no socket is another program's, and stays.
fn remove_socket(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::other("there is something else than a socket, which pgferry does not remove"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path, mode: u32) -> Result<Listener, ListenError> {
        Listener::file(path, mode, None)
    }

    #[tokio::test]
    async fn a_socket_file_has_one_owner_and_goes_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/er/.s.PGSQL.5432");
        let first = bind(&path, 0o740).expect("free");
        let metadata = fs::metadata(&path).expect("there");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o740);
        let error = bind(&path, 0o777).expect_err("taken").to_string();
        assert!(error.contains("listens there already"), "{error}");
        assert!(path.exists(), "a failed attempt takes nothing away");
        drop(first);
        assert!(!path.exists() && !dir.path().join("deep/er/.s.PGSQL.5432.lock").exists());
    }

    #[tokio::test]
    async fn tcp_clients_are_probed_from_the_first_on() {
        for (asked, idle) in [(Some(Duration::from_secs(77)), Some(Duration::from_secs(77))), (None, None)] {
            let bound = Listener::tcp("127.0.0.1:0".parse().expect("an address"), asked).expect("free");
            assert!(sockopt::socket_keepalive(&bound.socket).expect("readable"));
            let known = sockopt::tcp_keepidle(&bound.socket).expect("readable");
            assert!(idle.is_none_or(|idle| idle == known), "{known:?}");
        }
    }

    #[tokio::test]
    async fn all_who_come_are_taken_whenever_they_come() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let bound = bind(&path, 0o777).expect("free");
        for number in [1, 3, 1, 2] {
            let clients: Vec<_> = (0..number).map(|_| std_unix::UnixStream::connect(&path).expect("heard")).collect();
            for _ in &clients {
                bound.accept().await.expect("a client");
            }
            let more = poll_fn(|cx| Poll::Ready(bound.poll_accept(cx))).await;
            assert!(more.is_pending(), "no client waits");
        }
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_stranger_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        drop(std_unix::UnixListener::bind(&path).expect("free"));
        assert!(path.exists(), "std leaves its file behind");
        drop(bind(&path, 0o777).expect("stale"));
        let stranger = std_unix::UnixListener::bind(&path).expect("free");
        let error = bind(&path, 0o777).expect_err("alive").to_string();
        assert!(error.contains("in use"), "{error}");
        drop(stranger);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("passwd"), dir.path().join("link"));
        fs::write(&file, "precious").expect("writable");
        std::os::unix::fs::symlink(&file, &link).expect("writable");
        for path in [&file, &link] {
            let error = bind(path, 0o777).expect_err("not ours").to_string();
            assert!(error.contains("else than a socket"), "{error}");
            assert_eq!(fs::read_to_string(path).expect("still there"), "precious");
            assert!(
                !dir.path().join("passwd.lock").exists() && !dir.path().join("link.lock").exists(),
                "nothing is left"
            );
        }
    }

    #[tokio::test]
    async fn the_lock_of_a_stranger_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, lock) = (dir.path().join("s"), dir.path().join("s.lock"));
        // PostgreSQL's, which lists its process and data directory.
        fs::write(&lock, "4711\n/var/lib/postgresql").expect("writable");
        let stranger = std_unix::UnixListener::bind(&path).expect("free");
        bind(&path, 0o777).expect_err("alive");
        assert_eq!(fs::read_to_string(&lock).expect("still there"), "4711\n/var/lib/postgresql");
        drop(stranger);
        fs::remove_file(&lock).expect("there");
        let target = dir.path().join("target");
        fs::write(&target, "precious").expect("writable");
        std::os::unix::fs::symlink(&target, &lock).expect("writable");
        bind(&path, 0o777).expect_err("a link");
        assert_eq!(fs::read_to_string(&target).expect("still there"), "precious");
    }

    #[tokio::test]
    async fn a_successors_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let ours = bind(&path, 0o777).expect("free");
        fs::remove_file(&path).expect("there");
        let _successor = std_unix::UnixListener::bind(&path).expect("free");
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn bad_places_are_explained() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("x".repeat(120));
        let error = bind(&long, 0o777).expect_err("too long").to_string();
        assert!(error.contains("107"), "{error}");
        let error =
            Listener::file(&dir.path().join("s"), 0o777, Some("no-such-group")).expect_err("no group").to_string();
        assert!(error.contains("no-such-group"), "{error}");
        let error = bind(Path::new("/proc/nowhere/s"), 0o777).expect_err("no directory").to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
        let _first = Listener::abstract_name("pgferry-test-one").expect("free");
        assert!(matches!(Listener::abstract_name("pgferry-test-one"), Err(ListenError::InUse { .. })));
    }
}
