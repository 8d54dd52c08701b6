//! The console: somebody who logs in to database `pgferry` (or `pgbouncer`) speaks with pgferry itself, in PgBouncer's
//! commands, by the simple or the extended protocol.
//!
//! [`command`] understands what is said, [`act`] does it, `portals` keeps the extended protocol's statements.

pub mod act;
pub mod command;
mod portals;

use std::sync::Arc;

use tracing::info;

use super::Desk;
use super::table::Table;
use crate::client::control::{Control, Whose};
use crate::client::sessions::Newcomer;
use crate::client::{Guest, Rights, close, farewell, session};
use crate::drain::Phase;
use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, RecvError};
use crate::track::Params;
use crate::track::pipeline::IDLE;
use crate::wire::{backend, frontend};
use act::Done;
use command::Command;
use portals::Portals;

/// The longest message: a command is short.
const LONGEST: usize = 64 * 1024;

/// The settings that a guest is told.
const WELCOME: [(&[u8], &[u8]); 8] = [
    (b"server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgferry").as_bytes()),
    (b"client_encoding", b"UTF8"),
    (b"server_encoding", b"UTF8"),
    (b"DateStyle", b"ISO"),
    (b"TimeZone", b"GMT"),
    (b"standard_conforming_strings", b"on"),
    (b"integer_datetimes", b"on"),
    (b"is_superuser", b"on"),
];

/// Why a guest's session ends.
enum End {
    Gone,
    Tell(Fault),
}

impl From<RecvError> for End {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Length(bad) => Self::Tell(Fault::violation(bad.to_string())),
            RecvError::Closed | RecvError::Io(_) => Self::Gone,
        }
    }
}

/// Serves a guest to its end.
pub async fn serve(desk: &Arc<Desk>, conn: &mut Conn, guest: Box<Guest>) {
    let shared = &desk.shared;
    let mut view = Params::default();
    backend::put_authentication_ok(&mut conn.output);
    for (name, value) in WELCOME {
        view.set(name, value);
        backend::put_parameter_status(&mut conn.output, name, value);
    }
    let whose = Whose::Console(Box::new(guest.user.clone().into_bytes()));
    let secret = match shared.sessions.secret(3 << 16) {
        Ok(secret) => secret,
        Err(fault) => {
            conn.output.clear();
            fault.put(&mut conn.output);
            return farewell(conn).await;
        }
    };
    let newcomer = Newcomer { whose, secret, backend: None, view, came: std::time::Instant::now() };
    let registered = shared.sessions.register(newcomer);
    let control = Arc::clone(&registered.control);
    backend::put_key_data(&mut conn.output, control.pid, &control.secret);
    backend::put_ready(&mut conn.output, IDLE);
    let mut visit = Visit { desk, conn, guest, control, portals: Portals::default(), skipping: false };
    let end = visit.converse().await;
    match end {
        End::Tell(fault) => {
            fault.put(&mut visit.conn.output);
            farewell(visit.conn).await;
        }
        End::Gone => close(visit.conn).await,
    }
    drop(registered);
}

/// A guest's visit.
struct Visit<'a> {
    desk: &'a Arc<Desk>,
    conn: &'a mut Conn,
    guest: Box<Guest>,
    control: Arc<Control>,
    portals: Portals,
    /// An extended request has failed: nothing is heard until the next `Sync`.
    skipping: bool,
}

