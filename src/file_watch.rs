//! What is made of files, as they are now.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{info, warn};

use crate::lock::lock;
use crate::offload::SerialExecutor;

/// Time that a check of the files may take; then the last state is used.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval after which files that can't be used are tried again though nothing shows that they have changed: the reason may have been
/// another one, as where no file can be opened (`ulimit -n`).
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Value made from files: a change is noticed when the value is next wanted. While new files can't be used, or the file
/// system does not answer, the value of the old ones stays.
pub(crate) struct Reloadable<T>(Arc<Inner<T>>);

struct Inner<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<State<T>>,
    executor: SerialExecutor,
}

struct State<T> {
    value: Arc<T>,
    /// The files that it was made of.
    made_of: Vec<Stamp>,
    /// Last attempt with other files.
    failed: Option<FailedAttempt>,
}

/// An attempt to make a value that has failed.
struct FailedAttempt {
    files: Vec<Stamp>,
    at: Instant,
    why: String,
}

/// Identity of one state of a file; `None` when it is not there.
type Stamp = Option<FileState>;

/// State of a file. The time at which its inode changed tells of new content, another owner, and other permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    owner: (u32, u32),
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

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
        let made_of = stamps(&paths);
        let state = Mutex::new(State { value: Arc::new(make()?), made_of, failed: None });
        Ok(Self(Arc::new(Inner { what, paths, make: Box::new(make), state, executor: SerialExecutor::default() })))
    }

    /// Returns the value of the files as they are now.
    pub(crate) async fn current(&self) -> Arc<T> {
        if !self.0.paths.is_empty() {
            let inner = Arc::clone(&self.0);
            // Whether it was in time or not: the last state is what there is.
            let _ = timeout(CHECK_TIMEOUT, self.0.executor.run(move || inner.look(Instant::now()))).await;
        }
        self.last()
    }

    /// Returns the value of the files when they were last looked at.
    #[must_use]
    pub(crate) fn last(&self) -> Arc<T> {
        Arc::clone(&self.0.state().value)
    }
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }

    /// Looks at the files, and makes it anew if they have changed. Blocks; one call at a time.
    fn look(&self, now: Instant) {
        let files = stamps(&self.paths);
        if !self.state().is_due(&files, now) {
            return;
        }
        match (self.make)() {
            Ok(new) => {
                info!("{} have changed and were read again", self.what);
                *self.state() = State { value: Arc::new(new), made_of: files, failed: None };
            }
            Err(why) => {
                let mut state = self.state();
                if state.failed.as_ref().is_none_or(|last| last.why != why || last.files != files) {
                    warn!("{} have changed and can't be used, the old ones stay: {why}", self.what);
                }
                state.failed = Some(FailedAttempt { files, at: now, why });
            }
        }
    }
}

impl<T> State<T> {
    /// Returns whether `files`, as they are `now`, are to be tried.
    fn is_due(&self, files: &[Stamp], now: Instant) -> bool {
        self.made_of != files
            && self
                .failed
                .as_ref()
                .is_none_or(|last| last.files != files || now.saturating_duration_since(last.at) >= RETRY_INTERVAL)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some(FileState {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            owner: (file.uid(), file.gid()),
            mode: file.mode(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// A key may be written first, and made private or readable then.
    #[tokio::test]
    async fn a_file_with_other_permissions_is_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let write = |content: &str| {
            let other = dir.path().join("new");
            fs::write(&other, content).expect("written");
            fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).expect("the owner's");
            fs::rename(&other, &path).expect("renamed");
        };
        let make_private = || fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the owner's");
        write("1");
        make_private();
        let read = {
            let path = path.clone();
            move || {
                let is_private = fs::metadata(&path).map_err(|e| e.to_string())?.mode() & 0o777 == 0o600;
                let content = fs::read_to_string(&path).map_err(|e| e.to_string())?;
                if is_private { Ok(content) } else { Err("it is not private".to_owned()) }
            }
        };
        let key = Reloadable::new("keys", vec![path.clone()], read).expect("good");
        write("2");
        assert_eq!(*key.current().await, "1");
        make_private();
        assert_eq!(*key.current().await, "2");
    }

    #[test]
    fn files_that_can_not_be_used_are_tried_again_after_a_while() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        fs::write(&path, "1").expect("written");
        let attempts = Arc::new(AtomicUsize::new(0));
        let read = {
            let (path, attempts) = (path.clone(), Arc::clone(&attempts));
            // The second attempt finds no descriptor free.
            move || match attempts.fetch_add(1, Ordering::Relaxed) {
                1 => Err("Too many open files".to_owned()),
                _ => fs::read_to_string(&path).map_err(|e| e.to_string()),
            }
        };
        let number = Reloadable::new("numbers", vec![path.clone()], read).expect("good");
        fs::write(&path, "22").expect("written");
        let now = Instant::now();
        for (since, value, tried) in [(0, "1", 2), (9, "1", 2), (10, "22", 3), (30, "22", 3)] {
            number.0.look(now + Duration::from_secs(since));
            assert_eq!((number.last().as_str(), attempts.load(Ordering::Relaxed)), (value, tried), "after {since} s");
        }
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
