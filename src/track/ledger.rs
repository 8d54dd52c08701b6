//! The settings that a client has made with plain `SET`s: what of them holds now, and what will hold if the
//! transaction commits. They are carried to the next connection by saying the statements again.

use std::sync::Arc;

use super::acts::Act;
use super::pipeline::IDLE;

/// Settings that hold in a session beyond what its login gave it: name and statement, by name. Cheap to clone.
#[derive(Clone, Debug, Default, Eq)]
pub struct Kept {
    sets: Option<Arc<Vec<Set>>>,
}

/// A setting's name and the statement that makes it.
type Set = (Box<[u8]>, Box<[u8]>);

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        match (&self.sets, &other.sets) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => self.is_empty() && other.is_empty(),
        }
    }
}

impl Kept {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets().is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.sets = None;
    }

    /// Whether setting `name`, in any case, is among them.
    #[must_use]
    pub fn mentions(&self, name: &[u8]) -> bool {
        self.get(&name.to_ascii_lowercase()).is_some()
    }

    fn sets(&self) -> &[Set] {
        self.sets.as_deref().map_or(&[], Vec::as_slice)
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let sets = self.sets();
        sets.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|at| &*sets[at].1)
    }

    fn set(&mut self, name: &[u8], text: Option<&[u8]>) {
        let sets = Arc::make_mut(self.sets.get_or_insert_default());
        match (sets.binary_search_by(|(n, _)| (**n).cmp(name)), text) {
            (Ok(at), Some(text)) => sets[at].1 = text.into(),
            (Ok(at), None) => drop(sets.remove(at)),
            (Err(at), Some(text)) => sets.insert(at, (name.into(), text.into())),
            (Err(_), None) => {}
        }
    }

    /// Appends the statements that make a session in which `have` holds into one in which this holds. Says whether any
    /// of them sets something, which the server may refuse.
    pub fn put_difference(&self, have: &Self, sql: &mut Vec<u8>) -> bool {
        if self == have {
            return false;
        }
        for (name, _) in have.sets().iter().filter(|(name, _)| self.get(name).is_none()) {
            sql.extend_from_slice(b"RESET ");
            put_name(sql, name);
            sql.push(b';');
        }
        let mut sets = false;
        for (_, text) in self.sets().iter().filter(|(name, text)| have.get(name) != Some(text)) {
            sets = true;
            sql.extend_from_slice(text);
            sql.push(b';');
        }
        sets
    }
}

/// A setting's name, each part quoted.
fn put_name(sql: &mut Vec<u8>, name: &[u8]) {
    for (nth, part) in name.split(|&b| b == b'.').enumerate() {
        if nth > 0 {
            sql.push(b'.');
        }
        sql.push(b'"');
        sql.extend_from_slice(part);
        sql.push(b'"');
    }
}

/// A change that becomes lasting, or not, when the transaction ends.
#[derive(Clone, Debug)]
enum Change {
    Set {
        name: Box<[u8]>,
        text: Box<[u8]>,
    },
    Reset {
        name: Box<[u8]>,
    },
    ResetAll,
    /// It holds until the transaction ends.
    Local {
        name: Box<[u8]>,
        text: Box<[u8]>,
    },
    /// Something holds until the transaction ends, and what it is can't be told.
    Blurred,
    Savepoint {
        name: Box<[u8]>,
    },
}

/// What one client has set.
#[derive(Debug, Default)]
pub struct Ledger {
    kept: Kept,
    open: Vec<Change>,
    /// Something has failed since the last `ReadyForQuery`.
    failed: bool,
}

