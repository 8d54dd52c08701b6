//! A client and the connection that it is given: with a machine between them, where one is needed.

use std::sync::Arc;

use super::{ConnExtras, LeasedConn, Readable, Relay, ServerSide, Shown, max_text_bytes};
use crate::client::Shared;
use crate::client::session_handle::SessionHandle;
use crate::config::Settings;
use crate::machine::preparation::Preparation;
use crate::machine::{self, Machine};
use crate::net::{Conn, ReadCoalescer};
use crate::track::client_statements::MAX_CLIENT_BYTES;
use crate::track::statements::Limits;
use crate::track::{ClientState, Pins, ServerState};
use crate::upstream::Lease;
use crate::upstream::pool_stats::LocalStats;
use crate::upstream::server_conn::ServerConn;

/// A client and the connection that it is given, to which nothing has been sent yet.
#[derive(Debug)]
pub(crate) struct Pairing<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) handle: &'a SessionHandle,
    pub(super) client: &'a mut Conn,
    pub(super) server: LeasedConn<'a>,
    pub(super) context: machine::Context<'a>,
    pub(super) state: &'a mut ClientState,
    pub(super) server_state: &'a mut ServerState,
    pub(super) preparation: Preparation,
}

impl<'a> Pairing<'a> {
    /// Joins `client` with its `state` and `lease`, which `preparation` makes fit for it.
    #[must_use]
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        client: &'a mut Conn,
        lease: &'a mut Lease,
        handle: &'a SessionHandle,
        state: &'a mut ClientState,
        preparation: Preparation,
        settings: &Settings,
    ) -> Self {
        let max_text_bytes = max_text_bytes(client.input.capacity());
        let (pool, server_conn, activity) = lease.parts();
        let ServerConn { conn, state: server_state, key, gate, conn_info, close_reason, .. } = server_conn;
        conn_info.taken(handle.id);
        let context = machine::Context {
            mode: settings.pool.pool_mode,
            pin: settings.pool.pin,
            limits: Limits {
                count: settings.pool.max_prepared_statements,
                bytes: settings.pool.max_prepared_bytes,
                client_bytes: MAX_CLIENT_BYTES,
            },
            max_text_bytes,
            statements: &pool.statements,
            parameters: &pool.parameters,
            user: &pool.key.user,
            client: handle.id,
            given_pid: handle.pid,
            backend_pid: key.pid,
        };
        let about = ConnExtras { key, gate, conn_info, close_reason };
        let server = LeasedConn {
            conn,
            activity,
            about,
            coalescer: ReadCoalescer::default(),
            side: ServerSide::Open,
            readable: (Readable::Perhaps, Readable::Perhaps),
        };
        Self { shared, handle, client, server, context, state, server_state, preparation }
    }

    /// Puts a machine between both.
    pub(crate) fn relay(self) -> Relay<'a> {
        let Self { shared, handle, client, server, context, state, server_state, preparation } = self;
        Relay {
            shared,
            handle,
            client,
            server,
            machine: Box::new(Machine::new(context, state, server_state, preparation)),
            tally: LocalStats::default(),
            ready: None,
            counted: Pins::empty(),
            shown: Shown::Idle,
        }
    }
}
