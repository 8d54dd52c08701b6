//! Answering requests with an error of pgferry's own, without a connection.

use std::future::poll_fn;
use std::sync::Arc;

use super::{IdleEvent, Session, SessionEnd};
use crate::client::complaints::Mishap;
use crate::config::Mode;
use crate::drain::Phase;
use crate::error::{Fault, Severity};
use crate::machine::refusal::{Refusal, Step};

impl Session<'_> {
    /// Answers the request at hand with an error of ours, and what follows from it, as PostgreSQL would.
    pub(super) async fn refuse(&mut self, fault: &Fault) -> Result<(), SessionEnd> {
        let fatal = match fault {
            Fault::Upstream(_) => true,
            Fault::Ours(ours) => ours.severity == Severity::Fatal,
        };
        if fatal {
            return Err(SessionEnd::Tell(fault.clone().into_fatal()));
        }
        self.shared.errors.note(Mishap::Failed, Some(self.control.id), fault);
        self.control.set_idle(&self.state);
        let mut refusal = Refusal::new(fault.clone());
        let pool = Arc::clone(&self.pool);
        let statements = (self.mode == Mode::Transaction).then_some(&pool.statements);
        loop {
            let step = refusal
                .advance(&mut self.conn.input, &mut self.conn.output, &mut self.state, statements)
                .map_err(|bad| SessionEnd::Tell(Fault::violation(bad.to_string())))?;
            self.flush().await?;
            match step {
                Step::Over => break,
                Step::Terminated => return Err(SessionEnd::Quiet),
                Step::NeedMore => {}
            }
            if self.control.is_killed() {
                return Err(SessionEnd::Tell(super::killed()));
            }
            let drains = self.shared.drain.phase();
            if drains == Phase::Stopping || (drains >= Phase::Draining && refusal.waits_in_failed_transaction()) {
                return Err(SessionEnd::Tell(super::shutdown()));
            }
            match poll_fn(|cx| self.poll_event(cx)).await {
                IdleEvent::Received => {}
                IdleEvent::Gone => return Err(SessionEnd::Quiet),
                IdleEvent::Recalled(_) => self.give_loan_back(),
            }
        }
        // As any simple query, it has dropped the unnamed statement.
        self.state.unnamed = None;
        Ok(())
    }

    pub(super) async fn discard(&mut self, size: usize) -> Result<(), SessionEnd> {
        self.conn.discard(size).await.map_err(|_| SessionEnd::Quiet)
    }

    /// Sends what is to be sent, unless the session is to end first.
    async fn flush(&mut self) -> Result<(), SessionEnd> {
        let Self { conn, control, .. } = self;
        poll_fn(|cx| {
            while control.wake.poll_woken(cx).is_ready() {
                control.introduce(conn.stream());
            }
            if control.is_killed() {
                return std::task::Poll::Ready(Err(SessionEnd::Quiet));
            }
            conn.poll_flush(cx).map_err(|_| SessionEnd::Quiet)
        })
        .await
    }
}
