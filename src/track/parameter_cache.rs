//! What a pool has learned of the server's settings: what it gives to clients that ask for nothing, how it spells what
//! others ask for, and so what clients are greeted with.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::params::{RequestedParams, ServerParams};
use super::server_state::ServerState;
use super::spelling;
use super::startup_settings::StartupSettings;
use crate::lock::lock;
use crate::wire::backend;

/// Number of spellings of settings' values that are remembered.
const MAX_CANONICAL_VALUES: usize = 256;

/// Number of other settings that are remembered, and how long each may be, in bytes; longer ones are tried at each login.
const MAX_TAKEN: usize = 1024;
const MAX_TAKEN_BYTES: usize = 256;

/// Number of greetings that are kept for the next client that asks for the same.
const MAX_GREETINGS: usize = 8;

/// Interval of logins that ask the server where what is known of it may be outdated.
const QUESTION_INTERVAL: Duration = Duration::from_millis(100);

/// Canonical values of settings.
type CanonicalValues = HashMap<(&'static str, Box<[u8]>), Box<[u8]>>;

/// Greeting of a client.
#[derive(Debug)]
pub struct Greeting {
    /// Parameters that it asked for, as it spelt them.
    asked: RequestedParams,
    /// The same as the server spells it, where that is known.
    pub wanted: RequestedParams,
    /// The reported settings that it is told.
    pub view: ServerParams,
    /// The messages that say so: `AuthenticationOk` and the `ParameterStatus`es.
    pub messages: Box<[u8]>,
    /// Role of the server according to them.
    role: ServerRole,
}

/// Role of a server in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerRole {
    /// A primary, or a server that does not say (before PostgreSQL 14).
    Primary,
    Standby,
}

impl Greeting {
    fn new(asked: RequestedParams, wanted: RequestedParams, view: ServerParams) -> Self {
        let mut messages = Vec::new();
        backend::put_authentication_ok(&mut messages);
        for (name, value) in view.iter() {
            backend::put_parameter_status(&mut messages, name, value);
        }
        let is_standby = view.get(b"in_hot_standby") == Some(b"on");
        let role = if is_standby { ServerRole::Standby } else { ServerRole::Primary };
        Self { asked, wanted, view, messages: messages.into(), role }
    }

    /// Returns the same for a client with a startup packet that has set `settings` too, of which some servers report `search_path` (PostgreSQL 18
    /// and later) and others. What is written in a startup packet is what is reported.
    #[must_use]
    pub fn with_startup(self: Arc<Self>, settings: &StartupSettings) -> Arc<Self> {
        let mut view = self.view.clone();
        for (name, value) in settings.iter() {
            if view.get(name.as_bytes()).is_some() {
                view.set(name.as_bytes(), value);
            }
        }
        if view.is(&self.view) {
            return self;
        }
        Arc::new(Self::new(self.asked.clone(), self.wanted.clone(), view))
    }
}

/// Settings as learned from connections.
#[derive(Debug, Default)]
struct LearnedParams {
    /// The reported settings of a session that asked for none.
    baseline: Option<ServerParams>,
    canonical: CanonicalValues,
    /// Other settings of startup packets that the server has taken, by name and value.
    taken: HashSet<(Box<str>, Box<[u8]>)>,
    /// The latest last.
    greetings: VecDeque<Arc<Greeting>>,
    /// Time at which a login last asked the server whether it is still what it was.
    asked: Option<Instant>,
    /// Time at which the server, or the network, last ended a connection.
    lost: Option<Instant>,
    /// Time at which the server last showed that it is the same, or what it is now.
    shown: Option<Instant>,
}

impl LearnedParams {
    fn is_doubtful(&self) -> bool {
        // Connections that end at about the same time end together.
        self.lost.is_some_and(|lost| self.shown.is_none_or(|shown| shown <= lost))
    }

    fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        if name == "application_name" && value.len() < 64 {
            // Printable ASCII, as all values here are, is taken as it is.
            return Some(value.into());
        }
        self.canonical.get(&(name, value.into())).cloned()
    }

    /// Notes the settings that a session is reset to, of which it was told those that are not `before`, but for what was `asked` for at its
    /// login.
    fn learn(&mut self, params: &mut ServerParams, before: &ServerParams, asked: &RequestedParams) {
        let Some(known) = &mut self.baseline else {
            self.baseline = Some(params.clone());
            return;
        };
        let mut news = false;
        for (name, value) in params.beyond(before) {
            if !asked.iter().any(|(asked, _)| asked.as_bytes().eq_ignore_ascii_case(name)) {
                news |= known.set(name, value);
            }
        }
        params.share(known);
        if news {
            self.greetings.clear();
        }
    }

    fn greeting(&self, asked: &RequestedParams) -> Greeting {
        let wanted = asked.canonical(|name, value| self.canonical(name, value));
        let mut view = self.baseline.clone().unwrap_or_default();
        for (name, value) in asked.iter() {
            let Some(initial) = view.get(name.as_bytes()) else { continue };
            let spelt = self.canonical(name, value);
            // Of what no connection has shown yet.
            let spelt = spelt.or_else(|| Some(spelling::canonical(name, value, initial)?.into_bytes().into()));
            view.set(name.as_bytes(), spelt.as_deref().unwrap_or(value));
        }
        Greeting::new(asked.clone(), wanted, view)
    }
}

/// Cache of the settings that one pool's connections report, shared by its clients.
#[derive(Debug, Default)]
pub struct ParameterCache {
    learned: Mutex<LearnedParams>,
}

impl ParameterCache {
    /// The reported settings of a client that asked for none; `None` until a connection has been opened.
    #[must_use]
    pub fn baseline(&self) -> Option<ServerParams> {
        self.lock().baseline.clone()
    }

    /// Returns whether a login with `greeting` is to ask the server whether it is still what it was. A standby tells of its promotion only
    /// with an answer, and there is none as long as all clients leave a standby at once. A server that has ended connections may be another
    /// one now: of another version, or with another configuration.
    pub fn claim_question(&self, greeting: &Greeting, now: impl FnOnce() -> Instant) -> bool {
        let mut learned = self.lock();
        (greeting.role == ServerRole::Standby || learned.is_doubtful()) && {
            let now = now();
            let is_recent = |at: Instant| now.saturating_duration_since(at) < QUESTION_INTERVAL;
            let is_due = !learned.asked.is_some_and(is_recent);
            if is_due {
                learned.asked = Some(now);
            }
            is_due
        }
    }

    /// Notes that the server, or the network, has ended a connection.
    pub fn note_lost(&self, now: Instant) {
        self.lock().lost = Some(now);
    }

    /// Notes that the server has answered on a connection that was open before, and has told there what has changed.
    pub fn note_answer(&self, now: Instant) {
        self.lock().shown = Some(now);
    }

