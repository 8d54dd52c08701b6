//! Locks on socket files: a lock file beside each, as PostgreSQL keeps one, tells a live owner from a stale file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::listen_error::ListenError;

/// The lock on a place for a socket file.
#[derive(Debug)]
pub(super) struct SocketLock {
    path: PathBuf,
    lock_path: PathBuf,
    lock: Flock<File>,
    origin: Origin,
}

/// Origins of a lock's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was made for this lock.
    Made,
    /// It was there: a stale one, or that of a program that locks it in another way, as PostgreSQL does.
    Found,
    /// Another process has locked it, and handed it over.
    Inherited,
}

/// The device and inode of no file.
const NO_FILE: (u64, u64) = (0, 0);

/// A socket file that is ours while its lock is held. It goes with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// Device and inode, to tell ours from a successor's.
    id: (u64, u64),
    // Empty only once it has been left to another process.
    claim: Option<SocketLock>,
    /// Another process still counts on it: nothing is removed or unlocked.
    shared: bool,
}

impl SocketLock {
    /// Takes the lock beside `path`.
    ///
    /// # Errors
    /// When another process has it, or the system refuses.
    pub(super) fn lock(path: &Path) -> Result<Self, ListenError> {
        let at = path.display().to_string();
        let lock_path = PathBuf::from(format!("{at}.lock"));
        let io = |error| ListenError::Io { at: lock_path.display().to_string(), error };
        loop {
            let (file, origin) = open(&lock_path).map_err(io)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                    drop(file);
                    if is_open_here(&lock_path) {
                        return Err(ListenError::Twice { at });
                    }
                    let pid = fs::read_to_string(&lock_path).unwrap_or_default();
                    let by = pid.lines().next().map(|pid| format!(" by process {pid}")).unwrap_or_default();
                    return Err(ListenError::InUse { at, by });
                }
                Err((_, errno)) => return Err(io(errno.into())),
            };
            // The former owner removes the file while it holds the lock: ours must be the one that is there now.
            if is_at(&lock, &lock_path).map_err(io)? {
                return Ok(Self { path: path.to_owned(), lock_path, lock, origin });
            }
        }
    }

    /// The lock that another process has taken, by the descriptor that it has given us. It counts on the file until it
    /// is told otherwise.
    ///
    /// # Errors
    /// As [`SocketLock::lock`].
    pub(super) fn inherit(path: &Path, lock: OwnedFd) -> Result<Self, ListenError> {
        let at = path.display().to_string();
        let lock_path = PathBuf::from(format!("{at}.lock"));
        let io = |error| ListenError::Io { at, error };
        // A lock belongs to what was opened, by whichever descriptor: this one has it already.
        let lock = Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| io(errno.into()))?;
        Ok(Self { path: path.to_owned(), lock_path, lock, origin: Origin::Inherited })
    }

    /// Returns whether the lock is on the file that is there now.
    #[must_use]
    pub(super) fn is_in_place(&self) -> bool {
        is_at(&self.lock, &self.lock_path).unwrap_or(false)
    }

    /// Writes our pid into the lock's file.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn sign(&mut self) -> io::Result<()> {
        self.lock.set_len(0)?;
        io::Seek::rewind(&mut *self.lock)?;
        writeln!(self.lock, "{}", std::process::id())
    }

    /// Gives up a place at which there is no socket file of ours.
    pub(super) fn withdraw(self) {
        if self.origin == Origin::Made && self.is_in_place() {
            // A failure can't be reported any more; the next owner takes the file as it is.
            let _ = fs::remove_file(&self.lock_path);
        }
    }

    /// The socket file that is there now.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn of_file(self) -> io::Result<SocketFile> {
        let metadata = fs::metadata(&self.path)?;
        let shared = self.origin == Origin::Inherited;
        Ok(SocketFile { id: (metadata.dev(), metadata.ino()), claim: Some(self), shared })
    }
}

/// Opens the file of a lock. A link is not followed: in a directory of many users it may lead to
/// a file of ours.
fn open(path: &Path) -> io::Result<(File, Origin)> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    loop {
        match options.create_new(true).open(path) {
            Ok(file) => return Ok((file, Origin::Made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        match options.create_new(false).open(path) {
            Ok(file) => return Ok((file, Origin::Found)),
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether `lock` is on the file that is at `path` now.
fn is_at(lock: &Flock<File>, path: &Path) -> io::Result<bool> {
    let ours = nix::sys::stat::fstat(lock.as_fd())?;
    Ok(fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.st_dev, ours.st_ino)))
}

/// Returns whether this process has the file open. Its pid in there would not tell: in another container it may be the same.
fn is_open_here(path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (Ok(there), Ok(open)) = (fs::metadata(path).map(id), fs::read_dir("/proc/self/fd")) else { return false };
    open.flatten().any(|descriptor| fs::metadata(descriptor.path()).is_ok_and(|file| id(file) == there))
}

impl SocketFile {
    /// The lock's descriptor once more.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        match &self.claim {
            Some(claim) => claim.lock.as_fd().try_clone_to_owned(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The place that another process has handed over with its lock, and the socket file that is there, if it has not been removed. An
    /// error would unlock the place, which the other process has still.
    pub(super) fn inherited(claim: SocketLock) -> Self {
        let there = fs::metadata(&claim.path).ok().filter(|_| claim.is_in_place());
        Self { id: there.map_or(NO_FILE, |file| (file.dev(), file.ino())), claim: Some(claim), shared: true }
    }

    /// The lock of a place that has lost its socket file.
    pub(super) fn without_file(claim: SocketLock) -> Self {
        let shared = claim.origin == Origin::Inherited;
        Self { id: NO_FILE, claim: Some(claim), shared }
    }

    /// Gives up the place, for another socket file of this process's.
    pub(super) fn surrender(&mut self) -> Option<SocketLock> {
        self.claim.take()
    }

    /// Leaves it to another process, which has the lock's descriptor too: it must not be unlocked here.
    pub(super) fn detach(&mut self) {
        if let Some(claim) = self.claim.take() {
            std::mem::forget(claim.lock);
        }
    }

    /// The process that it was inherited from has left it.
    ///
    /// # Errors
    /// When our pid could not be written into the lock's file; it is ours all the same.
    pub(super) fn take_ownership(&mut self) -> io::Result<()> {
        self.shared = false;
        self.claim.as_mut().map_or(Ok(()), SocketLock::sign)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.shared {
            self.detach();
        }
        let Some(claim) = &self.claim else { return };
        let still_ours = fs::symlink_metadata(&claim.path).is_ok_and(|now| (now.dev(), now.ino()) == self.id);
        if still_ours {
            // A failure can't be reported any more; the next owner replaces the file.
            let _ = fs::remove_file(&claim.path);
            let _ = fs::remove_file(&claim.lock_path);
        }
    }
}
