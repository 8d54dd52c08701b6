//! Blocking calls, each made to hang: no client that needs nothing of it notices.
//!
//! A pipe in a file's place hangs whoever opens it until there is somebody at its other end, as a network file system does whose
//! server is gone.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::harness::postgres::PASSWORD;
use crate::harness::raw::startup;
use crate::harness::{Ferry, Postgres, Raw, Signal, eventually, psql};

/// Puts a pipe in a file's place.
fn hang(path: &Path) {
    let made = path.with_extension("pipe");
    nix::unistd::mkfifo(&made, Mode::S_IRWXU).expect("a pipe");
    fs::rename(&made, path).expect("renamed");
}

/// A pgferry with `config`, in which HERE is its directory, and that directory.
fn ferry(config: &str) -> (Ferry, PathBuf) {
    let dir = tempfile::Builder::new().prefix("ferry-").tempdir().expect("a directory");
    let here = dir.path().to_owned();
    let text = format!("upstream = \"{}\"\nlisten = \"HERE\"\n{config}", Postgres::shared().url());
    let file = here.join("pgferry.toml");
    fs::write(&file, text.replace("HERE", here.to_str().expect("UTF-8"))).expect("written");
    let path = file.to_str().expect("UTF-8").to_owned();
    (Ferry::spawn(dir, &["-v", "-c", &path], &[]), here)
}

/// A login of `user` that has begun and waits.
fn begin(ferry: &Ferry, user: &str) -> Raw {
    let mut raw = ferry.raw();
    raw.send(&startup(&[("user", user), ("database", "postgres")]));
    raw
}

#[test]
fn a_password_file_that_hangs_holds_up_only_who_needs_it() {
    let (ferry, here) = ferry("auth_type = \"trust\"\nupstream_password_file = \"HERE/secret\"\n");
    let path = here.join("secret");
    hang(&path);
    let mut other = ferry.session();
    assert_eq!(other.value("select 1"), "1");
    let mut waiting = begin(&ferry, "scram_user");
    for _ in 0..20 {
        assert_eq!(other.value("select 2"), "2");
        assert_eq!(ferry.session().value("select 3"), "3");
    }
    fs::write(&path, PASSWORD).expect("the reader is there");
    waiting.until_ready();
    assert_eq!(waiting.value("select current_user"), "scram_user");
}

#[test]
fn a_file_of_secrets_that_hangs_leaves_the_last_one_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("users");
    fs::write(&path, format!("\"scram_user\" \"{PASSWORD}\"\n")).expect("written");
    let ferry = Ferry::start_with(
        &Postgres::shared().url(),
        &["--auth-type", "scram-sha-256"],
        &[("PGFERRY_AUTH_FILE", path.to_str().expect("UTF-8"))],
    );
    let log_in = || psql(&format!("host={} user=scram_user dbname=postgres", ferry.host()), PASSWORD, "select 1");
    assert_eq!(log_in(), Ok("1".to_owned()));
    hang(&path);
    assert_eq!(log_in(), Ok("1".to_owned()));
    assert_eq!(log_in(), Ok("1".to_owned()));
    fs::write(&path, format!("\"scram_user\" \"{PASSWORD}\"\n")).expect("the reader is there");
    eventually("it was read", || ferry.log().contains("were read again"));
}

#[test]
fn a_configuration_that_hangs_holds_up_neither_clients_nor_signals() {
    let (mut ferry, here) = ferry("");
    let mut client = ferry.session();
    assert_eq!(client.value("select 1"), "1");
    let mut admin = Raw::logged_in(ferry.raw(), "u", "pgferry");
    hang(&here.join("pgferry.toml"));
    ferry.signal(Signal::SIGHUP);
    admin.send(&crate::harness::raw::query("SET pool_size = 7"));
    for _ in 0..20 {
        assert_eq!(client.value("select 2"), "2");
        assert_eq!(ferry.session().value("select 3"), "3");
    }
    drop(client);
    ferry.signal(Signal::SIGTERM);
    assert_eq!(ferry.wait().code(), Some(0));
}

#[test]
fn changes_are_made_in_the_order_in_which_they_were_wanted() {
    let (ferry, here) = ferry("");
    let path = here.join("pgferry.toml");
    let text = fs::read_to_string(&path).expect("written");
    let mut admins: Vec<_> = (0..5).map(|_| Raw::logged_in(ferry.raw(), "u", "pgferry")).collect();
    hang(&path);
    for (nth, admin) in (1..).zip(&mut admins) {
        admin.send(&crate::harness::raw::query(&format!("SET pool_size = {nth}")));
        let said = format!("console: SET pool_size={nth}");
        eventually("it was heard", || ferry.log().contains(&said));
    }
    let again = here.join("again");
    fs::write(&again, &text).expect("written");
    // Its reader gets what was there; the next ones find a file again.
    let pipe = fs::File::options().write(true).open(&path).expect("the reader is there");
    fs::rename(&again, &path).expect("renamed");
    std::io::Write::write_all(&mut &pipe, text.as_bytes()).expect("written");
    drop(pipe);
    for admin in &mut admins {
        assert!(crate::harness::raw::tags(&admin.until_ready()).ends_with("CZ"));
    }
    let shown = admins[0].query("show config");
    let rows = shown.iter().filter(|message| message.tag == b'D').map(crate::harness::Message::columns);
    assert_eq!(rows.into_iter().find(|row| row[0] == "pool_size").expect("a row")[1], "5");
}
