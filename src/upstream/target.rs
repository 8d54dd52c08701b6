//! The way to the upstream: where it is, how connections there are encrypted, and where passwords come from.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::credentials::Credentials;
use super::occupancy::Room;
use super::pooler::Pooler;
use super::resolved::ResolvedName;
use super::server_tls::ServerTls;
use crate::config::socket_path::socket_path;
use crate::config::{
    Binding, Endpoint, Host, Negotiation, RequireAuth, Settings, SslMode, TargetSessionAttrs, Upstream,
};
use crate::lock::lock;
use crate::net::{Stream, tls};
use crate::offload::SerialExecutor;
use crate::track::ServerParams;

/// Delay after which each further address of a host is tried while the ones before have neither answered nor failed (RFC 8305 calls it
/// the connection attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Number of databases of one server in which secrets are looked up at a time: clients name them before they have logged in.
const MAX_LOOKUPS: usize = 4;

/// Resolved address of a connection, to which cancel requests are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Connects once more to where a connection goes.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = Stream::connect_tcp(*address).await?;
                stream.take_up()?;
                Ok(stream)
            }
            Self::Unix(path) => Stream::connect_unix(path).await,
        }
    }
}

/// Encryption in one attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsAttempt {
    /// Nothing.
    No,
    /// Asks for it, and does without if the server has none.
    IfOffered,
    /// Insists on it.
    Yes,
}

/// The targets of all databases: that of most, and those of databases that are elsewhere.
#[derive(Debug)]
pub(crate) struct UpstreamTargets {
    general: Arc<UpstreamTarget>,
    own: BTreeMap<Vec<u8>, Arc<UpstreamTarget>>,
    /// Target of databases that no table names, if it is another one (`*`).
    others: Option<Arc<UpstreamTarget>>,
}

impl UpstreamTargets {
    /// The targets that `settings` describe, one for each server, in place of `former`.
    ///
    /// # Errors
    /// When certificates can't be used: which, and why.
    pub(crate) fn new(settings: &Settings, former: Option<&Self>) -> Result<Self, String> {
        let general = Arc::new(UpstreamTarget::new(settings, former)?);
        let mut own = BTreeMap::new();
        let mut known: Vec<(&Settings, Arc<UpstreamTarget>)> = vec![(settings, Arc::clone(&general))];
        for (name, other) in &settings.databases {
            let same = known.iter().find(|(known, _)| known.has_servers_of(other));
            let upstream_target = match same {
                Some((_, upstream_target)) => Arc::clone(upstream_target),
                None => Arc::new(UpstreamTarget::new(other, former)?),
            };
            known.push((other, Arc::clone(&upstream_target)));
            own.insert(name.clone(), upstream_target);
        }
        let others = own.remove(Settings::OTHERS);
        Ok(Self { general, own, others })
    }

    /// The target of `database`.
    #[must_use]
    pub(crate) fn of(&self, database: &[u8]) -> &Arc<UpstreamTarget> {
        self.own.get(database).or(self.others.as_ref()).unwrap_or(&self.general)
    }

    /// Sources of passwords that the settings name and that are not there, a line each. Blocks.
    #[must_use]
    pub(crate) fn missing_passwords(&self) -> Vec<String> {
        let endpoints = self.all().into_iter().flat_map(|upstream_target| &upstream_target.endpoints);
        let missing: BTreeSet<_> = endpoints.filter_map(|endpoint| endpoint.credentials.missing()).collect();
        missing.into_iter().collect()
    }

    /// All of them, once each.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<&Arc<UpstreamTarget>> {
        let mut all: Vec<_> = [&self.general].into_iter().chain(self.own.values()).chain(&self.others).collect();
        all.sort_by_key(|upstream_target| Arc::as_ptr(upstream_target));
        all.dedup_by_key(|upstream_target| Arc::as_ptr(upstream_target));
        all
    }
}

