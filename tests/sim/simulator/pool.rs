//! The pool, as `upstream::pool` decides: those that wait get a connection in the order in which they came, and connections
//! are opened up to a number.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use pgferry::internals::error::{ClientError, ErrorSource, sqlstate};
use pgferry::internals::track::administration::RoleChange;
use pgferry::internals::track::parameter_cache::ParameterCache;
use pgferry::internals::track::params::RawPairs;
use pgferry::internals::track::session_code::Due;
use pgferry::internals::track::statements::StatementCache;
use pgferry::internals::track::{RequestedParams, ServerParams, ServerState};
use pgferry::internals::wire::{Frames, backend, frame, frontend};

use super::link::{Link, close};
use super::session::NoLink;
use super::tentative::Open;
use super::wire::{Conn, Peer, ServerWire};
use super::world::{TaskId, World};
use crate::alone::USER;

/// What a waiting task gets.
type Slot = Rc<RefCell<Option<Result<Link, ClientError>>>>;

/// The connections for one database and the startup values that can't be changed afterwards.
pub struct Pool {
    pub database: Vec<u8>,
    pub extra: RawPairs,
    pub parameters: ParameterCache,
    pub statements: StatementCache,
    idle: RefCell<Vec<Link>>,
    waiting: RefCell<VecDeque<(TaskId, Slot)>>,
    asked: RefCell<RequestedParams>,
    pub tentative_leases: RefCell<Vec<Open>>,
    pub open: Cell<usize>,
    /// What sessions begin with has changed: clients no longer find it, and its connections are closed as they come free.
    pub outdated: Cell<bool>,
    dialling: Cell<usize>,
}

impl Pool {
    /// The pool of a key.
    pub fn of(world: &Rc<World>, database: &[u8], extra: &RawPairs) -> Rc<Self> {
        let mut pools = world.pools.borrow_mut();
        if let Some(pool) = pools.iter().find(|pool| pool.is_of(database, extra)) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(Self {
            database: database.to_vec(),
            extra: extra.clone(),
            parameters: ParameterCache::default(),
            statements: StatementCache::new(std::sync::Arc::clone(&world.statement_ids)),
            idle: RefCell::default(),
            waiting: RefCell::default(),
            asked: RefCell::default(),
            tentative_leases: RefCell::default(),
            open: Cell::new(0),
            outdated: Cell::new(false),
            dialling: Cell::new(0),
        });
        pools.push(Rc::clone(&pool));
        pool
    }

    fn is_of(&self, database: &[u8], extra: &RawPairs) -> bool {
        !self.outdated.get() && self.database == database && self.extra == *extra
    }

    /// A client has changed what sessions begin with, as `change` says: all go on with new connections.
    pub fn role_changed(world: &World, change: RoleChange) {
        if change != RoleChange::Changed {
            return;
        }
        world.tell(|| "all pools are outdated".to_owned());
        for pool in world.pools.borrow().iter() {
            pool.outdated.set(true);
            pool.take_all().into_iter().for_each(close);
            pool.waiting.borrow().iter().for_each(|(task, _)| world.wake(*task));
            while !pool.tentative_leases.borrow().is_empty() {
                pool.call_in(world);
            }
        }
    }

