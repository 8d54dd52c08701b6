//! What a client is greeted with: the settings that its session has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::startup_cache::ParsedStartup;
use crate::error::ClientError;
use crate::track::parameter_cache::Greeting;
use crate::track::server_state::UsedBy;
use crate::track::startup_settings::StartupSettings;
use crate::track::{Clean, Pins, Pipeline, RequestedParams, params};
use crate::upstream::pool::{CheckoutError, Patience};
use crate::upstream::{Lease, Pool, own_statements};

/// The number of the client for which pgferry uses a connection on its own behalf. Session numbers don't get there.
const OWN_USE: u64 = u64::MAX;

/// Longest wait of a login for the connection on which it asks the server whether it is still what it was.
const QUESTION_PATIENCE: Duration = Duration::from_secs(1);

/// The settings a client gets and is told, before it has a connection: from what is known, or, where nothing is known
/// yet, from the server.
///
/// A value that no client has asked for before is tried on the server, so that a bad one fails the login as it does on
/// PostgreSQL; but only if a connection is idle, since a login must not wait for one. Otherwise a bad value fails the
/// client's first statement.
///
/// # Errors
/// The server's, if it refuses a setting, or no first connection can be opened.
pub(crate) async fn greet(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    parsed_startup: &ParsedStartup,
    deadline: tokio::time::Instant,
) -> Result<Arc<Greeting>, ClientError> {
    let mut known = pool.parameters.greeting(&parsed_startup.wanted);
    let is_outdated = |greeting: &Greeting| pool.parameters.claim_question(greeting, Instant::now);
    if known.as_deref().is_some_and(is_outdated) {
        Box::pin(ask_server(pool, &parsed_startup.wanted, deadline)).await;
        known = pool.parameters.greeting(&parsed_startup.wanted);
    }
    let greeting = match known {
        Some(known) if pool.parameters.has_taken(&parsed_startup.settings) => known,
        // Seldom, and large while it is under way.
        _ => Box::pin(learn_parameters(shared, pool, parsed_startup, deadline)).await?,
    };
    Ok(greeting.with_startup(&parsed_startup.settings))
}

/// Learns whether the server of `pool` is still what it was: from an idle connection, or from a new one. Those in use tell of it with their
/// next answer, which is not to come while their clients are idle. Where that fails, the client's first statement will show what is wrong
/// with the upstream.
async fn ask_server(pool: &Arc<Pool>, asked: &RequestedParams, deadline: tokio::time::Instant) {
    let lease = match pool.checkout_idle(asked, Instant::now()) {
        None if pool.gives_connections() => {
            let deadline = deadline.min(tokio::time::Instant::now() + QUESTION_PATIENCE);
            first_lease(pool, asked, deadline).await.ok()
        }
        idle => idle,
    };
    let Some(lease) = lease else { return };
    // Nothing of a client's is sent there.
    let unused = Clean::prove(&Pipeline::new(), Pins::empty());
    if let (Some(lease), Some(unused)) = (pool.probed(lease, Instant::now()).await, unused) {
        lease.release(unused, Instant::now());
    }
}

async fn learn_parameters(
    shared: &Arc<Shared>,
    pool: &Arc<Pool>,
    parsed_startup: &ParsedStartup,
    deadline: tokio::time::Instant,
) -> Result<Arc<Greeting>, ClientError> {
    let ParsedStartup { wanted: asked, settings, .. } = parsed_startup;
    let mut first = None;
    if pool.parameters.baseline().is_none() {
        first = Some(first_lease(pool, asked, deadline).await?);
    }
    let unknown = asked.only(|name, value| pool.parameters.canonical(name, value).is_none());
    let is_known = pool.parameters.has_taken(settings);
    if (!unknown.is_empty() || !is_known) && first.is_none() {
        first = pool.checkout_idle(asked, Instant::now());
    }
    if let Some(lease) = first {
        try_settings(shared, lease, &unknown, if is_known { None } else { Some(settings) }).await?;
    }
    Ok(pool.parameters.greeting(asked).unwrap_or_else(|| pool.parameters.greeting_as_known(asked)))
}

/// A connection for a login, which may have to wait for it.
async fn first_lease(
    pool: &Arc<Pool>,
    asked: &RequestedParams,
    deadline: tokio::time::Instant,
) -> Result<Lease, ClientError> {
    let limit = deadline.saturating_duration_since(tokio::time::Instant::now());
    let patience = Patience { limit, setting: "client_login_timeout" };
    loop {
        match pool.checkout(asked, Instant::now(), patience).await {
            // It has been told nothing yet, so that it may begin with anything.
            Err(CheckoutError::Moved) => {}
            got => return got.map_err(|error| error.client_error().into_fatal()),
        }
    }
}

/// Sets `unknown` and `settings` on a connection, to learn what the server makes of them.
async fn try_settings(
    shared: &Arc<Shared>,
    mut lease: Lease,
    unknown: &RequestedParams,
    settings: Option<&StartupSettings>,
) -> Result<(), ClientError> {
    let pool = Arc::clone(lease.pool());
    // What leaves nothing comes first: an error ends the text.
    let mut sql = settings.map(StartupSettings::trial).unwrap_or_default();
    sql.extend(params::trial(unknown, &pool.parameters.baseline().unwrap_or_default()));
    let mut pipeline = Pipeline::new();
    let limit = shared.settings().timeouts.server_connect_timeout;
    let refused = if sql.is_empty() {
        None
    } else {
        let query = own_statements::query(&mut lease, &mut pipeline, &sql);
        match tokio::time::timeout(limit, query).await {
            Ok(Ok(refused)) => refused,
            // The client's first statement will show what is wrong with the upstream, on another connection.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    };
    if refused.is_some() && !pipeline.settled() {
        // What comes of it shows in the proof.
        let _ = tokio::time::timeout(limit, own_statements::query(&mut lease, &mut pipeline, b"ROLLBACK")).await;
    }
    let Some(clean) = Clean::prove(&pipeline, Pins::empty()) else {
        return refused.map_or(Ok(()), |error| Err(ClientError::upstream_fatal(&error, None)));
    };
    if refused.is_none() {
        if let Some(settings) = settings {
            pool.parameters.note_taken(settings);
        }
        pool.parameters.learn_canonical(unknown, &lease.state.params);
    }
    if sql.is_empty() && lease.state.used == UsedBy::Nothing {
        lease.release_fresh(clean);
    } else {
        lease.state.used = lease.state.used.and(OWN_USE, 0);
        lease.release(clean, Instant::now());
    }
    refused.map_or(Ok(()), |error| Err(ClientError::upstream_fatal(&error, None)))
}
