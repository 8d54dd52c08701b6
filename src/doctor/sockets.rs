//! Sockets of this host toward one address, by state: asked of the kernel with a filter (`NETLINK_SOCK_DIAG`), or read
//! from `/proc/net/tcp` where that is not permitted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// A state of TCP's, by the kernel's number (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State(pub u8);

impl State {
    /// A connection.
    pub const ESTABLISHED: Self = Self(1);
    /// State that remains for a minute after this host has closed a connection first.
    pub const TIME_WAIT: Self = Self(6);
    /// A listener.
    pub const LISTEN: Self = Self(10);

    /// The name that `ss` gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 13] = [
            "unknown",
            "established",
            "syn-sent",
            "syn-recv",
            "fin-wait-1",
            "fin-wait-2",
            "time-wait",
            "close",
            "close-wait",
            "last-ack",
            "listen",
            "closing",
            "new-syn-recv",
        ];
        NAMES.get(usize::from(self.0)).unwrap_or(&"unknown")
    }
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its state.
    pub state: State,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its inode number, which leads to its process; 0 without one.
    pub inode: u64,
}

/// Number of sockets, by state.
pub(crate) type ByState = BTreeMap<State, usize>;

/// Counts sockets by state.
#[must_use]
pub fn by_state(sockets: &[Socket]) -> ByState {
    let mut states = ByState::new();
    for socket in sockets {
        *states.entry(socket.state).or_default() += 1;
    }
    states
}

/// The sockets toward `remote`: asked of the kernel, or else read from `proc`.
///
/// # Errors
/// When neither is possible.
pub(crate) fn toward(remote: SocketAddr, proc: &Path) -> io::Result<Vec<Socket>> {
    // A copy of another machine's tables has no kernel behind it.
    if proc == Path::new("/proc")
        && let [Ok(mut found), Ok(six)] = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| ask(family, remote))
    {
        found.extend(six);
        return Ok(found);
    }
    Ok(all(proc)?.into_iter().filter(|socket| socket.remote == remote).collect())
}

/// All TCP sockets, as `/proc/net/tcp` and `tcp6` have them.
///
/// # Errors
/// When the former can't be read.
pub fn all(proc: &Path) -> io::Result<Vec<Socket>> {
    let four = fs::read_to_string(proc.join("net/tcp"))?;
    // Without IPv6 there is no such file.
    let six = fs::read_to_string(proc.join("net/tcp6")).unwrap_or_default();
    Ok(four.lines().chain(six.lines()).filter_map(row).collect())
}

fn row(line: &str) -> Option<Socket> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, local, remote, state, ..] = fields.as_slice() else { return None };
    let inode = fields.get(9)?.parse().ok()?;
    let state = State(u8::from_str_radix(state, 16).ok()?);
    Some(Socket { state, local: address(local)?, remote: address(remote)?, inode })
}

/// `0100007F:1538`: four-byte words, each in the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(words.iter().flatten()).for_each(|(to, from)| *to = *from);
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `INET_DIAG_REQ_BYTECODE` and its operation `INET_DIAG_BC_D_COND`.
const BYTECODE: u16 = 1;
const D_COND: u8 = 8;
/// Bytes of `struct nlmsghdr` and of `struct inet_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 72;
const IPPROTO_TCP: u8 = 6;

