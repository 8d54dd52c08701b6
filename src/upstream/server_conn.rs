//! One open, logged-in connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cancel_gate::CancelGate;
use super::close::{CloseReason, Closed};
use super::conn_info::ConnInfo;
use super::server_tls::ServerTls;
use super::target::Address;
use crate::config::TargetSessionAttrs;
use crate::net::Conn;
use crate::track::ServerState;
use crate::track::server_state::CloseMethod;
use crate::wire::{Frames, backend, frame, frontend};

/// Longest time that a server may take to close after a `Terminate`.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(1);

/// For how long the last answer on a connection proves it alive. Under load connections change hands within microseconds.
pub(crate) const RECENTLY_USED: Duration = Duration::from_millis(1);

/// Idle time after which a connection may lead nowhere any more without a sign of it, as where a host has died or a firewall has
/// forgotten it. A request that is sent there waits for many minutes.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(5);

/// Address and secret that a `CancelRequest` needs.
#[derive(Debug)]
pub(crate) struct BackendKey {
    /// Address of the backend.
    pub address: Address,
    /// Encryption of connections there, if they are encrypted.
    pub server_tls: Option<Arc<ServerTls>>,
    /// Its process id.
    pub pid: i32,
    /// Its secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Box<[u8]>,
}

/// One open, logged-in connection.
#[derive(Debug)]
pub(crate) struct ServerConn {
    /// The socket.
    pub conn: Conn,
    /// Key for cancel requests.
    pub key: Arc<BackendKey>,
    /// State of the session there.
    pub state: ServerState,
    /// Time at which it was last given back.
    pub returned: Instant,
    /// Time at which it is to be replaced.
    pub retire_at: Option<Instant>,
    /// Reason why it is closed, if it is dropped now.
    pub close_reason: CloseReason,
    /// Its cancel requests.
    pub gate: Arc<CancelGate>,
    /// Condition that its server must satisfy.
    pub target: TargetSessionAttrs,
    /// Metadata that others see.
    pub conn_info: Arc<ConnInfo>,
}

impl ServerConn {
    /// Number of its own, for logs.
    #[must_use]
    pub(crate) fn id(&self) -> u64 {
        self.conn_info.id
    }

    /// Returns whether it has been used within the last moment before `now` and nothing is known to have arrived since: then a look is not
    /// worth a system call. What the server says a moment later is met by the client's own request in any case.
    #[must_use]
    pub(crate) fn was_just_used(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.returned) < RECENTLY_USED
            && self.conn.input.is_empty()
            && !self.conn.is_known_readable()
    }

    /// Returns whether the network may have lost it by `now`: it is asked for an answer before a client's request is sent there.
    #[must_use]
    pub(crate) fn is_doubtful(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.returned) >= DOUBTFUL_AFTER && self.conn.stream().is_tcp()
    }

    /// Reads what the server said while the connection was unused: `false` when it must be closed. Notices and
    /// changed settings are taken note of; the end, an error, or anything unexpected ends it.
    pub(crate) fn check_alive(&mut self) -> bool {
        loop {
            if !self.read_notices() || self.conn.input.is_full() {
                return false;
            }
            match self.conn.take_arrived() {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.conn.input.is_empty(),
                Err(_) => return false,
            }
        }
    }

    fn read_notices(&mut self) -> bool {
        let mut frames = Frames::new(self.conn.input.unparsed(), frame::BACKEND_LIMIT);
        let before = self.conn.input.unparsed().len();
        for frame in frames.by_ref() {
            match frame {
                Ok(frame) if frame.tag == backend::PARAMETER_STATUS => {
                    let Some((name, value)) = backend::parameter_status(frame.body()) else { return false };
                    if !self.state.on_new_default(name, value) {
                        return false;
                    }
                }
                Ok(frame) if matches!(frame.tag, backend::NOTICE | backend::NOTIFICATION) => {}
                _ => return false,
            }
        }
        let seen = before - frames.rest().len();
        self.conn.consume(seen);
        true
    }

    /// Says good-bye, as far as it may, and waits for the server to close first, so that TIME_WAIT falls on its side.
    pub(crate) async fn close(mut conn: Conn, close_method: CloseMethod) -> Closed {
        match close_method {
            // What is sent now would complete a message of which the server has part.
            CloseMethod::Silent => return Closed::by_us(conn.stream()),
            CloseMethod::CopyFail => frontend::put_copy_fail(&mut conn.output, "the client is gone"),
            CloseMethod::Terminate => {}
        }
        frontend::put_terminate(&mut conn.output);
        let farewell = async {
            if conn.flush().await.is_ok() {
                conn.drain().await;
            }
        };
        if tokio::time::timeout(TERMINATE_TIMEOUT, farewell).await.is_ok() {
            return Closed::Politely;
        }
        Closed::by_us(conn.stream())
    }
}
