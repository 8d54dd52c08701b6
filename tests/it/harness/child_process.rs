//! A program that a test starts, and that ends with the test.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output};

/// A running program. When it is dropped it is killed and waited for, so that a test that fails leaves none behind.
pub struct ChildProcess {
    /// `None` once the program's end is waited for by value.
    child: Option<Child>,
}

impl ChildProcess {
    /// Starts the program that `command` describes.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child: Some(child) }
    }

    /// Waits until it ends: what it has written, and how it has exited.
    pub fn into_output(mut self) -> Output {
        super::waits_for(|| format!("process {} to end", self.id()));
        self.child.take().expect("taken here only").wait_with_output().expect("a child")
    }
}

impl Deref for ChildProcess {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.child.as_ref().expect("taken by value only")
    }
}

impl DerefMut for ChildProcess {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("taken by value only")
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