/// The target of server connections: one server, or several of which one is chosen.
#[derive(Debug)]
pub(crate) struct UpstreamTarget {
    /// Hosts: the first that satisfies `target` is used.
    pub endpoints: Vec<TargetHost>,
    /// Condition that a server must satisfy.
    pub target: TargetSessionAttrs,
    /// The minor version of the protocol that is asked for.
    pub minor: u16,
    /// Channel binding of logins.
    pub binding: Binding,
    /// The methods by which the server may have logins proved.
    pub require_auth: RequireAuth,
    /// True if the endpoints are tried in changing order.
    balance: bool,
    mode: SslMode,
    /// The endpoint that was good last, also before a reload: it is tried first.
    good: AtomicUsize,
    /// Knowledge of how full the server is, which a reload leaves as it is.
    pub room: Arc<Room>,
    /// Knowledge of a pooler that answers there.
    pub(super) pooler: Arc<Pooler>,
    /// Addresses at which a server has said since the janitor's last round that it takes no connections.
    stopping: Mutex<HashSet<Address>>,
    /// The lookups of secrets that may be under way there: a server that hangs holds up those that it is asked for itself.
    pub(super) lookups: Arc<Semaphore>,
}

/// One place.
#[derive(Debug)]
pub(crate) struct TargetHost {
    /// Host.
    pub host: Host,
    /// Sources of passwords.
    pub credentials: Credentials,
    /// Encrypts; `None` where connections are never encrypted.
    pub server_tls: Option<Arc<ServerTls>>,
    address: Option<IpAddr>,
    /// Addresses of the host's name.
    looked_up: Arc<Mutex<Option<ResolvedName>>>,
    looking_up: SerialExecutor,
}

impl UpstreamTarget {
    /// The target that `settings` describe, in place of one of `former`.
    ///
    /// # Errors
    /// When certificates can't be used: which, and why.
    pub(crate) fn new(settings: &Settings, former: Option<&UpstreamTargets>) -> Result<Self, String> {
        let upstream = &settings.upstream.url;
        let former = former.map(UpstreamTargets::all).unwrap_or_default();
        let same = former.iter().find(|former| former.is_at(upstream));
        let known_hosts = || former.iter().flat_map(|former| &former.endpoints);
        let endpoint = |endpoint: &Endpoint| {
            let known = known_hosts().find(|known| known.is(endpoint));
            Ok(TargetHost {
                host: endpoint.host.clone(),
                credentials: Credentials::new(settings, &endpoint.host),
                server_tls: server_tls(upstream, &endpoint.host)?,
                address: endpoint.address,
                looked_up: known.map(|known| Arc::clone(&known.looked_up)).unwrap_or_default(),
                looking_up: SerialExecutor::default(),
            })
        };
        Ok(Self {
            endpoints: upstream.endpoints.iter().map(endpoint).collect::<Result<_, String>>()?,
            target: upstream.target,
            minor: upstream.minor,
            binding: upstream.encryption.binding,
            require_auth: upstream.encryption.require_auth.clone(),
            balance: upstream.balance,
            mode: upstream.encryption.mode(),
            good: AtomicUsize::new(same.map_or(0, |former| former.good.load(Ordering::Relaxed))),
            room: same.map(|former| Arc::clone(&former.room)).unwrap_or_default(),
            pooler: same.map(|former| Arc::clone(&former.pooler)).unwrap_or_default(),
            stopping: Mutex::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        })
    }

    /// Returns whether its servers are those of `upstream`.
    fn is_at(&self, upstream: &Upstream) -> bool {
        let (own, others) = (&self.endpoints, &upstream.endpoints);
        self.target == upstream.target
            && own.len() == others.len()
            && own.iter().zip(others).all(|(own, other)| own.is(other))
    }

    /// The endpoints in the order in which they are tried: the one that was good last first. `number` makes the order
    /// where load is to be balanced.
    #[must_use]
    pub(crate) fn order(&self, number: u64) -> Vec<usize> {
        let count = self.endpoints.len();
        let first = if self.balance {
            // The golden ratio spreads consecutive numbers evenly.
            usize::try_from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or_default()
        } else {
            self.good.load(Ordering::Relaxed)
        };
        (0..count).map(|nth| (first + nth) % count).collect()
    }

    /// Endpoint number `at` was good.
    pub(crate) fn is_good(&self, at: usize) {
        self.good.store(at, Ordering::Relaxed);
    }

