//! Asking a running pgferry how it does, from outside: what an exec probe runs, with no other program in the image.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::{AdminListen, ClientAddress, Contact};
use crate::log::visible;
use crate::permission::{Attempt, describe};

/// Longest time that the answer may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Time to wait before asking again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The longest answer that is read.
const MAX_REPLY_BYTES: u64 = 64 * 1024;

/// Asks the pgferry that `contact` leads to for `path` (`/ready`, `/live`, `/startup`); where it has no `admin_listen`, looks
/// whether clients can connect.
///
/// # Errors
/// Why it is not well, or can't be asked.
pub(crate) fn ask(contact: &Contact, path: &str) -> Result<(), String> {
    match &contact.admin_listen {
        Some(address) => get(address, path),
        None => try_connect(contact),
    }
}

/// Asks again and again, for at most `patience`.
///
/// # Errors
/// The last answer.
pub(crate) fn wait(contact: &Contact, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    loop {
        match ask(contact, "/ready") {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= deadline => return Err(why),
            Err(_) => std::thread::sleep(RETRY_INTERVAL),
        }
    }
}

fn get(address: &AdminListen, path: &str) -> Result<(), String> {
    let answer = match address {
        AdminListen::Tcp(at) => TcpStream::connect_timeout(&reachable(*at), REPLY_TIMEOUT).and_then(|stream| {
            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
            exchange(stream, path)
        }),
        AdminListen::File(at) => ClientAddress::File(at.clone()).connect_unix(REPLY_TIMEOUT).and_then(|stream| {
            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
            exchange(stream, path)
        }),
    };
    judge(&answer.map_err(|error| describe(Attempt::Connect, address, &error))?)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_REPLY_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads the verdict off an HTTP answer.
fn judge(answer: &str) -> Result<(), String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some(_) if !body.trim().is_empty() => Err(visible(body.trim()).into_owned()),
        Some(status) => Err(format!("status {}", visible(status))),
        None => Err("no answer in HTTP".to_owned()),
    }
}

/// Somewhere to reach an address that stands for all of them.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// Looks whether clients can connect.
fn try_connect(contact: &Contact) -> Result<(), String> {
    let mut failed = None;
    for address in contact.addresses() {
        let connected = match &address {
            ClientAddress::Tcp(at) => TcpStream::connect_timeout(&reachable(*at), REPLY_TIMEOUT).map(drop),
            _ => address.connect_unix(REPLY_TIMEOUT).map(drop),
        };
        match connected {
            Ok(()) => return Ok(()),
            Err(error) => failed = Some(describe(Attempt::Connect, &address, &error)),
        }
    }
    Err(failed.unwrap_or_else(|| contact.no_answer()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_status() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nok\n"), Ok(()));
        assert_eq!(
            judge("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nshutting down\n"),
            Err("shutting down".into())
        );
        assert_eq!(judge("HTTP/1.1 500 Oops\r\n\r\n"), Err("status 500".into()));
        assert!(judge("").is_err());
        assert_eq!(reachable("0.0.0.0:9930".parse().expect("address")).to_string(), "127.0.0.1:9930");
    }
}
