//! Connecting to a unix socket without a runtime: within a limit, though its listener takes no more clients.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Connects to `address` within `limit`.
///
/// # Errors
/// The system's; `TimedOut` where a process listens there that accepts no client.
pub(crate) fn connect_within(limit: Duration, address: &SocketAddr) -> io::Result<UnixStream> {
    let address = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => SocketAddrUnix::new(path.as_os_str().as_bytes())?,
        (None, Some(name)) => SocketAddrUnix::new_abstract_name(name)?,
        (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The kernel waits for a place among the clients that have not been accepted as long as for room to send.
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, &address).map_err(|error| match error {
        Errno::AGAIN => {
            let text = format!("a process listens there that has accepted no client for {} s", limit.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        error => error.into(),
    })?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::listen;

    use super::*;

    #[test]
    fn a_listener_that_accepts_no_client_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let address = SocketAddr::from_pathname(&path).expect("short");
        let connect = || connect_within(Duration::from_secs(1), &address);
        assert_eq!(connect().expect_err("none").kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).expect("a listener");
        listen(&listener, 0).expect("no clients may wait");
        let first = connect().expect("the kernel lets one wait");
        assert_eq!(connect().expect_err("full").kind(), io::ErrorKind::TimedOut);
        drop(listener);
        assert_eq!(connect().expect_err("it has gone").kind(), io::ErrorKind::ConnectionRefused);
        drop(first);
    }
}
