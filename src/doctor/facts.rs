//! What is found out about this host and the upstreams, before anything is made of it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;
use tokio::time::sleep;

use super::examination::Examination;
use super::kernel::{Kernel, Paths};
use super::pgferry::{self, Pgferry};
use super::processes::{Holder, holders};
use super::server::{self, Server, Unasked};
use super::sockets::{self, Socket, State};
use crate::config::{Endpoint, Host, Settings};

/// Facts that were found.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// The kernel's settings.
    pub kernel: Kernel,
    /// The limits on open files of this process: what is in force, and up to what it may be raised.
    pub open_files: Option<(u64, u64)>,
    /// The most memory, in bytes, that this container may have, and the most processes and threads (`memory.max` and
    /// `pids.max` of its control group).
    pub container: (Option<u64>, Option<u64>),
    /// True if this is inside Kubernetes.
    pub in_kubernetes: bool,
    /// The upstreams' addresses.
    pub upstreams: Vec<Upstream>,
    /// Listeners with a port in the range of ephemeral ports.
    pub listeners_in_range: Vec<u16>,
    /// Connections that a pgferry with these settings would keep open.
    pub pool: Pool,
    /// The pgferry that is configured here, if it answers or was asked about.
    pub pgferry: Option<Pgferry>,
}

/// Connections that a pgferry keeps open.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pool {
    /// Connections per database and user at most.
    pub pool_size: usize,
    /// Connections over all pools at most; `None` for as many as the server has.
    pub max_upstream: Option<usize>,
    /// Seconds after which it closes an idle one; 0 = never.
    pub idle_timeout_s: u64,
}

