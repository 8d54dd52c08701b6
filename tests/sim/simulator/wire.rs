//! Sockets: bytes under way in both directions, and pgferry's side of them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use pgferry::internals::buffer::Buffer;

use super::world::{TaskId, World};
use crate::model::BackendId;

/// A stream that has ended in disorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// How a direction has ended, behind what is under way in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Close {
    #[default]
    Open,
    /// Nothing more comes.
    Ended,
    Reset,
}

/// One direction of a socket.
#[derive(Debug, Default)]
pub struct Pipe {
    bytes: VecDeque<u8>,
    pub close: Close,
}

impl Pipe {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.bytes.drain(..n.min(self.bytes.len())).collect()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes as much as `space` has room for.
    fn fill(&mut self, space: &mut [u8]) -> Poll<Result<usize, Broken>> {
        let n = space.len().min(self.bytes.len());
        if n == 0 {
            return match self.close {
                _ if space.is_empty() => Poll::Pending,
                Close::Open => Poll::Pending,
                Close::Ended => Poll::Ready(Ok(0)),
                Close::Reset => Poll::Ready(Err(Broken)),
            };
        }
        for (to, from) in space.iter_mut().zip(self.bytes.drain(..n)) {
            *to = from;
        }
        Poll::Ready(Ok(n))
    }
}

/// A client's socket.
#[derive(Debug, Default)]
pub struct ClientWire {
    pub up: Pipe,
    pub down: Pipe,
    /// It takes nothing more either.
    pub hung_up: bool,
    /// The task that serves it.
    pub task: TaskId,
}

/// A connection's socket.
#[derive(Debug)]
pub struct ServerWire {
    pub backend: BackendId,
    pub up: Pipe,
    /// What the server has sent, and what of it has arrived.
    pub sent: Pipe,
    pub down: Pipe,
    /// The server takes nothing more.
    pub refuses: bool,
    /// What it sends gets lost.
    pub loses_answers: bool,
    pub stalled: bool,
    /// The task that has the connection.
    pub task: TaskId,
    /// pgferry has closed it.
    pub closed: bool,
    /// The server has seen the end.
    pub over: bool,
    /// How many cancel requests for it are under way.
    pub cancels: usize,
    /// The task that waits until none is.
    pub awaits_cancels: TaskId,
}

impl ServerWire {
    pub fn new(backend: BackendId, task: TaskId) -> Self {
        Self {
            backend,
            up: Pipe::default(),
            sent: Pipe::default(),
            down: Pipe::default(),
            refuses: false,
            loses_answers: false,
            stalled: false,
            task,
            closed: false,
            over: false,
            cancels: 0,
            awaits_cancels: task,
        }
    }

    /// Breaks it: what is under way is lost, and neither side hears how far the other has come.
    pub fn break_off(&mut self) {
        self.up.clear();
        self.sent.clear();
        self.sent.close = Close::Reset;
        self.refuses = true;
    }
}

/// Which socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Client(usize),
    Server(usize),
}

/// pgferry's side of a socket.
#[derive(Debug)]
pub struct Conn {
    pub input: Buffer,
    pub output: Vec<u8>,
    /// How much of `output` the kernel has taken.
    flushed: usize,
    peer: Peer,
    world: Rc<World>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl Conn {
    pub fn new(world: &Rc<World>, peer: Peer) -> Self {
        let input = Buffer::new(std::sync::Arc::clone(&world.buffers));
        Self { input, output: Vec::new(), flushed: 0, peer, world: Rc::clone(world) }
    }

    /// How much of the output is gone that is not all gone.
    pub fn flushed(&self) -> usize {
        self.flushed
    }

    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Receives what has arrived.
    pub fn poll_fill(&mut self) -> Poll<Result<usize, Broken>> {
        let space = self.input.space();
        let filled = match self.peer {
            Peer::Client(client) => self.world.clients[client].borrow_mut().up.fill(space),
            Peer::Server(link) => {
                let mut links = self.world.links.borrow_mut();
                links[link].task = self.world.me();
                links[link].down.fill(space)
            }
        };
        self.input.received(if let Poll::Ready(Ok(n)) = filled { n } else { 0 });
        filled
    }

    /// Sends bytes, as many as the socket takes.
    pub fn poll_write(&self, bytes: &[u8]) -> Poll<Result<usize, Broken>> {
        let room = self.world.setup.socket;
        let mut links;
        let mut client;
        let (pipe, refuses) = match self.peer {
            Peer::Client(at) => {
                client = self.world.clients[at].borrow_mut();
                let gone = client.hung_up;
                (&mut client.down, gone)
            }
            Peer::Server(at) => {
                links = self.world.links.borrow_mut();
                links[at].task = self.world.me();
                let refuses = links[at].refuses;
                (&mut links[at].up, refuses)
            }
        };
        if refuses {
            return Poll::Ready(Err(Broken));
        }
        let n = bytes.len().min(room.saturating_sub(pipe.len()));
        if n == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        pipe.push(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    /// Sends the output.
    pub fn poll_flush(&mut self) -> Poll<Result<(), Broken>> {
        while self.flushed < self.output.len() {
            match self.poll_write(&self.output[self.flushed..]) {
                Poll::Ready(Ok(n)) => self.flushed += n,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.output.clear();
        self.flushed = 0;
        Poll::Ready(Ok(()))
    }

    pub async fn flush(&mut self) -> Result<(), Broken> {
        poll_fn(|_| self.poll_flush()).await
    }

    /// Receives more; the end is an error.
    pub async fn fill(&mut self) -> Result<(), Broken> {
        match poll_fn(|_| self.poll_fill()).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(Broken),
        }
    }

    /// The next `size` bytes.
    pub async fn peek(&mut self, size: usize) -> Result<&[u8], Broken> {
        while self.input.unparsed().len() < size {
            if self.input.is_full() {
                self.input.reserve(size.min(2 * self.input.capacity()));
            }
            self.fill().await?;
        }
        Ok(&self.input.unparsed()[..size])
    }

    /// Drops the next `n` bytes.
    pub async fn discard(&mut self, mut n: usize) -> Result<(), Broken> {
        loop {
            let here = self.input.unparsed().len().min(n);
            self.input.skip(here);
            n -= here;
            if n == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Tells a server that nothing more comes.
    pub fn half_close(&self) {
        if let Peer::Server(at) = self.peer {
            self.world.links.borrow_mut()[at].up.close = Close::Ended;
        }
    }

    /// Whether the client is gone altogether, as opposed to sending no more.
    pub fn is_hung_up(&self) -> bool {
        match self.peer {
            Peer::Client(client) => self.world.clients[client].borrow().hung_up,
            Peer::Server(_) => false,
        }
    }

    /// The number of the connection, or the client.
    pub fn number(&self) -> usize {
        match self.peer {
            Peer::Client(number) | Peer::Server(number) => number,
        }
    }
}
