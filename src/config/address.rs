//! Addresses that clients connect to: what `listen` and `port` come to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::socket_path::{abstract_socket_name, socket_path};
use super::url::{Endpoint, Host, Upstream};
use super::value::Listen;
use crate::net::connect_within;

/// One address that clients connect to. Shown as the name of its listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// A socket file.
    File(PathBuf),
    /// An abstract socket: its whole name without the `@` in front.
    Abstract(String),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl ClientAddress {
    /// The address of `listen` with `port`, which TCP addresses have themselves.
    #[must_use]
    pub fn of(listen: &Listen, port: u16) -> Self {
        match listen {
            Listen::Dir(dir) => Self::File(socket_path(dir, port)),
            Listen::Abstract(name) => Self::Abstract(abstract_socket_name(name, port)),
            Listen::Tcp(address) => Self::Tcp(*address),
        }
    }

    /// All addresses of `listen`, each once.
    #[must_use]
    pub fn all(listen: &[Listen], ports: &[u16]) -> Vec<Self> {
        each_once(listen.iter().flat_map(|listen| ports.iter().map(|port| Self::of(listen, *port))))
    }

    /// Returns whether connections to `endpoint` come here. A name is taken for an address only if it is `localhost`.
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        match (self, &endpoint.host) {
            (Self::File(path), Host::Unix(dir, port)) => {
                let real = |path: PathBuf| match (path.parent().map(Path::canonicalize), path.file_name()) {
                    (Some(Ok(dir)), Some(name)) => dir.join(name),
                    _ => path,
                };
                real(path.clone()) == real(socket_path(dir, *port))
            }
            (Self::Tcp(own), Host::Tcp(name, port)) if own.port() == *port => {
                let name = if name == "localhost" { "127.0.0.1" } else { name };
                let to = endpoint.address.or_else(|| name.parse().ok()).map(|to| to.to_canonical());
                to.is_some_and(|to| to == own.ip().to_canonical() || (own.ip().is_unspecified() && to.is_loopback()))
            }
            _ => false,
        }
    }

    /// Connects to a unix or abstract socket within `limit`.
    ///
    /// # Errors
    /// The system's; `Unsupported` for TCP.
    pub(crate) fn connect_unix(&self, limit: Duration) -> io::Result<UnixStream> {
        let address = match self {
            Self::File(path) => unix::SocketAddr::from_pathname(path),
            Self::Abstract(name) => unix::SocketAddr::from_abstract_name(name),
            Self::Tcp(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        connect_within(limit, &address?)
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// The ports in the names of sockets. There is one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketPorts {
    /// Ports of the setting `port`.
    Set(Vec<u16>),
    /// Ports of the upstreams, so that a connection string keeps its port.
    OfUpstreams(Vec<u16>),
}

impl SocketPorts {
    /// Returns the ports of `upstreams`, each once.
    pub(super) fn of<'a>(upstreams: impl IntoIterator<Item = &'a Upstream>) -> Self {
        let endpoints = upstreams.into_iter().flat_map(|upstream| &upstream.endpoints);
        Self::OfUpstreams(each_once(endpoints.map(|endpoint| endpoint.host.port())))
    }

    /// Reads `5432`, or several with commas between them.
    pub(super) fn parse(text: &str) -> Result<Vec<u16>, String> {
        let one = |text: &str| match text.trim().parse() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(format!("\"{text}\" is not a port number")),
        };
        text.split(',').map(one).collect::<Result<Vec<_>, _>>().map(each_once)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[u16] {
        match self {
            Self::Set(ports) | Self::OfUpstreams(ports) => ports,
        }
    }

    /// These ports when a reload has put them in place of `running`: connection strings do not follow an upstream that moves to
    /// another port, so that the ports of the former ones stay.
    #[must_use]
    pub fn following(self, running: &Self) -> Self {
        match (self, running) {
            (Self::OfUpstreams(new), Self::OfUpstreams(old)) => {
                Self::OfUpstreams(each_once(new.into_iter().chain(old.iter().copied())))
            }
            (new, _) => new,
        }
    }
}

/// The items, each once, in their order.
pub(super) fn each_once<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_every_port_and_tcp_its_own() {
        let listen = ["/run/x", "@x", "127.0.0.1:1"].map(|text| Listen::parse(text).expect("good"));
        let names: Vec<_> = ClientAddress::all(&listen, &[5432, 6543]).iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            ["/run/x/.s.PGSQL.5432", "/run/x/.s.PGSQL.6543", "@x/.s.PGSQL.5432", "@x/.s.PGSQL.6543", "127.0.0.1:1"]
        );
    }

    #[test]
    fn ports_are_numbers_with_commas() {
        assert_eq!(SocketPorts::parse("5432, 6543,5432"), Ok(vec![5432, 6543]));
        for text in ["", "0", "5432,", "65536", "x"] {
            assert!(SocketPorts::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_that_nobody_set_stays_when_the_upstream_moves() {
        let (old, new) = (SocketPorts::OfUpstreams(vec![5432]), SocketPorts::OfUpstreams(vec![6543]));
        assert_eq!(new.clone().following(&old).all(), [6543, 5432]);
        assert_eq!(SocketPorts::Set(vec![1]).following(&old).all(), [1]);
        assert_eq!(new.following(&SocketPorts::Set(vec![1])).all(), [6543]);
    }
}
