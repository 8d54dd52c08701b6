//! Moves bytes between one client and one connection, as `client::relay` does, with the machine in between.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use pgferry::internals::config::Mode;
use pgferry::internals::machine::plain_request::{PlainProgress, PlainRequest};
use pgferry::internals::machine::preparation::Preparation;
use pgferry::internals::machine::{self, Buffers, Flush, Machine, MachineResult, Next};
use pgferry::internals::track::ClientState;

use super::cancel;
use super::link::Link;
use super::pool::Pool;
use super::wire::{Broken, Conn};
use super::world::World;
use crate::model::BackendId;

/// Bytes that are copied to go out with others in one write.
const SMALL_BYTES: usize = 8 * 1024;

/// What of the client's work others see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Preparing,
    Running,
    Idle,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    Machine(machine::End),
    ClientGone,
}

impl From<machine::End> for End {
    fn from(end: machine::End) -> Self {
        Self::Machine(end)
    }
}

/// One client on one connection.
struct Relay<'a> {
    world: Rc<World>,
    client: &'a mut Conn,
    server: &'a mut Conn,
    id: usize,
    backend: BackendId,
    pool: Rc<Pool>,
    shown: Shown,
    machine: Box<Machine<'a>>,
    takes_no_more: bool,
    client_readable: bool,
    server_readable: bool,
}

/// Has the work of the client at `client` done on `link`.
pub async fn run<'a>(
    world: &Rc<World>,
    client: &'a mut Conn,
    link: &'a mut Link,
    context: machine::Context<'a>,
    state: &'a mut ClientState,
    preparation: Preparation,
) -> (End, MachineResult) {
    let id = client.number();
    let Link { conn, state: server_state, backend, pool, .. } = link;
    let at_rest = client.is_flushed() && conn.is_flushed() && conn.input.is_empty();
    let relay = |client: &'a mut Conn, server: &'a mut Conn, machine, shown| Relay {
        world: Rc::clone(world),
        client,
        server,
        id,
        backend: *backend,
        pool: Rc::clone(pool),
        shown,
        machine,
        takes_no_more: false,
        client_readable: true,
        server_readable: true,
    };
    let read = || PlainRequest::read(&client.input, context.mode, state, server_state, &preparation);
    let Some(request) = at_rest.then(read).flatten() else {
        let machine = Box::new(Machine::new(context, state, server_state, preparation));
        let mut relay = relay(client, conn, machine, Shown::Preparing);
        let opened = relay.open();
        return relay.run(opened).await;
    };
    let mut progress = PlainRequest::begin(state, server_state);
    let shown = if preparation.is_probe() { Shown::Preparing } else { Shown::Running };
    if shown == Shown::Running {
        cancel::set_running(world, id, conn.number(), *backend);
    } else {
        world.controls[id].borrow_mut().set_preparing();
    }
    if poll_fn(|_| poll_plain(client, conn, (&preparation, &request), &mut progress)).await {
        let remains = request.finish(&context, state, server_state, &preparation, conn.input.unparsed());
        client.input.skip(client.input.unparsed().len());
        conn.input.skip(conn.input.unparsed().len());
        return (End::Machine(machine::End::Settled), remains);
    }
    let mut machine = Box::new(Machine::new(context, state, server_state, preparation));
    let mut io = Buffers {
        from_client: &mut client.input,
        to_client: &mut client.output,
        from_server: &mut conn.input,
        to_server: &mut conn.output,
    };
    let opened = progress.catch_up(&mut machine, &mut io).map_err(End::from);
    relay(client, conn, machine, shown).run(opened).await
}

/// A plain request and its answer; false where anything else comes.
fn poll_plain(
    client: &mut Conn,
    server: &mut Conn,
    (preparation, request): (&Preparation, &PlainRequest),
    progress: &mut PlainProgress,
) -> Poll<bool> {
    if *progress == PlainProgress::Sent(0) {
        let messages = request.messages(&client.input, preparation);
        let Poll::Ready(Ok(sent)) = server.poll_write(&messages) else { return Poll::Ready(false) };
        *progress = PlainProgress::Sent(sent);
        if sent < messages.len() || !server.is_flushed() {
            return Poll::Ready(false);
        }
    }
    if !client.input.is_full() && client.poll_fill().is_ready() {
        return Poll::Ready(false);
    }
    if server.poll_fill().is_pending() {
        return Poll::Pending;
    }
    let Some(answer) = request.told_by(server.input.unparsed(), preparation) else { return Poll::Ready(false) };
    let Poll::Ready(Ok(told)) = client.poll_write(answer) else { return Poll::Ready(false) };
    *progress = PlainProgress::Answered(told);
    Poll::Ready(told == answer.len() && client.is_flushed())
}

impl<'a> Relay<'a> {
    /// Moves bytes until the end.
    async fn run(mut self, opened: Result<(), End>) -> (End, MachineResult) {
        let end = match opened {
            Ok(()) => poll_fn(|_| self.poll()).await,
            Err(end) => end,
        };
        let to_server = Flush::of(self.server.is_flushed());
        let said = if let End::Machine(end) = &end { Some(end) } else { None };
        let (machine, mut io) = self.parts();
        let remains = machine.finish(&mut io, said, to_server);
        (end, remains)
    }

    fn parts(&mut self) -> (&mut Machine<'a>, Buffers<'_>) {
        let io = Buffers {
            from_client: &mut self.client.input,
            to_client: &mut self.client.output,
            from_server: &mut self.server.input,
            to_server: &mut self.server.output,
        };
        (&mut self.machine, io)
    }

