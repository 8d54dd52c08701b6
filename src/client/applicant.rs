//! Who wants to come in, as its startup packet says. Programs that connect all the time send the same packet each time: what
//! was made of the last ones is remembered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::login;
use crate::track::Wanted;
use crate::track::startup_settings::StartupSettings;
use crate::upstream::PoolKey;
use crate::wire::Startup;

/// How many packets are remembered, and how long they may be.
const REMEMBERED: usize = 8;
const LONGEST: usize = 1024;

/// What a startup packet says, taken apart.
#[derive(Debug)]
pub struct Applicant {
    /// The packet.
    pub startup: Startup,
    /// Whose connections it needs, unless the settings say that it is to be somebody else upstream.
    pub key: PoolKey,
    /// What it asks for that follows it from connection to connection.
    pub wanted: Wanted,
    /// The other settings that follow it.
    pub settings: StartupSettings,
    /// Whether it asks for replication; `None` when that can't be told.
    pub replication: Option<bool>,
    /// Whether it wants to speak with pgferry itself.
    pub console: bool,
}

impl Applicant {
    /// Takes a packet apart.
    #[must_use]
    pub fn new(startup: Startup) -> Self {
        let user = startup.get("user").unwrap_or_default().to_vec();
        let database = startup.get("database").map_or_else(|| user.clone(), <[u8]>::to_vec);
        let (wanted, extra) = Wanted::split(&startup);
        let (settings, extra) = StartupSettings::split(extra);
        let replication = login::asks_for_replication(&startup);
        let console = login::is_console(&startup);
        Self { startup, key: PoolKey { database, user, extra }, wanted, settings, replication, console }
    }

    /// Who it says to be.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.key.user
    }

    /// The database it wants.
    #[must_use]
    pub fn database(&self) -> &[u8] {
        &self.key.database
    }
}

/// A packet, and what was made of it.
type Known = (Box<[u8]>, Arc<Applicant>);

/// Those who came last, by their packets.
#[derive(Debug, Default)]
pub struct Applicants {
    /// The latest last.
    known: Mutex<VecDeque<Known>>,
}

impl Applicants {
    /// What was made of this very packet before.
    #[must_use]
    pub fn find(&self, packet: &[u8]) -> Option<Arc<Applicant>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|(seen, _)| **seen == *packet).map(|(_, applicant)| Arc::clone(applicant))
    }

    /// Remembers what was made of a packet.
    pub fn remember(&self, packet: &[u8], applicant: &Arc<Applicant>) {
        if packet.len() > LONGEST {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back((packet.into(), Arc::clone(applicant)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant(user: &'static str) -> Arc<Applicant> {
        let params = vec![("user".into(), user.into())];
        Arc::new(Applicant::new(Startup { params, ..Startup::default() }))
    }

    #[test]
    fn the_database_is_the_users_name_if_none_is_given() {
        let one = applicant("me");
        assert_eq!((one.user(), one.database()), (&b"me"[..], &b"me"[..]));
        assert_eq!((one.replication, one.console), (Some(false), false));
    }

    #[test]
    fn the_last_few_are_remembered_by_all_their_bytes() {
        let applicants = Applicants::default();
        let first = applicant("me");
        applicants.remember(b"me", &first);
        assert!(Arc::ptr_eq(&applicants.find(b"me").expect("seen"), &first));
        for stranger in [&b"m"[..], b"me\0", b"ME", b""] {
            assert!(applicants.find(stranger).is_none(), "{stranger:?}");
        }
        for n in 0..REMEMBERED {
            applicants.remember(n.to_string().as_bytes(), &applicant("you"));
        }
        assert!(applicants.find(b"me").is_none(), "others have come since");
        assert!(applicants.find(b"0").is_some());
        applicants.remember(&[b'x'; LONGEST + 1], &first);
        assert!(applicants.find(&[b'x'; LONGEST + 1]).is_none(), "too long");
    }
}
