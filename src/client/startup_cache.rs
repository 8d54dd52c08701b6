//! Parsed startup packets, and a small cache of them. Programs that connect all the time send the same packet each time: what
//! was made of the last ones is remembered.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::config::CONSOLE;
use crate::lock::lock;
use crate::track::RequestedParams;
use crate::track::spelling;
use crate::track::startup_settings::StartupSettings;
use crate::upstream::PoolKey;
use crate::wire::Startup;

/// Number of packets that are remembered, and how long they may be.
const MAX_ENTRIES: usize = 8;
const MAX_PACKET_BYTES: usize = 1024;

/// Replication that a startup packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// Nothing.
    None,
    /// The cluster's log.
    Physical,
    /// A database's changes.
    Logical,
}

impl Replication {
    /// Returns what a startup packet asks for, as PostgreSQL reads it; `None` when PostgreSQL could not say.
    fn asked_for(startup: &Startup) -> Option<Self> {
        let mut asked = Self::None;
        // An empty one counts, unlike an empty name of a database.
        for (_, text) in startup.params.iter().filter(|(name, _)| **name == *b"replication") {
            asked = match &**text {
                b"database" => Self::Logical,
                text if spelling::boolean(std::str::from_utf8(text).ok()?)? => Self::Physical,
                _ => Self::None,
            };
        }
        Some(asked)
    }

    /// Its name in PgBouncer's SHOW CLIENTS.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Startup packet, parsed.
#[derive(Debug)]
pub(crate) struct ParsedStartup {
    /// The packet.
    pub startup: Startup,
    /// The pool that it needs, unless the settings name another role.
    pub key: PoolKey,
    /// Parameters that follow the client from connection to connection.
    pub wanted: RequestedParams,
    /// The other settings that follow it.
    pub settings: StartupSettings,
    /// Request for replication; `None` if its value is invalid.
    pub replication: Option<Replication>,
    /// True if it wants to speak with pgferry itself.
    pub console: bool,
}

impl ParsedStartup {
    /// Takes a packet apart.
    #[must_use]
    pub(crate) fn new(startup: Startup) -> Self {
        let user = startup.get("user").unwrap_or_default().to_vec();
        let database = startup.get("database").map_or_else(|| user.clone(), <[u8]>::to_vec);
        let (wanted, extra) = RequestedParams::split(&startup);
        let (settings, extra) = StartupSettings::split(extra);
        let replication = Replication::asked_for(&startup);
        let console = is_console(&startup);
        Self { startup, key: PoolKey { database, user, extra }, wanted, settings, replication, console }
    }

    /// The user that it names.
    #[must_use]
    pub(crate) fn user(&self) -> &[u8] {
        &self.key.user
    }

    /// The pool that its client works in, as `forced_role` where there is one.
    #[must_use]
    pub(crate) fn pool_key(&self, forced_role: Option<&str>) -> Cow<'_, PoolKey> {
        match forced_role {
            Some(role) => Cow::Owned(PoolKey { user: role.as_bytes().to_vec(), ..self.key.clone() }),
            None => Cow::Borrowed(&self.key),
        }
    }

    /// The database it wants.
    #[must_use]
    pub(crate) fn database(&self) -> &[u8] {
        &self.key.database
    }
}

/// A packet, and what was made of it.
type CachedStartup = (Box<[u8]>, Arc<ParsedStartup>);

/// Cache of recently seen startup packets.
#[derive(Debug, Default)]
pub(crate) struct StartupCache {
    /// The latest last.
    known: Mutex<VecDeque<CachedStartup>>,
}

impl StartupCache {
    /// Returns the result for this very packet, if it is cached.
    #[must_use]
    pub(crate) fn find(&self, packet: &[u8]) -> Option<Arc<ParsedStartup>> {
        let known = lock(&self.known);
        known.iter().rev().find(|(seen, _)| **seen == *packet).map(|(_, parsed_startup)| Arc::clone(parsed_startup))
    }

    /// Remembers what was made of a packet.
    pub(crate) fn remember(&self, packet: &[u8], parsed_startup: &Arc<ParsedStartup>) {
        if packet.len() > MAX_PACKET_BYTES {
            return;
        }
        let mut known = lock(&self.known);
        if known.len() >= MAX_ENTRIES {
            known.pop_front();
        }
        known.push_back((packet.into(), Arc::clone(parsed_startup)));
    }
}

/// Returns whether a startup packet asks for the console.
fn is_console(startup: &Startup) -> bool {
    startup.get("database").is_some_and(|asked| CONSOLE.iter().any(|name| name.as_bytes() == asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed_startup(user: &'static str) -> Arc<ParsedStartup> {
        let params = vec![("user".into(), user.into())];
        Arc::new(ParsedStartup::new(Startup { params, ..Startup::default() }))
    }

    #[test]
    fn the_database_is_the_users_name_if_none_is_given() {
        let one = parsed_startup("me");
        assert_eq!((one.user(), one.database()), (&b"me"[..], &b"me"[..]));
        assert_eq!((one.replication, one.console), (Some(Replication::None), false));
    }

    #[test]
    fn the_last_few_are_remembered_by_all_their_bytes() {
        let startup_cache = StartupCache::default();
        let first = parsed_startup("me");
        startup_cache.remember(b"me", &first);
        assert!(Arc::ptr_eq(&startup_cache.find(b"me").expect("seen"), &first));
        for stranger in [&b"m"[..], b"me\0", b"ME", b""] {
            assert!(startup_cache.find(stranger).is_none(), "{stranger:?}");
        }
        for n in 0..MAX_ENTRIES {
            startup_cache.remember(n.to_string().as_bytes(), &parsed_startup("you"));
        }
        assert!(startup_cache.find(b"me").is_none(), "others have come since");
        assert!(startup_cache.find(b"0").is_some());
        startup_cache.remember(&[b'x'; MAX_PACKET_BYTES + 1], &first);
        assert!(startup_cache.find(&[b'x'; MAX_PACKET_BYTES + 1]).is_none(), "too long");
    }

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let ask = |value: &str| {
            let params = vec![("replication".into(), value.to_owned().into())];
            Replication::asked_for(&Startup { params, ..Startup::default() })
        };
        assert_eq!(ask("database"), Some(Replication::Logical));
        for value in ["true", "on", "yes", "1", "t", "TRUE"] {
            assert_eq!(ask(value), Some(Replication::Physical), "{value}");
        }
        for value in ["false", "off", "no", "0", "f"] {
            assert_eq!(ask(value), Some(Replication::None), "{value}");
        }
        for value in ["", "o", "2", "maybe", "databases", "Database"] {
            assert_eq!(ask(value), None, "{value}");
        }
    }
}
