//! The pgferry that is configured here: its listeners, their permissions, and its speed.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::examination::Examination;
use super::{server, to_pgferry};
use crate::config::{ClientAddress, Settings};

/// Number of measurements.
const ROUNDS: usize = 100;

/// Longest time that one round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);

/// A pgferry as its settings describe it.
#[derive(Debug, Serialize)]
pub struct Pgferry {
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Latency through it, and directly, if that was to be measured.
    pub measured: Option<Measured>,
}

/// One listener.
#[derive(Debug, Serialize)]
pub struct Listener {
    /// Address, as a client names it.
    pub at: String,
    /// True if it answers.
    pub alive: bool,
    /// Obstacle that keeps the user in question from connecting, if there is one.
    pub denied: Option<String>,
}

/// Milliseconds to connect, log in and get a row: half of all took no longer, and 99 of 100.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Through pgferry.
    pub pgferry: Result<(f64, f64), String>,
    /// Directly, which costs a port each time.
    pub direct: Result<(f64, f64), String>,
}

/// Looks at the listeners; `None` when there are none.
pub(crate) async fn look(settings: &Settings, examination: &Examination) -> Option<Pgferry> {
    let listeners: Vec<_> = settings.addresses().iter().map(|address| listener(address, examination)).collect();
    let alive = listeners.iter().any(|listener| listener.alive);
    if !alive && examination.as_uid.is_none() && !examination.measure {
        return None;
    }
    let measured = if examination.measure { Some(measure(settings).await) } else { None };
    Some(Pgferry { listeners, measured })
}

fn listener(address: &ClientAddress, examination: &Examination) -> Listener {
    let denied = match address {
        ClientAddress::File(path) => examination.as_uid.and_then(|uid| denied(path, uid)),
        ClientAddress::Abstract(_) | ClientAddress::Tcp(_) => None,
    };
    Listener { at: address.to_string(), alive: answers(address), denied }
}

/// Finds what keeps user `uid` from connecting to the socket at `path`: write permission on it, and search permission on
/// every directory above. Supplementary groups are not known for a number alone, so that only its own group counts.
fn denied(path: &Path, uid: u32) -> Option<String> {
    if uid == 0 {
        return None;
    }
    let gid = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.gid.as_raw());
    let may = |path: &Path, bit: u32| -> Result<bool, String> {
        let file = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let shift = if file.uid() == uid {
            6
        } else if Some(file.gid()) == gid {
            3
        } else {
            0
        };
        Ok(file.mode() >> shift & bit != 0)
    };
    let mut above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
    above.reverse();
    for dir in above.iter().filter(|dir| !dir.as_os_str().is_empty()) {
        match may(dir, 1) {
            Ok(true) => {}
            Ok(false) => return Some(format!("uid {uid} may not enter {} (chmod o+x, or a group)", dir.display())),
            Err(error) => return Some(error),
        }
    }
    match may(path, 2) {
        Ok(true) => None,
        Ok(false) => {
            Some(format!("uid {uid} may not write to {} (unix_socket_mode, unix_socket_group)", path.display()))
        }
        Err(error) => Some(error),
    }
}

/// Returns whether pgferry answers there.
fn answers(address: &ClientAddress) -> bool {
    match address {
        ClientAddress::Tcp(address) => TcpStream::connect_timeout(address, ROUND_TIMEOUT).is_ok(),
        _ => address.connect_unix(ROUND_TIMEOUT).is_ok(),
    }
}

async fn measure(settings: &Settings) -> Measured {
    let pgferry = match to_pgferry::through(settings) {
        None => Err("only listeners with a file or an address are measured".to_owned()),
        Some(through) => rounds(&through).await,
    };
    Measured { pgferry, direct: rounds(settings).await }
}

async fn rounds(settings: &Settings) -> Result<(f64, f64), String> {
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        took.push(server::first_row_ms(settings).await?);
    }
    took.sort_by(f64::total_cmp);
    Ok((took[ROUNDS / 2], took[ROUNDS * 99 / 100]))
}
