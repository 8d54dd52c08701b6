//! Connections that clients have and have not used, as `upstream::pool::tentative` has them.

use std::cell::Cell;
use std::rc::Rc;

use pgferry::internals::track::RequestedParams;
use pgferry::internals::track::server_state::UsedBy;

use super::link::{self, Link};
use super::pool::Pool;
use super::world::{TaskId, World};

/// What is to become of a tentative lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// Somebody else needs the connection.
    Needed,
    /// What somebody has left in it is to be reset: nobody uses it.
    Reset,
}

#[derive(Debug, Default)]
struct Call {
    back: Cell<bool>,
    rest: Cell<bool>,
}

/// A connection that its client has not used.
pub struct TentativeLease {
    link: Option<Link>,
    call: Rc<Call>,
    since: u64,
}

/// What the pool knows of a tentative lease.
#[derive(Debug)]
pub struct Open {
    call: Rc<Call>,
    task: TaskId,
    since: u64,
    used: bool,
}

impl Pool {
    /// A connection that the client whose task runs reserves, if one is idle right now.
    pub fn reserve_idle(&self, world: &Rc<World>, asked: &RequestedParams) -> Option<TentativeLease> {
        let link = self.checkout_idle(world, asked)?;
        let call = Rc::new(Call::default());
        let (since, used) = (world.now(), link.state.used != UsedBy::Nothing);
        world.tell(|| format!("link {} is reserved", link.number()));
        self.tentative_leases.borrow_mut().push(Open { call: Rc::clone(&call), task: world.me(), since, used });
        Some(TentativeLease { link: Some(link), call, since })
    }

    /// Recalls the oldest tentative lease.
    pub fn call_in(&self, world: &World) {
        let mut tentative_leases = self.tentative_leases.borrow_mut();
        if !tentative_leases.is_empty() {
            let open = tentative_leases.remove(0);
            open.call.back.set(true);
            world.wake(open.task);
        }
    }

    /// Has those reset that have been used and are reserved for longer than `after`.
    pub fn reset_tentative_leases(&self, world: &World, after: u64) {
        for open in
            self.tentative_leases.borrow_mut().iter_mut().filter(|open| open.used && world.now() - open.since >= after)
        {
            open.used = false;
            open.call.rest.set(true);
            world.wake(open.task);
        }
    }
}

impl TentativeLease {
    /// What is to become of it, if anything is.
    pub fn called(&self) -> Option<Recall> {
        if self.call.back.get() {
            return Some(Recall::Needed);
        }
        self.call.rest.take().then_some(Recall::Reset)
    }

    /// The pid of the connection's backend.
    pub fn pid(&self) -> i32 {
        self.link.as_ref().map_or(0, |link| link.pid)
    }

    fn forget(&self) {
        if let Some(link) = &self.link {
            link.pool.tentative_leases.borrow_mut().retain(|open| !Rc::ptr_eq(&open.call, &self.call));
        }
    }

    /// The connection, to be used; `None`, closing it, if it is not fit any more.
    pub fn take(mut self) -> Option<Link> {
        self.forget();
        let mut link = self.link.take()?;
        let world = Rc::clone(&link.world);
        let fine = world.now() - self.since < link::MOMENT || link.look();
        if link.state.has_new_base() {
            link.pool.parameters.learn_base(&mut link.state);
        }
        if fine && !link.is_too_old() {
            return Some(link);
        }
        link::close(link);
        None
    }

    /// Gives the connection back as it was.
    pub fn give_back(mut self) {
        self.forget();
        if let Some(link) = self.link.take() {
            link.release_unused();
        }
    }

    /// Resets the session if somebody has used it; `None`, closing it, where that fails.
    pub async fn reset(mut self) -> Option<Self> {
        let link = self.link.take()?;
        self.link = link::reset(link).await;
        self.link.as_ref()?;
        Some(self)
    }
}
