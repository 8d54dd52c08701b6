//! Connections to PostgreSQL: opening, pooling, leasing, cleaning up, closing.
//!
//! - [`target`]: the way to the upstream: where it is, and how it is to be connected to.
//! - [`server_tls`]: encryption of a new connection.
//! - [`credentials`]: where passwords come from that no client brings.
//! - [`dial`]: opens one connection and logs in.
//! - [`server_conn`]: one open connection: its settings, its backend's key, what it was used for.
//! - [`conn_info`]: what is known of an open connection from outside.
//! - [`pause`]: databases that an administrator has paused or disabled.
//! - [`slots`]: how many there may be, exactly; [`reclaimable_slots`] are given up when others need them.
//! - [`capacity`]: how many there may be over all pools; `rebalance` which pools make room for others; [`starvation`] for how long
//!   none could be had.
//! - [`occupancy`]: how full a server is; `server_looks` what follows for the number of connections.
//! - `outdated`: connections in the way of what a client does to databases and roles, or out of date behind it.
//! - [`queue`]: the clients that wait for a connection, in their order, and the time of the next attempt to open one.
//! - [`turnover`]: whether connections come free, or clients keep them.
//! - [`pool`]: the connections of one (database, user, startup settings); the idle ones are in a set of `deadpool`'s;
//!   [`pool::lease`] is one in use, and [`pool::neighbours`] what a pool asks of the others. [`pools`] are all of them.
//! - [`cleanup`]: makes a used session fit for the next client: cancel, roll back, reset; by [`own_statements`].
//! - [`role_auth`]: what is known of one (database, user): does the upstream ask for a password, and which one; [`roles`] are all.
//! - [`limiter`]: limits on login attempts and cancel requests, by source.
//! - [`login_slots`]: how many logins may be under way upstream; [`permits`] counts these and the cancel requests; [`login_limits`]
//!   are all of these limits.
//! - [`attempt`]: trying a login upstream.
//! - [`simple_query`]: questions of our own to the server.
//! - [`loops`]: clients that are PostgreSQL's own backends; [`looped_clients`] are those of one.
//! - [`auth_query`]: secrets that the upstream is asked for.
//! - [`session_code`]: looks at what the code in databases may leave in sessions.
//! - [`active_config`]: the settings in force and the targets made of them.
//! - [`server_side`]: what pools, logins and sessions have in common.
//! - `janitor`: looks after pools; [`quota`] limits users.
//! - [`cancel`]: `CancelRequest`s to the upstream; [`cancel_gate`] keeps their connections in the hands that they have.
//! - [`close`]: how and why connections are closed.
//! - [`counters`]: what happened, in numbers ([`counter`]); [`pool_stats`] what of it was done for a pool's clients, [`histogram`] how long it took.
//!
//! A [`pool::lease::PooledConn`] exists only while it holds a slot of its pool, and is exactly one of: *idle* (in
//! deadpool's set), *handed* to a client that waits, *reserved* (a tentative lease), *leased*, or
//! *closing*.

pub(crate) mod active_config;
pub(crate) mod attempt;
pub(crate) mod auth_query;
pub(crate) mod cancel;
pub(crate) mod cancel_gate;
pub(crate) mod capacity;
pub(crate) mod cleanup;
pub(crate) mod close;
pub(crate) mod conn_info;
pub(crate) mod counter;
pub(crate) mod counters;
pub(crate) mod credentials;
pub(crate) mod dial;
pub(crate) mod histogram;
mod janitor;
pub(crate) mod lane;
pub(crate) mod limiter;
pub(crate) mod login_limits;
pub(crate) mod login_slots;
pub(crate) mod looped_clients;
pub(crate) mod loops;
pub(crate) mod occupancy;
mod outdated;
pub(crate) mod own_statements;
mod password_command;
pub(crate) mod pause;
mod permits;
pub(crate) mod pool;
pub(crate) mod pool_stats;
pub(crate) mod pooler;
pub(crate) mod pools;
pub(crate) mod queue;
pub(crate) mod quota;
pub(crate) mod rebalance;
mod reclaimable_slots;
mod resolved;
pub(crate) mod role_auth;
pub(crate) mod roles;
pub(crate) mod server_conn;
mod server_looks;
pub(crate) mod server_side;
pub(crate) mod server_tls;
pub(crate) mod session_code;
pub(crate) mod simple_query;
pub(crate) mod slots;
pub(crate) mod starvation;
mod stopping;
pub(crate) mod target;
pub(crate) mod turnover;

pub(crate) use close::CloseReason;
pub(crate) use dial::{DialError, PasswordPrompt, Secret};
pub(crate) use pool::lease::Lease;
pub(crate) use pool::{Pool, PoolKey};
pub(crate) use pools::Pools;
pub(crate) use server_side::ServerSide;
