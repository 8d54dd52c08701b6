//! What the commands do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::command::{Command, DRIVERS, VERBS};
use crate::admin::server_command::{ServerCommand, Takeover};
use crate::admin::show::Show;
use crate::admin::state::AdminState;
use crate::admin::table::{Table, Type};
use crate::client::Shared;
use crate::client::session_handle::{SessionHandle, SessionTarget};
use crate::config::keys::{self, Adjustable, NotAdjustable};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::Conn;
use crate::upstream::{CloseReason, Pool, ServerSide};

/// Interval at which to look whether what is waited for has come about.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Outcome of a command.
#[derive(Debug, Default)]
pub(crate) struct CommandOutcome {
    /// Its result.
    pub table: Option<Table>,
    /// Notices, each with its detail.
    pub notices: Vec<(String, Option<String>)>,
}

/// Does what `command` says. Cancel-safe: dropping the future leaves what has been begun as it is.
///
/// # Errors
/// What the administrator is told.
pub(crate) async fn execute(admin_state: &Arc<AdminState>, command: &Command) -> Result<CommandOutcome, ClientError> {
    let shared = &admin_state.shared;
    match command {
        Command::Show(show) => {
            return Ok(CommandOutcome { table: Some(show.table(admin_state).await), ..CommandOutcome::default() });
        }
        Command::Driver(name, true) => {
            return Ok(CommandOutcome { table: Some(driver_table(name)), ..CommandOutcome::default() });
        }
        Command::Help => return Ok(help()),
        Command::Pause(database) => {
            let name = known_name(admin_state, database.as_deref())?;
            pause(shared, name);
            until(|| shared.pools.of(name), |pool| !pool.has_connections()).await;
        }
        Command::Resume(database) => {
            let name = known_name(admin_state, database.as_deref())?;
            if !shared.server_side.pauses.resume(name) {
                return Err(not_paused(database.as_deref()));
            }
            for pool in shared.pools.of(name) {
                pool.open_as_needed();
            }
        }
        Command::Disable(database) => {
            known(admin_state, Some(database))?;
            shared.server_side.pauses.disable(database.as_bytes());
        }
        Command::Enable(database) => {
            known(admin_state, Some(database))?;
            shared.server_side.pauses.enable(database.as_bytes());
        }
        Command::Reconnect(database) => {
            for pool in shared.pools.of(known_name(admin_state, database.as_deref())?) {
                pool.reconnect();
            }
        }
        Command::WaitClose(database) => {
            let name = known_name(admin_state, database.as_deref())?;
            until(|| shared.pools.of(name), |pool| !pool.has_conns_to_close()).await;
        }
        Command::Kill(database) => {
            kill(shared, known_name(admin_state, database.as_deref())?);
        }
        Command::KillClient(id) => match shared.sessions.all().iter().find(|session| session.id == *id) {
            Some(session) => session.kill(),
            None => {
                return Err(refused(format!("there is no client {id}")).hint("SHOW CLIENTS lists ids."));
            }
        },
        Command::Reload => return send_and_wait(admin_state, ServerCommand::Reload).await,
        Command::Set(name, value) => {
            let key = Adjustable::find(name).map_err(|why| not_adjustable(name, why))?;
            return send_and_wait(admin_state, |answer| ServerCommand::Set(key, value.clone(), answer)).await;
        }
        Command::Shutdown(how) => admin_state.send_command(ServerCommand::Shutdown(*how)).await,
        Command::TakenOver => admin_state.send_command(ServerCommand::TakenOver).await,
        // The last two are done where the connection is at hand.
        Command::Driver(_, false) | Command::Empty | Command::TakeOver(_) | Command::Cancel(..) => {}
    }
    Ok(CommandOutcome::default())
}

/// Pauses a database, or all, and closes connections that no client has.
fn pause(shared: &Shared, database: Option<&[u8]>) {
    shared.server_side.pauses.pause(database);
    // Those that wait for a connection wait for the end of the pause from now on.
    shared.sessions.wake_all();
    for pool in shared.pools.of(database) {
        pool.close_unused(CloseReason::Command);
    }
}

/// Pauses a database, or all, and ends its clients.
fn kill(shared: &Shared, database: Option<&[u8]>) {
    shared.server_side.pauses.pause(database);
    let mine = |target: &SessionTarget| {
        !matches!(target, SessionTarget::Console(_)) && database.is_none_or(|name| target.database() == name)
    };
    for session in shared.sessions.all().iter().filter(|session| mine(&session.target)) {
        session.kill();
    }
    for pool in shared.pools.of(database) {
        pool.close_unused(CloseReason::Command);
    }
}

/// The error for `RESUME` of what is not paused.
fn not_paused(database: Option<&str>) -> ClientError {
    refused(match database {
        Some(name) => format!("database \"{name}\" is not paused"),
        None => "nothing is paused".to_owned(),
    })
}

