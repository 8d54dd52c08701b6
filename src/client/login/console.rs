//! Rights at the console: pgferry's own user and root have them by the kernel's word (`admin_peer`), others by
//! `admin_users` and `stats_users` once they have logged in.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::{AuthResult, LoginAttempt, PassThrough, client_identity, rule_for};
use crate::client::Shared;
use crate::client::client_slots::PendingLogins;
use crate::config::{Auth, Settings};
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::{Conn, Peer};
use crate::upstream::PoolKey;
use crate::wire::Startup;

/// Rights at the console; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AdminRole {
    /// To look.
    Stats,
    /// To control pgferry's work.
    Admin,
    /// To take the listeners: those of the user that the process runs as could do so anyway.
    Owner,
}

/// A user of the console.
#[derive(Clone, Debug)]
pub(crate) struct AdminUser {
    /// The user it says to be.
    pub user: String,
    /// Role of the admin.
    pub role: AdminRole,
}

/// Logs a client in to the console; `None` when it went away.
///
/// # Errors
/// What it is told when it may not come in.
pub(crate) async fn authorize(
    shared: &Arc<Shared>,
    conn: &mut Conn,
    pending_logins: &PendingLogins,
    startup: &Startup,
    settings: &Settings,
) -> Result<Option<AdminUser>, ClientError> {
    let name = startup.get("user").unwrap_or_default();
    let user = String::from_utf8_lossy(name).into_owned();
    if settings.admin.admin_peer && is_owner(conn).await {
        return Ok(Some(AdminUser { user, role: AdminRole::Owner }));
    }
    let listed = |users: &[String]| users.contains(&user);
    let role = match (listed(&settings.admin.admin_users), listed(&settings.admin.stats_users)) {
        (true, _) => Some(AdminRole::Admin),
        (false, true) => Some(AdminRole::Stats),
        (false, false) => None,
    };
    let database = settings.console_database();
    let deadline = Instant::now() + settings.timeouts.client_login_timeout;
    let client_identity = client_identity(conn.stream(), database.as_bytes(), name);
    let rule = rule_for(settings, &client_identity)?;
    let key = PoolKey { database: database.clone().into_bytes(), user: name.to_vec(), extra: Vec::new() };
    let mut attempt = LoginAttempt {
        shared,
        conn,
        pending_logins,
        settings,
        deadline,
        rule,
        database: database.as_bytes(),
        user: name,
    };
    let came_in = match rule.method {
        Auth::PassThrough => enter_by_password(&mut attempt, &key).await?,
        _ => !matches!(attempt.authenticate().await?, AuthResult::Gone),
    };
    if !came_in {
        return Ok(None);
    }
    // Only an authenticated client learns that: others could ask for names until one is listed.
    let Some(role) = role else {
        return Err(refused(format!("user \"{user}\" may not use pgferry's console")).hint(
            "Name it in admin_users or stats_users, or connect over the unix socket as pgferry's own user or root of the same \
             container (admin_peer).",
        ));
    };
    Ok(Some(AdminUser { user, role }))
}

/// Has the upstream decide by the client's password; `false` when the client went away.
///
/// # Errors
/// Why it may not come in, one for which the upstream asks for no password included.
async fn enter_by_password(attempt: &mut LoginAttempt<'_>, key: &PoolKey) -> Result<bool, ClientError> {
    let pools = &attempt.shared.pools;
    let pool = pools.get(key);
    let mut login = PassThrough { attempt, pool: &pool, password_given: false };
    let known = pool.role_auth.freshness(login.attempt.settings.auth.auth_recheck, std::time::Instant::now());
    let entered = login.run(known).await;
    let proved = login.password_given;
    pools.forget(&pool);
    let entered = entered?;
    if entered && !proved {
        let (database, user) = key.shown();
        return Err(refused(format!("nothing proves that this is user \"{user}\"")).detail(format!(
            "PostgreSQL asks for no password for it in database \"{database}\", by which pass-through would know."
        )));
    }
    Ok(entered)
}

/// Returns whether the client is a process of pgferry's own user or of root, in pgferry's own PID and user namespaces.
async fn is_owner(conn: &Conn) -> bool {
    let Ok(Peer::Unix { uid, .. }) = conn.stream().peer() else { return false };
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return false;
    }
    match shares_namespaces(conn).await {
        Ok(()) => true,
        Err(why) => {
            debug!("a process of uid {uid} is no admin here without a password: {why} (admin_peer)");
            false
        }
    }
}

/// Checks that the client is a process in pgferry's own PID and user namespaces.
///
/// # Errors
/// Why it is not.
pub(super) async fn shares_namespaces(conn: &Conn) -> Result<(), String> {
    let Some(process) = conn.stream().peer_process() else { return Err("its PID namespace is another one".into()) };
    // Files of /proc may block.
    let checked = tokio::task::spawn_blocking(move || process.check_namespaces()).await;
    checked.unwrap_or_else(|error| Err(error.to_string()))
}

fn refused(message: String) -> ClientError {
    ClientError::fatal(ErrorSource::Client, sqlstate::INVALID_AUTHORIZATION, message)
}
