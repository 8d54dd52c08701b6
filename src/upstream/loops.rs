//! Clients that are PostgreSQL's own backends: `postgres_fdw` and `dblink` connect from inside a session, and may come back
//! through pgferry.
//!
//! `DISCARD ALL` does not close such connections. If the session were reused, they would be there for good, and hold connections for
//! no client. So a connection is closed at checkin if its backend has clients here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::conn_info::ConnInfo;
use super::looped_clients::LoopedClient;
use super::target::Address;
use crate::lock::lock;
use crate::net::{Peer, Stream};

/// The name that `postgres_fdw` gives its connections (`fallback_application_name`).
const POSTGRES_FDW: &[u8] = b"postgres_fdw";

/// The open connections to servers on this machine, by the pid of their backend.
#[derive(Debug, Default)]
pub(crate) struct LocalBackends(Mutex<HashMap<i32, Weak<ConnInfo>>>);

impl LocalBackends {
    /// Notes a connection that has been opened, if its server is on this machine. Those that are gone are forgotten.
    pub(crate) fn add(&self, conn_info: &Arc<ConnInfo>) {
        let is_local = match (&conn_info.remote, conn_info.local) {
            (Address::Unix(_), _) => true,
            // A machine that connects to itself uses the same address at both ends.
            (Address::Tcp(remote), local) => local.is_some_and(|local| local.ip() == remote.ip()),
        };
        if is_local {
            let mut backends = self.backends();
            backends.retain(|_, conn_info| conn_info.strong_count() > 0);
            backends.insert(conn_info.pid, Arc::downgrade(conn_info));
        }
    }

    fn find(&self, pid: impl FnOnce() -> Option<i32>) -> Option<Arc<ConnInfo>> {
        let backends = self.backends();
        if backends.is_empty() {
            return None;
        }
        backends.get(&pid()?)?.upgrade()
    }

    fn backends(&self) -> MutexGuard<'_, HashMap<i32, Weak<ConnInfo>>> {
        lock(&self.0)
    }
}

/// Notes a new client with the backends that it may have come out of: the process at the other end of a unix socket tells which
/// one; over TCP its name or its address tells that it is one, and then it is one of those that are at work right now (`busy`).
pub(crate) fn trace(
    stream: &Stream,
    application_name: &[u8],
    local: &LocalBackends,
    may_be_remote: bool,
    busy: impl FnOnce() -> Vec<Arc<ConnInfo>>,
) -> Option<Box<[Arc<LoopedClient>]>> {
    let peer = || stream.peer().ok();
    if !stream.is_tcp()
        && let Some(conn_info) = local.find(|| match peer()? {
            Peer::Unix { pid, .. } => pid,
            Peer::Tcp(_) => None,
        })
    {
        return Some([conn_info.looped.add()].into());
    }
    let is_fdw = application_name == POSTGRES_FDW;
    let server = if stream.is_tcp() && may_be_remote {
        match peer()? {
            Peer::Tcp(address) => Some(address.ip().to_canonical()).filter(|ip| !ip.is_loopback()),
            Peer::Unix { .. } => None,
        }
    } else {
        None
    };
    if !is_fdw && server.is_none() {
        return None;
    }
    let goes_to = |conn_info: &ConnInfo, ip: IpAddr| matches!(&conn_info.remote, Address::Tcp(to) if to.ip().to_canonical() == ip);
    let origins = busy().into_iter().filter(|conn_info| is_fdw || server.is_some_and(|ip| goes_to(conn_info, ip)));
    let origins: Box<[_]> = origins.map(|conn_info| conn_info.looped.add()).collect();
    (!origins.is_empty()).then_some(origins)
}
