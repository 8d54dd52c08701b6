//! Connections that clients have and have not used, as `upstream::pool::loans` has them.

use std::cell::Cell;
use std::rc::Rc;

use pgferry::track::Wanted;
use pgferry::track::server_state::UsedBy;

use super::link::{self, Link};
use super::pool::Pool;
use super::world::{TaskId, World};

/// What is to become of a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// Somebody else needs the connection.
    In,
    /// What somebody has left in it is to be reset: nobody uses it.
    ToRest,
}

#[derive(Debug, Default)]
struct Call {
    back: Cell<bool>,
    rest: Cell<bool>,
}

/// A connection that its client has not used.
pub struct Loan {
    link: Option<Link>,
    call: Rc<Call>,
    since: u64,
}

/// What the pool knows of a loan.
#[derive(Debug)]
pub struct Open {
    call: Rc<Call>,
    task: TaskId,
    since: u64,
    used: bool,
}

impl Pool {
    /// A connection on loan to the client whose task runs, if one is idle right now.
    pub fn lend(&self, world: &Rc<World>, wanted: &Wanted) -> Option<Loan> {
        let link = self.checkout_idle(world, wanted)?;
        let call = Rc::new(Call::default());
        let (since, used) = (world.now(), link.state.used != UsedBy::Nothing);
        world.tell(|| format!("link {} is on loan", link.number()));
        self.loans.borrow_mut().push(Open { call: Rc::clone(&call), task: world.me(), since, used });
        Some(Loan { link: Some(link), call, since })
    }

    /// Calls the oldest loan in.
    pub fn call_in(&self, world: &World) {
        let mut loans = self.loans.borrow_mut();
        if !loans.is_empty() {
            let open = loans.remove(0);
            open.call.back.set(true);
            world.wake(open.task);
        }
    }

    /// Has those reset that have been used by somebody and are on loan for longer than `after`.
    pub fn rest_loans(&self, world: &World, after: u64) {
        for open in self.loans.borrow_mut().iter_mut().filter(|open| open.used && world.now() - open.since >= after) {
            open.used = false;
            open.call.rest.set(true);
            world.wake(open.task);
        }
    }
}

impl Loan {
    /// What is to become of it, if anything is.
    pub fn called(&self) -> Option<Called> {
        if self.call.back.get() {
            return Some(Called::In);
        }
        self.call.rest.take().then_some(Called::ToRest)
    }

    /// The pid of the connection's backend.
    pub fn pid(&self) -> i32 {
        self.link.as_ref().map_or(0, |link| link.pid)
    }

    fn forget(&self) {
        if let Some(link) = &self.link {
            link.pool.loans.borrow_mut().retain(|open| !Rc::ptr_eq(&open.call, &self.call));
        }
    }

    /// The connection, to be used; `None`, closing it, if it is not fit any more.
    pub fn take(mut self) -> Option<Link> {
        self.forget();
        let mut link = self.link.take()?;
        let world = Rc::clone(&link.world);
        let fine = world.now() - self.since < link::MOMENT || link.look();
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
