//! A client that can say anything, byte by byte.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use pgferry::internals::net::tls::{Client, ClientOptions, Roots, Version};
use socket2::SockRef;

use super::SOON;

/// A message of the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse.
    pub fn field(&self, field: u8) -> String {
        let mut rest = self.body.as_slice();
        while let [kind, tail @ ..] = rest {
            let end = tail.iter().position(|&b| b == 0).unwrap_or(tail.len());
            if *kind == field {
                return String::from_utf8_lossy(&tail[..end]).into_owned();
            }
            rest = tail.get(end + 1..).unwrap_or_default();
        }
        String::new()
    }

    /// The columns of a DataRow.
    pub fn columns(&self) -> Vec<String> {
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while let [a, b, c, d, tail @ ..] = rest {
            let length = i32::from_be_bytes([*a, *b, *c, *d]);
            let length = usize::try_from(length).unwrap_or(0);
            columns.push(String::from_utf8_lossy(&tail[..length]).into_owned());
            rest = &tail[length..];
        }
        columns
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", char::from(self.tag), String::from_utf8_lossy(&self.body))
    }
}

/// The outcome of a wait for a message.
pub enum Received {
    Message(Message),
    End,
    /// Nothing came in time, or not all of a message.
    Nothing,
}

trait Socket: Read + Write + Send {
    fn end(&self);
    fn wait_at_most(&self, time: Duration);
    fn try_clone(&self) -> Box<dyn Socket>;
}

impl<S: Read + Write + Send + AsFd + From<OwnedFd> + 'static> Socket for S {
    fn end(&self) {
        SockRef::from(self).shutdown(Shutdown::Write).expect("shutdown");
    }

    fn wait_at_most(&self, time: Duration) {
        let socket = SockRef::from(self);
        socket.set_read_timeout(Some(time)).expect("a timeout");
        socket.set_write_timeout(Some(time)).expect("a timeout");
    }

    fn try_clone(&self) -> Box<dyn Socket> {
        Box::new(Self::from(self.as_fd().try_clone_to_owned().expect("another descriptor")))
    }
}

/// A socket inside TLS, of a client that believes any certificate.
struct Encrypted(rustls::StreamOwned<rustls::ClientConnection, Box<dyn Socket>>);

impl Read for Encrypted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Socket for Encrypted {
    fn end(&self) {
        self.0.sock.end();
    }

    fn wait_at_most(&self, time: Duration) {
        self.0.sock.wait_at_most(time);
    }

    fn try_clone(&self) -> Box<dyn Socket> {
        unimplemented!("TLS has one reader");
    }
}

pub struct ProtocolClient {
    socket: Box<dyn Socket>,
}

impl ProtocolClient {
    pub fn unix(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        Self { socket: Box::new(socket) }
    }

    /// Over the abstract socket that libpq finds as `host=@NAME`.
    pub fn abstract_name(name: &str, port: u16) -> Self {
        let address = SocketAddr::from_abstract_name(format!("{name}/.s.PGSQL.{port}")).expect("an address");
        let socket = UnixStream::connect_addr(&address).expect("a connection");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        Self { socket: Box::new(socket) }
    }

    pub fn tcp(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        Self { socket: Box::new(socket) }
    }

    /// Asks for TLS and begins it.
    pub fn encrypted(mut self) -> Self {
        self.send(&packet(SSL_REQUEST, b""));
        assert_eq!(self.byte(), b'S', "TLS is offered");
        let options = ClientOptions {
            roots: Roots::Unchecked,
            names: false,
            identity: None,
            revoked: None,
            oldest: Version::V12,
            newest: Version::V13,
            sni: false,
        };
        let client = Client::new(options).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let session = runtime.block_on(client.connect("localhost")).expect("a session");
        let rustls::Connection::Client(session) = session else { unreachable!("a client's") };
        Self { socket: Box::new(Encrypted(rustls::StreamOwned::new(session, self.socket))) }
    }

    /// Logs in without a password.
    pub fn logged_in(mut self, user: &str, database: &str) -> Self {
        self.send(&startup(&[("user", user), ("database", database)]));
        let welcome = self.until_ready();
        assert_eq!(welcome.first().map(|m| (m.tag, m.body.clone())), Some((b'R', vec![0; 4])), "{welcome:?}");
        self
    }

    /// Tries to log in with `params`, answering a question for a password in clear text with `secret`: all messages up to the error
    /// or the first ReadyForQuery.
    pub fn try_log_in(&mut self, params: &[(&str, &str)], secret: &str) -> Vec<Message> {
        self.send(&startup(params));
        let mut messages = Vec::new();
        while let Some(message) = self.recv() {
            if message.tag == b'R' && message.body == [0, 0, 0, 3] {
                // The login may have been refused meanwhile.
                self.try_send(&password(secret));
            }
            let is_last = matches!(message.tag, b'E' | b'Z');
            messages.push(message);
            if is_last {
                break;
            }
        }
        messages
    }

