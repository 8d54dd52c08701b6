//! What a reload changes, and what has to wait for a restart.

use super::setting_groups::{ListenSettings, LogSettings};
use super::settings::Settings;

impl Settings {
    /// The keys with other values than in `old`: those that apply at once, and those that need a restart.
    #[must_use]
    pub fn changed(&self, old: &Self) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut live = Vec::new();
        let mut restart = Vec::new();
        for ((key, new, _), (_, was, _)) in self.shown.iter().zip(&old.shown) {
            let differs = match key.name {
                "upstream" | "upstream_password" => key.name == "upstream" && self.upstream.url != old.upstream.url,
                "peer" => self.auth.peer != old.auth.peer,
                "rule" => {
                    self.has_rules() != old.has_rules() || (self.has_rules() && self.auth.rules != old.auth.rules)
                }
                "users" => self.auth.users != old.auth.users || self.auth.limits != old.auth.limits,
                // Secrets are not shown; the first route is that of databases without a table.
                "databases" => self.per_database() != old.per_database() || self.routes()[1..] != old.routes()[1..],
                _ => new != was,
            };
            if differs {
                if key.change.by_reload() { live.push(key.name) } else { restart.push(key.name) }
            }
        }
        (live, restart)
    }

    /// These settings, but with those that need a restart as they are in `running`.
    #[must_use]
    pub fn keeping_fixed_of(self, running: &Self) -> Self {
        let shown = self.shown.into_iter().zip(&running.shown);
        Self {
            log: LogSettings { log_format: running.log.log_format, ..self.log },
            listen: ListenSettings {
                workers: running.listen.workers,
                buffer_size: running.listen.buffer_size,
                ports: self.listen.ports.following(&running.listen.ports),
                ..self.listen
            },
            shown: shown.map(|(new, old)| if new.0.change.by_reload() { new } else { old.clone() }).collect(),
            ..self
        }
    }
}
