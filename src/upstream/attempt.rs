//! Trying a login upstream: because nothing is known, or because what is known is old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::info;

use super::close::CloseReason;
use super::dial::{self, DialError, DialFailure, Login, NewConn, Secret};
use super::login_slots::LoginSlot;
use super::pool::Pool;
use super::pools::Pools;
use super::role_auth::{Freshness, PasswordChange, RoleAuth, Succession};
use super::server_conn::ServerConn;
use super::server_side::{Basis, ServerSide};
use super::simple_query;
use crate::error::ClientError;
use crate::net::RecvError;
use crate::track::RequestedParams;
use crate::track::server_state::CloseMethod;
use crate::wire::frontend;

/// Tries to log in upstream as a client asks, in a task of its own that finishes even if the client goes away: what
/// it learns is kept, and the connection goes to the pool.
///
/// # Errors
/// As [`DialError`] lists.
pub(crate) fn attempt(
    pool: &Arc<Pool>,
    pools: &Arc<Pools>,
    secret: Secret,
    slot: LoginSlot,
) -> impl Future<Output = Result<(), DialError>> + use<> {
    let pool = Arc::clone(pool);
    let pools = Arc::clone(pools);
    let task = tokio::spawn(async move {
        let ServerSide { counters, buffers, key, .. } = &*pools.server_side;
        let basis = pools.server_side.basis(&pool.key.database);
        let settings = Arc::clone(&basis.settings);
        // A client that is asked for its password meanwhile has no more than a moment for that.
        let limit = settings.timeouts.server_connect_timeout;
        counters.tried.add();
        let outcome = dial::dial(&settings, login(&pool, basis, secret), counters, buffers, limit).await;
        let outcome = pool.looked_at(outcome, &settings).await;
        let known = pool.role_auth.freshness(Duration::ZERO, Instant::now()) == Freshness::Stale;
        let outcome = if known {
            identified(outcome, &pool.role_auth, &pools, limit).await
        } else {
            outcome.map(|new_conn| (new_conn, Identity::Same))
        };
        match outcome {
            Ok((new_conn, identity)) => {
                let password = pool.role_auth.accepted(key, new_conn.credential.clone());
                let next = if known { succeed(&pool, &pools, identity, password) } else { None };
                let pool = next.unwrap_or(pool);
                // The client need not wait for its slot; until it has one it counts as one that logs in.
                let adopted = pool.adopt(new_conn, &settings);
                tokio::spawn(async move {
                    adopted.await;
                    drop(slot);
                });
                Ok(())
            }
            Err(failed) => {
                let error = failed.error.clone();
                counters.fail(&error.client_error());
                if error.is_full() {
                    pools.server_is_full(Some(&pool), &pool.key.database, &error);
                }
                // What a client's own startup settings lead to says nothing of its role.
                if pool.key.extra.is_empty() && pool.role_auth.is_denied(key, &error) {
                    pools.deny(&pool.role_auth, &error);
                } else {
                    pool.role_auth.refused(key, &error);
                }
                // The client need not wait for that; the connection still counts as one that logs in.
                let server_side = Arc::clone(&pools.server_side);
                tokio::spawn(async move {
                    failed.close(&server_side.counters).await;
                    drop(slot);
                });
                Err(error)
            }
        }
    });
    async move { task.await.unwrap_or_else(|error| Err(DialError::Protocol(error.to_string()))) }
}

/// Tries whether the upstream still lets the user of `pool` in, with what its connections log in with. Connections of a role that it
/// does not let in any more, or that is another one of the same name by now, are retired; so are those of a
/// role that has another `password` than before.
///
/// # Errors
/// The upstream's words, where it does not let the user in.
pub(crate) async fn recheck(pool: &Arc<Pool>, pools: &Arc<Pools>, password: PasswordChange) -> Result<(), ClientError> {
    let ServerSide { counters, buffers, logins, .. } = &*pools.server_side;
    let slot = logins.slots.take().await;
    let basis = pools.server_side.basis(&pool.key.database);
    let settings = Arc::clone(&basis.settings);
    let limit = settings.timeouts.server_connect_timeout;
    let mut login = login(pool, basis, pool.role_auth.secret(&settings));
    // Without a client's own settings, which the server could refuse.
    login.params.retain(|(name, _)| name == b"database");
    counters.tried.add();
    let outcome = dial::dial(&settings, login, counters, buffers, limit).await;
    let outcome = match identified(outcome, &pool.role_auth, pools, limit).await {
        Ok((new_conn, identity)) => {
            pool.role_auth.note_success();
            succeed(pool, pools, identity, password);
            let how = ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
            counters.close(how, CloseReason::Login);
            Ok(())
        }
        Err(failed) => {
            let error = failed.error.clone();
            counters.fail(&error.client_error());
            failed.close(counters).await;
            if error.denies_login() {
                let (database, user) = pool.key.shown();
                info!(database, user, "the upstream no longer lets this user in: {}", error.client_error());
                pools.deny(&pool.role_auth, &error);
                Err(error.client_error())
            } else {
                Ok(())
            }
        }
    };
    drop(slot);
    outcome
}

