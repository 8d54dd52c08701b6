//! The settings that a client has made with plain `SET`s: what of them holds now, and what will hold if the
//! transaction commits. They are carried to the next connection by saying the statements again.

use super::following_settings::FollowingSettings;
use super::open_changes::{Change, OpenChanges};
use super::params;
use super::session_command::SessionCommand;
use super::setting_overrides::SettingOverrides;
use super::startup_settings;
use super::transaction_block::IDLE;

/// Settings made by one client.
#[derive(Debug, Default)]
pub struct SettingsTracker {
    /// Settings of its startup packet, to which a reset goes back.
    base: SettingOverrides,
    kept: SettingOverrides,
    open: OpenChanges,
    /// Settings, of those that follow by their reported values, which the client has set since it last reset them, be it to what
    /// they were: the default may become another one.
    explicit: FollowingSettings,
    /// Settings of that kind which it has set or reset since the connection last changed hands.
    touched: FollowingSettings,
    /// Something has failed since the last `ReadyForQuery`.
    failed: bool,
}

impl SettingsTracker {
    /// Creates that of a client with a startup packet that has set `base`.
    #[must_use]
    pub fn starting_with(base: SettingOverrides) -> Self {
        Self { kept: base.clone(), base, ..Self::default() }
    }

    /// Returns the settings that hold when no transaction is open.
    #[must_use]
    pub fn kept(&self) -> &SettingOverrides {
        &self.kept
    }

    /// Returns whether anything is noted of the transaction that is open.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.open.is_empty()
    }

    /// The statements in force right now, those of the open transaction included, with the names of their
    /// settings; `None` when that can't be told.
    pub fn texts(&self) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
        let unknown = self.open.any(|change| matches!(change, Change::Unknown));
        let open = self.open.iter().filter_map(|change| match change {
            Change::Set { name, text } | Change::Local { name, text } => Some((&**name, &**text)),
            Change::Reset { name } => Some((&**name, &**name)),
            Change::ResetAll => Some((&b"all"[..], &b"reset all"[..])),
            Change::Unknown | Change::Pinned | Change::Savepoint { .. } => None,
        });
        let kept = self.kept.sets().iter().map(|(name, text)| (&**name, &**text));
        (!unknown).then(|| kept.chain(open))
    }

    /// The server has said, while no transaction is open, that setting `name` is `value`, or, without one, that it is what a
    /// reset of the connection makes it.
    pub fn learned(&mut self, name: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => {
                let name_text = String::from_utf8_lossy(name);
                self.kept.set(name, Some(&startup_settings::setting_again(&name_text, value)));
            }
            None => self.kept.set(name, self.base.get(name)),
        }
    }

    /// Returns whether a reset makes setting `name` what this client's startup packet has said.
    #[must_use]
    pub fn has_base(&self, name: &[u8]) -> bool {
        self.base.get(name).is_some()
    }

    /// Forgets everything: the session has been swept.
    pub fn clear(&mut self) {
        *self = Self::starting_with(std::mem::take(&mut self.base));
    }

    /// Something set in a way that can't be told holds until the transaction ends.
    pub fn mark_unknown(&mut self) {
        if !self.open.any(|change| matches!(change, Change::Unknown)) {
            self.open.push(Change::Unknown);
        }
    }

    /// Something is being set that can't be carried.
    pub fn pinned(&mut self) {
        if !self.open.any(|change| matches!(change, Change::Pinned)) {
            self.open.push(Change::Pinned);
        }
    }

    /// Code has run that may have committed the transaction, or undone it. Returns the settings of which it is not known whether they hold,
    /// those left out that follow by their reported values; `None` where there is no telling which.
    pub fn take_doubtful(&mut self) -> Option<Vec<Box<[u8]>>> {
        let taken = self.open.take_if(|change| match change {
            Change::Set { name, .. } | Change::Reset { name } => params::following(name).is_none(),
            Change::ResetAll | Change::Local { .. } => true,
            Change::Unknown | Change::Pinned | Change::Savepoint { .. } => false,
        });
        if taken.iter().any(|change| matches!(change, Change::Local { .. })) {
            self.mark_unknown();
        }
        let mut names = Vec::new();
        for change in taken {
            match change {
                Change::Set { name, .. } | Change::Reset { name } => names.push(name),
                Change::ResetAll => return None,
                _ => {}
            }
        }
        Some(names)
    }

    /// Lets go of the changes that depend on how the transaction ends: they take too many bytes to be carried.
    pub fn give_up_open_changes(&mut self) {
        self.open.give_up();
    }

    /// Returns whether the client has set `name`, which follows by its reported value.
    #[must_use]
    pub fn is_explicit(&self, name: &str) -> bool {
        self.explicit.contains(name)
    }

    /// Takes the settings, of those that follow by their reported values, that were set or reset since the last time.
    pub fn take_touched(&mut self) -> FollowingSettings {
        std::mem::take(&mut self.touched)
    }

    /// `command` has succeeded.
    pub fn succeeded(&mut self, command: &SessionCommand) {
        use SessionCommand as Command;
        let change = match command {
            Command::SetCharacteristics { sets } => {
                let sets = sets.iter().cloned();
                return sets.for_each(|(name, text)| self.open.push(Change::Set { name, text }));
            }
            Command::Set { name, text } => Change::Set { name: name.clone(), text: text.clone() },
            Command::Reset { name } => Change::Reset { name: name.clone() },
            Command::SetLocal { name, text } | Command::ResetLocal { name, text } => {
                Change::Local { name: name.clone(), text: text.clone() }
            }
            Command::ResetAll => Change::ResetAll,
            // Nothing is noted that going back to it would keep.
            Command::Savepoint { .. } if self.open.is_empty() => return,
            Command::Savepoint { name } => Change::Savepoint { name: name.clone() },
            Command::RollbackTo { name } => return self.open.back_to(name),
            Command::Release { name } => return self.open.release(name),
            _ => return,
        };
        self.open.push(change);
    }

    /// Bytes of the names and statements that are noted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kept.bytes() + self.open.bytes()
    }

    /// A command has completed with `tag`. Says whether a `RESET ALL` holds from now on, and nothing that can't be carried.
    pub fn completed(&mut self, tag: &[u8]) -> bool {
        match tag {
            b"COMMIT" | b"PREPARE TRANSACTION" => return self.commit(),
            b"ROLLBACK" => self.open.undo(),
            _ => {}
        }
        false
    }

    /// Something has failed.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// The server is ready, with transaction status `status`. Says whether a `RESET ALL` holds from now on, and nothing that can't be carried.
    pub fn ready(&mut self, status: u8) -> bool {
        let mut reset_all = false;
        if status == IDLE && !self.open.is_empty() {
            if self.failed {
                self.open.undo();
            } else {
                reset_all = self.commit();
            }
        }
        self.failed = false;
        reset_all
    }

    fn commit(&mut self) -> bool {
        let is_pinned = self.open.any(|change| matches!(change, Change::Pinned));
        let reset_all = self.open.any(|change| matches!(change, Change::ResetAll)) && !is_pinned;
        for change in self.open.take() {
            match change {
                Change::Set { name, text } => match params::following(&name) {
                    Some(known) => {
                        self.explicit.insert(known);
                        self.touched.insert(known);
                    }
                    None => self.kept.set(&name, Some(&text)),
                },
                Change::Reset { name } => match params::following(&name) {
                    Some(known) => {
                        self.explicit.remove(known);
                        self.touched.insert(known);
                    }
                    None => self.kept.set(&name, self.base.get(&name)),
                },
                Change::ResetAll => {
                    self.kept = self.base.clone();
                    (self.explicit, self.touched) = (FollowingSettings::default(), FollowingSettings::ALL);
                }
                Change::Local { .. } | Change::Unknown | Change::Pinned | Change::Savepoint { .. } => {}
            }
        }
        reset_all
    }

    /// Nothing is owed: what is noted of what was sent has happened, or has not.
    pub fn settled(&mut self) {
        self.open.settled();
    }
}

