//! Where other processes find a running pgferry, and the ports that a process keeps which takes its place.

use std::fs;
use std::path::Path;

use super::address::{ClientAddress, SocketPorts, each_once};
use super::error::ConfigError;
use super::reader::Reader;
use super::setting_groups::ListenSettings;
use super::settings::Settings;
use super::socket_path::port_of;
use super::source::RawConfig;
use super::value::{AdminListen, Listen};

/// The ways to a running pgferry, for other processes of this machine. Its upstream need not be known.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    listen: Vec<Listen>,
    /// Ports in the names of its sockets, as far as they are known.
    ports: Vec<u16>,
    /// True if there may be others.
    search: bool,
    /// Address at which it answers over HTTP.
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
        let (listen, ports) = (settings.listen.listen.clone(), settings.listen.ports.all().to_vec());
        Self { listen, ports, search: false, admin_listen: settings.admin.admin_listen.clone() }
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

impl Settings {
    /// These settings for a process that gets the listeners called `names` from the one that it replaces: their ports stay, as
    /// those of former upstreams do after a reload.
    #[must_use]
    pub(crate) fn keeping_ports_of<'a>(self, names: impl Iterator<Item = &'a str>) -> Self {
        let is_one = |name: &str, port| {
            self.listen.listen.iter().any(|listen| ClientAddress::of(listen, port).to_string() == name)
        };
        let ports = names.filter_map(|name| port_of(name.rsplit('/').next()?).filter(|port| is_one(name, *port)));
        let old = SocketPorts::OfUpstreams(ports.collect());
        let ports = self.listen.ports.clone().following(&old);
        Self { listen: ListenSettings { ports, ..self.listen }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::written_value::Value;
    use super::*;

    #[test]
    fn sockets_are_found_where_no_port_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in [".s.PGSQL.6543", ".s.PGSQL.6543.lock", ".s.PGSQL.x", "other"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let mut written = RawConfig::default();
        let at = dir.path().to_str().expect("UTF-8").to_owned();
        written.flag("listen", "--listen", Value::One(at));
        let contact = Contact::resolve(&written).expect("no upstream is needed");
        assert_eq!(contact.addresses(), [ClientAddress::File(dir.path().join(".s.PGSQL.6543"))]);
        written.flag("port", "--port", Value::One("1".to_owned()));
        let contact = Contact::resolve(&written).expect("good");
        assert_eq!(contact.addresses(), [ClientAddress::File(dir.path().join(".s.PGSQL.1"))]);
    }
}