    /// Notes that the server at `address` has said that it takes no connections.
    pub(super) fn note_stopping(&self, address: &Address) {
        lock(&self.stopping).insert(address.clone());
    }

    /// Takes the addresses at which servers have said so since this was last called.
    pub(super) fn take_stopping(&self) -> HashSet<Address> {
        std::mem::take(&mut *lock(&self.stopping))
    }

    /// Returns the kinds of encryption to try at `endpoint`, in order.
    #[must_use]
    pub(crate) fn attempts(&self, endpoint: &TargetHost) -> &'static [TlsAttempt] {
        match (&endpoint.server_tls, self.mode) {
            (None, _) | (_, SslMode::Disable) => &[TlsAttempt::No],
            (_, SslMode::Allow) => &[TlsAttempt::No, TlsAttempt::Yes],
            (_, SslMode::Prefer) => &[TlsAttempt::IfOffered, TlsAttempt::No],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[TlsAttempt::Yes],
        }
    }

    /// Returns whether none of its hosts has had `address` for as long as `age`.
    #[must_use]
    pub(crate) fn has_left(&self, address: SocketAddr, age: Duration) -> bool {
        !self.endpoints.iter().any(|endpoint| endpoint.has(address, age))
    }

    /// All endpoints as text.
    #[must_use]
    pub(crate) fn places(&self) -> String {
        self.endpoints.iter().map(|endpoint| endpoint.host.to_string()).collect::<Vec<_>>().join(", ")
    }
}

fn server_tls(upstream: &Upstream, host: &Host) -> Result<Option<Arc<ServerTls>>, String> {
    let encryption = &upstream.encryption;
    match (host, encryption.mode()) {
        // As libpq: a unix socket can't be listened in on.
        (Host::Unix(..), _) | (_, SslMode::Disable) => Ok(None),
        (Host::Tcp(name, _), _) => Ok(Some(Arc::new(ServerTls {
            client: tls::Client::new(encryption.options()?)?,
            host: name.clone(),
            direct: encryption.negotiation == Negotiation::Direct,
        }))),
    }
}

impl TargetHost {
    /// Returns whether it is the place that `endpoint` describes.
    fn is(&self, endpoint: &Endpoint) -> bool {
        (&self.host, self.address) == (&endpoint.host, endpoint.address)
    }

    /// The host's name, how long ago it was looked up, and what it stood for; `None` before that.
    #[must_use]
    pub(crate) fn resolved(&self) -> Option<(String, Duration, Vec<SocketAddr>)> {
        let Host::Tcp(name, _) = &self.host else { return None };
        let looked_up = lock(&self.looked_up);
        looked_up.as_ref().map(|known| (name.clone(), known.at.elapsed(), known.addresses.clone()))
    }

    /// Looks the host's name up again if the answer is older than `age`. What no name server answers changes nothing.
    pub(crate) async fn refresh(&self, age: Duration) {
        let (Host::Tcp(name, port), None) = (&self.host, self.address) else { return };
        if self.resolved().is_some_and(|(_, since, _)| since >= age) {
            let _ = self.look_up(name, *port).await;
        }
    }

    /// Returns whether it has `address`, or had it until less than `age` ago, as far as is known.
    fn has(&self, address: SocketAddr, age: Duration) -> bool {
        match (&self.host, self.address) {
            (Host::Unix(..), _) => false,
            (Host::Tcp(_, port), Some(own)) => address == SocketAddr::from((own, *port)),
            (Host::Tcp(..), None) => {
                lock(&self.looked_up).as_ref().is_some_and(|known| known.has(address, age, Instant::now()))
            }
        }
    }

    /// Looks a name up, once for all tasks that want it: a name service that does not answer holds one thread.
    async fn look_up(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let wanted = Instant::now();
        let turn = self.looking_up.turn().await;
        if let Some((_, since, addresses)) = self.resolved()
            && since <= wanted.elapsed()
        {
            return Ok(addresses);
        }
        let (name, known) = (name.to_owned(), Arc::clone(&self.looked_up));
        let looked_up = turn.run(move || {
            let addresses: Vec<_> = (name.as_str(), port).to_socket_addrs()?.collect();
            let mut known = lock(&known);
            *known = Some(ResolvedName::new(addresses.clone(), Instant::now(), known.take()));
            Ok(addresses)
        });
        looked_up.await?
    }

