//! The world of one run: the server, the connections to it, the clients' sockets, the tasks, and the time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use pgferry::internals::buffer::BufferPool;
use pgferry::internals::track::statements::StatementIds;

use super::cancel::Control;
use super::case::Setup;
use super::catalogs::Catalogs;
use super::client::EVERYONE;
use super::pool::Pool;
use super::wire::{ClientWire, ServerWire};
use crate::model::{self, Cluster};
use crate::random::Random;

/// A task's number.
pub type TaskId = usize;

/// What a task is.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// All that a run's tasks share.
pub struct World {
    pub setup: Setup,
    pub random: RefCell<Random>,
    pub cluster: RefCell<Cluster>,
    pub clients: Vec<RefCell<ClientWire>>,
    pub controls: Vec<RefCell<Control>>,
    /// How many clients' sessions have ended.
    pub served: Cell<usize>,
    pub links: RefCell<Vec<ServerWire>>,
    pub pools: RefCell<Vec<Rc<Pool>>>,
    pub catalogs: Catalogs,
    /// The server refuses the next login.
    pub refuses_login: Cell<bool>,
    /// A session has begun with other defaults before these were noticed: clients of it are told.
    pub has_unnoticed_defaults: Cell<bool>,
    pub statement_ids: Arc<StatementIds>,
    pub buffers: Arc<BufferPool>,
    /// Microseconds.
    now: Cell<u64>,
    timers: RefCell<Vec<(u64, TaskId)>>,
    woken: RefCell<Vec<bool>>,
    current: Cell<TaskId>,
    spawned: RefCell<Vec<(String, Work)>>,
    /// What is not as it should be, and has been seen on the way.
    pub complaints: RefCell<Vec<String>>,
    /// What has happened, if that is to be told.
    pub log: Option<RefCell<Vec<String>>>,
}

impl World {
    /// The world of a run, before anything has happened.
    pub fn new(setup: Setup, seed: u64, clients: usize, tells: bool) -> Rc<Self> {
        let statement_ids: Arc<StatementIds> = Arc::default();
        Rc::new(Self {
            setup,
            random: RefCell::new(Random::new(seed)),
            cluster: RefCell::new(used_cluster(setup.version)),
            clients: (0..clients).map(|_| RefCell::default()).collect(),
            controls: (0..clients).map(|_| RefCell::default()).collect(),
            served: Cell::new(0),
            links: RefCell::default(),
            pools: RefCell::default(),
            catalogs: Catalogs::new(&setup, Arc::clone(&statement_ids)),
            refuses_login: Cell::default(),
            has_unnoticed_defaults: Cell::default(),
            statement_ids,
            buffers: BufferPool::new(setup.buffer, 4),
            now: Cell::new(0),
            timers: RefCell::default(),
            woken: RefCell::default(),
            current: Cell::new(0),
            spawned: RefCell::default(),
            complaints: RefCell::default(),
            log: tells.then(RefCell::default),
        })
    }

    /// Notes what happens.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(log) = &self.log {
            log.borrow_mut().push(format!("{:>9} {}", self.now.get(), what()));
        }
    }

    /// Notes what should not have happened.
    pub fn complain(&self, what: String) {
        self.tell(|| what.clone());
        self.complaints.borrow_mut().push(what);
    }

    /// A random number below `n`.
    pub fn below(&self, n: usize) -> usize {
        self.random.borrow_mut().below(n.max(1))
    }

    /// Whether something happens that does so in `percent` of cases.
    pub fn chance(&self, percent: usize) -> bool {
        self.random.borrow_mut().chance(percent)
    }

    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// The same, as an instant.
    pub fn instant(&self) -> Instant {
        self.catalogs.instant(self.now())
    }

    /// The task that runs.
    pub fn me(&self) -> TaskId {
        self.current.get()
    }

    /// Has a task run again.
    pub fn wake(&self, task: TaskId) {
        if let Some(woken) = self.woken.borrow_mut().get_mut(task) {
            *woken = true;
        }
    }

    /// Starts a task.
    pub fn spawn(&self, name: String, work: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push((name, Box::pin(work)));
    }

    /// Has the task that runs wake at `at`.
    pub fn wake_at(&self, at: u64) {
        self.timers.borrow_mut().push((at, self.me()));
    }

    /// Lets the others get on.
    pub async fn step_aside(self: &Rc<Self>) {
        let mut aside = false;
        poll_fn(|_| {
            if std::mem::replace(&mut aside, true) {
                return Poll::Ready(());
            }
            self.wake(self.me());
            Poll::Pending
        })
        .await;
    }

    /// Waits for `work`, but not beyond `until`.
    pub async fn timeout<T>(self: &Rc<Self>, until: u64, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        self.wake_at(until);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.now() >= until => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// How many notifications for everyone there have been in a database.
    pub fn notified(&self, database: &str) -> usize {
        self.cluster.borrow().notifications(database, EVERYONE).count()
    }

    /// Lets time pass up to `at`.
    pub fn advance_to(&self, at: u64) {
        let by = at.saturating_sub(self.now());
        self.now.set(self.now() + by);
        let mut cluster = self.cluster.borrow_mut();
        let by = Duration::from_micros(self.now()).saturating_sub(cluster.now());
        cluster.advance(by);
        drop(cluster);
        let now = self.now();
        self.timers.borrow_mut().retain(|(at, task)| {
            if *at <= now {
                self.wake(*task);
            }
            *at > now
        });
    }

    /// When the next thing happens by itself.
    pub fn next_timer(&self) -> Option<u64> {
        let timer = self.timers.borrow().iter().map(|(at, _)| *at).min();
        let sleeper = self.cluster.borrow().next_wake().map(|at| u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        [timer, sleeper].into_iter().flatten().min()
    }
}

/// A run's tasks.
#[derive(Default)]
pub struct Tasks {
    tasks: Vec<Option<(String, Work)>>,
}

impl Tasks {
    /// Takes over the tasks that were started.
    pub fn take_spawned(&mut self, world: &World) {
        for (name, work) in world.spawned.take() {
            self.tasks.push(Some((name, work)));
            world.woken.borrow_mut().push(true);
        }
    }

    /// Adds those that may run to `ready`.
    pub fn ready(&self, world: &World, mut ready: impl FnMut(TaskId)) {
        for (id, woken) in world.woken.borrow().iter().enumerate() {
            if *woken && self.tasks[id].is_some() {
                ready(id);
            }
        }
    }

    /// Lets a task run as far as it gets.
    pub fn run(&mut self, world: &World, id: TaskId) {
        world.woken.borrow_mut()[id] = false;
        world.current.set(id);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let done = self.tasks[id].as_mut().is_none_or(|(_, work)| work.as_mut().poll(&mut cx).is_ready());
        if done {
            self.tasks[id] = None;
        }
        self.take_spawned(world);
    }

    /// The names of those that have not ended.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().flatten().map(|(name, _)| name.as_str())
    }
}

/// A cluster whose connections look as if they had been used before: what no reset undoes is no difference then.
pub fn used_cluster(version: u32) -> Cluster {
    Cluster::new(&model::Options { worn: true, version, ..model::Options::default() })
}
