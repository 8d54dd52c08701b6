//! A login against a server that has said all that it says beforehand, for tests and for fuzzing.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::login::log_in;
use super::{DialError, Login, Secret};
use crate::auth::{Credential, Password};
use crate::config::{RawConfig, Settings};
use crate::net::{BufferPool, Conn, Stream};
use crate::upstream::conn_info::Birth;
use crate::upstream::target::UpstreamTargets;

/// Logs in with the password `secret` to a server with these `parameters` in its URL, which says `said` and closes. As much as the
/// kernel takes at once is said.
///
/// # Errors
/// Why the login fails, or that the parameters are none.
pub(crate) async fn log_in_against(parameters: &str, said: &[u8]) -> Result<(), DialError> {
    let mut written = RawConfig::default();
    let text = format!("upstream = \"postgres://h?sslmode=disable&{parameters}\"");
    written.file_text("f", &text).map_err(|error| DialError::Protocol(error.to_string()))?;
    let settings = Settings::resolve(&written).map_err(|error| DialError::Protocol(error.to_string()))?;
    let upstream_targets = UpstreamTargets::new(&settings, None).map_err(DialError::Protocol)?;
    let upstream_target = Arc::clone(upstream_targets.of(b"d"));
    let (mut conn, _theirs) = beside(said).map_err(|error| DialError::Protocol(error.to_string()))?;
    let secret = Secret::Known(Credential::Password(Password::new(b"secret".to_vec())));
    let mut login = Login {
        birth: Birth::default(),
        user: b"u".to_vec(),
        params: Vec::new(),
        secret,
        upstream_target: Arc::clone(&upstream_target),
    };
    log_in(&mut conn, &mut login, &upstream_target.endpoints[0], &mut None).await.map(drop)
}

/// A connection on which `said` has arrived, and the end behind it; and the other side, to which what is sent goes.
fn beside(said: &[u8]) -> io::Result<(Conn, UnixStream)> {
    let (ours, mut theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    // What does not fit is not said.
    let _ = theirs.write(said)?;
    theirs.shutdown(Shutdown::Write)?;
    Ok((Conn::new(Stream::accepted_unix(ours.into())?, BufferPool::new(8192, 1)), theirs))
}