    /// Returns where it is by now, which a name service may have to say.
    ///
    /// # Errors
    /// The name service's.
    pub(crate) async fn place(&self) -> io::Result<Place> {
        match (&self.host, self.address) {
            (Host::Unix(dir, port), _) => Ok(Place::Unix(socket_path(dir, *port))),
            (Host::Tcp(_, port), Some(address)) => Ok(Place::Tcp(vec![(address, *port).into()])),
            (Host::Tcp(name, port), None) => Ok(Place::Tcp(self.look_up(name, *port).await?)),
        }
    }
}

/// Addresses of a host.
#[derive(Debug)]
pub(crate) enum Place {
    /// TCP addresses, one of which is used.
    Tcp(Vec<SocketAddr>),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Place {
    /// Connects.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn connect(self) -> io::Result<(Stream, Address)> {
        match self {
            Self::Unix(path) => Ok((Stream::connect_unix(&path).await?, Address::Unix(path))),
            Self::Tcp(addresses) => {
                let (stream, address) = connect_any(&addresses, Stream::connect_tcp).await?;
                stream.take_up()?;
                Ok((stream, Address::Tcp(address)))
            }
        }
    }
}

/// Returns why a server that reports `params` does not satisfy `target`, in libpq's words; nothing for one that satisfies it,
/// or does not report it.
#[must_use]
pub(crate) fn target_mismatch(target: TargetSessionAttrs, params: &ServerParams) -> Option<&'static str> {
    if matches!(target, TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby) {
        return None;
    }
    let is_on = |name: &[u8]| params.get(name).map(|value| value == b"on");
    let standby = is_on(b"in_hot_standby")?;
    let read_only = standby || is_on(b"default_transaction_read_only")?;
    mismatch_of(target, standby, read_only)
}

/// The same for a server of which it is known.
#[must_use]
pub(crate) fn mismatch_of(target: TargetSessionAttrs, standby: bool, read_only: bool) -> Option<&'static str> {
    match target {
        TargetSessionAttrs::ReadWrite if read_only => Some("session is read-only"),
        TargetSessionAttrs::ReadOnly if !read_only => Some("session is not read-only"),
        TargetSessionAttrs::Primary if standby => Some("server is in hot standby mode"),
        TargetSessionAttrs::Standby if !standby => Some("server is not in hot standby mode"),
        _ => None,
    }
}