    /// Logs in, answering a question for a password in clear text with `secret`.
    ///
    /// # Errors
    /// The error, or one that says "closed" where there was none.
    pub fn log_in(mut self, user: &str, database: &str, secret: &str) -> Result<Self, Message> {
        match self.try_log_in(&[("user", user), ("database", database)], secret).pop() {
            Some(message) if message.tag == b'Z' => Ok(self),
            Some(message) if message.tag == b'E' => Err(message),
            _ => Err(Message { tag: b'E', body: b"Mclosed\0\0".to_vec() }),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("sent");
    }

    /// Sends, or finds that the other side is gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Another hold on the same connection, to read and write at once.
    pub fn try_clone(&self) -> Self {
        Self { socket: self.socket.try_clone() }
    }

    /// Says that no more will come.
    pub fn end(&self) {
        self.socket.end();
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.socket.read_exact(&mut byte).expect("a byte");
        byte[0]
    }

    /// The next message, or `None` at the end.
    pub fn recv(&mut self) -> Option<Message> {
        super::waits_for(|| "a message".to_owned());
        let mut header = [0; 5];
        match self.socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no message within {SOON:?}"),
            Err(_) => return None,
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.socket.read_exact(&mut body).ok()?;
        Some(Message { tag: header[0], body })
    }

    /// The next message, if it comes within `time`.
    pub fn receive(&mut self, time: Duration) -> Received {
        self.socket.wait_at_most(time);
        let mut header = [0; 5];
        let outcome = self.socket.read_exact(&mut header).and_then(|()| {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let mut body = vec![0; length - 4];
            self.socket.read_exact(&mut body)?;
            Ok(Message { tag: header[0], body })
        });
        match outcome {
            Ok(message) => Received::Message(message),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Received::Nothing,
            Err(_) => Received::End,
        }
    }

    /// All messages up to and with the next ReadyForQuery, or to the end.
    pub fn until_ready(&mut self) -> Vec<Message> {
        self.until(b'Z')
    }

    /// All messages up to and with the next of type `tag`, or to the end.
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.recv() {
            let last = message.tag == tag;
            messages.push(message);
            if last {
                break;
            }
        }
        messages
    }

    /// All bytes to the end of the connection.
    pub fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset ends it as well.
        let _ = self.socket.read_to_end(&mut bytes);
        bytes
    }

    /// All messages to the end of the connection.
    pub fn read_to_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.recv()).collect()
    }

    /// Runs a simple query.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// Runs a simple query that returns one value.
    pub fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|message| message.tag == b'D');
        row.unwrap_or_else(|| panic!("{sql}: {messages:?}")).columns().remove(0)
    }

    /// The error that a simple query gets.
    pub fn error(&mut self, sql: &str) -> Message {
        let messages = self.query(sql);
        let error = messages.iter().find(|message| message.tag == b'E');
        error.unwrap_or_else(|| panic!("{sql}: {messages:?}")).clone()
    }
}

/// The types of messages, as a string.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).expect("a message").to_be_bytes());
    out.extend(body);
    out
}

/// A packet without a tag: code and body.
pub fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len() + 8).expect("a packet").to_be_bytes().to_vec();
    out.extend(code.to_be_bytes());
    out.extend(body);
    out
}

pub fn startup(params: &[(&str, &str)]) -> Vec<u8> {
    startup_version(3 << 16, params)
}

pub fn startup_version(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> = params.iter().flat_map(|(n, v)| format!("{n}\0{v}\0").into_bytes()).collect();
    body.push(0);
    packet(version, &body)
}

pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSS_REQUEST: u32 = 80_877_104;
pub const CANCEL_REQUEST: u32 = 80_877_102;

fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| format!("{part}\0").into_bytes()).collect()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &strings(&[sql]))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut body = strings(&[name, sql]);
    body.extend([0, 0]);
    message(b'P', &body)
}

/// Appends values as text, and that the result is to be text.
fn put_texts(body: &mut Vec<u8>, values: &[&str]) {
    body.extend([0, 0]);
    body.extend(u16::try_from(values.len()).expect("few").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("small").to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
}

/// Binds text parameters; all results as text.
pub fn bind(portal: &str, name: &str, params: &[&str]) -> Vec<u8> {
    let mut body = strings(&[portal, name]);
    put_texts(&mut body, params);
    message(b'B', &body)
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(strings(&[name]));
    message(b'D', &body)
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    let mut body = strings(&[portal]);
    body.extend(rows.to_be_bytes());
    message(b'E', &body)
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend(strings(&[name]));
    message(b'C', &body)
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &strings(&[why]))
}

pub fn password(text: &str) -> Vec<u8> {
    message(b'p', &strings(&[text]))
}

/// A whole extended query: Parse, Bind, Describe, Execute, Sync.
pub fn extended(sql: &str, params: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", params), describe(b'P', ""), execute("", 0), sync()].concat()
}

/// Calls a function by its OID, arguments and result as text.
pub fn function_call(oid: u32, args: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    put_texts(&mut body, args);
    message(b'F', &body)
}
