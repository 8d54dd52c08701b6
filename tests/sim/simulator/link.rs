//! Connections: what `upstream::server_conn`, `upstream::own_statements` and `upstream::cleanup` do with them.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use pgferry::internals::track::keeping_reset::KeepingReset;
use pgferry::internals::track::own_requests::{self, Answer, LastRequest, Lost};
use pgferry::internals::track::server_state::{CloseMethod, RESET};
use pgferry::internals::track::{Clean, Pins, Pipeline, ServerState};
use pgferry::internals::upstream::session_code::needs_reset;
use pgferry::internals::wire::{Frames, backend, frame, frontend, head};

use super::cancel;
use super::pool::Pool;
use super::wire::{Broken, Conn};
use super::world::World;
use crate::model::BackendId;

/// For how long a connection counts as just used, in microseconds.
pub const MOMENT: u64 = 1000;

/// How long a connection's end is waited for.
const GOODBYE: u64 = 1_000_000;

/// How long restoring a session may take.
pub const CLEANUP_TIMEOUT: u64 = 10_000_000;

/// The first pause before another cancel request for the same statement.
const CANCEL_AGAIN: u64 = 50_000;

/// A connection that somebody has, or the pool.
pub struct Link {
    pub world: Rc<World>,
    pub pool: Rc<Pool>,
    pub conn: Conn,
    pub state: ServerState,
    pub backend: BackendId,
    pub pid: i32,
    pub returned: u64,
    opened: u64,
}

impl Link {
    pub fn new(
        world: &Rc<World>,
        pool: &Rc<Pool>,
        conn: Conn,
        state: ServerState,
        backend: BackendId,
        pid: i32,
    ) -> Self {
        let returned = world.now();
        Self { world: Rc::clone(world), pool: Rc::clone(pool), conn, state, backend, pid, returned, opened: returned }
    }

    pub fn number(&self) -> usize {
        self.conn.number()
    }

    pub fn was_just_used(&self) -> bool {
        self.world.now() - self.returned < MOMENT && self.conn.input.is_empty()
    }

    /// Whether it has come back lately enough to be alive.
    pub fn is_probed(&self) -> bool {
        self.world.now() - self.returned >= MOMENT
    }

    /// Looks at what the server said while nobody used the connection.
    pub fn look(&mut self) -> bool {
        loop {
            if !self.take_note() || self.conn.input.is_full() {
                return false;
            }
            match self.conn.poll_fill() {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return false,
                Poll::Pending => return self.conn.input.is_empty(),
            }
        }
    }

    fn take_note(&mut self) -> bool {
        let mut frames = Frames::new(self.conn.input.unparsed(), frame::BACKEND_LIMIT);
        let before = self.conn.input.unparsed().len();
        for message in frames.by_ref() {
            match message {
                Ok(message) if message.tag == backend::PARAMETER_STATUS => {
                    let Some((name, value)) = backend::parameter_status(message.body()) else { return false };
                    self.state.params.set(name, value);
                    self.state.base.set(name, value);
                }
                Ok(message) if matches!(message.tag, backend::NOTICE | backend::NOTIFICATION) => {}
                _ => return false,
            }
        }
        let seen = before - frames.rest().len();
        self.conn.input.skip(seen);
        true
    }

    /// Whether it is to be replaced.
    pub fn is_too_old(&self) -> bool {
        let is_old = self.world.setup.lifetime > 0 && self.world.now() - self.opened >= self.world.setup.lifetime;
        is_old || self.pool.outdated.get()
    }

    /// Whether what a client may have left in it is reset while nobody has it.
    pub fn needs_reset(&self) -> bool {
        needs_reset(self.world.setup.reset, &self.state, self.world.instant())
    }

    /// Gives it back.
    pub fn release(mut self, _: Clean) {
        self.returned = self.world.now();
        self.release_unused();
    }

    /// Gives it back without having used it, once no cancel request for it is under way.
    pub fn release_unused(self) {
        let number = self.number();
        let world = Rc::clone(&self.world);
        if world.links.borrow()[number].cancels == 0 {
            return self.take_back();
        }
        world.clone().spawn(format!("gives link {number} back"), async move {
            cancel::gone_by(&world, number).await;
            self.take_back();
        });
    }

    fn take_back(self) {
        if self.is_too_old() { close(self) } else { self.release_as_it_is() }
    }

    /// Gives it to whoever has waited longest, or to the pool.
    pub fn release_as_it_is(self) {
        let (pool, world) = (Rc::clone(&self.pool), Rc::clone(&self.world));
        pool.hand_out(&world, self);
    }

    /// Gives it back as new.
    pub fn release_fresh(mut self, clean: Clean) {
        let pool = Rc::clone(&self.pool);
        pool.parameters.learn_reset(&mut self.state);
        self.release(clean);
    }
}

