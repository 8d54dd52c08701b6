//! Answering requests with an error of pgferry's own, without a connection.

use std::future::poll_fn;
use std::sync::Arc;

use super::{IdleEvent, Session, SessionEnd};
use crate::client::error_log::ErrorEvent;
use crate::config::Mode;
use crate::drain::Phase;
use crate::error::{ClientError, Severity};
use crate::machine::refusal::{Refusal, Step};

impl Session<'_> {
    /// Answers the request at hand with an error of ours, and what follows from it, as PostgreSQL would.
    pub(super) async fn refuse(&mut self, client_error: &ClientError) -> Result<(), SessionEnd> {
        let fatal = match client_error {
            ClientError::Server(_) => true,
            ClientError::Proxy(ours) => ours.severity == Severity::Fatal,
        };
        if fatal {
            return Err(SessionEnd::Tell(client_error.clone().into_fatal()));
        }
        self.shared.errors.note(ErrorEvent::Failed, Some(self.handle.id), client_error);
        self.handle.set_idle(&self.state);
        let mut refusal = Refusal::new(client_error.clone());
        let pool = Arc::clone(&self.pool);
        let statements = (self.mode == Mode::Transaction).then_some(&pool.statements);
        loop {
            let step = refusal
                .advance(&mut self.conn.input, &mut self.conn.output, &mut self.state, statements)
                .map_err(SessionEnd::Tell)?;
            self.flush().await?;
            match step {
                Step::Over => break,
                Step::Terminated => return Err(SessionEnd::Quiet),
                Step::NeedMore => {}
            }
            if self.handle.is_killed() {
                return Err(SessionEnd::Tell(super::killed()));
            }
            let drains = self.shared.drain.phase();
            if drains == Phase::Stopping || (drains >= Phase::Draining && refusal.waits_in_failed_transaction()) {
                return Err(SessionEnd::Tell(super::shutdown()));
            }
            match poll_fn(|cx| self.poll_event(cx)).await {
                IdleEvent::Received => {}
                IdleEvent::Gone => return Err(SessionEnd::Quiet),
                IdleEvent::Recalled(_) => self.return_tentative_lease(),
            }
        }
        Ok(())
    }

    /// Sends what is to be sent, unless the session is to end first.
    async fn flush(&mut self) -> Result<(), SessionEnd> {
        let Self { conn, handle, .. } = self;
        poll_fn(|cx| {
            while handle.wake.poll_woken(cx).is_ready() {
                handle.publish_addrs(conn.stream());
            }
            if handle.is_killed() {
                return std::task::Poll::Ready(Err(SessionEnd::Quiet));
            }
            conn.poll_flush(cx).map_err(|_| SessionEnd::Quiet)
        })
        .await
    }
}
