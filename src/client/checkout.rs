//! Getting a connection ready for a client: what it is welcomed with, and what is sent in front of its first message.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::config::{Reset, Settings};
use crate::error::Fault;
use crate::track::{Clean, Params, Pins, Pipeline, Request, Wanted, params};
use crate::upstream::link::Used;
use crate::upstream::{Lease, Pool, restore};
use crate::wire::frontend;

/// Nobody: who has used a connection on pgferry's own behalf. Session numbers don't get there.
const NOBODY: u64 = u64::MAX;

/// A connection that has been idle for longer may have been ended by the server without a sign of it so far, as
/// `pg_terminate_backend` does. Under load connections change hands within microseconds, and a `Sync` costs the server
/// a few.
const IDLE: Duration = Duration::from_millis(1);

/// The settings a client gets and is told, before it has a connection: from what is known, or, where nothing is known
/// yet, from the server.
///
/// A value that nobody has asked for before is tried on the server, so that a bad one fails the login as it does on
/// PostgreSQL; but only if a connection is idle, since a login must not wait for one. Otherwise a bad value fails the
/// client's first statement.
///
/// # Errors
/// The server's, if it refuses a setting, or no first connection can be opened.
pub async fn welcome(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    wanted: Wanted,
    deadline: Instant,
) -> Result<(Wanted, Params), Fault> {
    let mut first = None;
    if pool.baseline().is_none() {
        let patience = deadline.saturating_duration_since(Instant::now());
        first = Some(pool.checkout(&wanted, patience).await.map_err(|error| error.fault().into_fatal())?);
    }
    let unknown = wanted.only(|name, value| pool.canonical(name, value).is_none());
    if !unknown.is_empty() && first.is_none() {
        first = pool.checkout_idle().await;
    }
    if let Some(lease) = first {
        try_settings(shared, lease, &unknown).await?;
    }
    let wanted = wanted.canonical(|name, value| pool.canonical(name, value));
    let mut view = pool.baseline().unwrap_or_default();
    for (name, value) in wanted.iter() {
        if view.get(name.as_bytes()).is_some() {
            view.set(name.as_bytes(), value);
        }
    }
    Ok((wanted, view))
}

/// Sets `unknown` on a connection, to learn what the server makes of it.
async fn try_settings(shared: &Arc<Shared>, mut lease: Lease, unknown: &Wanted) -> Result<(), Fault> {
    let pool = Arc::clone(lease.pool());
    let baseline = pool.baseline().unwrap_or_default();
    let mut sql = Vec::new();
    for (name, value) in unknown.iter() {
        if let Some(default) = baseline.get(name.as_bytes()).filter(|_| name == "DateStyle") {
            // A style without an order keeps the order there is, which must be the default one.
            params::put_set(&mut sql, name, default);
        }
        params::put_set(&mut sql, name, value);
    }
    let mut pipeline = Pipeline::new();
    let limit = shared.registry.settings.load().connect_timeout;
    let refused = if sql.is_empty() {
        None
    } else {
        let query = restore::query(&mut lease, &mut pipeline, &sql);
        match tokio::time::timeout(limit, query).await {
            Ok(Ok(refused)) => refused,
            // The client's first statement will show what is wrong with the upstream, on another connection.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    };
    let Some(clean) = Clean::prove(&pipeline, Pins::none()) else { return Ok(()) };
    if refused.is_none() {
        pool.learn_canonical(unknown, &lease.params);
    }
    if sql.is_empty() && lease.used == Used::Fresh {
        lease.release_fresh(clean);
    } else {
        lease.release(clean, NOBODY);
    }
    refused.map_or(Ok(()), |error| Err(Fault::upstream_fatal(&error)))
}

/// What is sent in front of a client's first message.
///
/// Besides what it does, its answer proves that the connection was alive: while it has not come, the server has not
/// come to the client's message either, which can then be sent elsewhere if the connection turns out to be dead.
#[derive(Debug, Default)]
pub struct Preparation {
    /// The settings that the client asked for.
    pub wanted: Wanted,
    /// Messages of our own.
    pub messages: Vec<u8>,
    /// What they ask for.
    pub requests: Vec<Request>,
    /// Whether somebody else's unnamed statement may still be there: a simple query would have ended it.
    pub foreign: bool,
    /// Whether they reset the session, and no more.
    pub reset_only: bool,
    /// Whether the client's message must wait for their answers: the server may refuse them.
    pub must_succeed_first: bool,
}

/// What makes `lease` the session that a client with `wanted` expects.
#[must_use]
pub fn prepare(lease: &Lease, settings: &Settings, wanted: &Wanted, client: u64) -> Preparation {
    let mut preparation = Preparation { wanted: wanted.clone(), ..Preparation::default() };
    let foreign = match lease.used {
        Used::Fresh => false,
        Used::By(other) => other != client,
    };
    let reset = foreign && settings.reset == Reset::Always;
    if reset {
        frontend::put_query(&mut preparation.messages, restore::RESET);
        preparation.requests.push(Request::Query);
        preparation.reset_only = true;
    }
    let pool = lease.pool();
    let have = if reset { &lease.base } else { &lease.params };
    let baseline = pool.baseline().unwrap_or_default();
    if let Some(sets) = params::sets(have, wanted, &baseline) {
        frontend::put_query(&mut preparation.messages, &sets);
        preparation.requests.push(Request::Query);
        preparation.reset_only = false;
        preparation.must_succeed_first = wanted.iter().any(|(name, value)| pool.canonical(name, value).is_none());
    }
    preparation.foreign = foreign && preparation.requests.is_empty();
    if preparation.requests.is_empty() && lease.returned.elapsed() >= IDLE {
        frontend::put_sync(&mut preparation.messages);
        preparation.requests.push(Request::Sync);
    }
    preparation
}