/// Closes a connection, in a task of its own.
pub fn close(mut link: Link) {
    let world = Rc::clone(&link.world);
    let close_method = link.state.close_method;
    world.tell(|| format!("link {} is closed: {close_method:?}", link.number()));
    world.clone().spawn(format!("closes link {}", link.number()), async move {
        cancel::gone_by(&world, link.number()).await;
        match close_method {
            CloseMethod::Silent => {}
            CloseMethod::CopyFail | CloseMethod::Terminate => {
                if close_method == CloseMethod::CopyFail {
                    frontend::put_copy_fail(&mut link.conn.output, "the client is gone");
                }
                frontend::put_terminate(&mut link.conn.output);
                let drained = async {
                    if link.conn.flush().await.is_err() {
                        return;
                    }
                    while link.conn.fill().await.is_ok() {
                        let here = link.conn.input.unparsed().len();
                        let unsent = link.conn.input.unsent().len();
                        link.conn.input.sent(unsent);
                        link.conn.input.skip(here);
                    }
                };
                let until = world.now() + GOODBYE;
                world.timeout(until, drained).await;
            }
        }
        world.links.borrow_mut()[link.conn.number()].closed = true;
        link.pool.closed(&world);
    });
}

/// Resets an idle session; `None`, closing the connection, where that fails.
pub async fn reset(mut link: Link) -> Option<Link> {
    if !link.needs_reset() {
        return Some(link);
    }
    let world = Rc::clone(&link.world);
    let mut pipeline = Pipeline::new();
    let until = world.now() + CLEANUP_TIMEOUT;
    let done = world.timeout(until, make_as_new(&mut link, &mut pipeline)).await;
    if !matches!(done, Some(Ok(()))) {
        close(link);
        return None;
    }
    let pool = Rc::clone(&link.pool);
    pool.parameters.learn_reset(&mut link.state);
    Some(link)
}

async fn make_as_new(link: &mut Link, pipeline: &mut Pipeline) -> Result<(), &'static str> {
    if let Some((reset, sql)) = KeepingReset::alone(&link.state) {
        if query(link, pipeline, &sql).await?.is_none() {
            reset.apply(&mut link.state);
            return Ok(());
        }
        if !pipeline.settled() {
            run(link, pipeline, b"ROLLBACK").await?;
        }
    }
    run(link, pipeline, RESET).await?;
    link.state.on_reset();
    Ok(())
}

/// What a client left behind.
pub struct SessionLeftovers {
    pub pipeline: Pipeline,
    pub partial: usize,
    pub cancel: bool,
    pub aim: Aim,
}

/// What a session is brought to when its client is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    Settled,
    /// Settled, and reset.
    AsNew,
    /// Closed with its connection, once the server no longer works there.
    Closed,
}

/// A session that has been restored.
enum RestoredSession {
    AsNew(Clean),
    Used(Clean),
    /// It serves no other client.
    Unfit,
}

/// Restores a session, in a task of its own; closes the connection where that fails.
pub fn restore(link: Link, leftover: SessionLeftovers) {
    let world = Rc::clone(&link.world);
    world.tell(|| format!("link {} is restored: {:?}", link.number(), leftover.aim));
    world.clone().spawn(format!("restores link {}", link.number()), async move {
        let mut link = link;
        let until = world.now() + CLEANUP_TIMEOUT;
        let outcome = world.timeout(until, clean_up(&mut link, leftover)).await;
        Pool::role_changed(&world, link.state.for_others.take_role_change());
        match outcome {
            Some(Ok(RestoredSession::AsNew(clean))) => link.release_fresh(clean),
            Some(Ok(RestoredSession::Used(clean))) => link.release(clean),
            Some(Ok(RestoredSession::Unfit)) => close(link),
            Some(Err(why)) => {
                world.tell(|| format!("link {} could not be restored: {why}", link.number()));
                close(link);
            }
            None => {
                if world.setup.is_calm() {
                    world.complain(format!("link {} was not restored in time", link.number()));
                }
                close(link);
            }
        }
    });
}