impl Ledger {
    /// What holds when no transaction is open.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether anything depends on how the transaction ends.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.iter().any(|change| !matches!(change, Change::Savepoint { .. }))
    }

    /// Whether anything is noted of the transaction that is open.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.open.is_empty()
    }

    /// The statements whose effect holds right now, those of the open transaction included, with the names of their
    /// settings; `None` when that can't be told.
    pub fn texts(&self) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
        let blurred = self.open.iter().any(|change| matches!(change, Change::Blurred));
        let open = self.open.iter().filter_map(|change| match change {
            Change::Set { name, text } | Change::Local { name, text } => Some((&**name, &**text)),
            Change::Reset { name } => Some((&**name, &**name)),
            Change::ResetAll => Some((&b"all"[..], &b"reset all"[..])),
            Change::Blurred | Change::Savepoint { .. } => None,
        });
        let kept = self.kept.sets().iter().map(|(name, text)| (&**name, &**text));
        (!blurred).then(|| kept.chain(open))
    }

    /// Forgets everything: the session has been swept.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Something set in a way that can't be told holds until the transaction ends.
    pub fn blur(&mut self) {
        if !self.open.iter().any(|change| matches!(change, Change::Blurred)) {
            self.open.push(Change::Blurred);
        }
    }

    /// `act` has succeeded. Settings for which `follows` says so are carried in another way.
    pub fn acted(&mut self, act: &Act, follows: impl Fn(&[u8]) -> bool) {
        let change = match act {
            Act::Set { name, text } if !follows(name) => Change::Set { name: name.clone(), text: text.clone() },
            Act::Reset { name } if !follows(name) => Change::Reset { name: name.clone() },
            Act::SetLocal { name, text } => Change::Local { name: name.clone(), text: text.clone() },
            Act::ResetAll => Change::ResetAll,
            Act::Savepoint { name } => Change::Savepoint { name: name.clone() },
            Act::RollbackTo { name } => return self.back_to(name),
            Act::Release { name } => return self.release(name),
            Act::Set { .. }
            | Act::Reset { .. }
            | Act::Deallocate { .. }
            | Act::DiscardAll
            | Act::Unclear
            | Act::Sweep => return,
        };
        self.open.push(change);
    }

    /// A command other than an act has completed with `tag`.
    pub fn completed(&mut self, tag: &[u8]) {
        match tag {
            b"COMMIT" | b"PREPARE TRANSACTION" => self.commit(),
            b"ROLLBACK" => self.open.clear(),
            _ => {}
        }
    }

    /// Something has failed.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// The server is ready, with transaction status `status`.
    pub fn ready(&mut self, status: u8) {
        if status == IDLE && !self.open.is_empty() {
            if self.failed {
                self.open.clear();
            } else {
                self.commit();
            }
        }
        self.failed = false;
    }

    fn commit(&mut self) {
        for change in std::mem::take(&mut self.open) {
            match change {
                Change::Set { name, text } => self.kept.set(&name, Some(&text)),
                Change::Reset { name } => self.kept.set(&name, None),
                Change::ResetAll => self.kept.clear(),
                Change::Local { .. } | Change::Blurred | Change::Savepoint { .. } => {}
            }
        }
    }

    /// Goes back to the last savepoint of that name, which stays.
    fn back_to(&mut self, to: &[u8]) {
        // One that is not known was set when nothing was open.
        let keep = self.last_savepoint(to).map_or(0, |at| at + 1);
        self.open.truncate(keep);
    }

    /// Forgets the last savepoint of that name, and those within it.
    fn release(&mut self, name: &[u8]) {
        let from = self.last_savepoint(name).unwrap_or(self.open.len());
        let mut at = 0;
        self.open.retain(|change| {
            at += 1;
            at <= from || !matches!(change, Change::Savepoint { .. })
        });
    }

    fn last_savepoint(&self, wanted: &[u8]) -> Option<usize> {
        self.open.iter().rposition(|change| matches!(change, Change::Savepoint { name } if **name == *wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts;
    use super::*;

    /// Runs statements that all succeed; an empty one fails. The status is what it would be.
    fn run(ledger: &mut Ledger, statements: &[&str]) {
        let mut open = false;
        for sql in statements {
            match *sql {
                "" => ledger.failed(),
                "begin" => open = true,
                "commit" | "rollback" => {
                    open = false;
                    ledger.completed(sql.to_ascii_uppercase().as_bytes());
                }
                _ => ledger.acted(&acts::of_sql(sql.as_bytes()).expect(sql), |name| name == b"timezone"),
            }
            ledger.ready(if open { b'T' } else { IDLE });
        }
    }

    fn kept(statements: &[&str]) -> Vec<String> {
        let mut ledger = Ledger::default();
        run(&mut ledger, statements);
        ledger.kept.sets().iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn what_commits_is_kept() {
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
        let mut ledger = Ledger::default();
        ledger.acted(&acts::of_sql(b"set a = 1").expect("an act"), |_| false);
        ledger.failed();
        ledger.ready(IDLE);
        assert!(ledger.kept().is_empty());
    }

    #[test]
    fn differences() {
        let kept = |statements: &[&str]| {
            let mut ledger = Ledger::default();
            run(&mut ledger, statements);
            ledger.kept
        };
        let difference = |have: &Kept, want: &Kept| {
            let mut sql = Vec::new();
            let sets = want.put_difference(have, &mut sql);
            (String::from_utf8(sql).expect("UTF-8"), sets)
        };
        let (one, two) = (kept(&["set a = 1", "set c.d = 1"]), kept(&["set a = 2", "set b = 1"]));
        assert_eq!(difference(&one, &one.clone()), (String::new(), false));
        assert_eq!(difference(&one, &two), ("RESET \"c\".\"d\";set a = 2;set b = 1;".into(), true));
        assert_eq!(difference(&one, &Kept::default()), ("RESET \"a\";RESET \"c\".\"d\";".into(), false));
    }

    #[test]
    fn what_holds_now() {
        let mut ledger = Ledger::default();
        run(&mut ledger, &["set a = 1", "begin", "set local b = 2"]);
        let texts: Vec<_> = ledger.texts().expect("known").map(|(_, text)| text).collect();
        assert_eq!(texts, [&b"set a = 1"[..], b"set local b = 2"]);
        ledger.blur();
        assert!(ledger.texts().is_none());
        run(&mut ledger, &["rollback"]);
        assert!(ledger.texts().is_some());
    }
}