/// One address of an upstream.
#[derive(Debug, Serialize)]
pub struct Upstream {
    /// As it was named.
    pub name: String,
    /// Address; `None` where that can't be found out, or it is a unix socket.
    pub address: Option<SocketAddr>,
    /// True if it is this machine itself, so that the kernel treats connections there as loopback.
    pub is_local: bool,
    /// Reason why there is no address.
    pub unresolved: Option<String>,
    /// Sockets toward it, by state.
    pub states: Vec<(&'static str, usize)>,
    /// Number of this host's ephemeral ports that they hold.
    pub held: usize,
    /// Number of those in TIME_WAIT.
    pub time_wait: usize,
    /// New connections that ended in TIME_WAIT, each second, if it was watched.
    pub churn: Option<f64>,
    /// Processes with connections of their own.
    pub holders: Vec<Holder>,
    /// Answer of the server, or the reason why it could not be asked.
    pub server: Option<Result<Server, Unasked>>,
}

impl Facts {
    /// Finds out about this host and the upstreams in `all`.
    ///
    /// # Errors
    /// When not even the kernel's tables can be read.
    pub async fn gather(all: &[Settings], examination: &Examination) -> io::Result<Self> {
        let paths = &examination.paths;
        let kernel = Kernel::read(paths);
        let mut upstreams = Vec::new();
        for settings in all {
            for endpoint in &settings.upstream.url.endpoints {
                for mut upstream in resolve(endpoint) {
                    if let Some(address) = upstream.address {
                        count(&mut upstream, address, &kernel, examination).await?;
                        upstream.server = Some(server::ask_at(settings, endpoint, address).await);
                    }
                    upstreams.push(upstream);
                }
            }
        }
        let listeners = sockets::all(&paths.proc)?.into_iter().filter(|socket| socket.state == State::LISTEN);
        let (low, high) = kernel.ip_local_port_range;
        let reserved =
            |port: u16| kernel.ip_local_reserved_ports.iter().any(|(from, to)| (*from..=*to).contains(&port));
        let mut in_range: Vec<_> = listeners
            .map(|socket| socket.local.port())
            .filter(|port| (low..=high).contains(port) && !reserved(*port))
            .collect();
        in_range.sort_unstable();
        in_range.dedup();
        let pgferry = match all {
            [only, ..] => pgferry::look(only, examination).await,
            [] => None,
        };
        Ok(Self {
            open_files: getrlimit(Resource::RLIMIT_NOFILE).ok(),
            container: (limit(paths, "memory.max"), limit(paths, "pids.max")),
            in_kubernetes: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            listeners_in_range: in_range,
            pool: all.first().map_or(Pool { pool_size: 20, max_upstream: None, idle_timeout_s: 600 }, |settings| {
                Pool {
                    pool_size: settings.pool.pool_size,
                    max_upstream: settings.pool.max_upstream,
                    idle_timeout_s: settings.timeouts.server_idle_timeout.unwrap_or_default().as_secs(),
                }
            }),
            upstreams,
            pgferry,
            kernel,
        })
    }
}

/// Returns whether `address` is one of this machine's own: connections there come from the same one. No packet is sent.
fn is_local(address: SocketAddr) -> bool {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let source = UdpSocket::bind(any).and_then(|socket| socket.connect(address).and_then(|()| socket.local_addr()));
    address.ip().is_loopback() || source.is_ok_and(|source| source.ip() == address.ip())
}

/// A limit of this container's; `None` where there is none.
fn limit(paths: &Paths, name: &str) -> Option<u64> {
    std::fs::read_to_string(paths.cgroup.join(name)).ok()?.trim().parse().ok()
}

/// The addresses of one host of an upstream, each of which has ports of its own.
fn resolve(endpoint: &Endpoint) -> Vec<Upstream> {
    let host = &endpoint.host;
    let upstream = |address: Option<SocketAddr>, unresolved| Upstream {
        name: host.to_string(),
        is_local: address.is_some_and(is_local),
        address,
        unresolved,
        states: Vec::new(),
        held: 0,
        time_wait: 0,
        churn: None,
        holders: Vec::new(),
        server: None,
    };
    let Host::Tcp(name, port) = host else {
        return vec![upstream(None, Some("a unix socket needs no ports".into()))];
    };
    let addresses: Vec<SocketAddr> = match endpoint.address {
        Some(address) => vec![(address, *port).into()],
        None => match (name.as_str(), *port).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => return vec![upstream(None, Some(error.to_string()))],
        },
    };
    addresses.into_iter().map(|address| upstream(Some(address), None)).collect()
}

async fn count(
    upstream: &mut Upstream,
    address: SocketAddr,
    kernel: &Kernel,
    examination: &Examination,
) -> io::Result<()> {
    let proc = &examination.paths.proc;
    let found = sockets::toward(address, proc)?;
    let (low, high) = kernel.ip_local_port_range;
    let in_range = |socket: &&Socket| (low..=high).contains(&socket.local.port());
    upstream.held = found.iter().filter(in_range).count();
    let states = sockets::by_state(&found);
    upstream.time_wait = states.get(&State::TIME_WAIT).copied().unwrap_or_default();
    upstream.states = states.into_iter().map(|(state, count)| (state.name(), count)).collect();
    let inodes: Vec<_> = found.iter().map(|socket| socket.inode).collect();
    upstream.holders = holders(proc, &inodes);
    if let Some(span) = examination.watch {
        let before: std::collections::HashSet<_> = waiting(&found).collect();
        sleep(span).await;
        let after = sockets::toward(address, proc)?;
        let new = waiting(&after).filter(|port| !before.contains(port)).count();
        // Counts are far below what a float can't hold.
        #[allow(clippy::cast_precision_loss, reason = "a rate for people to read")]
        let rate = new as f64 / span.as_secs_f64();
        upstream.churn = Some(rate);
    }
    Ok(())
}

fn waiting(sockets: &[Socket]) -> impl Iterator<Item = SocketAddr> + '_ {
    sockets.iter().filter(|socket| socket.state == State::TIME_WAIT).map(|socket| socket.local)
}
