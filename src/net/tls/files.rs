//! Certificates, keys and revocation lists as files: read, checked, and read again when they change.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tracing::{info, warn};

/// What is made of files, as they are now: a change is noticed when the thing is next wanted. While new files can't be
/// used the old ones go on.
pub struct Reloading<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<(Vec<Stamp>, Arc<T>)>,
}

/// What tells one state of a file from another; `None` when it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Reloading<T> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let stamps = stamps(&paths);
        let first = Arc::new(make()?);
        Ok(Self { paths, make: Box::new(make), state: Mutex::new((stamps, first)) })
    }

    /// What is made of the files as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.paths);
        if state.0 != now {
            // Whatever comes of it: it is not tried again before the files change again.
            state.0 = now;
            match (self.make)() {
                Ok(new) => {
                    info!("certificates have changed and were read again");
                    state.1 = Arc::new(new);
                }
                Err(error) => warn!("certificates have changed and can't be used, the old ones stay: {error}"),
            }
        }
        Arc::clone(&state.1)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    paths.iter().map(stamp).collect()
}

/// Reads the certificates of a PEM file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| at(path, &error))?;
    if all.is_empty() { Err(at(path, &"no certificate in PEM format")) } else { Ok(all) }
}

/// Reads the revocation lists of a PEM file: at least one.
pub(super) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let pem = read(path)?;
    let all = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| at(path, &error))?;
    if all.is_empty() { Err(at(path, &"no certificate revocation list in PEM format")) } else { Ok(all) }
}

/// Reads a private key, if its file is nobody else's business: libpq's rule.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let file = fs::metadata(path).map_err(|error| at(path, &error))?;
    let forbidden = if file.uid() == 0 { 0o037 } else { 0o077 };
    if file.mode() & forbidden != 0 {
        return Err(at(
            path,
            &"the private key has group or world access: it should have permissions u=rw (0600) or less, or u=rw,g=r \
              (0640) or less if owned by root",
        ));
    }
    let pem = zeroize::Zeroizing::new(read(path)?);
    if pem.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(at(path, &"the private key has a passphrase: pgferry takes keys without one"));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| at(path, &error))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &dyn fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
