//! The console: the virtual database `pgferry` (or `pgbouncer`), which takes PgBouncer's
//! commands, by the simple or the extended protocol.
//!
//! [`command`] understands what is said, [`execute`] does it, `portals` keeps the extended protocol's statements.

pub(crate) mod command;
pub(crate) mod execute;
mod portals;

use std::sync::Arc;

use tokio::task::{JoinSet, yield_now};
use tracing::info;

use super::AdminState;
use super::table::Table;
use crate::client::predecessor::{CANCELLED, CANCELS, UNKNOWN};
use crate::client::session_handle::{SessionHandle, SessionTarget};
use crate::client::sessions::SessionSpec;
use crate::client::{AdminRole, AdminUser, close, farewell, session};
use crate::drain::Phase;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::{Conn, RecvError};
use crate::track::ServerParams;
use crate::track::transaction_block::IDLE;
use crate::wire::{backend, frontend};
use command::Command;
use execute::CommandOutcome;
use portals::Portals;

/// The longest message: a command is short.
const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// Bytes of answers that wait to be sent.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// The settings that an administrator is told.
const GREETING_PARAMETERS: [(&[u8], &[u8]); 8] = [
    (b"server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgferry").as_bytes()),
    (b"client_encoding", b"UTF8"),
    (b"server_encoding", b"UTF8"),
    (b"DateStyle", b"ISO"),
    (b"TimeZone", b"GMT"),
    (b"standard_conforming_strings", b"on"),
    (b"integer_datetimes", b"on"),
    (b"is_superuser", b"on"),
];

/// Reason why an administrator's session ends.
enum End {
    Gone,
    Tell(ClientError),
}

impl From<RecvError> for End {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Length(bad) => Self::Tell(ClientError::violation(bad.to_string())),
            RecvError::Closed | RecvError::Io(_) => Self::Gone,
        }
    }
}

/// Serves an administrator to its end.
pub(crate) async fn serve(admin_state: &Arc<AdminState>, conn: &mut Conn, admin_user: Box<AdminUser>) {
    let shared = &admin_state.shared;
    // A user that could replace the process always gets in.
    let _place = match admin_state.console_slots.try_take() {
        None if admin_user.role < AdminRole::Owner => {
            let message = "too many connections to pgferry's console";
            ClientError::fatal(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, message)
                .detail(format!("{} are open.", admin_state.console_slots.used()))
                .put(&mut conn.output);
            return farewell(conn).await;
        }
        place => place,
    };
    let mut view = ServerParams::default();
    backend::put_authentication_ok(&mut conn.output);
    for (name, value) in GREETING_PARAMETERS {
        view.set(name, value);
        backend::put_parameter_status(&mut conn.output, name, value);
    }
    let target = SessionTarget::Console(Box::new(admin_user.user.clone().into_bytes()));
    let secret = match shared.sessions.secret(3 << 16) {
        Ok(secret) => secret,
        Err(client_error) => {
            conn.output.clear();
            client_error.put(&mut conn.output);
            return farewell(conn).await;
        }
    };
    let spec = SessionSpec { target, secret, backend: None, view, connected_at: std::time::Instant::now() };
    let registered = shared.sessions.register(spec);
    let handle = Arc::clone(&registered.handle);
    backend::put_key_data(&mut conn.output, handle.pid, &handle.secret);
    backend::put_ready(&mut conn.output, IDLE);
    let mut session = ConsoleSession {
        admin_state,
        conn,
        admin_user,
        handle,
        portals: Portals::default(),
        skipping: false,
        cancels: JoinSet::new(),
    };
    let end = session.converse().await;
    match end {
        End::Tell(client_error) => {
            client_error.put(&mut session.conn.output);
            farewell(session.conn).await;
        }
        End::Gone => close(session.conn).await,
    }
    drop(registered);
}

