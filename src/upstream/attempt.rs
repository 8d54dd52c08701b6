//! Trying a login upstream: because nothing is known, or because what is known is old.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::counters::CloseReason;
use super::dial::{self, DialError, Login, NewConn, Secret};
use super::login_slots::LoginSlot;
use super::pool::Pool;
use super::registry::Registry;
use super::role_auth::{Freshness, RoleAuth, Succession};
use super::server_conn::ServerConn;
use super::simple_query;
use crate::config::Settings;
use crate::error::ClientError;
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
    registry: &Arc<Registry>,
    secret: Secret,
    slot: LoginSlot,
) -> impl Future<Output = Result<(), DialError>> + use<> {
    let pool = Arc::clone(pool);
    let registry = Arc::clone(registry);
    let task = tokio::spawn(async move {
        let settings = registry.settings_of(&pool.key.database);
        let limit = match secret {
            // The client's thinking counts too.
            Secret::PasswordPrompt(_) => settings.client_login_timeout + settings.server_connect_timeout,
            _ => settings.server_connect_timeout,
        };
        registry.counters.tried.add();
        let outcome = dial::dial(&settings, login(&pool, &registry, &settings, secret), &registry, limit).await;
        match pool.looked_at(outcome, &registry, &settings).await {
            Ok(mut new_conn) => {
                let known = pool.role_auth.freshness(Duration::ZERO) == Freshness::Stale;
                let changed = pool.role_auth.accepted(&registry, new_conn.credential.clone());
                let next = if known { succeed(&mut new_conn, &pool, &registry, changed, limit).await } else { None };
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
                registry.counters.fail(&error.client_error());
                if error.is_full() {
                    registry.server_is_full(Some(&pool), &pool.key.database, &error);
                }
                // What a client's own startup settings lead to says nothing of its role.
                if pool.key.extra.is_empty() && pool.role_auth.is_denied(&registry, &error) {
                    pool.role_auth.deny(&registry, &error);
                    registry.retire(&pool.role_auth);
                } else {
                    pool.role_auth.refused(&registry, &error);
                }
                // The client need not wait for that; the connection still counts as one that logs in.
                let registry = Arc::clone(&registry);
                tokio::spawn(async move {
                    failed.close(&registry).await;
                    drop(slot);
                });
                Err(error)
            }
        }
    });
    async move { task.await.unwrap_or_else(|error| Err(DialError::Protocol(error.to_string()))) }
}

/// Tries whether the upstream still lets the user of `pool` in, with what its connections log in with. Connections of a role that it
/// does not let in any more, or that is another one of the same name by now, are retired. `changed` says that the user has another
/// password than before.
///
/// # Errors
/// The upstream's words, where it does not let the user in.
pub(crate) async fn recheck(pool: &Arc<Pool>, registry: &Arc<Registry>, changed: bool) -> Result<(), ClientError> {
    let slot = registry.login_slots.take().await;
    let settings = registry.settings_of(&pool.key.database);
    let limit = settings.server_connect_timeout;
    let mut login = login(pool, registry, &settings, pool.role_auth.secret(&settings));
    // Without a client's own settings, which the server could refuse.
    login.params.retain(|(name, _)| name == b"database");
    registry.counters.tried.add();
    let outcome = dial::dial(&settings, login, registry, limit).await;
    let outcome = match outcome {
        Ok(mut new_conn) => {
            pool.role_auth.note_success();
            succeed(&mut new_conn, pool, registry, changed, limit).await;
            let how = ServerConn::close(new_conn.conn, CloseMethod::Terminate).await;
            registry.closed(how, CloseReason::Login);
            Ok(())
        }
        Err(failed) => {
            let error = failed.error.clone();
            registry.counters.fail(&error.client_error());
            failed.close(registry).await;
            if error.denies_login() {
                let (database, user) = pool.key.shown();
                info!(database, user, "the upstream lets this user in no more: {}", error.client_error());
                pool.role_auth.deny(registry, &error);
                registry.retire(&pool.role_auth);
                Err(error.client_error())
            } else {
                Ok(())
            }
        }
    };
    drop(slot);
    outcome
}

fn login(pool: &Pool, registry: &Registry, settings: &Settings, secret: Secret) -> Login {
    let params = pool.startup_params(&RequestedParams::default(), settings);
    Login { user: pool.key.user.clone(), params, secret, upstream_target: registry.upstream_target(&pool.key.database) }
}

/// Has the `RoleAuth` of `pool` followed by another one, where connections of its are no longer those of the role that has just
/// logged in; the pool that takes the place of this one, if so.
async fn succeed(
    new_conn: &mut NewConn,
    pool: &Pool,
    registry: &Arc<Registry>,
    changed: bool,
    limit: Duration,
) -> Option<Arc<Pool>> {
    let another = timeout(limit, has_another_role(new_conn, &pool.role_auth, registry)).await.unwrap_or(false);
    let succession = match (another, changed) {
        (true, _) => Succession::AnotherRole,
        (false, true) => Succession::SameRole,
        (false, false) => return None,
    };
    let (database, user) = pool.key.shown();
    info!(database, user, ?succession, "this user's connections are replaced");
    registry.succeed(&pool.role_auth, succession);
    Some(registry.pool(&pool.key))
}

/// Returns whether the connections of `role_auth` to the same server are those of another role than the one that has just logged in: it was
/// renamed, or dropped and made anew. The server knows by their pids as which role they logged in; behind a pooler there are none such.
async fn has_another_role(new_conn: &mut NewConn, role_auth: &Arc<RoleAuth>, registry: &Registry) -> bool {
    let conn_infos = registry.conn_infos_of(role_auth);
    let pids: Vec<_> = conn_infos
        .iter()
        .filter(|conn_info| conn_info.remote == new_conn.address)
        .map(|conn_info| conn_info.pid.to_string())
        .collect();
    if pids.is_empty() {
        return false;
    }
    let sql = format!(
        "SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) a, \
         pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) own \
         WHERE a.pid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int4[]) \
         AND a.usesysid OPERATOR(pg_catalog.<>) own.usesysid LIMIT 1",
        pids.join(",")
    );
    frontend::put_query(&mut new_conn.conn.output, sql.as_bytes());
    matches!(simple_query::rows(&mut new_conn.conn).await, Ok(Ok(rows)) if !rows.is_empty())
}
