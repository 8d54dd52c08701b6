//! Operating pgferry: the console, metrics and health over HTTP.
//!
//! - [`state`]: what all of this looks at: the figures as they were, and the way to the server's own loop, which executes
//!   [`server_command`]s.
//! - [`console`]: SQL, as PgBouncer's; [`show`] are its tables, [`table`] how they are sent and printed.
//! - [`console_client`]: the other end of that: `pgferry show`, `pgferry ctl`, and a process that replaces another.
//! - [`http`] answers at `admin_listen`: [`request`] says what, [`metrics`] writes the figures, [`page`] shows them to people, [`health`]
//!   judges them, [`probe`] asks from outside.
//! - [`stats_log`]: a line in the log now and then.

pub(crate) mod console;
pub(crate) mod console_client;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod probe;
pub(crate) mod request;
pub(crate) mod server_command;
pub(crate) mod show;
pub(crate) mod state;
pub(crate) mod stats_log;
pub(crate) mod table;

pub(crate) use http::{HttpServer, Place};
pub(crate) use state::AdminState;
