//! Settings that change while the process runs.

use std::sync::Arc;

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::limits::raise_file_limit;
use super::listeners::Listeners;
use super::{Reload, notify};
use crate::admin::{Admin, Desk};
use crate::client::Shared;
use crate::client::door::Door;
use crate::config::keys::Adjustable;
use crate::net::Handover;
use crate::upstream::PoolKey;
use crate::upstream::route::Routes;

/// What a reload changes.
pub(super) struct Running {
    pub listeners: Listeners,
    pub admin: Option<Admin>,
    pub desk: Arc<Desk>,
    pub reload: Reload,
    pub set_log_level: Box<dyn Fn(&str)>,
    /// What was set by hand, on top of what is written.
    pub on_top: Vec<(Adjustable, String)>,
}

impl Running {
    /// As [`Running::reload`]; the log says what came of it.
    pub fn reload_told_by_signal(&mut self) {
        // Type=notify-reload wants to know when it began and when it is over.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => warn!("the clock could not be read: {error}"),
        }
        if let Err(why) = self.reload() {
            error!("{}", why.replace("\n  hint: ", "; hint: "));
        }
        notify(&[NotifyState::Ready]);
    }

    /// Reads the settings again and applies what can be applied. Says what has changed.
    ///
    /// # Errors
    /// Why nothing has.
    pub fn reload(&mut self) -> Result<String, String> {
        let said = self.apply(&[])?;
        self.on_top.clear();
        Ok(said)
    }

    /// Sets one setting until the next reload. Says what has changed.
    ///
    /// # Errors
    /// Why nothing has.
    pub fn set(&mut self, key: Adjustable, value: String) -> Result<String, String> {
        let mut on_top = self.on_top.clone();
        on_top.retain(|(other, _)| other.name() != key.name());
        on_top.push((key, value));
        let said = self.apply(&on_top)?;
        self.on_top = on_top;
        Ok(said)
    }

    fn apply(&mut self, on_top: &[(Adjustable, String)]) -> Result<String, String> {
        let shared = &self.desk.shared;
        let registry = &shared.registry;
        let old = registry.settings.load_full();
        let refused = |why: String| format!("the settings were not reloaded, the old ones stay: {why}");
        let new = (self.reload)(on_top).map_err(|error| refused(error.to_string()))?;
        let (live, restart) = new.changed(&old);
        let new = Arc::new(new.keeping_fixed_of(&old));
        let routes = Routes::new(&new).map_err(refused)?;
        let door = Door::new(&new).map_err(refused)?;
        let prepared = self.listeners.prepare(&new).map_err(|error| refused(error.to_string()))?;
        if new.admin_listen != old.admin_listen {
            let address = new.admin_listen.as_ref();
            let admin = address.map(|address| Admin::start(&self.desk, address, None)).transpose().map_err(refused)?;
            self.admin = admin;
        }
        registry.settings.store(Arc::clone(&new));
        self.listeners.change(&new, prepared);
        registry.apply(&old, routes);
        if new.log_level != old.log_level {
            (self.set_log_level)(&new.log_level);
        }
        let old_door = shared.door.swap(Arc::new(door));
        warm_up(shared);
        let closing = Arc::clone(registry);
        tokio::spawn(async move { old_door.secrets.close(&closing).await });
        shared.places.resize(raise_file_limit(&new));
        // Clients whose connections go elsewhere now move when they are between two pieces of work.
        shared.sessions.wake_all();
        let mut said = format!("settings reloaded; changed: {}", list(&live));
        if !restart.is_empty() {
            let waiting = format!("these settings have changed but need a restart: {}", list(&restart));
            warn!("{waiting}");
            said = format!("{said}; {waiting}");
        }
        info!("settings reloaded; changed: {}", list(&live));
        Ok(said)
    }

    /// The listeners, for another process.
    ///
    /// # Errors
    /// Why it can't have them.
    pub fn hand_over(&self) -> Result<Handover, String> {
        let admin = self.admin.as_ref().map(Admin::listener);
        self.listeners.hand_over(admin.as_deref()).map_err(|error| error.to_string())
    }

    /// The process that listeners were inherited from has left them.
    pub fn own(&self) {
        self.listeners.own();
        if let Some(Err(error)) = self.admin.as_ref().map(|admin| admin.listener().own()) {
            warn!("admin_listen: {error}");
        }
    }

    /// Another process has the listeners.
    pub fn leave(&mut self) {
        self.listeners.leave();
        if let Some(admin) = self.admin.take() {
            admin.leave();
        }
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Does what takes long and is better done before the first client comes. Where it is known as whom clients will come, a
/// connection is opened, so that the first finds one, and probes learn whether that works.
pub(super) fn warm_up(shared: &Shared) {
    let settings = shared.registry.settings.load_full();
    let known = settings.upstream.user.as_ref().zip(settings.upstream.database.as_ref());
    if let Some((user, database)) = known.filter(|_| !settings.is_pass_through()) {
        let (database, user) = (database.as_bytes().to_vec(), user.as_bytes().to_vec());
        shared.registry.pool(&PoolKey { database, user, extra: Vec::new() }).warm_up();
    }
    let door = shared.door.load_full();
    if shared.registry.settings.load().needs_verifiers() {
        tokio::spawn(async move { door.secrets.warm_up().await });
    }
}
