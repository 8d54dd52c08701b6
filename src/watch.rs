//! What is made of files, as they are now.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

/// What is made of files: a change is noticed when the thing is next wanted. While new files can't be used, what the old
/// ones gave goes on.
pub struct Watched<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<(Vec<Stamp>, Arc<T>)>,
}

/// What tells one state of a file from another; `None` when it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Makes it for the first time; `what` it is says the log.
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn new(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let stamps = stamps(&paths);
        let first = Arc::new(make()?);
        Ok(Self { what, paths, make: Box::new(make), state: Mutex::new((stamps, first)) })
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
                    info!("{} have changed and were read again", self.what);
                    state.1 = Arc::new(new);
                }
                Err(error) => warn!("{} have changed and can't be used, the old ones stay: {error}", self.what),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_followed_as_long_as_they_are_good() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        fs::write(&path, "1").expect("written");
        let read = {
            let path = path.clone();
            move || fs::read_to_string(&path).map_err(|e| e.to_string())?.parse::<u32>().map_err(|e| e.to_string())
        };
        let number = Watched::new("numbers", vec![path.clone()], read.clone()).expect("good");
        assert_eq!(*number.current(), 1);
        fs::write(dir.path().join("new"), "22").expect("written");
        fs::rename(dir.path().join("new"), &path).expect("renamed");
        assert_eq!(*number.current(), 22);
        fs::write(&path, "none at all").expect("written");
        assert_eq!(*number.current(), 22);
        fs::remove_file(&path).expect("there");
        assert_eq!(*number.current(), 22);
        fs::write(&path, "4444").expect("written");
        assert_eq!(*number.current(), 4444);
        fs::remove_file(&path).expect("there");
        assert!(Watched::new("numbers", vec![path], read).is_err());
    }
}
