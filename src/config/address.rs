//! Addresses that clients connect to: what `listen` and `port` come to.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixStream};
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::settings::Settings;
use super::socket_path::{abstract_socket_name, port_of, socket_path};
use super::source::{ConfigError, RawConfig};
use super::url::Upstream;
use super::value::{AdminListen, Listen};

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

    /// Connects to a unix or abstract socket.
    ///
    /// # Errors
    /// The system's; `Unsupported` for TCP.
    pub fn connect_unix(&self) -> io::Result<UnixStream> {
        let address = match self {
            Self::File(path) => unix::SocketAddr::from_pathname(path),
            Self::Abstract(name) => unix::SocketAddr::from_abstract_name(name),
            Self::Tcp(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        UnixStream::connect_addr(&address?)
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
    /// Those that `port` names.
    Set(Vec<u16>),
    /// Those of the upstreams, so that a connection string keeps its port.
    OfUpstreams(Vec<u16>),
}

impl SocketPorts {
    /// Those of `upstreams`, each once.
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

impl Settings {
    /// These settings for a process that gets the listeners called `names` from the one that it replaces: their ports stay, as
    /// those of former upstreams do after a reload.
    #[must_use]
    pub(crate) fn keeping_ports_of<'a>(self, names: impl Iterator<Item = &'a str>) -> Self {
        let is_one =
            |name: &str, port| self.listen.iter().any(|listen| ClientAddress::of(listen, port).to_string() == name);
        let ports = names.filter_map(|name| port_of(name.rsplit('/').next()?).filter(|port| is_one(name, *port)));
        let old = SocketPorts::OfUpstreams(ports.collect());
        Self { ports: self.ports.clone().following(&old), ..self }
    }
}

/// The items, each once, in their order.
fn each_once<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

/// The ways to a running pgferry, for other processes of this machine. Its upstream need not be known.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    listen: Vec<Listen>,
    /// Ports in the names of its sockets, as far as they are known.
    ports: Vec<u16>,
    /// True if there may be others.
    search: bool,
    /// Where it answers over HTTP.
    pub admin_listen: Option<AdminListen>,
}

impl Contact {
    /// The ways that are written, whatever else is.
    ///
    /// # Errors
    /// What is wrong with `listen`, `port` or `admin_listen`.
    pub(crate) fn resolve(written: &RawConfig) -> Result<Self, ConfigError> {
        let reader = Reader { written };
        let set = reader.read_optional("port", SocketPorts::parse)?;
        let search = set.is_none();
        let ports = set.unwrap_or_else(|| match reader.upstream_url() {
            Ok(upstream) => SocketPorts::of([&upstream]).all().to_vec(),
            Err(_) => Vec::new(),
        });
        let admin_listen = reader.read_optional("admin_listen", AdminListen::parse)?;
        Ok(Self { listen: reader.listen()?, ports, search, admin_listen })
    }

    /// The ways to the process that `settings` describe.
    #[must_use]
    pub(crate) fn of(settings: &Settings) -> Self {
        let (listen, ports) = (settings.listen.clone(), settings.ports.all().to_vec());
        Self { listen, ports, search: false, admin_listen: settings.admin_listen.clone() }
    }

    /// The addresses as they are now: where no port is set, sockets are looked for as well.
    #[must_use]
    pub(crate) fn addresses(&self) -> Vec<ClientAddress> {
        let mut all = ClientAddress::all(&self.listen, &self.ports);
        for listen in self.listen.iter().filter(|_| self.search) {
            all.extend(found_ports(listen).into_iter().map(|port| ClientAddress::of(listen, port)));
        }
        // TCP addresses have no port to be found.
        let tcp = self.listen.iter().filter(|listen| matches!(listen, Listen::Tcp(_)));
        all.extend(tcp.map(|listen| ClientAddress::of(listen, 0)));
        each_once(all)
    }

    /// The message where no pgferry answers.
    #[must_use]
    pub(crate) fn no_answer(&self) -> String {
        let places = self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("no pgferry listens at {places} (--listen, --port)")
    }
}

/// The ports in the names of the sockets of `listen` that there are.
fn found_ports(listen: &Listen) -> Vec<u16> {
    let mut found = match listen {
        Listen::Dir(dir) => in_directory(dir),
        Listen::Abstract(name) => abstract_sockets(name),
        Listen::Tcp(_) => Vec::new(),
    };
    found.sort_unstable();
    found.dedup();
    found
}

fn in_directory(dir: &Path) -> Vec<u16> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| port_of(name.to_str()?)).collect()
}

fn abstract_sockets(name: &str) -> Vec<u16> {
    // Its lines end in the name, with an `@` for the NUL in front of an abstract one.
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let prefix = format!("@{name}/");
    sockets.lines().filter_map(|line| port_of(line.rsplit(' ').next()?.strip_prefix(&prefix)?)).collect()
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

    #[test]
    fn sockets_are_found_where_no_port_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in [".s.PGSQL.6543", ".s.PGSQL.6543.lock", ".s.PGSQL.x", "other"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let mut written = RawConfig::default();
        let at = dir.path().to_str().expect("UTF-8").to_owned();
        written.flag("listen", "--listen", super::super::source::Value::One(at));
        let contact = Contact::resolve(&written).expect("no upstream is needed");
        assert_eq!(contact.addresses(), [ClientAddress::File(dir.path().join(".s.PGSQL.6543"))]);
        written.flag("port", "--port", super::super::source::Value::One("1".to_owned()));
        let contact = Contact::resolve(&written).expect("good");
        assert_eq!(contact.addresses(), [ClientAddress::File(dir.path().join(".s.PGSQL.1"))]);
    }
}