/// Asks the kernel for the sockets of `family` to `remote`.
fn ask(family: AddressFamily, remote: SocketAddr) -> io::Result<Vec<Socket>> {
    let diag = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let request = request(family, remote);
    let to = NetlinkAddr::new(0, 0);
    sendto(diag.as_raw_fd(), &request, &to, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = recv(diag.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                DONE => return Ok(found),
                ERROR => return Err(io::Error::other("the kernel refuses sock_diag")),
                _ => found.extend(read(body)),
            }
            rest = after;
        }
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn request(family: AddressFamily, remote: SocketAddr) -> Vec<u8> {
    let (kind, prefix, ip) = match remote.ip() {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, ip.octets().to_vec()),
    };
    // struct inet_diag_bc_op, and struct inet_diag_hostcond behind it.
    let size = u8::try_from(4 + 8 + ip.len()).unwrap_or(u8::MAX);
    let mut bytecode = vec![D_COND, size];
    // Where it does not fit: past the end, which means no.
    bytecode.extend((u16::from(size) + 4).to_ne_bytes());
    bytecode.extend([family_number(kind), prefix, 0, 0]);
    bytecode.extend(i32::from(remote.port()).to_ne_bytes());
    bytecode.extend(ip);
    // struct inet_diag_req_v2: all states but listeners, and no address, which the filter has.
    let mut body = vec![family_number(family), IPPROTO_TCP, 0, 0];
    body.extend((0xfff_u32 & !(1 << State::LISTEN.0)).to_ne_bytes());
    body.extend([0; 48]);
    let attribute = u16::try_from(4 + bytecode.len()).unwrap_or(u16::MAX);
    body.extend(attribute.to_ne_bytes());
    body.extend(BYTECODE.to_ne_bytes());
    body.extend(bytecode);
    let mut all = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    all.extend(BY_FAMILY.to_ne_bytes());
    all.extend(DUMP.to_ne_bytes());
    all.extend([0; 8]);
    all.extend(body);
    all
}

fn family_number(family: AddressFamily) -> u8 {
    // AF_INET and AF_INET6.
    if family == AddressFamily::Inet { 2 } else { 10 }
}

/// The type and body of the next netlink message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// `struct inet_diag_msg`.
fn read(body: &[u8]) -> Option<Socket> {
    let body = body.get(..MESSAGE)?;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let ip = |at: usize| -> Option<IpAddr> {
        Some(match body[0] {
            2 => Ipv4Addr::from(*body.get(at..)?.first_chunk::<4>()?).into(),
            _ => IpAddr::from(Ipv6Addr::from(*body.get(at..)?.first_chunk::<16>()?)).to_canonical(),
        })
    };
    Some(Socket {
        state: State(body[1]),
        local: SocketAddr::new(ip(8)?, port(4)?),
        remote: SocketAddr::new(ip(24)?, port(6)?),
        inode: u64::from(u32::from_ne_bytes(*body.get(68..)?.first_chunk()?)),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn rows_of_proc_are_read() {
        let line =
            "   3: 0100007F:1538 0201A8C0:8AE2 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000";
        let socket = row(line).expect("a row");
        assert_eq!(socket.state, State::TIME_WAIT);
        assert_eq!(socket.local, "127.0.0.1:5432".parse().expect("an address"));
        assert_eq!(socket.remote, "192.168.1.2:35554".parse().expect("an address"));
        let line =
            "   0: 00000000000000000000000001000000:1538 0000000000000000FFFF00000100007F:8AE2 01 0:0 00:0 0 1000 0 9";
        let socket = row(line).expect("a row");
        assert_eq!(socket.local, "[::1]:5432".parse().expect("an address"));
        assert_eq!(socket.remote, "127.0.0.1:35554".parse().expect("an address"), "mapped");
        assert_eq!(socket.inode, 9);
        assert!(row("  sl  local_address rem_address   st tx_queue").is_none());
        assert!(row("").is_none());
    }

    #[test]
    fn the_kernel_and_proc_agree() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // Some machines have no IPv6.
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let address = listener.local_addr().expect("an address");
            let streams: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("connected")).collect();
            let ours = |sockets: Vec<Socket>| {
                let mut ports: Vec<_> = sockets.iter().map(|socket| (socket.local.port(), socket.inode)).collect();
                ports.sort_unstable();
                ports
            };
            let found = ours(toward(address, Path::new("/proc")).expect("asked"));
            let read = all(Path::new("/proc")).expect("read");
            let read = ours(read.into_iter().filter(|socket| socket.remote == address).collect());
            assert_eq!(found, read);
            assert_eq!(found.len(), streams.len());
        }
    }
}
