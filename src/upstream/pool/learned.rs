//! What a pool has learned of the server's settings: what it gives to those who ask for nothing, how it spells what
//! others ask for, and so what clients are welcomed with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Pool, lock};
use crate::track::{Params, Wanted};
use crate::upstream::link::Link;
use crate::wire::backend;

/// How many spellings of a setting's value are remembered.
const CANONICAL_LIMIT: usize = 256;

/// How many welcomes are kept for the next client who asks for the same.
const WELCOMES: usize = 8;

/// What the server makes of a setting's value.
type Spellings = HashMap<(&'static str, Box<[u8]>), Box<[u8]>>;

/// What a client begins with.
#[derive(Debug)]
pub struct Welcome {
    /// What it asked for, as it spelt it.
    asked: Wanted,
    /// The same as the server spells it, where that is known.
    pub wanted: Wanted,
    /// The reported settings that it is told.
    pub view: Params,
    /// The messages that say so: `AuthenticationOk` and the `ParameterStatus`es.
    pub messages: Box<[u8]>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The reported settings of a session that asked for none.
    baseline: Option<Params>,
    canonical: Spellings,
    /// The latest last.
    welcomes: VecDeque<Arc<Welcome>>,
}

impl Learned {
    fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        if name == "application_name" && value.len() < 64 {
            // Printable ASCII, as all values here are, is taken as it is.
            return Some(value.into());
        }
        self.canonical.get(&(name, value.into())).cloned()
    }

    fn welcome(&self, asked: &Wanted) -> Welcome {
        let wanted = asked.canonical(|name, value| self.canonical(name, value));
        let mut view = self.baseline.clone().unwrap_or_default();
        for (name, value) in wanted.iter() {
            if view.get(name.as_bytes()).is_some() {
                view.set(name.as_bytes(), value);
            }
        }
        let mut messages = Vec::new();
        backend::put_authentication_ok(&mut messages);
        for (name, value) in view.iter() {
            backend::put_parameter_status(&mut messages, name, value);
        }
        Welcome { asked: asked.clone(), wanted, view, messages: messages.into() }
    }
}

impl Pool {
    /// The reported settings of a client who asked for none; `None` until a connection has been opened.
    #[must_use]
    pub fn baseline(&self) -> Option<Params> {
        lock(&self.learned).baseline.clone()
    }

    /// What the server makes of a value, if it has been seen before.
    #[must_use]
    pub fn canonical(&self, name: &'static str, value: &[u8]) -> Option<Box<[u8]>> {
        lock(&self.learned).canonical(name, value)
    }

    /// What a client is welcomed with who asks for `asked`; `None` while the server has not been heard about that.
    #[must_use]
    pub fn welcome(&self, asked: &Wanted) -> Option<Arc<Welcome>> {
        let mut learned = lock(&self.learned);
        if let Some(known) = learned.welcomes.iter().rev().find(|known| known.asked == *asked) {
            return Some(Arc::clone(known));
        }
        learned.baseline.as_ref()?;
        if asked.iter().any(|(name, value)| learned.canonical(name, value).is_none()) {
            return None;
        }
        let welcome = Arc::new(learned.welcome(asked));
        if learned.welcomes.len() >= WELCOMES {
            learned.welcomes.pop_front();
        }
        learned.welcomes.push_back(Arc::clone(&welcome));
        Some(welcome)
    }

    /// The same as far as it is known, what is unknown being taken as it was asked for.
    #[must_use]
    pub fn welcome_as_known(&self, asked: &Wanted) -> Arc<Welcome> {
        Arc::new(lock(&self.learned).welcome(asked))
    }

    /// Notes what the server made of the values that `wanted` asks for.
    pub fn learn_canonical(&self, wanted: &Wanted, params: &Params) {
        let mut learned = lock(&self.learned);
        for (name, value) in wanted.iter() {
            let Some(seen) = params.get(name.as_bytes()) else { continue };
            if learned.canonical(name, value).as_deref() == Some(seen) {
                continue;
            }
            if learned.canonical.len() >= CANONICAL_LIMIT {
                learned.canonical.clear();
            }
            learned.canonical.insert((name, value.into()), seen.into());
            learned.canonical.insert((name, seen.into()), seen.into());
            learned.welcomes.clear();
        }
    }

    /// Notes the settings of a session that is as new, but for what was `asked` for at its login.
    pub(super) fn learn_baseline(&self, params: &mut Params, asked: &Wanted) {
        let mut learned = lock(&self.learned);
        let Some(known) = &mut learned.baseline else {
            learned.baseline = Some(params.clone());
            return;
        };
        let mut news = false;
        for (name, value) in params.beyond(&known.clone()) {
            if !asked.iter().any(|(asked, _)| asked.as_bytes().eq_ignore_ascii_case(name)) {
                news |= known.set(name, value);
            }
        }
        params.share(known);
        if news {
            learned.welcomes.clear();
        }
    }

    /// What a session is reset to has changed.
    pub fn learn_base(&self, link: &mut Link) {
        let Link { base, asked, .. } = link;
        self.learn_baseline(base, asked);
    }

    /// A session has been reset: its settings are what the server gives now, which may have changed since its login.
    pub fn learn_reset(&self, link: &mut Link) {
        // Where nothing has changed, the next comparison is free.
        link.base.share(&link.params);
        if !link.base.is(&link.params) {
            let Link { params, asked, .. } = link;
            self.learn_baseline(params, asked);
            link.base = link.params.clone();
        }
    }
}