async fn clean_up(link: &mut Link, leftover: SessionLeftovers) -> Result<RestoredSession, &'static str> {
    let SessionLeftovers { mut pipeline, partial, cancel, aim } = leftover;
    let untaken = link.conn.input.unsent().len();
    link.conn.input.sent(untaken);
    if pipeline.lost() {
        return Err("lost");
    }
    let close_method = std::mem::replace(&mut link.state.close_method, CloseMethod::Silent);
    let last = match close_method {
        // Whatever is sent behind half a message would be taken for its other half. The server ends where it comes to that.
        CloseMethod::Silent => {
            link.conn.half_close();
            LastRequest::of(&pipeline)
        }
        CloseMethod::Terminate | CloseMethod::CopyFail => {
            let last = own_requests::put_end_of_work(&mut pipeline, &mut link.conn.output);
            if !pipeline.answered() {
                link.conn.flush().await.map_err(|_| "broken")?;
            }
            last
        }
    };
    let done: Done = if close_method == CloseMethod::Silent { owes_nothing_unasked } else { Pipeline::answered };
    let mut partial = Partial(partial);
    if cancel && !pipeline.answered() {
        if !last.is_reached(&pipeline) {
            partial.discard(link).await?;
            settle_until(link, &mut pipeline, |pipeline| last.is_reached(pipeline)).await?;
        }
        settle_cancelling(link, &mut pipeline, partial, done).await?;
    } else {
        partial.discard(link).await?;
        settle(link, &mut pipeline).await?;
    }
    if close_method == CloseMethod::Silent {
        return Ok(RestoredSession::Unfit);
    }
    link.state.close_method = CloseMethod::Terminate;
    if aim == Aim::Closed {
        return Ok(RestoredSession::Unfit);
    }
    if !pipeline.settled() {
        run(link, &mut pipeline, b"ROLLBACK").await?;
    }
    if aim == Aim::AsNew {
        make_as_new(link, &mut pipeline).await?;
    }
    link.state.code.is_settled();
    let clean = Clean::prove(&pipeline, Pins::empty()).ok_or("not clean")?;
    Ok(if aim == Aim::AsNew { RestoredSession::AsNew(clean) } else { RestoredSession::Used(clean) })
}

/// Bytes of a message of the server's that are still to come.
struct Partial(usize);

impl Partial {
    async fn discard(&mut self, link: &mut Link) -> Result<(), &'static str> {
        link.conn.discard(std::mem::take(&mut self.0)).await.map_err(|_| "broken")
    }
}

/// Whether the server is no longer at work.
type Done = fn(&Pipeline) -> bool;

fn owes_nothing_unasked(pipeline: &Pipeline) -> bool {
    pipeline.answered() || pipeline.skipping()
}

async fn settle_cancelling(
    link: &mut Link,
    pipeline: &mut Pipeline,
    mut partial: Partial,
    done: Done,
) -> Result<(), &'static str> {
    let world = Rc::clone(&link.world);
    let (number, backend) = (link.number(), link.backend);
    let mut settled = std::pin::pin!(async {
        partial.discard(link).await?;
        settle_until(link, pipeline, done).await
    });
    let mut pause = CANCEL_AGAIN;
    let mut at = world.now();
    poll_fn(|cx| {
        loop {
            // The first request is on its way before it is looked at what has come.
            if world.now() >= at {
                cancel::send(&world, number, backend);
                at = world.now() + pause;
                pause *= 2;
                world.wake_at(at);
            }
            if let Poll::Ready(settled) = settled.as_mut().poll(cx) {
                return Poll::Ready(settled.map(drop));
            }
            if world.now() < at {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn run(link: &mut Link, pipeline: &mut Pipeline, sql: &[u8]) -> Result<(), &'static str> {
    match query(link, pipeline, sql).await? {
        None => Ok(()),
        Some(_) => Err("refused"),
    }
}

/// Runs a statement of pgferry's own; returns the error that it is answered with, if any.
pub async fn query(link: &mut Link, pipeline: &mut Pipeline, sql: &[u8]) -> Result<Option<Box<[u8]>>, &'static str> {
    own_requests::put_query(&mut link.state, pipeline, sql, &mut link.conn.output);
    link.conn.flush().await.map_err(|_| "broken")?;
    settle(link, pipeline).await
}

async fn settle(link: &mut Link, pipeline: &mut Pipeline) -> Result<Option<Box<[u8]>>, &'static str> {
    settle_until(link, pipeline, Pipeline::answered).await
}

async fn settle_until(
    link: &mut Link,
    pipeline: &mut Pipeline,
    done: impl Fn(&Pipeline) -> bool,
) -> Result<Option<Box<[u8]>>, &'static str> {
    let broken = |_: Broken| "broken";
    let Link { conn, state, .. } = link;
    let mut failed = None;
    own_requests::drop_synthesized(pipeline);
    while !done(pipeline) {
        if pipeline.lost() {
            return Err("lost");
        }
        let header = conn.peek(frame::HEADER_BYTES).await.map_err(broken)?;
        let Ok(Some(head)) = head(header, frame::BACKEND_LIMIT) else { return Err("lost") };
        let is_read = own_requests::is_read(head.tag) && head.size <= conn.input.capacity();
        let read = if is_read { conn.peek(head.size).await.map_err(broken)? } else { &[] };
        let body = read.get(frame::HEADER_BYTES..);
        if own_requests::take_answer(state, pipeline, head.tag, body).map_err(|Lost| "lost")? == Answer::Error {
            failed.get_or_insert_with(|| read.into());
        }
        conn.discard(head.size).await.map_err(broken)?;
    }
    Ok(failed)
}