#[cfg(test)]
mod tests {
    use super::super::session_command;
    use super::*;

    /// Runs statements that all succeed; an empty one fails. The status is what it would be.
    fn run(tracker: &mut SettingsTracker, statements: &[&str]) {
        let mut open = false;
        for sql in statements {
            match *sql {
                "" => tracker.failed(),
                "begin" => open = true,
                "commit" | "rollback" => {
                    open = false;
                    tracker.completed(sql.to_ascii_uppercase().as_bytes());
                }
                _ => {
                    let command = session_command::of_sql(sql.as_bytes()).expect(sql);
                    tracker.succeeded(&command);
                }
            }
            tracker.ready(if open { b'T' } else { IDLE });
        }
    }

    fn kept(statements: &[&str]) -> Vec<String> {
        let mut tracker = SettingsTracker::default();
        run(&mut tracker, statements);
        tracker.kept.sets().iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn what_commits_is_kept() {
        assert_eq!(kept(&["set b = 1", "set a = 2"]), ["set b = 1", "set a = 2"], "as they were said");
        assert_eq!(kept(&["set b = 1", "set a = 2", "set b = 3"]), ["set a = 2", "set b = 3"]);
        assert_eq!(kept(&["begin", "set a = 1", "commit"]), ["set a = 1"]);
        assert_eq!(kept(&["begin", "set a = 1", "rollback"]), [""; 0]);
        assert_eq!(kept(&["set a = 1", "begin", "reset a", "rollback"]), ["set a = 1"]);
        assert_eq!(kept(&["set a = 1", "reset a"]), [""; 0]);
        assert_eq!(kept(&["set a = 1", "set b = 1", "reset all"]), [""; 0]);
        assert_eq!(kept(&["set local a = 1"]), [""; 0]);
        assert_eq!(kept(&["set timezone = 'UTC'"]), [""; 0], "it follows in another way");
    }

    #[test]
    fn settings_that_follow_by_their_values_are_the_clients_until_it_resets_them() {
        let explicit = |statements: &[&str]| {
            let mut tracker = SettingsTracker::default();
            run(&mut tracker, statements);
            (tracker.is_explicit("TimeZone"), tracker.take_touched().contains("TimeZone"))
        };
        assert_eq!(explicit(&["set timezone = 'UTC'"]), (true, true));
        assert_eq!(explicit(&["begin", "set timezone = 'UTC'", "commit"]), (true, true));
        assert_eq!(explicit(&["begin", "set timezone = 'UTC'", "rollback"]), (false, false));
        assert_eq!(explicit(&["set local timezone = 'UTC'", "set datestyle = 'iso'"]), (false, false));
        assert_eq!(explicit(&["set timezone = 'UTC'", "reset timezone"]), (false, true));
        assert_eq!(explicit(&["set timezone = 'UTC'", "begin", "reset all", "rollback"]), (true, true));
        assert_eq!(explicit(&["set timezone = 'UTC'", "reset all"]), (false, true));
    }

    #[test]
    fn times() {
        let time = |sql: &str| {
            let mut tracker = SettingsTracker::default();
            run(&mut tracker, &[sql]);
            tracker.kept.time(b"idle_session_timeout").map(|time| time.as_millis())
        };
        assert_eq!(time("set idle_session_timeout = 50"), Some(50));
        assert_eq!(time("set idle_session_timeout to '50ms'"), Some(50));
        assert_eq!(time("SET idle_session_timeout='2s'"), Some(2000));
        assert_eq!(time("set session idle_session_timeout to '3min'"), Some(180_000));
        for (sql, millis) in [
            ("set idle_session_timeout to \"5s\"", 5000),
            ("set idle_session_timeout = /*x*/50", 50),
            ("set idle_session_timeout=50 -- '7s'", 50),
            ("set idle_session_timeout = '5s' /* ' */", 5000),
            ("set idle_session_timeout = $$5s$$", 5000),
            ("set idle_session_timeout = $a$5s$a$", 5000),
            ("set idle_session_timeout = ' 5 s '", 5000),
            ("set idle_session_timeout = + 7", 7),
            ("set idle_session_timeout = 5.4", 5),
            ("set idle_session_timeout = .9", 1),
            ("set idle_session_timeout = 5e1", 50),
            ("set idle_session_timeout = '5e1s'", 50_000),
            ("set idle_session_timeout = '+5'", 5),
            ("set \"idle_session_timeout\" to '3s'", 3000),
        ] {
            assert_eq!(time(sql), Some(millis), "{sql}");
        }
        assert_eq!(time("set idle_session_timeout = 0"), None);
        assert_eq!(time("set statement_timeout = 50"), None);
    }

    #[test]
    fn savepoints() {
        let inside = ["begin", "set a = 1", "savepoint s", "set a = 2", "savepoint t", "set a = 3"];
        let after = |more: &[&str]| kept(&[&inside[..], more, &["commit"]].concat());
        assert_eq!(after(&[]), ["set a = 3"]);
        assert_eq!(after(&["rollback to t"]), ["set a = 2"]);
        assert_eq!(after(&["rollback to s"]), ["set a = 1"]);
        assert_eq!(after(&["rollback to s", "set b = 1", "rollback to s"]), ["set a = 1"]);
        assert_eq!(after(&["release t", "rollback to s"]), ["set a = 1"]);
        assert_eq!(after(&["savepoint s", "release s", "rollback to s"]), ["set a = 1"]);
    }

    #[test]
    fn a_failure_outside_a_transaction_block_undoes_what_came_with_it() {
        let mut tracker = SettingsTracker::default();
        tracker.succeeded(&session_command::of_sql(b"set a = 1").expect("a command"));
        tracker.failed();
        tracker.ready(IDLE);
        assert!(tracker.kept().is_empty());
    }

    #[test]
    fn differences() {
        let kept = |statements: &[&str]| {
            let mut tracker = SettingsTracker::default();
            run(&mut tracker, statements);
            tracker.kept
        };
        let difference = |have: &SettingOverrides, want: &SettingOverrides| {
            let sql: Vec<_> =
                want.difference(have).into_iter().map(|sql| String::from_utf8(sql).expect("UTF-8")).collect();
            sql.join(";")
        };
        let (one, two) = (kept(&["set a = 1", "set c.d = 1"]), kept(&["set b = 1", "set a = 2"]));
        assert_eq!(difference(&one, &one.clone()), "");
        assert_eq!(difference(&one, &two), "RESET \"c\".\"d\";set b = 1;set a = 2");
        assert_eq!(difference(&one, &SettingOverrides::default()), "RESET \"a\";RESET \"c\".\"d\"");
    }

    #[test]
    fn what_holds_now() {
        let mut tracker = SettingsTracker::default();
        run(&mut tracker, &["set a = 1", "begin", "set local b = 2"]);
        let texts: Vec<_> = tracker.texts().expect("known").map(|(_, text)| text).collect();
        assert_eq!(texts, [&b"set a = 1"[..], b"set local b = 2"]);
        tracker.mark_unknown();
        assert!(tracker.texts().is_none());
        run(&mut tracker, &["rollback"]);
        assert!(tracker.texts().is_some());
    }
}
