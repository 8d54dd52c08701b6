//! Speaking with a running pgferry at its console, from another process: `pgferry show`, `pgferry ctl`, and a process that
//! replaces it.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::admin::server_command::Takeover;
use crate::config::{ClientAddress, Contact};
use crate::log::{visible, visible_lines};
use crate::net::InheritedListener;
use crate::net::takeover::receive;
use crate::permission::{Attempt, describe};
use crate::wire::{backend, frame, frontend, head};

/// Longest time that a login or a takeover may take; what else is asked may take long (`WAIT_CLOSE`).
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest message: a table's row.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A conversation.
#[derive(Debug)]
pub(crate) struct ConsoleClient {
    socket: UnixStream,
    input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Reply to a command.
#[derive(Debug, Default)]
pub(crate) struct ConsoleReply {
    /// The columns' names, and whether they are numbers.
    pub columns: Vec<(String, bool)>,
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
    /// Notices.
    pub notices: Vec<String>,
    /// Command tag.
    pub tag: String,
}

/// Reason why there is no answer.
enum Failure {
    /// The console's own words.
    Said(String),
    /// The connection broke.
    Broke(String),
}

impl ConsoleClient {
    /// Connects to the console of the pgferry that `contact` leads to; `None` where none listens.
    ///
    /// # Errors
    /// Where one listens and no console session can be had.
    pub(crate) fn connect(contact: &Contact) -> Result<Option<Self>, String> {
        let addresses = contact.addresses();
        let is_tcp = |address: &ClientAddress| matches!(address, ClientAddress::Tcp(_));
        if !addresses.is_empty() && addresses.iter().all(is_tcp) {
            return Err("the admin console needs a unix or abstract socket in listen".into());
        }
        for address in addresses.iter().filter(|address| !is_tcp(address)) {
            match address.connect_unix(LOGIN_TIMEOUT) {
                Ok(socket) => return Self::log_in(socket).map(Some),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
                Err(error) => return Err(describe(Attempt::Connect, address, &error)),
            }
        }
        Ok(None)
    }

    fn log_in(socket: UnixStream) -> Result<Self, String> {
        let failed = |error: io::Error| broke(&error);
        socket.set_read_timeout(Some(LOGIN_TIMEOUT)).map_err(failed)?;
        let mut client = Self { socket, input: Vec::new(), descriptors: Vec::new() };
        let mut hello = Vec::new();
        frontend::put_startup(&mut hello, 0, [(&b"user"[..], &b"pgferry"[..]), (b"database", b"pgferry")]);
        client.socket.write_all(&hello).map_err(failed)?;
        client.answer().map_err(|failure| match failure {
            Failure::Said(why) => {
                format!(
                    "{why}\n  hint: pgferry's own user and root need no password, in its own container (admin_peer)"
                )
            }
            Failure::Broke(why) => why,
        })?;
        client.socket.set_read_timeout(None).map_err(failed)?;
        Ok(client)
    }

    /// Says something and waits for the answer.
    ///
    /// # Errors
    /// The console's own, with its hint, or what broke the connection.
    pub(crate) fn say(&mut self, text: &str) -> Result<ConsoleReply, String> {
        let mut message = Vec::new();
        frontend::put_query(&mut message, text.replace('\0', " ").as_bytes());
        self.socket.write_all(&message).map_err(|error| broke(&error))?;
        self.answer().map_err(|(Failure::Said(why) | Failure::Broke(why))| why)
    }