impl Visit<'_> {
    async fn converse(&mut self) -> End {
        loop {
            match self.next().await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Waits for the next message and answers it.
    async fn next(&mut self) -> Result<(), End> {
        self.conn.flush().await.map_err(RecvError::from)?;
        let (tag, body) = loop {
            let frame = tokio::select! {
                biased;
                frame = self.conn.peek_frame(LONGEST) => Some(frame?),
                () = self.control.wake.woken() => None,
            };
            if let Some(frame) = frame {
                let (tag, body, size) = (frame.tag, frame.body().to_vec(), frame.bytes.len());
                self.conn.consume(size);
                break (tag, body);
            }
            self.look_up()?;
        };
        self.answer(tag, &body).await
    }

    /// Somebody has woken the session.
    fn look_up(&self) -> Result<(), End> {
        self.control.introduce(self.conn.stream());
        if self.control.is_killed() {
            return Err(End::Tell(session::killed()));
        }
        if self.desk.shared.drain.phase() == Phase::Stopping {
            return Err(End::Tell(session::shutdown()));
        }
        Ok(())
    }

    async fn answer(&mut self, tag: u8, body: &[u8]) -> Result<(), End> {
        match tag {
            frontend::TERMINATE => return Err(End::Gone),
            frontend::SYNC => {
                self.skipping = false;
                backend::put_ready(&mut self.conn.output, IDLE);
                return Ok(());
            }
            _ if self.skipping => return Ok(()),
            frontend::QUERY => {
                self.query(frontend::query(body)).await?;
                backend::put_ready(&mut self.conn.output, IDLE);
                return Ok(());
            }
            frontend::FLUSH => return Ok(()),
            _ => {}
        }
        let done = match tag {
            frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::CLOSE => {
                self.portals.message(tag, body, &mut self.conn.output)
            }
            frontend::EXECUTE => self.execute(body).await?,
            frontend::FUNCTION_CALL => Err(unsupported("functions can't be called at the console")),
            _ => return Err(End::Tell(Fault::unknown_message(tag))),
        };
        if let Err(fault) = done {
            fault.put(&mut self.conn.output);
            self.skipping = true;
        }
        Ok(())
    }

    /// A simple query: any number of commands, the first that fails ends them.
    async fn query(&mut self, text: &[u8]) -> Result<(), End> {
        let text = String::from_utf8_lossy(text).into_owned();
        let statements = command::statements(&text);
        if statements.is_empty() {
            backend::put_empty_query(&mut self.conn.output);
        }
        for statement in statements {
            let outcome = match parse(statement) {
                Ok(command) => self.perform(&command).await?.map(|done| (command, done)),
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok((command, done)) => self.put(&command, &done),
                Err(fault) => {
                    fault.put(&mut self.conn.output);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, command: &Command, done: &Done) {
        let out = &mut self.conn.output;
        put_notices(done, out);
        if let Some(table) = &done.table {
            table.put_description(out, &[]);
            for at in 0..table.rows.len() {
                table.put_row(out, at, &[]);
            }
        }
        backend::put_command_complete(out, &command.tag());
    }

    async fn execute(&mut self, body: &[u8]) -> Result<Result<(), Fault>, End> {
        let Some((name, most)) = frontend::execute(body) else { return Ok(Err(Fault::violation("invalid Execute"))) };
        let Some(portal) = self.portals.portal(name) else { return Ok(Err(portals::no_portal(name))) };
        if portal.result.is_none() {
            let command = portal.command.clone();
            let done = match self.perform(&command).await? {
                Ok(done) => done,
                Err(fault) => return Ok(Err(fault)),
            };
            put_notices(&done, &mut self.conn.output);
            let Some(portal) = self.portals.portal(name) else { return Ok(Err(portals::no_portal(name))) };
            portal.result = Some(done.table.unwrap_or_default());
        }
        if let Some(portal) = self.portals.portal(name) {
            portal.put_rows(most, &mut self.conn.output);
        }
        Ok(Ok(()))
    }

    /// Does what is said, if this guest may, while watching whether it is still there.
    async fn perform(&mut self, command: &Command) -> Result<Result<Done, Fault>, End> {
        if self.guest.rights < command.right() {
            let user = &self.guest.user;
            let message = format!("permission denied for user \"{user}\"");
            let hint = match command.right() {
                Rights::Owner => {
                    "Only pgferry's own user and root may do that, over a unix socket and in the same container (admin_peer)."
                }
                _ => "Only admin_users, pgferry's own user and root may do that; stats_users may SHOW.",
            };
            return Ok(Err(Fault::error(Blame::Client, sqlstate::INSUFFICIENT_PRIVILEGE, message).hint(hint)));
        }
        if !command.only_looks() {
            info!(client = self.control.id, user = %self.guest.user, "console: {command}");
        }
        if let Command::TakeOver = command {
            // What has been said so far goes first: descriptors travel with a byte.
            self.conn.flush().await.map_err(RecvError::from)?;
            return Ok(act::hand_over(self.desk, self.conn).await);
        }
        let desk = Arc::clone(self.desk);
        let mut work = std::pin::pin!(act::perform(&desk, command));
        self.control.set_preparing();
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = self.control.wake.woken() => {
                    self.look_up()?;
                    if self.control.is_cancelled() {
                        break Err(cancelled());
                    }
                }
                // What it says meanwhile is kept; that it goes away is not worth waiting for.
                filled = self.conn.fill(), if !self.conn.input.is_full() => filled?,
            }
        };
        self.control.set_done();
        Ok(done)
    }
}

fn put_notices(done: &Done, out: &mut Vec<u8>) {
    for (message, detail) in &done.notices {
        let mut fields = vec![(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message.as_str())];
        fields.extend(detail.as_deref().map(|detail| (b'D', detail)));
        backend::put_notice(out, &fields);
    }
}

fn parse(text: &str) -> Result<Command, Fault> {
    Command::parse(text).map_err(|(message, hint)| {
        let fault = Fault::error(Blame::Client, sqlstate::SYNTAX_ERROR, message);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    })
}

fn cancelled() -> Fault {
    Fault::error(Blame::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

fn unsupported(message: &str) -> Fault {
    Fault::error(Blame::Client, sqlstate::FEATURE_NOT_SUPPORTED, message)
}

/// The table that a command will give, before it has.
fn shape(command: &Command) -> Option<Table> {
    match command {
        Command::Show(show) => Some(show.empty()),
        Command::Driver(name, true) => Some(act::driver_table(name)),
        _ => None,
    }
}
