//! The way to the upstream: where it is, how connections there are encrypted, and where passwords come from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::credentials::Credentials;
use super::encrypt::Encryptor;
use crate::config::Binding;
use crate::config::{Host, Negotiation, Settings, SslMode};
use crate::net::{Stream, tls};

/// How much later each further address of a host is tried while the ones before have not answered (RFC 8305 calls
/// it the connection attempt delay).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Where a connection goes, resolved: what a cancel request is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
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
    pub async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(Stream::from),
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::from),
        }
    }
}

/// What one attempt to connect does about encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypt {
    /// Nothing.
    No,
    /// Asks for it, and does without if the server has none.
    IfOffered,
    /// Insists on it.
    Yes,
}

/// The way to the upstream.
#[derive(Debug)]
pub struct Route {
    /// Where it is.
    pub host: Host,
    /// The minor version of the protocol that is asked for.
    pub minor: u16,
    /// Whether logins are bound to the channel.
    pub binding: Binding,
    /// Where passwords come from.
    pub credentials: Credentials,
    /// Encrypts; `None` where connections are never encrypted.
    pub encryptor: Option<Arc<Encryptor>>,
    address: Option<IpAddr>,
    mode: SslMode,
}

impl Route {
    /// The way that `settings` describe.
    ///
    /// # Errors
    /// When certificates can't be used: which, and why.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let upstream = &settings.upstream;
        let encryption = &upstream.encryption;
        let encryptor = match (&upstream.host, encryption.mode()) {
            // As libpq: nobody listens in on a unix socket.
            (Host::Unix(..), _) | (_, SslMode::Disable) => None,
            (Host::Tcp(name, _), _) => Some(Arc::new(Encryptor {
                client: tls::Client::new(encryption.options()?)?,
                host: name.clone(),
                direct: encryption.negotiation == Negotiation::Direct,
            })),
        };
        Ok(Self {
            host: upstream.host.clone(),
            minor: upstream.minor,
            binding: encryption.binding,
            credentials: Credentials::new(settings),
            encryptor,
            address: upstream.address,
            mode: encryption.mode(),
        })
    }

    /// What to try, in order.
    #[must_use]
    pub fn attempts(&self) -> &'static [Encrypt] {
        match (&self.encryptor, self.mode) {
            (None, _) | (_, SslMode::Disable) => &[Encrypt::No],
            (_, SslMode::Allow) => &[Encrypt::No, Encrypt::Yes],
            (_, SslMode::Prefer) => &[Encrypt::IfOffered, Encrypt::No],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encrypt::Yes],
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// The name service's or the socket's.
    pub async fn connect(&self) -> io::Result<(Stream, Address)> {
        match &self.host {
            Host::Unix(dir, port) => {
                let path = dir.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(&path).await?;
                Ok((stream.into(), Address::Unix(path)))
            }
            Host::Tcp(name, port) => {
                let addresses: Vec<SocketAddr> = match self.address {
                    Some(address) => vec![(address, *port).into()],
                    None => lookup_host((name.as_str(), *port)).await?.collect(),
                };
                let (stream, address) = connect_any(&addresses).await?;
                Ok((stream.into(), Address::Tcp(address)))
            }
        }
    }
}

/// Tries addresses in order, each a little after the one before; the first that answers wins.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    if let [only] = *addresses {
        return TcpStream::connect(only).await.map(|stream| (stream, only));
    }
    let mut attempts = JoinSet::new();
    for (nth, &address) in (0u32..).zip(addresses) {
        attempts.spawn(async move {
            sleep(NEXT_ADDRESS * nth).await;
            TcpStream::connect(address).await.map(|stream| (stream, address))
        });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    while let Some(outcome) = attempts.join_next().await {
        match outcome {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = error,
            Err(error) => last = io::Error::other(error),
        }
    }
    Err(last)
}