    fn answer(&mut self) -> Result<ConsoleReply, Failure> {
        let mut answer = ConsoleReply::default();
        let mut failed = None;
        loop {
            let Some((tag, body)) = self.message().map_err(Failure::Broke)? else {
                // A farewell comes before the end.
                return Err(failed.map_or_else(|| Failure::Broke("it closed the connection".into()), Failure::Said));
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let shown = |bytes: &[u8]| visible(&String::from_utf8_lossy(bytes)).into_owned();
            let field = |kind| backend::error_field(&body, kind).map(shown);
            match tag {
                backend::ROW_DESCRIPTION => answer.columns = columns(&body),
                backend::DATA_ROW => answer.rows.push(row(&body)),
                backend::NOTICE => {
                    // It may have several lines.
                    let detail =
                        backend::error_field(&body, b'D').map(|detail| format!("{}\n", visible_lines(&text(detail))));
                    let detail = detail.unwrap_or_default();
                    answer.notices.push(format!("{}\n{detail}", field(b'M').unwrap_or_default()));
                }
                backend::COMMAND_COMPLETE => answer.tag = shown(backend::command_tag(&body)),
                backend::ERROR => {
                    let hint = field(b'H').map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
                    failed = Some(format!("{}{hint}", field(b'M').unwrap_or_default()));
                }
                backend::AUTHENTICATION if !body.starts_with(&[0; 4]) => {
                    let why = "the console asks for a password: run this as root or as pgferry's user";
                    return Err(Failure::Said(why.into()));
                }
                backend::READY => return failed.map_or(Ok(answer), |why| Err(Failure::Said(why))),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        loop {
            let next = head(&self.input, MAX_MESSAGE_BYTES).map_err(|error| error.to_string())?;
            if let Some(head) = next.filter(|head| self.input.len() >= head.size) {
                let rest = self.input.split_off(head.size);
                let message = std::mem::replace(&mut self.input, rest);
                return Ok(Some((head.tag, message[frame::HEADER_BYTES..].to_vec())));
            }
            let mut bytes = [0; 16 * 1024];
            match receive(&self.socket, &mut bytes, &mut self.descriptors) {
                Ok(0) => return Ok(None),
                Ok(n) => self.input.extend_from_slice(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broke(&error)),
            }
        }
    }
}

/// Describes an error of the connection.
fn broke(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the running pgferry did not answer within {} s", LOGIN_TIMEOUT.as_secs())
        }
        _ => format!("the connection broke: {error}"),
    }
}

pub(crate) fn columns(body: &[u8]) -> Vec<(String, bool)> {
    let mut columns = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((name, after)) = crate::wire::cstr(rest) {
        let Some((fields, after)) = after.split_at_checked(18) else { break };
        let oid = u32::from_be_bytes([fields[6], fields[7], fields[8], fields[9]]);
        columns.push((String::from_utf8_lossy(name).into_owned(), oid != 25));
        rest = after;
    }
    columns
}

pub(crate) fn row(body: &[u8]) -> Vec<Option<String>> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    backend::values(body).into_iter().map(|value| value.map(text)).collect()
}

/// The process that this one replaces: it goes on as before until it is thanked.
#[derive(Debug)]
pub(crate) struct OldProcess {
    client: ConsoleClient,
}

impl OldProcess {
    /// Asks the process that `contact` leads to for its listeners, if it is one of `which`; `None` where none listens.
    ///
    /// # Errors
    /// Why it does not give them.
    pub(crate) fn ask(contact: &Contact, which: Takeover) -> Result<Option<(Self, Vec<InheritedListener>)>, String> {
        loop {
            // It may have accepted this connection and then given its listeners to another process: that one is asked next.
            match Self::ask_once(contact, which)? {
                Some((_, inherited)) if inherited.is_empty() => {}
                asked => return Ok(asked),
            }
        }
    }

    fn ask_once(contact: &Contact, which: Takeover) -> Result<Option<(Self, Vec<InheritedListener>)>, String> {
        let Some(mut client) = ConsoleClient::connect(contact)? else { return Ok(None) };
        // One that hangs must not keep this one from starting.
        client.socket.set_read_timeout(Some(LOGIN_TIMEOUT)).map_err(|error| broke(&error))?;
        let answer = client.say(match which {
            Takeover::Any => "TAKE_OVER",
            Takeover::Ending => "TAKE_OVER IF_ENDING",
        })?;
        let names: Vec<_> = answer.rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let inherited = InheritedListener::from_process(&names, std::mem::take(&mut client.descriptors))?;
        Ok(Some((Self { client }, inherited)))
    }

    /// Tells it that clients are taken here from now on. Returns the connection to its console, if it has heard.
    pub(crate) fn acknowledge(mut self) -> Option<UnixStream> {
        // Whatever it does: clients are waiting.
        let _ = self.client.socket.set_read_timeout(Some(LOGIN_TIMEOUT));
        match self.client.say("TAKEN_OVER") {
            Ok(_) => Some(self.client.socket),
            Err(error) => {
                tracing::warn!("the process that was replaced could not be notified: {error}");
                None
            }
        }
    }
}
