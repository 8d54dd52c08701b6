//! A plain request's way to the server, and its answer's way back: one write and one read on either side. Where anything
//! else comes, a machine takes over.

use std::task::{Context, Poll};
use std::time::Instant;

use super::accounts::add_messages;
use super::{End, Outcome, Pairing, Relay, Shown};
use crate::drain::Phase;
use crate::machine;
use crate::machine::plain_request::{PlainProgress, PlainRequest};
use crate::net::Conn;
use crate::upstream::pool_stats::LocalStats;

/// A plain request that is under way.
#[derive(Debug)]
pub(crate) struct PlainExchange {
    request: PlainRequest,
    progress: PlainProgress,
    /// It has begun to time the query.
    tally: LocalStats,
}

impl<'a> Pairing<'a> {
    /// Returns the plain request that the client has sent, if there is that and no more, with nothing under way besides.
    pub(crate) fn plain_request(&self) -> Option<PlainRequest> {
        let (client, server) = (&*self.client, &*self.server.conn);
        let is_at_rest = client.is_flushed() && server.is_flushed() && server.input.is_empty();
        let read =
            || PlainRequest::read(&client.input, self.context.mode, self.state, self.server_state, &self.preparation);
        if is_at_rest { read() } else { None }
    }

    /// The client and the connection are about to work on `request` at `now`.
    pub(crate) fn begin_plain(&mut self, request: PlainRequest, now: Instant) -> PlainExchange {
        let mut tally = LocalStats::default();
        let progress = PlainRequest::begin(self.state, self.server_state);
        tally.begins(now);
        match self.shown_at_first() {
            Shown::Running => self.server.set_running(self.shared, self.handle, now),
            Shown::Preparing | Shown::Idle => self.handle.set_preparing(now),
        }
        PlainExchange { request, progress, tally }
    }

    /// A cancel request that comes before the connection is known to be alive is kept.
    fn shown_at_first(&self) -> Shown {
        if self.preparation.is_probe() { Shown::Preparing } else { Shown::Running }
    }

    /// Sends the request, and its answer back. Ready once the client has all of the answer, or, with `false`, where a machine takes
    /// over ([`Pairing::go_on`]), since something else has come or is in the way.
    pub(crate) fn poll_plain(&mut self, cx: &mut Context<'_>, exchange: &mut PlainExchange) -> Poll<bool> {
        let PlainExchange { request, progress, .. } = exchange;
        if *progress == PlainProgress::Sent(0) && !self.send_plain(cx, request, progress) {
            return Poll::Ready(false);
        }
        while self.handle.wake.poll_woken(cx).is_ready() {
            self.handle.publish_addrs(self.client.stream());
        }
        if self.handle.is_killed() || self.shared.drain.phase() == Phase::Stopping {
            return Poll::Ready(false);
        }
        if !self.client.input.is_full() && self.client.poll_fill(cx).is_ready() {
            return Poll::Ready(false);
        }
        if self.server.coalescer.poll_fill(cx, self.server.conn).is_pending() {
            return Poll::Pending;
        }
        let Some(answer) = request.told_by(self.server.conn.input.unparsed(), &self.preparation) else {
            return Poll::Ready(false);
        };
        let told = match self.client.poll_write(cx, answer) {
            Poll::Ready(Ok(told)) => told,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        *progress = PlainProgress::Answered(told);
        Poll::Ready(told == answer.len() && self.client.is_flushed())
    }

    /// Writes the preparation and the request. Says whether the kernel has taken all of it.
    fn send_plain(&mut self, cx: &mut Context<'_>, request: &PlainRequest, progress: &mut PlainProgress) -> bool {
        let messages = request.messages(&self.client.input, &self.preparation);
        let Poll::Ready(Ok(sent)) = self.server.conn.poll_write(cx, &messages) else { return false };
        *progress = PlainProgress::Sent(sent);
        sent == messages.len() && self.server.conn.is_flushed()
    }

    /// The client has its answer, and the connection can be given back.
    pub(crate) fn finish_plain(&mut self, exchange: PlainExchange) -> Outcome {
        let PlainExchange { request, mut tally, .. } = exchange;
        let now = Instant::now();
        add_messages(&mut tally, &request.counts());
        let timings = &self.shared.counters().timings;
        let lasted = tally.lone_query_ends(now);
        timings.query.observe(lasted);
        timings.transaction.observe(lasted);
        let (received, sent) = self.client.take_traffic();
        self.server.activity.pool().stats.take(&mut tally, received, sent);
        self.server.activity.set_active(false);
        self.server.coalescer.end(self.server.conn);
        self.server.about.conn_info.left(self.server_state.prepared.len());
        let answer = self.server.conn.input.unparsed();
        let remains = request.finish(&self.context, self.state, self.server_state, &self.preparation, answer);
        consume_all(self.client);
        consume_all(self.server.conn);
        Outcome { ready: Some(now), end: End::Machine(machine::End::Settled), remains }
    }

    /// Goes on with a machine that has come as far as `exchange`.
    pub(crate) fn go_on(self, exchange: PlainExchange) -> impl Future<Output = Outcome> + use<'a> {
        let PlainExchange { progress, tally, .. } = exchange;
        let shown = self.shown_at_first();
        let mut relay = Relay { tally, shown, ..self.relay() };
        let (machine, mut io) = relay.parts();
        let opened = progress.catch_up(machine, &mut io).map_err(End::from);
        relay.run_opened(opened)
    }
}

fn consume_all(conn: &mut Conn) {
    conn.consume(conn.input.unparsed().len());
}
