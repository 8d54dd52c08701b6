//! Moves bytes between one client and one connection, and asks the machine what they mean, until the connection can be
//! given back or one of them ends.
//!
//! Each direction either has bytes that wait for the other side, and then does not read, or waits for its own side; the two
//! are independent, so that a client that pipelines and a server that answers can't block each other.

mod accounts;
mod pairing;
mod plain;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::Shared;
use super::session_handle::SessionHandle;
use crate::config::Mode;
use crate::drain::Phase;
use crate::machine::{self, Buffers, Flush, Machine, MachineResult, Next};
use crate::net::{Conn, ReadCoalescer};
use crate::track::Pins;
use crate::track::message_target::MAX_TEXT_BYTES;
use crate::upstream::pool::lease::LeaseActivity;
use crate::upstream::pool_stats::LocalStats;
use crate::upstream::{CloseReason, cancel};
pub(crate) use pairing::Pairing;

/// Bytes that are copied to go out with others in one write, rather than with a write of their own.
const SMALL_BYTES: usize = 8 * 1024;

/// Reason why a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The machine says so.
    Machine(machine::End),
    /// The client is gone without a word.
    ClientGone,
    /// The process is going away, and the client is between two pieces of work (or the time is up).
    Shutdown,
    /// The client is ended at the console.
    Killed,
}

impl From<machine::End> for End {
    fn from(end: machine::End) -> Self {
        Self::Machine(end)
    }
}

/// Outcome of a relay.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Reason why it ended.
    pub end: End,
    /// Time at which the server was last ready for more, if that is why it ended.
    pub ready: Option<Instant>,
    /// State in which the connection is left.
    pub remains: MachineResult,
}

/// Readability of a side; an unknown one is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readable {
    Perhaps,
    /// Nothing, until the task is woken.
    NotNow,
}

/// State of the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerSide {
    Open,
    /// It is to be told that nothing more comes.
    Closing,
    /// It takes no more; what it has said before, or says to that, is still to be read.
    TakesNoMore,
}

/// One client on one connection.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    shared: &'a Arc<Shared>,
    handle: &'a SessionHandle,
    client: &'a mut Conn,
    server: LeasedConn<'a>,
    // Boxed, since the allocator has memory at hand for two pieces of up to a kilobyte, and none for one of both.
    machine: Box<Machine<'a>>,
    tally: LocalStats,
    /// Time at which the server was last ready for more.
    ready: Option<Instant>,
    /// Reasons for keeping the connection that have been counted.
    counted: Pins,
    /// Activity of the client that others see.
    shown: Shown,
}

/// Activities that others see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Preparing,
    Running,
    Idle,
}

/// The connection, without the state of its session.
#[derive(Debug)]
struct LeasedConn<'a> {
    conn: &'a mut Conn,
    activity: LeaseActivity<'a>,
    about: ConnExtras<'a>,
    /// Batches in which its bytes are read.
    coalescer: ReadCoalescer,
    side: ServerSide,
    /// Readability of the client and of the server.
    readable: (Readable, Readable),
}

/// Rest of the connection's parts.
#[derive(Debug)]
struct ConnExtras<'a> {
    key: &'a Arc<crate::upstream::server_conn::BackendKey>,
    gate: &'a Arc<crate::upstream::cancel_gate::CancelGate>,
    conn_info: &'a crate::upstream::conn_info::ConnInfo,
    close_reason: &'a mut CloseReason,
}