    /// Returns the server's canonical form of a value, if it has been seen before.
    #[must_use]
    pub fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        self.lock().canonical(name, value)
    }

    /// Returns whether the server has taken `settings` before.
    #[must_use]
    pub fn has_taken(&self, settings: &StartupSettings) -> bool {
        settings.is_empty() || {
            let learned = self.lock();
            settings.iter().all(|(name, value)| learned.taken.contains(&(name.into(), value.into())))
        }
    }

    /// Notes that the server has taken `settings`.
    pub fn note_taken(&self, settings: &StartupSettings) {
        let mut learned = self.lock();
        if learned.taken.len() >= MAX_TAKEN {
            learned.taken.clear();
        }
        let short = settings.iter().filter(|(name, value)| name.len() + value.len() <= MAX_TAKEN_BYTES);
        learned.taken.extend(short.map(|(name, value)| (name.into(), value.into())));
    }

    /// Returns the greeting of a client that asks for `asked`; `None` while the server's answer to that is not known.
    #[must_use]
    pub fn greeting(&self, asked: &RequestedParams) -> Option<Arc<Greeting>> {
        let mut learned = self.lock();
        if let Some(known) = learned.greetings.iter().rev().find(|known| known.asked == *asked) {
            return Some(Arc::clone(known));
        }
        learned.baseline.as_ref()?;
        if asked.iter().any(|(name, value)| learned.canonical(name, value).is_none()) {
            return None;
        }
        let greeting = Arc::new(learned.greeting(asked));
        if learned.greetings.len() >= MAX_GREETINGS {
            learned.greetings.pop_front();
        }
        learned.greetings.push_back(Arc::clone(&greeting));
        Some(greeting)
    }

    /// The same as far as it is known or can be told, what is unknown being taken as it was asked for.
    #[must_use]
    pub fn greeting_as_known(&self, asked: &RequestedParams) -> Arc<Greeting> {
        Arc::new(self.lock().greeting(asked))
    }

    /// Notes what the server made of the values that `wanted` asks for.
    pub fn learn_canonical(&self, wanted: &RequestedParams, params: &ServerParams) {
        let mut learned = self.lock();
        for (name, value) in wanted.iter() {
            let Some(seen) = params.get(name.as_bytes()) else { continue };
            if learned.canonical(name, value).as_deref() == Some(seen) {
                continue;
            }
            if learned.canonical.len() >= MAX_CANONICAL_VALUES {
                learned.canonical.clear();
            }
            learned.canonical.insert((name, value.into()), seen.into());
            learned.canonical.insert((name, seen.into()), seen.into());
            learned.greetings.clear();
        }
    }

    /// Notes the settings of a session that has just begun, `now`, as [`ParameterCache::learn_baseline`] does.
    pub fn learn_login(&self, params: &mut ServerParams, asked: &RequestedParams, now: Instant) {
        self.learn_baseline(params, asked);
        self.note_answer(now);
    }

    /// Notes the settings of a session that is as new, but for what was `asked` for at its login.
    pub fn learn_baseline(&self, params: &mut ServerParams, asked: &RequestedParams) {
        let mut learned = self.lock();
        let before = learned.baseline.clone().unwrap_or_default();
        learned.learn(params, &before, asked);
    }

    /// Notes that a session is reset to something else than when this was last learnt. What has not changed there may be out of date: a
    /// server's processes read its configuration one after another, each at its next statement.
    pub fn learn_base(&self, server: &mut ServerState) {
        self.lock().learn(&mut server.base, &server.told_base, &server.asked);
        server.told_base = server.base.clone();
    }

    /// Notes that a session has been reset: its settings are what the server gives now, which may have changed since its
    /// login.
    pub fn learn_reset(&self, server: &mut ServerState) {
        // Where nothing has changed, the next comparison is free.
        server.base.share(&server.params);
        if !server.base.is(&server.params) {
            server.base = server.params.clone();
            self.learn_base(server);
            server.params.share(&server.base);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LearnedParams> {
        // What it guards is consistent between any two statements.
        lock(&self.learned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_asks_a_server_that_has_ended_connections_until_it_has_answered() {
        let (cache, began) = (ParameterCache::default(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        let none = RequestedParams::default();
        cache.learn_login(&mut ServerParams::default(), &none, at(0));
        let greeting = cache.greeting(&none).expect("known");
        let asks = |millis| cache.claim_question(&greeting, || at(millis));
        assert!(!asks(1), "it is what it was");
        cache.note_lost(at(2));
        assert_eq!([3, 102, 103].map(asks), [true, false, true], "one login at a time");
        cache.note_answer(at(104));
        assert!(!asks(300));
    }

    fn session(zone: &[u8]) -> ServerState {
        let mut params = ServerParams::default();
        params.set(b"TimeZone", zone);
        params.set(b"DateStyle", b"ISO, MDY");
        ServerState::new(params, RequestedParams::default())
    }

    #[test]
    fn a_session_tells_of_what_has_changed_there() {
        let cache = ParameterCache::default();
        let baseline = |name: &[u8]| cache.baseline().and_then(|known| known.get(name).map(<[u8]>::to_vec));
        let [mut told, mut untold] = [session(b"UTC"), session(b"UTC")];
        cache.learn_baseline(&mut told.base, &RequestedParams::default());
        told.base.set(b"TimeZone", b"Asia/Tokyo");
        cache.learn_base(&mut told);
        assert_eq!(baseline(b"TimeZone").as_deref(), Some(&b"Asia/Tokyo"[..]));
        // Its process has not read the server's new configuration.
        untold.base.set(b"DateStyle", b"German, DMY");
        cache.learn_base(&mut untold);
        untold.params.set(b"IntervalStyle", b"iso_8601");
        cache.learn_reset(&mut untold);
        assert_eq!(baseline(b"TimeZone").as_deref(), Some(&b"Asia/Tokyo"[..]));
        assert_eq!(baseline(b"DateStyle").as_deref(), Some(&b"ISO, MDY"[..]), "it was reset since");
        assert_eq!(baseline(b"IntervalStyle").as_deref(), Some(&b"iso_8601"[..]));
    }
}