/// Tries addresses in order, each as soon as the one before has failed, or has not answered for a while; the first that answers wins.
async fn connect_any<T: Send + 'static, F: Future<Output = io::Result<T>> + Send + 'static>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(T, SocketAddr)> {
    if let [only] = *addresses {
        return connect(only).await.map(|connected| (connected, only));
    }
    let mut rest = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    loop {
        let next = rest.next();
        if let Some(address) = next {
            let attempt = connect(address);
            attempts.spawn(async move { attempt.await.map(|connected| (connected, address)) });
        }
        tokio::select! {
            biased;
            outcome = attempts.join_next() => match outcome {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => last = error,
                Some(Err(error)) => last = io::Error::other(error),
                None => return Err(last),
            },
            () = sleep(ATTEMPT_DELAY), if next.is_some() => {}
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn what_is_known_of_hosts_outlives_a_reload() {
        let targets = |hosts: &str, former: Option<&UpstreamTargets>| {
            let mut written = RawConfig::default();
            written.file_text("f", &format!("upstream = \"postgres://{hosts}\"")).expect("good");
            UpstreamTargets::new(&Settings::resolve(&written).expect("good"), former).expect("targets")
        };
        let former = targets("a,b,c", None);
        former.of(b"d").is_good(1);
        let looked_up = ResolvedName::new(vec![SocketAddr::from(([127, 0, 0, 1], 5432))], Instant::now(), None);
        *lock(&former.of(b"d").endpoints[2].looked_up) = Some(looked_up);
        let same = targets("a,b,c", Some(&former));
        assert_eq!(same.of(b"d").order(0), [1, 2, 0]);
        let resolved = |targets: &UpstreamTargets, at: usize| targets.of(b"d").endpoints[at].resolved().is_some();
        assert!(resolved(&same, 2) && !resolved(&same, 1));
        let others = targets("b,c", Some(&former));
        assert_eq!(others.of(b"d").order(0), [0, 1]);
        assert!(resolved(&others, 1), "c is still the same");
        assert!(!resolved(&targets("a,b,c:1", Some(&former)), 2), "another server");
    }

    #[tokio::test]
    async fn connections_that_are_not_used_are_reset() {
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let addresses = [0, 1].map(|at: usize| listeners[at].local_addr().expect("an address"));
        // The first one has connected too by the time the second one wins.
        let connect = |address| async move {
            let stream = Stream::connect_tcp(address).await;
            if address == addresses[0] {
                sleep(Duration::from_secs(60)).await;
            }
            stream
        };
        let (stream, address) = connect_any(&addresses, connect).await.expect("a connection");
        assert_eq!(address, addresses[1]);
        stream.take_up().expect("taken up");
        let [first, second] = listeners.map(|listener| {
            tokio::task::spawn_blocking(move || {
                let (mut theirs, _) = listener.accept().expect("a connection");
                theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
                std::io::Read::read(&mut theirs, &mut [0]).map_err(|error| error.kind())
            })
        });
        assert_eq!(first.await.expect("read"), Err(io::ErrorKind::ConnectionReset));
        drop(stream);
        assert_eq!(second.await.expect("read"), Ok(0), "ends in order");
    }

    #[test]
    fn servers_are_what_they_report() {
        let params = |standby: &str, read_only: &str| {
            let mut params = ServerParams::default();
            params.set(b"in_hot_standby", standby.as_bytes());
            params.set(b"default_transaction_read_only", read_only.as_bytes());
            params
        };
        let (primary, standby, locked) = (params("off", "off"), params("on", "off"), params("off", "on"));
        for (target, fits) in [
            (TargetSessionAttrs::Any, [true, true, true]),
            (TargetSessionAttrs::ReadWrite, [true, false, false]),
            (TargetSessionAttrs::ReadOnly, [false, true, true]),
            (TargetSessionAttrs::Primary, [true, false, true]),
            (TargetSessionAttrs::Standby, [false, true, false]),
            (TargetSessionAttrs::PreferStandby, [true, true, true]),
        ] {
            let found = [&primary, &standby, &locked].map(|params| target_mismatch(target, params).is_none());
            assert_eq!(found, fits, "{target}");
        }
        assert_eq!(
            target_mismatch(TargetSessionAttrs::Primary, &ServerParams::default()),
            None,
            "an old server does not report it"
        );
    }

    /// Connects to each of three addresses as `outcome` says of its port; which one it came to, and after what time.
    async fn connected(outcome: impl Fn(u16) -> Option<io::Result<u16>>) -> (io::Result<u16>, Duration) {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let began = tokio::time::Instant::now();
        let connected = connect_any(&addresses, |address| {
            let outcome = outcome(address.port());
            async move {
                match outcome {
                    Some(outcome) => outcome,
                    None => std::future::pending().await,
                }
            }
        });
        (connected.await.map(|(port, _)| port), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let refused = || Some(Err(io::ErrorKind::ConnectionRefused.into()));
        let (to, took) = connected(|port| if port < 3 { refused() } else { Some(Ok(port)) }).await;
        assert_eq!((to.expect("connected"), took), (3, Duration::ZERO));
        let (to, took) = connected(|_| refused()).await;
        assert_eq!((to.expect_err("none").kind(), took), (io::ErrorKind::ConnectionRefused, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_is_followed_by_the_next_after_a_while() {
        let (to, took) = connected(|port| (port == 3).then_some(Ok(port))).await;
        assert_eq!(to.expect("connected"), 3);
        // The clock has a resolution of a millisecond.
        assert!((2 * ATTEMPT_DELAY..2 * ATTEMPT_DELAY + Duration::from_millis(5)).contains(&took), "{took:?}");
    }
}