/// An administrator's session.
struct ConsoleSession<'a> {
    admin_state: &'a Arc<AdminState>,
    conn: &'a mut Conn,
    admin_user: Box<AdminUser>,
    handle: Arc<SessionHandle>,
    portals: Portals,
    /// An extended request has failed: nothing is heard until the next `Sync`.
    skipping: bool,
    /// Cancel requests of the process that has replaced this one, by its numbers: it is told of each when it has been acted upon, and
    /// whether there is such a client.
    cancels: JoinSet<(i32, bool)>,
}

impl ConsoleSession<'_> {
    async fn converse(&mut self) -> End {
        loop {
            match self.next().await {
                Ok(()) => yield_now().await,
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
                frame = self.conn.peek_frame(MAX_COMMAND_BYTES) => Some(frame?),
                () = self.handle.wake.woken() => None,
                Some(Ok((number, is_known))) = self.cancels.join_next() => {
                    let outcome = if is_known { CANCELLED } else { UNKNOWN };
                    backend::put_notification(&mut self.conn.output, number, CANCELS, outcome);
                    return Ok(());
                }
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

    /// The session was woken.
    fn look_up(&self) -> Result<(), End> {
        self.handle.publish_addrs(self.conn.stream());
        if self.handle.is_killed() {
            return Err(End::Tell(session::killed()));
        }
        if self.admin_state.shared.drain.phase() == Phase::Stopping {
            return Err(End::Tell(session::shutdown()));
        }
        Ok(())
    }

    async fn answer(&mut self, tag: u8, body: &[u8]) -> Result<(), End> {
        match tag {
            frontend::TERMINATE => return Err(End::Gone),
            frontend::SYNC => {
                self.skipping = false;
                self.portals.end_transaction();
                backend::put_ready(&mut self.conn.output, IDLE);
                return Ok(());
            }
            _ if self.skipping => return Ok(()),
            frontend::QUERY => {
                self.portals.end_transaction();
                self.query(frontend::query(body)).await?;
                backend::put_ready(&mut self.conn.output, IDLE);
                return Ok(());
            }
            frontend::FLUSH => return Ok(()),
            _ => {}
        }
        let outcome = match tag {
            frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::CLOSE => {
                self.portals.message(tag, body, &mut self.conn.output)
            }
            frontend::EXECUTE => self.execute(body).await?,
            frontend::FUNCTION_CALL => Err(unsupported("functions can't be called at the console")),
            _ => return Err(End::Tell(ClientError::unknown_message(tag))),
        };
        if let Err(client_error) = outcome {
            client_error.put(&mut self.conn.output);
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
                Ok(command) => self.run_command(&command).await?.map(|outcome| (command, outcome)),
                Err(client_error) => Err(client_error),
            };
            match outcome {
                Ok((command, outcome)) => {
                    self.put(&command, &outcome);
                    self.send_full().await?;
                    // A worker serves clients as well, and thousands of commands may have come at once.
                    yield_now().await;
                }
                Err(client_error) => {
                    client_error.put(&mut self.conn.output);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends the answers so far where they have become long: a text may have thousands of commands.
    async fn send_full(&mut self) -> Result<(), End> {
        if self.conn.output.len() > MAX_OUTPUT_BYTES {
            self.conn.flush().await.map_err(RecvError::from)?;
        }
        Ok(())
    }

    fn put(&mut self, command: &Command, outcome: &CommandOutcome) {
        let out = &mut self.conn.output;
        put_notices(outcome, out);
        if let Some(table) = &outcome.table {
            table.put_description(out, &[]);
            for at in 0..table.rows.len() {
                table.put_row(out, at, &[]);
            }
        }
        backend::put_command_complete(out, &command.tag());
    }

    async fn execute(&mut self, body: &[u8]) -> Result<Result<(), ClientError>, End> {
        let Some((name, most)) = frontend::execute(body) else {
            return Ok(Err(ClientError::violation("invalid Execute")));
        };
        let Some(portal) = self.portals.portal(name) else { return Ok(Err(portals::no_portal(name))) };
        if portal.result.is_none() {
            let command = portal.command.clone();
            let slot = match portals::slot_for_rows(&self.admin_state.portal_slots) {
                Ok(slot) => slot,
                Err(client_error) => return Ok(Err(client_error)),
            };
            let outcome = match self.run_command(&command).await? {
                Ok(outcome) => outcome,
                Err(client_error) => return Ok(Err(client_error)),
            };
            put_notices(&outcome, &mut self.conn.output);
            let Some(portal) = self.portals.portal(name) else { return Ok(Err(portals::no_portal(name))) };
            portal.hold(outcome.table.unwrap_or_default(), slot);
        }
        if let Some(portal) = self.portals.portal(name) {
            portal.put_rows(most, &mut self.conn.output);
        }
        Ok(Ok(()))
    }

    /// Does what is said, if this administrator may, while watching whether it is still there.
    async fn run_command(&mut self, command: &Command) -> Result<Result<CommandOutcome, ClientError>, End> {
        if self.admin_user.role < command.right() {
            let user = &self.admin_user.user;
            let message = format!("permission denied for user \"{user}\"");
            let hint = match command.right() {
                AdminRole::Owner => {
                    "Only pgferry's own user and root may do that, over a unix socket and in the same container (admin_peer)."
                }
                _ => "Only admin_users, pgferry's own user and root may do that; stats_users may SHOW.",
            };
            return Ok(Err(
                ClientError::error(ErrorSource::Client, sqlstate::INSUFFICIENT_PRIVILEGE, message).hint(hint)
            ));
        }
        if !command.only_looks() {
            info!(client = self.handle.id, user = %self.admin_user.user, "console: {command}");
        }
        if let Command::TakeOver(which) = *command {
            // What has been said so far goes first: descriptors travel with a byte.
            self.conn.flush().await.map_err(RecvError::from)?;
            return Ok(execute::transfer_listeners(self.admin_state, which, &self.handle, self.conn).await);
        }
        if let Command::Cancel(number, pid, key) = command {
            let (shared, number, pid, key) = (Arc::clone(&self.admin_state.shared), *number, *pid, key.clone());
            self.cancels.spawn(async move { (number, shared.cancel_for_successor(pid, &key).await) });
            return Ok(Ok(CommandOutcome::default()));
        }
        let admin_state = Arc::clone(self.admin_state);
        let mut work = std::pin::pin!(execute::execute(&admin_state, command));
        self.handle.set_preparing(std::time::Instant::now());
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome,
                () = self.handle.wake.woken() => {
                    self.look_up()?;
                    if self.handle.is_cancelled() {
                        break Err(cancelled(command));
                    }
                }
                // What it says meanwhile is kept; that it goes away is not worth waiting for.
                filled = self.conn.fill(), if !self.conn.input.is_full() => filled?,
            }
        };
        self.handle.set_done();
        Ok(outcome)
    }
}

fn put_notices(outcome: &CommandOutcome, out: &mut Vec<u8>) {
    for (message, detail) in &outcome.notices {
        let mut fields = vec![(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message.as_str())];
        fields.extend(detail.as_deref().map(|detail| (b'D', detail)));
        backend::put_notice(out, &fields);
    }
}

fn parse(text: &str) -> Result<Command, ClientError> {
    Command::parse(text).map_err(|(message, hint)| {
        let client_error = ClientError::error(ErrorSource::Client, sqlstate::SYNTAX_ERROR, message);
        match hint {
            Some(hint) => client_error.hint(hint),
            None => client_error,
        }
    })
}

fn cancelled(command: &Command) -> ClientError {
    let client_error =
        ClientError::error(ErrorSource::Client, sqlstate::QUERY_CANCELED, "canceling statement due to user request");
    match command {
        Command::Pause(_) => client_error.hint("Only the wait has ended: the pause stays in force until RESUME."),
        _ => client_error,
    }
}

fn unsupported(message: &str) -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::FEATURE_NOT_SUPPORTED, message)
}

/// The table that a command will give, before it has.
fn shape(command: &Command) -> Option<Table> {
    match command {
        Command::Show(show) => Some(show.empty()),
        Command::Driver(name, true) => Some(execute::driver_table(name)),
        _ => None,
    }
}
