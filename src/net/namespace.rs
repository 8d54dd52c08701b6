//! Namespaces of the process at the other end of a unix socket.
//!
//! `SO_PEERCRED` gives a uid as this process's user namespace maps it, and that says nothing about containers: root of a
//! container that shares the host's user namespace is uid 0, and every uid that is not mapped is the overflow uid, 65534.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};

/// A process at the other end of a unix socket.
#[derive(Debug)]
pub(crate) struct PeerProcess {
    /// Its id in this process's PID namespace.
    pid: i32,
    /// Descriptor of the process, so that its id can't come to mean another one unnoticed (Linux 6.5 and later).
    pidfd: Option<OwnedFd>,
}

impl PeerProcess {
    /// The process that connected `socket`, with `pid` from `SO_PEERCRED`; `None` where it is of a PID namespace that
    /// this process does not see.
    #[must_use]
    pub(crate) fn of(socket: BorrowedFd<'_>, pid: Option<i32>) -> Option<Self> {
        let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
        Some(Self { pid: pid?, pidfd })
    }

    /// Checks that the process is of this process's PID and user namespaces. It reads files of `/proc`, which may block.
    ///
    /// # Errors
    /// Why it is not, or why that can't be known.
    pub(crate) fn check_namespaces(&self) -> Result<(), String> {
        // A /proc of another PID namespace has other processes under the same numbers.
        let own = fs::read_link("/proc/self").map_err(|error| format!("/proc can't be read: {error}"))?;
        if own != Path::new(&std::process::id().to_string()) {
            return Err("/proc is that of another PID namespace".into());
        }
        let of_peer = PathBuf::from(format!("/proc/{}", self.pid));
        same_pid_namespace(&of_peer)?;
        same_user_namespace(&of_peer)?;
        if self.pidfd.as_ref().is_some_and(|pidfd| !is_running_as(pidfd.as_fd(), self.pid)) {
            return Err("the process that connected has ended".into());
        }
        Ok(())
    }
}

/// Checks the PID namespace: by its identity where this process may see that, else by the process having one id only.
fn same_pid_namespace(of_peer: &Path) -> Result<(), String> {
    let same = match same_link(of_peer, "ns/pid") {
        Ok(same) => same,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let status = fs::read_to_string(of_peer.join("status")).map_err(|error| unreadable(&error))?;
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            ids.is_some_and(|ids| ids.split_whitespace().count() == 1)
        }
        Err(error) => return Err(unreadable(&error)),
    };
    if same { Ok(()) } else { Err("its PID namespace is another one".into()) }
}

/// Checks the user namespace: by its identity, or by the ids that it maps.
fn same_user_namespace(of_peer: &Path) -> Result<(), String> {
    let same = match same_link(of_peer, "ns/user") {
        Ok(same) => same,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let map = |dir: &Path| fs::read_to_string(dir.join("uid_map")).map_err(|error| unreadable(&error));
            map(of_peer)? == map(Path::new("/proc/self"))?
        }
        // A kernel without user namespaces has one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !Path::new("/proc/self/ns/user").exists() => true,
        Err(error) => return Err(unreadable(&error)),
    };
    if same { Ok(()) } else { Err("its user namespace is another one".into()) }
}

fn same_link(of_peer: &Path, name: &str) -> io::Result<bool> {
    Ok(fs::read_link(of_peer.join(name))? == fs::read_link(Path::new("/proc/self").join(name))?)
}

fn unreadable(error: &io::Error) -> String {
    format!("its namespaces can't be read in /proc: {error}")
}

/// Returns whether the process of `pidfd` runs and has the id `pid` (proc_pid_fdinfo(5)).
fn is_running_as(pidfd: BorrowedFd<'_>, pid: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default();
    let found = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    found == Some(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_process_is_of_its_own_namespaces() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let peer = PeerProcess::of(one.as_fd(), Some(own)).expect("a process");
        assert_eq!(peer.check_namespaces(), Ok(()));
    }

    #[test]
    fn a_process_that_is_not_seen_is_of_no_namespace_here() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(PeerProcess::of(one.as_fd(), None).is_none());
        let gone = PeerProcess { pid: i32::MAX, pidfd: None };
        assert!(gone.check_namespaces().expect_err("there is no such process").contains("can't be read"));
    }

    #[test]
    fn an_id_that_means_another_process_by_now_is_found_out() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let parent = std::os::unix::process::parent_id();
        let peer = PeerProcess::of(one.as_fd(), i32::try_from(parent).ok()).expect("a process");
        // The socket's other end is this process, not its parent.
        if peer.pidfd.is_some() {
            assert!(peer.check_namespaces().is_err());
        }
    }
}
