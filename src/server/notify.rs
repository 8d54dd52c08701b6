//! Notifications to the service manager (`NOTIFY_SOCKET`).

use std::sync::mpsc::{Sender, channel};
use std::thread;

use sd_notify::NotifyState;
use tracing::warn;

/// The way to the service manager. A thread of its own sends, in order: a manager that does not read holds up nothing else.
#[derive(Debug)]
pub(super) struct Notifier(Option<Sender<Vec<NotifyState<'static>>>>);

impl Notifier {
    /// The way to the service manager that the environment names, if it names one.
    pub(super) fn new() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self(None);
        }
        let (states, queue) = channel::<Vec<_>>();
        let send = move || {
            for states in queue {
                if let Err(error) = sd_notify::notify(&states) {
                    warn!("systemd could not be notified: {error}");
                }
            }
        };
        let started = thread::Builder::new().name("notify".into()).spawn(send);
        if let Err(error) = &started {
            warn!("systemd can't be notified: {error}");
        }
        Self(started.is_ok().then_some(states))
    }

    /// Tells it `states`, in one message.
    pub(super) fn tell(&self, states: &[NotifyState<'static>]) {
        if let Some(queue) = &self.0 {
            // The thread lives as long as this does.
            let _ = queue.send(states.to_vec());
        }
    }
}
