//! What a pool has learned of the server's settings: what it gives to those who ask for nothing, and how it spells what
//! others ask for.

use super::{Pool, lock};
use crate::track::{Params, Wanted};
use crate::upstream::link::Link;

/// How many spellings of a setting's value are remembered.
const CANONICAL_LIMIT: usize = 256;

impl Pool {
    /// The reported settings of a client who asked for none; `None` until a connection has been opened.
    #[must_use]
    pub fn baseline(&self) -> Option<Params> {
        lock(&self.baseline).clone()
    }

    /// What the server makes of a value, if it has been seen before.
    #[must_use]
    pub fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        if name == "application_name" && value.len() < 64 {
            // Printable ASCII, as all values here are, is taken as it is.
            return Some(value.into());
        }
        lock(&self.canonical).get(&(name, value.into())).cloned()
    }

    /// Notes what the server made of the values that `wanted` asks for.
    pub fn learn_canonical(&self, wanted: &Wanted, params: &Params) {
        let mut canonical = lock(&self.canonical);
        for (name, value) in wanted.iter() {
            if let Some(seen) = params.get(name.as_bytes()) {
                if canonical.len() >= CANONICAL_LIMIT {
                    canonical.clear();
                }
                canonical.insert((name, value.into()), seen.into());
                canonical.insert((name, seen.into()), seen.into());
            }
        }
    }

    /// Notes the settings of a session that is as new, but for what was `asked` for at its login.
    pub(super) fn learn_baseline(&self, params: &mut Params, asked: &Wanted) {
        let mut baseline = lock(&self.baseline);
        let Some(known) = &mut *baseline else {
            *baseline = Some(params.clone());
            return;
        };
        for (name, value) in params.beyond(&known.clone()) {
            if !asked.iter().any(|(asked, _)| asked.as_bytes().eq_ignore_ascii_case(name)) {
                known.set(name, value);
            }
        }
        params.share(known);
    }

    /// What a session is reset to has changed.
    pub fn learn_base(&self, link: &mut Link) {
        let Link { base, asked, .. } = link;
        self.learn_baseline(base, asked);
    }

    /// A session has been reset: its settings are what the server gives now, which may have changed since its login.
    pub fn learn_reset(&self, link: &mut Link) {
        if link.params != link.base {
            let Link { params, asked, .. } = link;
            self.learn_baseline(params, asked);
            link.base = link.params.clone();
        }
    }
}
