//! Getting a connection ready for a client: what it is welcomed with, and what is sent in front of its first message.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::config::{Reset, Settings};
use crate::error::Fault;
use crate::track::ledger::Kept;
use crate::track::{Clean, Luggage, Pins, Pipeline, Request, Wanted, params};
use crate::upstream::link::{MOMENT, Used};
use crate::upstream::pool::Welcome;
use crate::upstream::{Lease, Pool, restore};
use crate::wire::frontend;

/// Nobody: who has used a connection on pgferry's own behalf. Session numbers don't get there.
const NOBODY: u64 = u64::MAX;

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
    asked: &Wanted,
    deadline: tokio::time::Instant,
) -> Result<Arc<Welcome>, Fault> {
    match pool.welcome(asked) {
        Some(known) => Ok(known),
        // Seldom, and large while it is under way.
        None => Box::pin(find_out(shared, pool, asked, deadline)).await,
    }
}

async fn find_out(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    asked: &Wanted,
    deadline: tokio::time::Instant,
) -> Result<Arc<Welcome>, Fault> {
    let mut first = None;
    if pool.baseline().is_none() {
        let patience = deadline.saturating_duration_since(tokio::time::Instant::now());
        first = Some(pool.checkout(asked, Instant::now(), patience).await.map_err(|error| error.fault().into_fatal())?);
    }
    let unknown = asked.only(|name, value| pool.canonical(name, value).is_none());
    if !unknown.is_empty() && first.is_none() {
        first = pool.checkout_idle(asked, Instant::now());
    }
    if let Some(lease) = first {
        try_settings(shared, lease, &unknown).await?;
    }
    Ok(pool.welcome(asked).unwrap_or_else(|| pool.welcome_as_known(asked)))
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
        lease.release(clean, NOBODY, Instant::now());
    }
    refused.map_or(Ok(()), |error| Err(Fault::upstream_fatal(&error)))
}

/// What is sent in front of a client's first message.
///
/// Besides what it does, its answer proves that the connection was alive: while it has not come, the server has not
/// come to the client's message either, which can then be sent elsewhere if the connection turns out to be dead.
#[derive(Debug)]
pub struct Preparation {
    /// The settings that the client asked for.
    pub wanted: Wanted,
    /// Messages of our own.
    pub messages: Vec<u8>,
    /// How many of them are queries; if none is, there may be a `Sync`.
    pub queries: usize,
    /// Whether somebody else's state may still be there.
    pub foreign: bool,
    /// Whether they reset the session.
    pub reset: bool,
    /// Whether they set anything.
    pub settings: bool,
    /// Whether the client's message must wait for their answers: the server may refuse them.
    pub must_succeed_first: bool,
}

impl Preparation {
    /// What the messages ask for.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = Request> {
        let (request, count) = match self.queries {
            0 => (Request::Sync, usize::from(!self.messages.is_empty())),
            queries => (Request::Query, queries),
        };
        std::iter::repeat_n(request, count)
    }
}

/// What must be sent in front of the first message of client number `client`, who carries `bag` and is given the
/// connection at `now`.
#[must_use]
pub fn prepare(lease: &Lease, settings: &Settings, bag: &Luggage, client: u64, now: Instant) -> Preparation {
    let foreign = match lease.used {
        Used::Fresh => false,
        Used::By(other) => other != client,
    };
    let mut preparation = Preparation {
        wanted: bag.wanted.clone(),
        messages: Vec::new(),
        queries: 0,
        foreign,
        reset: foreign && settings.reset == Reset::Always,
        settings: false,
        must_succeed_first: false,
    };
    if preparation.reset {
        frontend::put_query(&mut preparation.messages, restore::RESET);
        preparation.queries += 1;
    }
    let pool = lease.pool();
    let nothing = Kept::default();
    let (have, kept) = if preparation.reset { (&lease.base, &nothing) } else { (&lease.params, &lease.kept) };
    let baseline = pool.baseline().unwrap_or_default();
    let following = params::sets(have, &bag.wanted, &baseline, |_| true);
    if following.is_some() {
        preparation.must_succeed_first = bag.wanted.iter().any(|(name, value)| pool.canonical(name, value).is_none());
    }
    let mut sets = following.unwrap_or_default();
    preparation.must_succeed_first |= bag.ledger.kept().put_difference(kept, &mut sets);
    if !sets.is_empty() {
        frontend::put_query(&mut preparation.messages, &sets);
        preparation.queries += 1;
        preparation.settings = true;
    }
    // The server may have ended the connection without a sign of it so far, as `pg_terminate_backend` does.
    if preparation.queries == 0 && now.saturating_duration_since(lease.returned) >= MOMENT {
        frontend::put_sync(&mut preparation.messages);
    }
    preparation
}
