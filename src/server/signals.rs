//! What the process is told by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Signals that the process acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalEvent {
    Reload,
    Report,
    Drain,
    Stop,
}

pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
    user2: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub(super) async fn next(&mut self) -> SignalEvent {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => return SignalEvent::Reload,
                _ = self.user.recv() => return SignalEvent::Report,
                _ = self.terminate.recv() => return SignalEvent::Drain,
                _ = self.interrupt.recv() => return SignalEvent::Stop,
                _ = self.quit.recv() => return SignalEvent::Stop,
                // PgBouncer's RESUME: by default it would end the process and all its clients.
                _ = self.user2.recv() => {
                    warn!("SIGUSR2 does nothing here: PAUSE and RESUME are commands of the console (pgferry ctl RESUME)");
                }
            }
        }
    }
}
