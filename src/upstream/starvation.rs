//! For how long clients have waited in vain because no connection could be had.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Time for which it is remembered that a connection could not be had.
const REMEMBERED: Duration = Duration::from_secs(15);

/// Time without a connection after which that is trouble.
const TROUBLE: Duration = Duration::from_secs(10);

/// For how long clients have waited in vain because no connection could be had.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    spell: Mutex<Option<Spell>>,
    /// True if there is a spell: a connection that comes back looks at no more than that.
    any: AtomicBool,
}

/// A time without connections.
#[derive(Clone, Debug)]
struct Spell {
    since: Instant,
    last: Instant,
    why: String,
}

impl Starvation {
    /// Notes that a connection could not be had, and why.
    pub(crate) fn note(&self, why: String, now: Instant) {
        let mut spell = lock(&self.spell);
        self.any.store(true, Ordering::Relaxed);
        let recent = spell.as_ref().filter(|spell| now.saturating_duration_since(spell.last) < REMEMBERED);
        let since = recent.map(|spell| spell.since);
        *spell = Some(Spell { since: since.unwrap_or(now), last: now, why });
    }

    /// Notes that a connection came free or was opened.
    pub(crate) fn ends(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.any.store(false, Ordering::Relaxed);
            *lock(&self.spell) = None;
        }
    }

    /// For how long none could be had, and why, where that is long enough to be trouble.
    #[must_use]
    pub(crate) fn trouble(&self, now: Instant) -> Option<(Duration, String)> {
        let spell = lock(&self.spell).clone()?;
        let is_recent = now.saturating_duration_since(spell.last) < REMEMBERED;
        let lasts = now.saturating_duration_since(spell.since);
        (is_recent && lasts >= TROUBLE).then_some((lasts, spell.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starvation_lasts_while_it_is_noted_again() {
        let (starvation, now) = (Starvation::default(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        starvation.note("full".into(), at(0));
        starvation.note("full".into(), at(9));
        assert_eq!(starvation.trouble(at(9)), None, "not for long enough");
        assert_eq!(starvation.trouble(at(10)), Some((Duration::from_secs(10), "full".into())));
        assert_eq!(starvation.trouble(at(25)), None, "no client has wanted any for long");
        starvation.note("full".into(), at(26));
        assert_eq!(starvation.trouble(at(27)), None, "it began anew");
        starvation.note("full".into(), at(36));
        assert_eq!(starvation.trouble(at(37)), Some((Duration::from_secs(11), "full".into())));
        starvation.ends();
        assert_eq!(starvation.trouble(at(37)), None);
    }
}
