//! What a test that hangs tells.

use crate::harness::deadline::LIMIT_MS;
use crate::harness::{ChildProcess, ends};

/// A test that takes longer than a limit of half a second is told of by name, with what it waited for, and the run fails.
#[test]
fn a_test_that_hangs_fails_with_what_it_waited_for() {
    let test = "chaos::a_stalled_server_stalls_nobody_else";
    // A file, since servers that it leaves behind for a moment would keep a pipe open.
    let said = tempfile::NamedTempFile::new().expect("a file");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test])
        .env(LIMIT_MS, "500")
        .stdout(std::process::Stdio::null())
        .stderr(said.reopen().expect("the file"));
    let status = ends(&mut ChildProcess::spawn(&mut command));
    let said = std::fs::read_to_string(said.path()).expect("readable");
    assert!(!status.success(), "{said}");
    assert!(said.contains(&format!("test {test} has not ended within 500ms\n  it waits for: ")), "{said}");
    assert!(!said.contains("nothing yet"), "{said}");
}