    fn open(&mut self) -> Result<(), End> {
        self.world.controls[self.id].borrow_mut().set_preparing();
        let (machine, mut io) = self.parts();
        machine.open(&mut io)?;
        self.note_running();
        Ok(())
    }

    /// The server works for the client, and a cancel request would hit that.
    fn note_running(&mut self) {
        if self.shown != Shown::Running && self.machine.is_working() {
            self.shown = Shown::Running;
            cancel::set_running(&self.world, self.id, self.server.number(), self.backend);
        }
    }

    fn poll(&mut self) -> Poll<End> {
        self.client_readable = true;
        self.server_readable = true;
        loop {
            if let Err(end) = self.poll_up() {
                return Poll::Ready(end);
            }
            let down = match self.poll_down() {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            let flush = Flush::of(self.client.is_flushed() && self.server.is_flushed());
            let (machine, mut io) = self.parts();
            let next = machine.boundary(&mut io, flush);
            if flush == Flush::Done
                && self.shown != Shown::Idle
                && self.machine.is_answered()
                && !self.machine.is_preparing()
            {
                self.shown = Shown::Idle;
                self.world.controls[self.id].borrow_mut().set_idle();
            }
            match next {
                Next::End(end) => return Poll::Ready(end.into()),
                Next::Again => {}
                Next::HalfClose => {
                    self.takes_no_more = true;
                    self.server.half_close();
                }
                Next::Idle(pins) => {
                    let change = self.machine.take_role_change();
                    Pool::role_changed(&self.world, change);
                    if self.machine.mode() == Mode::Session && pins.is_empty() && self.pool.outdated.get() {
                        return Poll::Ready(End::Machine(machine::End::Settled));
                    }
                    if !down {
                        return Poll::Pending;
                    }
                }
                Next::Wait if down => {}
                Next::Wait => return Poll::Pending,
            }
        }
    }

    fn poll_up(&mut self) -> Result<(), End> {
        if self.takes_no_more {
            return Ok(());
        }
        loop {
            if !self.server.is_flushed() {
                if self.client.input.unsent().len() <= SMALL_BYTES {
                    let unsent = self.client.input.unsent();
                    self.server.output.extend_from_slice(unsent);
                    let n = unsent.len();
                    self.client.input.sent(n);
                }
                match self.server.poll_flush() {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(Broken)) => return self.server_takes_no_more(),
                    Poll::Ready(Ok(())) => self.machine.on_sent(),
                }
            }
            if !self.client.input.unsent().is_empty() {
                match self.server.poll_write(self.client.input.unsent()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(Broken) | Ok(0)) => return self.server_takes_no_more(),
                    Poll::Ready(Ok(n)) => {
                        self.client.input.sent(n);
                        self.machine.on_sent();
                    }
                }
                continue;
            }
            if self.machine.holds_client() {
                return Ok(());
            }
            let (machine, mut io) = self.parts();
            if machine.client_sent(&mut io) {
                self.note_running();
                continue;
            }
            if !self.server.is_flushed() {
                continue;
            }
            if self.client.input.is_full() || self.machine.client_has_ended() || !self.client_readable {
                return Ok(());
            }
            match self.client.poll_fill() {
                Poll::Pending => {
                    self.client_readable = false;
                    return Ok(());
                }
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) if !self.client.is_hung_up() => {
                    self.machine.client_ended();
                    let (machine, mut io) = self.parts();
                    machine.client_sent(&mut io);
                }
                Poll::Ready(Err(Broken) | Ok(0)) => return Err(End::ClientGone),
            }
        }
    }

    fn server_takes_no_more(&mut self) -> Result<(), End> {
        if self.server.flushed() > 0 {
            self.machine.on_sent();
        }
        if self.machine.is_unsent() {
            return Err(self.server_ended());
        }
        self.takes_no_more = true;
        self.machine.server_takes_no_more();
        Ok(())
    }

    fn server_ended(&mut self) -> End {
        let number = self.server.number();
        self.world.tell(|| format!("link {number} has ended"));
        if self.server.flushed() > 0 {
            self.machine.on_sent();
        }
        let (machine, mut io) = self.parts();
        machine.server_ended(&mut io).into()
    }

    fn poll_down(&mut self) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if !self.client.is_flushed() {
                match self.client.poll_flush() {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(Broken)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(())) => progress = true,
                }
            }
            if !self.server.input.unsent().is_empty() {
                match self.client.poll_write(self.server.input.unsent()) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Err(Broken) | Ok(0)) => return Err(self.client_failed()),
                    Poll::Ready(Ok(n)) => self.server.input.sent(n),
                }
                progress = true;
                continue;
            }
            let (machine, mut io) = self.parts();
            if machine.server_sent(&mut io)? {
                self.note_running();
                progress = true;
                continue;
            }
            let done = self.machine.mode() == Mode::Transaction && self.machine.is_answered();
            if !self.server_readable || (progress && done) || self.machine.is_at_boundary() {
                return Ok(progress);
            }
            match self.server.poll_fill() {
                Poll::Pending => {
                    self.server_readable = false;
                    return Ok(progress);
                }
                Poll::Ready(Ok(1..)) => progress = true,
                Poll::Ready(Ok(0) | Err(Broken)) => return Err(self.server_ended()),
            }
        }
    }

    fn client_failed(&self) -> End {
        if self.machine.client_has_ended() { End::Machine(machine::End::ClientTerminated) } else { End::ClientGone }
    }
}
