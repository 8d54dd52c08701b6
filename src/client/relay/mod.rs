//! Moves bytes between one client and one connection, until the connection can be given back or one of them ends.
//!
//! Headers are walked, bodies are not: runs of messages go out of the buffer they came into with one write. Each
//! direction either has bytes that wait for the other side, and then does not read, or waits for its own side; the two
//! are independent, so that a client that pipelines and a server that answers can't block each other.
//!
//! `up` and `down` move the bytes, `boundary` decides where that ends (`end`). In transaction mode `statements` and
//! `ready` give statements the names they have on the connection, `state` keeps what the client carries, and
//! `again` does work again that an old plan has spoilt.

mod again;
mod boundary;
mod down;
mod end;
mod ready;
mod state;
mod statements;
mod up;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::Shared;
use super::checkout::Preparation;
use super::control::Control;
use crate::config::{Mode, Pin, Settings};
use crate::drain::Phase;
use crate::net::{Conn, Gather};
use crate::track::acts::Act;
use crate::track::names::LOOK_LIMIT;
use crate::track::pinning::Look;
use crate::track::statements::Limits;
use crate::track::{Luggage, Params, Pins, Pipeline, Reply};
use crate::upstream::lease::OnLoan;
use crate::upstream::link::{Link, Used};
use crate::upstream::traffic::Tally;
use crate::upstream::{Closing, Lease, cancel};
use crate::wire::backend;
use again::Exchange;
pub use end::{End, Outcome};
use ready::Variant;

/// What a look between two messages comes to.
enum Next {
    /// There is nothing to do until something arrives.
    Wait,
    /// There is something to do.
    Again,
    /// The relay is over.
    End(End),
}

/// One client on one connection.
#[derive(Debug)]
pub struct Relay<'a> {
    shared: &'a Arc<Shared>,
    client: &'a mut Conn,
    link: &'a mut Link,
    loan: OnLoan<'a>,
    control: &'a Control,
    bag: &'a mut Luggage,
    preparation: &'a Preparation,
    mode: Mode,
    pin: Pin,
    limits: Limits,
    /// The longest text that is held whole to be looked at.
    look_limit: usize,
    pipeline: Pipeline,
    pins: Pins,
    /// Reasons for keeping the connection that have been counted.
    counted: Pins,
    /// The reported settings when the client's work began.
    start: Params,
    /// The unnamed statement on the connection is what the client's books say.
    unnamed_here: bool,
    /// What running the unnamed statement does.
    unnamed_look: Option<Look>,
    /// What running a portal does, where that is anything.
    portals: Vec<(Box<[u8]>, Arc<Act>)>,
    /// Statements that stand in for others for the time being.
    variants: Vec<Variant>,
    /// Names that the client has given up lately, by the numbers of their statements: errors may still speak of them.
    former: Vec<(u64, Box<[u8]>)>,
    /// Somebody else may have left a sequence's state on the connection.
    foreign_sequences: bool,
    /// What the statement under way does if it succeeds.
    act: Option<Arc<Act>>,
    /// The client's next messages wait until what is under way has been answered.
    barrier: bool,
    /// The client's next message waits for what the server says of a statement.
    checking: bool,
    /// The server has been asked for answers that it keeps back.
    flushed: bool,
    /// The settings that the statement under way resets to other than the client's own.
    resets: Vec<&'static str>,
    /// Those are being put right, or will be.
    correcting: bool,
    corrected: bool,
    /// `RESET ALL` has succeeded, if the transaction commits.
    reset_all: bool,
    /// A definition has changed that others will see when the transaction commits.
    defines: bool,
    /// The reasons for keeping the connection may be gone: the server should be asked.
    asks: bool,
    /// It is being asked.
    asking: bool,
    /// The client has sent something that sets something.
    sets: bool,
    /// Settings that have changed without such a thing, while the server is asked where they come from.
    origins: Option<Vec<&'static str>>,
    /// The work at hand, in case it has to be done again.
    exchange: Exchange,
    /// How many answers to our own messages in front of the client's first are still to come.
    preparing: usize,
    /// The last of them has come.
    prepared: bool,
    /// The server's error in answer to a message of our own.
    refused: Option<Arc<[u8]>>,
    /// The client's first bytes, kept until it is certain that the connection was alive.
    first: Vec<u8>,
    /// The client's next bytes must wait.
    hold: bool,
    /// The client's first message has waited for that, and is to be sent now.
    unopened: bool,
    /// There is nothing to read from the client, from the server; this holds until the task is woken.
    dry: (bool, bool),
    /// How the server's bytes are waited for.
    gather: Gather,
    /// When the server was last ready for more.
    ready: Option<Instant>,
    /// What is counted.
    tally: Tally,
    up_left: usize,
    /// The rest of the client's current message is not sent on.
    up_dropped: bool,
    down_left: usize,
    down_hidden: bool,
    goodbye: bool,
    /// The server takes no more.
    deaf: bool,
    told: bool,
    running: bool,
}