impl<'a> Relay<'a> {
    /// Sends the preparation and the client's first messages at `now`, then moves bytes until the end.
    ///
    /// Not an `async fn`, nor the next: one would keep what it is called with beside what it works on.
    pub(crate) fn run(mut self, now: Instant) -> impl Future<Output = Outcome> + use<'a> {
        let opened = self.open(now);
        self.run_opened(opened)
    }

    /// Moves bytes until the end.
    fn run_opened(mut self, opened: Result<(), End>) -> impl Future<Output = Outcome> + use<'a> {
        let ended = opened.err();
        async move {
            let end = match ended {
                None => poll_fn(|cx| self.poll(cx)).await,
                Some(end) => end,
            };
            self.server.coalescer.end(self.server.conn);
            self.settle_accounts();
            self.server.activity.set_active(false);
            self.server.about.conn_info.left(self.machine.prepared());
            if !self.counted.is_empty() {
                self.handle.set_pins(Pins::empty());
            }
            let to_server = Flush::of(self.server.conn.is_flushed());
            let (machine, mut io) = self.parts();
            let said = if let End::Machine(end) = &end { Some(end) } else { None };
            let remains = machine.finish(&mut io, said, to_server);
            Outcome { ready: self.ready.filter(|_| matches!(end, End::Machine(machine::End::Settled))), end, remains }
        }
    }

    /// The machine, and the buffers that it works on.
    fn parts(&mut self) -> (&mut Machine<'a>, Buffers<'_>) {
        let io = Buffers {
            from_client: &mut self.client.input,
            to_client: &mut self.client.output,
            from_server: &mut self.server.conn.input,
            to_server: &mut self.server.conn.output,
        };
        (&mut *self.machine, io)
    }

    fn open(&mut self, now: Instant) -> Result<(), End> {
        self.shown = Shown::Preparing;
        self.handle.set_preparing(now);
        let (machine, mut io) = self.parts();
        machine.open(&mut io)?;
        self.vacate();
        self.note_running(|| now);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.handle.wake.poll_woken(cx).is_ready() {
            self.handle.publish_addrs(self.client.stream());
        }
        self.server.readable = (Readable::Perhaps, Readable::Perhaps);
        if self.handle.is_killed() {
            return Poll::Ready(End::Killed);
        }
        if self.shared.drain.phase() == Phase::Stopping {
            return Poll::Ready(End::Shutdown);
        }
        loop {
            if let Err(end) = self.poll_up(cx) {
                return Poll::Ready(end);
            }
            let down = match self.poll_down(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            match self.boundary() {
                Next::End(end) => return Poll::Ready(end.into()),
                Next::Again => {}
                Next::HalfClose => self.server.side = ServerSide::Closing,
                Next::Idle(pins) => {
                    if let Some(end) = self.idle(pins) {
                        return Poll::Ready(end);
                    }
                    // What has come down may be what the other direction waits for.
                    if !down {
                        return Poll::Pending;
                    }
                }
                Next::Wait if down => {}
                Next::Wait => return Poll::Pending,
            }
        }
    }

    fn boundary(&mut self) -> Next {
        let flush = Flush::of(self.client.is_flushed() && self.server.conn.is_flushed());
        let (machine, mut io) = self.parts();
        let next = machine.boundary(&mut io, flush);
        if flush == Flush::Done
            && self.shown != Shown::Idle
            && self.machine.is_answered()
            && !self.machine.is_preparing()
        {
            self.shown = Shown::Idle;
            self.server.coalescer.end(self.server.conn);
            self.server.activity.set_active(false);
            self.handle.set_idle(self.machine.client());
        }
        next
    }

    /// The client is between two pieces of work, and keeps its connection for `pins`, or because its session does.
    fn idle(&mut self, pins: Pins) -> Option<End> {
        if self.shared.drain.phase() >= Phase::Draining {
            return Some(End::Shutdown);
        }
        if self.machine.mode() == Mode::Session {
            // A client that has left nothing in its session moves to where connections go by now.
            if pins.is_empty() && self.server.activity.pool().is_outdated() {
                return Some(End::Machine(machine::End::Settled));
            }
            self.settle_accounts();
            return None;
        }
        self.settle_accounts();
        self.count_pins(pins);
        None
    }

    /// Client to server, as far as it goes.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        match self.server.side {
            ServerSide::Open => {}
            ServerSide::Closing => {
                if self.server.conn.poll_half_close(cx).is_ready() {
                    self.server.side = ServerSide::TakesNoMore;
                }
                return Ok(());
            }
            ServerSide::TakesNoMore => return Ok(()),
        }
        loop {
            match self.poll_send(cx) {
                Poll::Pending => return self.watch_client(cx),
                Poll::Ready(Err(_)) => return self.server_takes_no_more(),
                Poll::Ready(Ok(())) => {}
            }
            if self.machine.holds_client() {
                return Ok(());
            }
            let (machine, mut io) = self.parts();
            if machine.client_sent(&mut io) {
                self.vacate();
                self.note_running(Instant::now);
                continue;
            }
            if !self.server.conn.is_flushed() {
                continue;
            }
            if self.client.input.is_full()
                || self.machine.client_has_ended()
                || self.server.readable.0 == Readable::NotNow
                || self.poll_client(cx)?.is_pending()
            {
                return Ok(());
            }
        }
    }

    /// Sends what waits for the server; ready once the kernel has taken all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.server.conn.is_flushed() {
                if self.client.input.unsent().len() <= SMALL_BYTES {
                    let unsent = self.client.input.unsent();
                    self.server.conn.output.extend_from_slice(unsent);
                    let n = unsent.len();
                    self.client.input.sent(n);
                }
                ready!(self.server.conn.poll_flush(cx))?;
                self.machine.on_sent();
            }
            if self.client.input.unsent().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let sent = ready!(self.server.conn.poll_write(cx, self.client.input.unsent()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.client.input.sent(sent);
            self.machine.on_sent();
        }
    }

    /// Reads from the client; ready once something has come, be it the end.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        match self.client.poll_fill(cx) {
            Poll::Pending => {
                self.server.readable.0 = Readable::NotNow;
                return Ok(Poll::Pending);
            }
            Poll::Ready(Ok(1..)) => {}
            // Only the one direction is closed: the client still gets its answers.
            Poll::Ready(Ok(0)) if !self.client.stream().is_hung_up() => {
                self.machine.client_ended();
            }
            Poll::Ready(Err(_) | Ok(0)) => return Err(End::ClientGone),
        }
        Ok(Poll::Ready(()))
    }

    /// Looks, while the server takes nothing, whether the client is still there: what it has sent meanwhile is received as far as there is
    /// room.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while !self.client.input.is_full()
            && !self.machine.client_has_ended()
            && self.server.readable.0 != Readable::NotNow
            && self.poll_client(cx)?.is_ready()
        {}
        Ok(())
    }

    /// The server has closed its side. It may have said why before, and the client should hear that: the end is where
    /// there is nothing more to read.
    fn server_takes_no_more(&mut self) -> Result<(), End> {
        if self.server.conn.flushed() > 0 {
            self.machine.on_sent();
        }
        if self.machine.is_unsent() {
            return Err(self.server_ended());
        }
        self.server.side = ServerSide::TakesNoMore;
        self.machine.server_takes_no_more();
        Ok(())
    }

    fn server_ended(&mut self) -> End {
        *self.server.about.close_reason = CloseReason::Dead;
        if self.server.conn.flushed() > 0 {
            self.machine.on_sent();
        }
        let (machine, mut io) = self.parts();
        machine.server_ended(&mut io).into()
    }

    /// Server to client, as far as it goes. Says whether anything moved.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if !self.client.is_flushed() {
                match self.client.poll_flush(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(())) => progress = true,
                }
            }
            if !self.server.conn.input.unsent().is_empty() {
                match self.client.poll_write(cx, self.server.conn.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(_) | Ok(0)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(n)) => self.server.conn.input.sent(n),
                }
                progress = true;
                continue;
            }
            let (machine, mut io) = self.parts();
            if machine.server_sent(&mut io)? {
                self.count();
                self.note_running(Instant::now);
                progress = true;
                continue;
            }
            let done = self.machine.mode() == Mode::Transaction && self.machine.is_answered();
            if self.server.readable.1 == Readable::NotNow || (progress && done) || self.machine.is_at_boundary() {
                // Where all has been answered the connection mostly goes, and no wake-up is needed for it.
                return Ok(progress);
            }
            match self.server.coalescer.poll_fill(cx, self.server.conn) {
                Poll::Pending => {
                    self.server.readable.1 = Readable::NotNow;
                    return Ok(progress);
                }
                Poll::Ready(Ok(1..)) => progress = true,
                Poll::Ready(Ok(0) | Err(_)) => return Err(self.server_ended()),
            }
        }
    }

    /// Has idle connections closed that would be in the way of what the client wants. The server waits 5 s for such
    /// (`CountOtherDBBackends`).
    fn vacate(&mut self) {
        if let Some(database) = self.machine.take_vacated() {
            self.shared.pools.vacate(&self.server.activity.pool().key.database, &database);
        }
    }

    fn client_failed(&self) -> End {
        if self.machine.client_has_ended() { End::Machine(machine::End::ClientTerminated) } else { End::ClientGone }
    }

    /// The server works for the client, and a cancel request would hit that.
    fn note_running(&mut self, now: impl FnOnce() -> Instant) {
        if self.shown == Shown::Running || !self.machine.is_working() {
            return;
        }
        self.shown = Shown::Running;
        let now = now();
        self.tally.begins(now);
        self.server.set_running(self.shared, self.handle, now);
    }
}

impl LeasedConn<'_> {
    /// The server works for the client from `now` on, and a cancel request would hit that; one that came before is sent.
    fn set_running(&mut self, shared: &Arc<Shared>, handle: &SessionHandle, now: Instant) {
        self.activity.set_active(true);
        if handle.set_running(self.about.key, self.about.gate, now) {
            let (key, gate) = (Arc::clone(self.about.key), self.about.gate.enter());
            let server_side = Arc::clone(&shared.server_side);
            tokio::spawn(async move { cancel::send(&server_side, &key, gate).await });
        }
    }
}

/// The longest text that is held whole to be analysed, in bytes, with buffers of `capacity`.
#[must_use]
pub(crate) fn max_text_bytes(capacity: usize) -> usize {
    capacity.max(MAX_TEXT_BYTES)
}
