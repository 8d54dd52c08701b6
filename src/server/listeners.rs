//! The listeners: opened, changed by a reload, handed over to another process; and who takes clients from them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::crew::{Crew, Presence};
use crate::admin::Desk;
use crate::config::{Listen, Settings};
use crate::drain::Phase;
use crate::net::{Bound, Handover, ListenError};

/// How long to wait before accepting again when the process or the system is out of descriptors.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// How many clients that wait in the backlog are still taken when a listener closes: as many as the kernel keeps by
/// default.
const BACKLOG_AT_END: usize = 4096;

/// A listener that clients are taken from.
#[derive(Debug)]
struct Open {
    bound: Arc<Bound>,
    stop: Arc<Stop>,
}

/// How a listener is told to end.
#[derive(Debug, Default)]
struct Stop {
    how: AtomicU8,
    told: Notify,
}

impl Stop {
    /// No reload keeps it: those who have connected are taken still.
    const REMOVED: u8 = 1;
    /// Another process has it: nobody is taken from it any more.
    const LEFT: u8 = 2;

    fn tell(&self, how: u8) {
        self.how.store(how, Ordering::SeqCst);
        self.told.notify_one();
    }

    fn how(&self) -> u8 {
        self.how.load(Ordering::SeqCst)
    }
}

/// All listeners, by name.
#[derive(Debug)]
pub(super) struct Listeners {
    open: BTreeMap<String, Open>,
    crew: Arc<Crew>,
    /// They are the service manager's, whatever the settings say.
    managed: bool,
}

impl Listeners {
    pub fn new(desk: Arc<Desk>, presence: Presence, managed: bool) -> Self {
        Self { open: BTreeMap::new(), crew: Crew::new(desk, presence), managed }
    }

    /// Takes clients from `bound`.
    pub fn open(&mut self, bound: Bound) {
        let (bound, stop) = (Arc::new(bound), Arc::new(Stop::default()));
        let taking = accept(Arc::clone(&self.crew), Arc::clone(&bound), Arc::clone(&stop));
        tokio::spawn(taking);
        self.open.insert(bound.name().to_owned(), Open { bound, stop });
    }

    /// Opens those that `settings` name and that are not open yet, without taking clients from them.
    ///
    /// # Errors
    /// When one can't be opened; nothing has changed then.
    pub fn prepare(&self, settings: &Settings) -> Result<Vec<Bound>, ListenError> {
        if self.managed {
            return Ok(Vec::new());
        }
        let missing = settings.listen.iter().filter(|listen| !self.open.contains_key(&name(listen, settings.port)));
        missing.map(|listen| bind(listen, settings)).collect()
    }

    /// Has those that `settings` name: `prepared` are new, others close.
    pub fn change(&mut self, settings: &Settings, prepared: Vec<Bound>) {
        if self.managed {
            return;
        }
        let wanted: Vec<_> = settings.listen.iter().map(|listen| name(listen, settings.port)).collect();
        self.open.retain(|name, open| {
            let stays = wanted.contains(name);
            if !stays {
                info!("no more clients at {name}");
                open.stop.tell(Stop::REMOVED);
            } else if let Err(error) = open.bound.set_access(settings.socket_mode, settings.socket_group.as_deref()) {
                warn!("{error}");
            }
            stays
        });
        for bound in prepared {
            info!("clients may connect at {}", bound.name());
            self.open(bound);
        }
    }

    /// All of them, for another process.
    ///
    /// # Errors
    /// The system's.
    pub fn hand_over(&self, admin: Option<&Bound>) -> io::Result<Handover> {
        Handover::of(self.open.values().map(|open| &*open.bound).chain(admin))
    }

    /// The process that they were inherited from has left them.
    pub fn own(&self) {
        for open in self.open.values() {
            if let Err(error) = open.bound.own() {
                warn!("{}: {error}", open.bound.name());
            }
        }
    }

    /// Another process has them.
    pub fn leave(&mut self) {
        for open in std::mem::take(&mut self.open).into_values() {
            open.bound.leave();
            open.stop.tell(Stop::LEFT);
        }
    }
}

/// A listener's name, as [`Bound::name`] has it.
pub(super) fn name(listen: &Listen, port: u16) -> String {
    match listen {
        Listen::Dir(dir) => dir.join(format!(".s.PGSQL.{port}")).display().to_string(),
        Listen::Abstract(name) => format!("@{name}/.s.PGSQL.{port}"),
        Listen::Tcp(address) => address.to_string(),
    }
}

/// Opens a listener.
///
/// # Errors
/// As [`ListenError`] lists.
pub(super) fn bind(listen: &Listen, settings: &Settings) -> Result<Bound, ListenError> {
    match listen {
        Listen::Dir(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", settings.port));
            Bound::file(&path, settings.socket_mode, settings.socket_group.as_deref())
        }
        Listen::Abstract(name) => Bound::abstract_name(&format!("{name}/.s.PGSQL.{}", settings.port)),
        Listen::Tcp(address) => Bound::tcp(*address),
    }
}

/// Takes clients; nothing that happens to one of them holds up the next. While the process ends they are taken to be told
/// so, and whoever operates it gets in.
async fn accept(crew: Arc<Crew>, listener: Arc<Bound>, stop: Arc<Stop>) {
    let drain = &crew.shared().drain;
    let mut ending = pin!(async {
        tokio::select! {
            () = drain.reached(Phase::Stopping) => {}
            () = stop.told.notified() => {}
        }
    });
    while drain.phase() < Phase::Stopping && stop.how() == 0 {
        let next = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => ending.as_mut().poll(cx).map(|()| None),
        });
        match next.await {
            Some(Ok(stream)) => crew.serve(stream),
            Some(Err(error)) => out_of_luck(&error).await,
            None => break,
        }
    }
    if stop.how() == Stop::LEFT {
        return;
    }
    // Those who have connected by now are told; a closed backlog would only break their connections.
    for _ in 0..BACKLOG_AT_END {
        match poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
            Poll::Ready(Ok(stream)) => crew.serve(stream),
            _ => break,
        }
    }
}

/// A failure to accept concerns one client, or everything is in use for the moment; the listener goes on.
async fn out_of_luck(error: &io::Error) {
    let errno = error.raw_os_error().map(Errno::from_raw);
    if let Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) = errno {
        warn!("can't accept clients for the moment: {error}; they wait in the backlog");
        sleep(OUT_OF_FILES).await;
    } else {
        warn!("a client could not be accepted: {error}");
    }
}