    /// How many connections are idle, and how many wait for one.
    pub fn counts(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.waiting.borrow().len())
    }

    /// Takes all idle connections.
    pub fn take_all(&self) -> Vec<Link> {
        self.idle.take()
    }

    /// A connection if one is idle and fit.
    pub fn checkout_idle(&self, world: &Rc<World>, asked: &RequestedParams) -> Option<Link> {
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            self.asked.borrow_mut().clone_from(asked);
            if !link.is_too_old() && (link.was_just_used() || link.look()) {
                if link.state.has_new_base() {
                    self.parameters.learn_base(&mut link.state);
                }
                return Some(link);
            }
            world.tell(|| format!("link {} is dead", link.number()));
            close(link);
        }
    }

    /// A connection, at once or in its turn; an error at `until`.
    pub async fn checkout(
        self: &Rc<Self>,
        world: &Rc<World>,
        asked: &RequestedParams,
        until: Option<u64>,
        mut gone: impl FnMut() -> Option<NoLink>,
    ) -> Result<Link, NoLink> {
        if let Some(link) = self.checkout_idle(world, asked) {
            return Ok(link);
        }
        self.asked.borrow_mut().clone_from(asked);
        let slot: Slot = Rc::default();
        self.waiting.borrow_mut().push_back((world.me(), Rc::clone(&slot)));
        self.kick(world);
        self.call_in(world);
        if let Some(until) = until {
            world.wake_at(until);
        }
        let got = poll_fn(|_| {
            if let Some(got) = slot.take() {
                return Poll::Ready(got.map_err(NoLink::Failed));
            }
            if let Some(no) = gone() {
                return Poll::Ready(Err(no));
            }
            if until.is_some_and(|until| world.now() >= until) {
                return Poll::Ready(Err(NoLink::Failed(exhausted())));
            }
            Poll::Pending
        })
        .await;
        self.waiting.borrow_mut().retain(|(_, waiting)| !Rc::ptr_eq(waiting, &slot));
        got
    }

    /// A connection comes free.
    pub fn hand_out(&self, world: &World, link: Link) {
        match self.waiting.borrow_mut().pop_front() {
            Some((task, slot)) => {
                *slot.borrow_mut() = Some(Ok(link));
                world.wake(task);
            }
            None => self.idle.borrow_mut().push(link),
        }
    }

    /// A connection has been closed.
    pub fn closed(self: &Rc<Self>, world: &Rc<World>) {
        self.open.set(self.open.get() - 1);
        self.kick(world);
    }

    fn kick(self: &Rc<Self>, world: &Rc<World>) {
        let (cap, at_once) = (world.setup.connections, world.setup.dialling);
        while self.waiting.borrow().len() > self.dialling.get()
            && self.dialling.get() < at_once
            && self.open.get() < cap
        {
            self.open.set(self.open.get() + 1);
            self.dialling.set(self.dialling.get() + 1);
            let (pool, world_of_it) = (Rc::clone(self), Rc::clone(world));
            world.spawn("opens a connection".to_owned(), async move { pool.dial(&world_of_it).await });
        }
    }

    async fn dial(self: &Rc<Self>, world: &Rc<World>) {
        world.step_aside().await;
        // The first asks for nothing, so that what clients get that ask for nothing is known.
        let known = |name, value: &[u8]| self.parameters.canonical(name, value);
        let asked = if self.parameters.baseline().is_some() {
            self.asked.borrow().known(known)
        } else {
            RequestedParams::default()
        };
        let opened = self.log_in(world, &asked);
        self.dialling.set(self.dialling.get() - 1);
        match opened {
            Ok(link) => self.hand_out(world, link),
            Err(fault) => {
                for (task, slot) in self.waiting.take() {
                    *slot.borrow_mut() = Some(Err(fault.clone()));
                    world.wake(task);
                }
                self.closed(world);
            }
        }
        self.kick(world);
    }

    fn log_in(self: &Rc<Self>, world: &Rc<World>, asked: &RequestedParams) -> Result<Link, ClientError> {
        if world.refuses_login.take() {
            return Err(ClientError::fatal(
                ErrorSource::Server,
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already",
            ));
        }
        let mut cluster = world.cluster.borrow_mut();
        let backend = cluster.connect();
        let mut startup = Vec::new();
        let minor = if world.setup.version >= 18 { 2 } else { 0 };
        let first = [(&b"user"[..], USER.as_bytes()), (b"database", &self.database)];
        let extra = self.extra.iter().map(|(name, value)| (&**name, &**value));
        let asks = asked.iter().map(|(name, value)| (name.as_bytes(), value));
        frontend::put_startup(&mut startup, minor, first.into_iter().chain(extra).chain(asks));
        cluster.receive(backend, &startup);
        let answer = cluster.take_output(backend);
        drop(cluster);
        let (mut params, mut pid) = (ServerParams::default(), 0);
        for message in Frames::new(&answer, frame::BACKEND_LIMIT).flatten() {
            match message.tag {
                backend::PARAMETER_STATUS => {
                    let Some((name, value)) = backend::parameter_status(message.body()) else { continue };
                    params.set(name, value);
                }
                backend::ERROR => return Err(ClientError::upstream_fatal(message.bytes, None)),
                b'K' => pid = backend::key_data(message.body()).map_or(0, |(pid, _)| pid),
                _ => {}
            }
        }
        let zone = |params: &ServerParams| params.get(b"TimeZone").map(<[u8]>::to_vec);
        let is_news = self.parameters.baseline().is_some_and(|before| zone(&before) != zone(&params));
        if is_news && asked.get("TimeZone").is_none() && !self.outdated.get() {
            world.has_unnoticed_defaults.set(true);
        }
        if !self.outdated.get() || self.parameters.baseline().is_none() {
            self.parameters.learn_baseline(&mut params, asked);
        }
        let mut links = world.links.borrow_mut();
        let number = links.len();
        links.push(ServerWire::new(backend, world.me()));
        drop(links);
        world.tell(|| format!("link {number} opened, asking for {asked:?}"));
        let conn = Conn::new(world, Peer::Server(number));
        let code = world.catalogs.of(&self.database);
        world.catalogs.look(&code, Due::Unknown, world.now());
        let state = ServerState::new(params, asked.clone()).in_database_with(code);
        Ok(Link::new(world, self, conn, state, backend, pid))
    }
}

/// What a client is told that has waited long enough.
fn exhausted() -> ClientError {
    ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "no connection became free")
}