fn login(pool: &Pool, Basis { birth, settings, upstream_target }: Basis, secret: Secret) -> Login {
    let params = pool.startup_params(&RequestedParams::default(), &settings);
    Login { birth, user: pool.key.user.clone(), params, secret, upstream_target }
}

/// Role of a connection that has just been opened, beside that of those that were there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// The same, as far as the server knows.
    Same,
    /// Another one: the former was renamed, or dropped and made anew.
    Another,
}

/// The outcome of opening a connection, on which the server was asked within `limit` whether the connections of `role_auth` are those of
/// the role that has just logged in. One on which it has not answered is closed: the answer may come yet, and would be a client's.
async fn identified(
    outcome: Result<NewConn, DialFailure>,
    role_auth: &Arc<RoleAuth>,
    pools: &Pools,
    limit: Duration,
) -> Result<(NewConn, Identity), DialFailure> {
    let mut new_conn = outcome?;
    let error = match timeout(limit, identity(&mut new_conn, role_auth, pools)).await {
        Ok(Ok(identity)) => return Ok((new_conn, identity)),
        Ok(Err(broken)) => broken.into(),
        Err(_) => DialError::Broke("the server did not answer in time (server_connect_timeout)".into()),
    };
    Err(DialFailure::with(error, new_conn.conn))
}

/// Has the `RoleAuth` of `pool` followed by another one, where connections of its are no longer those of the role that has just
/// logged in; the pool that takes the place of this one, if so.
fn succeed(pool: &Pool, pools: &Arc<Pools>, identity: Identity, password: PasswordChange) -> Option<Arc<Pool>> {
    let succession = match (identity, password) {
        (Identity::Another, _) => Succession::AnotherRole,
        (Identity::Same, PasswordChange::Changed) => Succession::SameRole,
        (Identity::Same, PasswordChange::Unchanged) => return None,
    };
    let (database, user) = pool.key.shown();
    info!(database, user, ?succession, "this user's connections are replaced");
    pools.succeed(&pool.role_auth, succession);
    Some(pools.get(&pool.key))
}

/// Asks on a new connection whether those of `role_auth` to the same server are of the role that has just logged in. The server knows by
/// their pids as which role they logged in; behind a pooler there are none such.
///
/// # Errors
/// When the connection is of no use any more.
async fn identity(new_conn: &mut NewConn, role_auth: &Arc<RoleAuth>, pools: &Pools) -> Result<Identity, RecvError> {
    let conn_infos = pools.conn_infos_of(role_auth);
    let pids: Vec<_> = conn_infos
        .iter()
        .filter(|conn_info| conn_info.remote == new_conn.address)
        .map(|conn_info| conn_info.pid.to_string())
        .collect();
    if pids.is_empty() {
        return Ok(Identity::Same);
    }
    let sql = format!(
        "SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) a, \
         pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) own \
         WHERE a.pid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int4[]) \
         AND a.usesysid OPERATOR(pg_catalog.<>) own.usesysid LIMIT 1",
        pids.join(",")
    );
    let NewConn { conn, params, .. } = new_conn;
    frontend::put_query(&mut conn.output, sql.as_bytes());
    let rows = simple_query::rows_and(conn, |name, value| {
        params.set(name, value);
    });
    let is_another = rows.await?.is_ok_and(|rows| !rows.is_empty());
    Ok(if is_another { Identity::Another } else { Identity::Same })
}
