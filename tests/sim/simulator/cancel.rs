//! Cancel requests, as `client::cancel`, `client::control` and `upstream::link::Gate` have them.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::world::World;
use crate::model::BackendId;

/// What a client's session does that could be cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    #[default]
    Idle,
    /// It waits for a connection.
    Waiting,
    /// Its connection is being prepared.
    Preparing,
    /// Its query runs on this connection, which is this backend's.
    Running(usize, BackendId),
}

/// How others reach a session.
#[derive(Debug, Default)]
pub struct Control {
    doing: Doing,
    /// A request came that has not been acted upon.
    cancelled: bool,
}

impl Control {
    pub fn set_idle(&mut self) {
        *self = Self::default();
    }

    /// Its request goes to another connection; says whether that is cancelled.
    pub fn set_unconnected(&mut self) -> bool {
        self.doing = Doing::Waiting;
        self.cancelled
    }

    /// A request that came on the way here is kept.
    pub fn set_waiting(&mut self) {
        self.doing = Doing::Waiting;
    }

    pub fn set_preparing(&mut self) {
        self.doing = Doing::Preparing;
    }

    /// The backend that works for the client.
    pub fn backend(&self) -> Option<BackendId> {
        if let Doing::Running(_, backend) = self.doing { Some(backend) } else { None }
    }

    pub fn is_waiting(&self) -> bool {
        self.doing == Doing::Waiting && !self.cancelled
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

/// Client `client` asks for its query to be cancelled.
pub fn request(world: &Rc<World>, client: usize) {
    let mut control = world.controls[client].borrow_mut();
    let doing = control.doing;
    world.tell(|| format!("client {client} cancels while it is {doing:?}"));
    match doing {
        Doing::Idle => {}
        Doing::Waiting | Doing::Preparing => {
            control.cancelled = true;
            world.wake(world.clients[client].borrow().task);
        }
        Doing::Running(link, backend) => send(world, link, backend),
    }
}

/// The session's query runs on `link`: a request that came before is sent now.
pub fn set_running(world: &Rc<World>, client: usize, link: usize, backend: BackendId) {
    let mut control = world.controls[client].borrow_mut();
    control.doing = Doing::Running(link, backend);
    if std::mem::take(&mut control.cancelled) {
        send(world, link, backend);
    }
}

/// Sends a cancel request, which takes a while. Until it has been acted upon the connection does not change hands.
pub fn send(world: &Rc<World>, link: usize, backend: BackendId) {
    world.links.borrow_mut()[link].cancels += 1;
    let world_of_it = Rc::clone(world);
    world.spawn(format!("cancels link {link}"), async move {
        let world = world_of_it;
        for _ in 0..world.below(20) {
            world.step_aside().await;
        }
        let (pid, secret) = world.cluster.borrow().key(backend);
        world.tell(|| format!("link {link} is cancelled"));
        world.cluster.borrow_mut().cancel(pid, secret);
        let mut links = world.links.borrow_mut();
        links[link].cancels -= 1;
        let waits = links[link].awaits_cancels;
        drop(links);
        world.wake(waits);
    });
}

/// Waits until no cancel request for `link` is under way.
pub async fn gone_by(world: &Rc<World>, link: usize) {
    poll_fn(|_| {
        let mut links = world.links.borrow_mut();
        links[link].awaits_cancels = world.me();
        if links[link].cancels == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