impl<'a> Relay<'a> {
    /// Joins `client`, who carries `bag`, and `lease`, which `preparation` makes fit for it.
    #[must_use]
    pub fn new(
        shared: &'a Arc<Shared>,
        client: &'a mut Conn,
        lease: &'a mut Lease,
        control: &'a Control,
        bag: &'a mut Luggage,
        preparation: &'a Preparation,
        settings: &Settings,
    ) -> Self {
        let look_limit = look_limit(settings.mode, client.input.capacity());
        // Nobody has left anything there, nor has this client what it carries.
        let bare = lease.used == Used::Fresh && bag.unnamed.is_some();
        let (link, loan) = lease.parts();
        link.params.share(&bag.view);
        link.card.taken(control.id);
        Self {
            shared,
            client,
            control,
            bag,
            preparation,
            mode: settings.mode,
            pin: settings.pin,
            limits: Limits { count: settings.max_prepared_statements, bytes: settings.max_prepared_bytes },
            look_limit,
            pipeline: Pipeline::new(),
            pins: Pins::none(),
            counted: Pins::none(),
            start: link.params.clone(),
            unnamed_here: !preparation.foreign && !bare && preparation.messages.is_empty(),
            unnamed_look: None,
            portals: Vec::new(),
            variants: Vec::new(),
            former: Vec::new(),
            foreign_sequences: preparation.foreign && !preparation.reset,
            act: None,
            barrier: false,
            flushed: false,
            checking: false,
            resets: Vec::new(),
            correcting: false,
            corrected: false,
            reset_all: false,
            defines: false,
            asks: false,
            asking: false,
            sets: false,
            origins: None,
            exchange: Exchange::default(),
            preparing: preparation.requests().len(),
            prepared: false,
            refused: None,
            first: Vec::new(),
            hold: !preparation.messages.is_empty(),
            unopened: false,
            dry: (false, false),
            gather: Gather::default(),
            ready: None,
            tally: Tally::default(),
            up_left: 0,
            up_dropped: false,
            down_left: 0,
            down_hidden: false,
            goodbye: false,
            deaf: false,
            told: false,
            running: false,
            link,
            loan,
        }
    }

    /// Sends the preparation and the client's first messages at `now`, then moves bytes until the end.
    pub async fn run(&mut self, now: Instant) -> Outcome {
        let end = match self.open(now) {
            Ok(()) => self.until_end().await,
            Err(end) => end,
        };
        self.gather.end(&self.link.conn);
        self.settle_accounts();
        self.loan.set_active(false);
        self.link.card.left(self.link.prepared.len());
        if !self.counted.is_empty() {
            self.control.set_pins(Pins::none());
        }
        self.link.copying_in = self.pipeline.copying_in();
        let cut = self.down_left > 0 && !self.down_hidden;
        if !cut {
            // Whole messages, on which whatever the client is told at the end can follow.
            self.stash();
        }
        if self.act.is_some() || (self.preparing() && self.preparation.settings) {
            // Nobody knows yet which settings the session has.
            self.pins.add(Pins::SETTING);
        }
        if self.mode == Mode::Transaction && !self.preparing() {
            self.link.kept.clone_from(self.bag.ledger.kept());
        }
        Outcome {
            ready: self.ready.filter(|_| matches!(end, End::Settled)),
            end,
            cut,
            partial_down: self.down_left,
            partial_up: self.up_left > 0 || !self.client.input.unsent().is_empty() || !self.link.conn.output.is_empty(),
            pipeline: std::mem::take(&mut self.pipeline),
            pins: self.pins,
        }
    }

