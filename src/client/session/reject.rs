//! Answering a request with an error of pgferry's own, without a connection.

use super::{Farewell, Session};
use crate::client::complaints::Mishap;
use crate::error::{Fault, Severity};
use crate::wire::{Head, backend, frame, frontend, head};

impl Session<'_> {
    /// Answers the request at hand with an error of ours, as PostgreSQL would: a simple query is over with it, an
    /// extended one when its `Sync` has come.
    pub(super) async fn reject(&mut self, fault: &Fault) -> Result<(), Farewell> {
        let fatal = match fault {
            Fault::Upstream(_) => true,
            Fault::Ours(ours) => ours.severity == Severity::Fatal,
        };
        if fatal {
            return Err(Farewell::Tell(fault.clone().into_fatal()));
        }
        self.shared.errors.note(Mishap::Failed, Some(self.control.id), fault);
        self.control.set_idle(&self.bag);
        let first = self.head().await?;
        self.discard(first.size).await?;
        fault.put(&mut self.conn.output);
        self.flush().await?;
        let mut tag = first.tag;
        while !matches!(tag, frontend::QUERY | frontend::FUNCTION_CALL | frontend::SYNC) {
            let next = self.head().await?;
            if next.tag == frontend::TERMINATE {
                return Err(Farewell::Quiet);
            }
            self.discard(next.size).await?;
            // After an error in an extended request everything up to the Sync is discarded, simple queries too.
            tag = if next.tag == frontend::SYNC { next.tag } else { 0 };
        }
        backend::put_ready(&mut self.conn.output, crate::track::pipeline::IDLE);
        self.flush().await
    }

    async fn head(&mut self) -> Result<Head, Farewell> {
        let header = self.conn.peek(frame::HEADER).await.map_err(|_| Farewell::Quiet)?;
        match head(header, frame::FRONTEND_LIMIT) {
            Ok(Some(head)) => Ok(head),
            Ok(None) => Err(Farewell::Quiet),
            Err(bad) => Err(Farewell::Tell(Fault::violation(bad.to_string()))),
        }
    }

    pub(super) async fn discard(&mut self, size: usize) -> Result<(), Farewell> {
        self.conn.discard(size).await.map_err(|_| Farewell::Quiet)
    }

    async fn flush(&mut self) -> Result<(), Farewell> {
        self.conn.flush().await.map_err(|_| Farewell::Quiet)
    }
}
