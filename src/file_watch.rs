//! What is made of files, as they are now.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::lock::lock;
use crate::offload::SerialExecutor;

/// Time that a check of the files may take; then the last state is used.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Value made from files: a change is noticed when the value is next wanted. While new files can't be used, or the file
/// system does not answer, the value of the old ones stays.
pub(crate) struct Reloadable<T>(Arc<Inner<T>>);

struct Inner<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<(Vec<Stamp>, Arc<T>)>,
    executor: SerialExecutor,
}

/// Identity of one state of a file; `None` when it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl<T> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloadable").field("paths", &self.0.paths).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    /// Makes it for the first time, which may block; `what` it is says the log.
    ///
    /// # Errors
    /// Why it can't be made.
    pub(crate) fn new(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let stamps = stamps(&paths);
        let state = Mutex::new((stamps, Arc::new(make()?)));
        Ok(Self(Arc::new(Inner { what, paths, make: Box::new(make), state, executor: SerialExecutor::default() })))
    }

    /// Returns the value of the files as they are now.
    pub(crate) async fn current(&self) -> Arc<T> {
        if !self.0.paths.is_empty() {
            let inner = Arc::clone(&self.0);
            // Whether it was in time or not: the last state is what there is.
            let _ = timeout(CHECK_TIMEOUT, self.0.executor.run(move || inner.look())).await;
        }
        self.last()
    }

    /// Returns the value of the files when they were last looked at.
    #[must_use]
    pub(crate) fn last(&self) -> Arc<T> {
        Arc::clone(&self.0.state().1)
    }
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, (Vec<Stamp>, Arc<T>)> {
        lock(&self.state)
    }

    /// Looks at the files, and makes it anew if they have changed. Blocks; one call at a time.
    fn look(&self) {
        let now = stamps(&self.paths);
        if self.state().0 == now {
            return;
        }
        // Whatever comes of it: it is not tried again before the files change again.
        self.state().0 = now;
        match (self.make)() {
            Ok(new) => {
                info!("{} have changed and were read again", self.what);
                self.state().1 = Arc::new(new);
            }
            Err(error) => warn!("{} have changed and can't be used, the old ones stay: {error}", self.what),
        }
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

    #[tokio::test]
    async fn files_are_followed_as_long_as_they_are_good() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        fs::write(&path, "1").expect("written");
        let read = {
            let path = path.clone();
            move || fs::read_to_string(&path).map_err(|e| e.to_string())?.parse::<u32>().map_err(|e| e.to_string())
        };
        let number = Reloadable::new("numbers", vec![path.clone()], read.clone()).expect("good");
        assert_eq!(*number.current().await, 1);
        fs::write(dir.path().join("new"), "22").expect("written");
        fs::rename(dir.path().join("new"), &path).expect("renamed");
        assert_eq!(*number.current().await, 22);
        fs::write(&path, "none at all").expect("written");
        assert_eq!(*number.current().await, 22);
        fs::remove_file(&path).expect("there");
        assert_eq!(*number.current().await, 22);
        fs::write(&path, "4444").expect("written");
        assert_eq!(*number.current().await, 4444);
        fs::remove_file(&path).expect("there");
        assert!(Reloadable::new("numbers", vec![path], read).is_err());
    }
    #[tokio::test]
    async fn a_file_that_does_not_answer_leaves_what_there_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        fs::write(&path, "1").expect("written");
        let read = {
            let path = path.clone();
            move || fs::read_to_string(&path).map_err(|e| e.to_string())
        };
        let number = Reloadable::new("numbers", vec![path.clone()], read).expect("good");
        // Opening a pipe waits for its other end.
        fs::remove_file(&path).expect("there");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert_eq!(*number.current().await, "1");
        assert_eq!(*number.current().await, "1", "nor does another one wait for it without end");
        // The reader that waits gets this; the file is one again before the next check.
        let pipe = fs::File::options().write(true).open(&path).expect("the reader is there");
        fs::write(dir.path().join("new"), "3").expect("written");
        fs::rename(dir.path().join("new"), &path).expect("renamed");
        std::io::Write::write_all(&mut &pipe, b"2").expect("written");
        drop(pipe);
        assert_eq!(*number.current().await, "3");
    }
}