    fn open(&mut self, now: Instant) -> Result<(), End> {
        self.control.set_preparing();
        for request in self.preparation.requests() {
            self.pipeline.request(request, Reply::Hide);
        }
        if self.preparation.reset {
            // The books run ahead of the server, as with everything that is sent.
            self.link.swept();
        }
        self.link.conn.output.extend_from_slice(&self.preparation.messages);
        if !self.preparation.must_succeed_first {
            let before = self.client.input.unparsed().to_vec();
            self.parse_up()?;
            let taken = before.len() - self.client.input.unparsed().len();
            self.first = before;
            self.first.truncate(taken);
            self.splice();
        }
        if !self.preparing() {
            self.tell_differences();
            self.note_running(|| now);
        }
        Ok(())
    }

    async fn until_end(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.control.wake.poll_woken(cx).is_ready() {
            self.control.introduce(self.client.stream());
        }
        self.dry = (false, false);
        if self.control.is_killed() {
            return Poll::Ready(End::Refuse(super::session::killed()));
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
                Next::End(end) => return Poll::Ready(end),
                Next::Again => {}
                // What has come down may be what the other direction waits for.
                Next::Wait if down => {}
                Next::Wait => return Poll::Pending,
            }
        }
    }

    /// Hands what was counted to the pool.
    fn settle_accounts(&mut self) {
        let (received, sent) = self.client.take_traffic();
        self.loan.pool().traffic.take(&mut self.tally, received, sent);
    }

    fn preparing(&self) -> bool {
        self.preparing > 0
    }

    /// Our own messages have been answered: the connection is alive and as the client expects it.
    fn on_prepared(&mut self) {
        self.hold = false;
        self.unopened = self.preparation.must_succeed_first;
        if self.preparation.must_succeed_first {
            self.loan.pool().learn_canonical(&self.preparation.wanted, &self.link.params);
        } else {
            self.first = Vec::new();
        }
        self.link.kept.clone_from(self.bag.ledger.kept());
        self.link.params.share(&self.bag.view);
        self.start = self.link.params.clone();
        self.tell_differences();
        self.note_running(Instant::now);
    }

    /// Tells the client of reported settings that are other than it was told before.
    fn tell_differences(&mut self) {
        for (name, value) in self.link.params.beyond(&self.bag.view) {
            backend::put_parameter_status(&mut self.client.output, name, value);
        }
        self.bag.view.clone_from(&self.link.params);
    }

    /// The server works for the client, and a cancel request would hit that.
    fn note_running(&mut self, now: impl FnOnce() -> Instant) {
        if self.running || self.preparing() || self.pipeline.answered() {
            return;
        }
        self.running = true;
        let now = now();
        self.tally.begins(now);
        self.loan.set_active(true);
        if self.control.set_running(&self.link.key, &self.link.gate, now) {
            let (key, gate) = (Arc::clone(&self.link.key), self.link.gate.enter());
            let registry = Arc::clone(&self.shared.registry);
            tokio::spawn(async move { cancel::send(&registry, &key, gate).await });
        }
    }

    /// The connection broke. While the server has not answered our own messages it has not come to the client's.
    fn upstream_failed(&mut self) -> End {
        self.link.closing = Closing::Dead;
        if self.is_untouched() {
            self.pipeline.abandon();
            self.undo();
            self.act = None;
            self.splice();
            self.client.input.put_back(&std::mem::take(&mut self.first));
            self.up_left = 0;
            End::Stale
        } else {
            End::UpstreamLost { told: self.told }
        }
    }

    fn is_untouched(&self) -> bool {
        self.preparing() || (!self.first.is_empty() && self.link.conn.flushed() == 0)
    }

    fn client_failed(&self) -> End {
        if self.goodbye { End::Goodbye } else { End::ClientGone }
    }
}

/// The longest text that is held whole to be looked at, with buffers of `capacity` bytes: in session mode a text that is
/// not seen only costs an earlier reset.
#[must_use]
pub fn look_limit(mode: Mode, capacity: usize) -> usize {
    match mode {
        Mode::Session => capacity,
        Mode::Transaction => capacity.max(LOOK_LIMIT),
    }
}