/// The error for a setting that `SET` does not change.
fn not_adjustable(name: &str, why: NotAdjustable) -> ClientError {
    let fixed = |how: &str| {
        let message = format!("parameter \"{name}\" cannot be changed {how}");
        ClientError::error(ErrorSource::Client, sqlstate::CANT_CHANGE_RUNTIME_PARAM, message)
    };
    match why {
        NotAdjustable::Unknown => {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            let near = keys::nearest(name, keys::KEYS.iter().map(|key| key.name));
            let hint = near.map_or("SHOW CONFIG lists them.".to_owned(), |near| format!("Did you mean \"{near}\"?"));
            ClientError::error(ErrorSource::Client, sqlstate::UNDEFINED_OBJECT, message).hint(hint)
        }
        NotAdjustable::ByReload => fixed("at the console")
            .hint("Change it where it is written (file, environment or flag), then RELOAD; SHOW CONFIG tells which are changeable here."),
        NotAdjustable::ByRestart => fixed("without a restart"),
    }
}

/// Gives the listeners to the process at the other end of `handle`'s session.
///
/// # Errors
/// What it is told: its connection can't carry them, for example.
pub(crate) async fn transfer_listeners(
    admin_state: &Arc<AdminState>,
    which: Takeover,
    handle: &Arc<SessionHandle>,
    conn: &mut Conn,
) -> Result<CommandOutcome, ClientError> {
    let (answer, answered) = oneshot::channel();
    admin_state.send_command(ServerCommand::TakeOver(which, Arc::downgrade(handle), answer)).await;
    let transfer = answered.await.unwrap_or_else(|_| Err("the process is ending".to_owned())).map_err(refused)?;
    let sent = transfer.send(conn).await;
    sent.map_err(|error| refused(format!("the listeners could not be handed over: {error}")))?;
    let mut table = Table::new(&[("listener", Type::Text)]);
    table.rows = transfer.names().into_iter().map(|name| vec![name.into()]).collect();
    Ok(CommandOutcome { table: Some(table), ..CommandOutcome::default() })
}

/// Has the server's own loop do something, and tells what came of it.
async fn send_and_wait(
    admin_state: &AdminState,
    order: impl FnOnce(oneshot::Sender<Result<String, String>>) -> ServerCommand,
) -> Result<CommandOutcome, ClientError> {
    let (answer, answered) = oneshot::channel();
    admin_state.send_command(order(answer)).await;
    match answered.await.unwrap_or_else(|_| Err("the process is ending".to_owned())) {
        Ok(changed) => Ok(CommandOutcome { notices: vec![(changed, None)], ..CommandOutcome::default() }),
        Err(why) => {
            let (message, hint) = why.split_once("\n  hint: ").map_or((why.as_str(), None), |(m, h)| (m, Some(h)));
            let client_error = ClientError::error(ErrorSource::Client, sqlstate::CONFIG_FILE_ERROR, message);
            Err(match hint {
                Some(hint) => client_error.hint(hint),
                None => client_error,
            })
        }
    }
}

/// Waits until all pools are as they should be.
async fn until(pools: impl Fn() -> Vec<Arc<Pool>>, fine: impl Fn(&Pool) -> bool) {
    while !pools().iter().all(|pool| fine(pool)) {
        sleep(POLL_INTERVAL).await;
    }
}

/// The name of a known database, or `None` for all.
///
/// # Errors
/// As [`known`].
fn known_name<'d>(admin_state: &AdminState, database: Option<&'d str>) -> Result<Option<&'d [u8]>, ClientError> {
    known(admin_state, database)?;
    Ok(database.map(str::as_bytes))
}

/// Checks that a database is known: one that no client has asked for and no table names is a slip of the pen.
fn known(admin_state: &AdminState, database: Option<&str>) -> Result<(), ClientError> {
    let Some(name) = database else { return Ok(()) };
    let ServerSide { config, pauses, roles, .. } = &*admin_state.shared.server_side;
    let configured = config.settings.load().databases.contains_key(name.as_bytes());
    let switched = pauses.of(name.as_bytes()) != crate::upstream::pause::DatabaseState::default();
    // A client that has not been let in may have named anything.
    let seen =
        roles.all_stats().iter().any(|((database, _), stats)| database == name.as_bytes() && stats.logins().get() > 0);
    let mine =
        |target: &SessionTarget| !matches!(target, SessionTarget::Console(_)) && target.database() == name.as_bytes();
    let seen = seen || admin_state.shared.sessions.all().iter().any(|session| mine(&session.target));
    if configured || seen || switched {
        return Ok(());
    }
    let client_error =
        ClientError::error(ErrorSource::Client, sqlstate::UNDEFINED_DATABASE, format!("no such database: \"{name}\""));
    Err(client_error
        .hint("SHOW DATABASES lists those that clients have asked for; quote names with capitals: \"Shop\"."))
}

fn refused(message: String) -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

/// The answer to `SHOW` of a setting that drivers ask for.
pub(super) fn driver_table(name: &'static str) -> Table {
    let value = DRIVERS.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
    let mut table = Table::new(&[(name, Type::Text)]);
    table.rows.push(vec![value.into()]);
    table
}

fn help() -> CommandOutcome {
    let verbs: Vec<_> = VERBS.iter().map(|verb| format!("\t{}", verb.replace("WHAT", &Show::list()))).collect();
    CommandOutcome {
        notices: vec![("Console usage".to_owned(), Some(format!("\n{}", verbs.join("\n"))))],
        ..CommandOutcome::default()
    }
}
