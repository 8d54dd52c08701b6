//! What is sent in front of a client's first message to make the connection fit for the client.
//!
//! Besides what it does, its answer proves that the connection was alive: while it has not come, the server has not come
//! to the client's message either. And if any of it fails, the server discards what follows up to the next `Sync`
//! (`exec_parse_message` and others in `src/backend/tcop/postgres.c`), so that nothing of the client's runs in a session
//! that is not its own: that is why it is said in the extended protocol. What it sets is committed before the client's
//! message, which may fail.

use crate::track::ledger::Kept;
use crate::track::parameter_cache::ParameterCache;
use crate::track::params;
use crate::track::server_state::{RESET, Sequences, ServerState, UnnamedStatement, UsedBy};
use crate::track::{ClientState, Request};
use crate::wire::frontend;

/// What makes a session forget what its sequences have given.
const RESET_SEQUENCES: &[u8] = b"DISCARD SEQUENCES";

/// How much of what another client may have left is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetPolicy {
    /// Everything, by `DISCARD ALL`.
    All,
    /// The state of sequences: nothing else was seen to be left.
    Sequences,
    /// Nothing.
    Nothing,
}

/// When the client's first messages may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proceed {
    /// Together with the preparation.
    Together,
    /// Once it has been answered: the server may refuse a setting, or has to say how it spells it.
    After,
}

/// What a preparation consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: the connection is known to be alive, and as the client expects it.
    Nothing,
    /// A `Sync`, to see whether the connection is alive.
    Probe,
    /// Statements, of which the first `resets` requests reset the session.
    Statements { resets: usize },
}

/// What is sent in front of a client's first message.
#[derive(Debug)]
pub struct Preparation {
    messages: Vec<u8>,
    requests: Vec<Request>,
    kind: Kind,
    proceed: Proceed,
    policy: ResetPolicy,
}

impl Preparation {
    /// What makes `server`, which `client` (number `id`) is given, fit for it. `policy` says what is removed of what
    /// another client may have left; `probe` whether the connection may have ended without a sign of it so far, as
    /// `pg_terminate_backend` does.
    #[must_use]
    pub fn new(
        server: &ServerState,
        client: &ClientState,
        id: u64,
        parameters: &ParameterCache,
        policy: ResetPolicy,
        probe: bool,
    ) -> Self {
        let policy = if server.used.is_foreign_to(id) { policy } else { ResetPolicy::Nothing };
        let mut preparation = Self {
            messages: Vec::new(),
            requests: Vec::new(),
            kind: Kind::Nothing,
            proceed: Proceed::Together,
            policy,
        };
        match policy {
            ResetPolicy::All => preparation.put_statement(RESET),
            ResetPolicy::Sequences => preparation.put_statement(RESET_SEQUENCES),
            ResetPolicy::Nothing => {}
        }
        let resets = preparation.requests.len();
        let reset = policy == ResetPolicy::All;
        let nothing = Kept::default();
        let (have, kept) = if reset { (&server.base, &nothing) } else { (&server.params, &server.kept) };
        let baseline = parameters.baseline().unwrap_or_default();
        let following = params::differences(have, &client.wanted, &baseline);
        let carried = client.ledger.kept().difference(kept);
        let unknown = |(name, value): (&'static str, &[u8])| parameters.canonical(name, value).is_none();
        if !following.is_empty() && client.wanted.iter().any(unknown) {
            preparation.proceed = Proceed::After;
        }
        if !following.is_empty() || !carried.is_empty() {
            // In a transaction of their own: an error of the client's must not take them back.
            preparation.put_statement(b"BEGIN");
            for sql in following.iter().chain(&carried) {
                preparation.put_statement(sql);
            }
            preparation.put_statement(b"COMMIT");
        }
        if reset && !commits_at_once(server) {
            preparation.proceed = Proceed::After;
        }
        match (preparation.requests.is_empty(), preparation.proceed) {
            (true, _) if probe => {
                preparation.kind = Kind::Probe;
                preparation.put_end(Request::Sync);
            }
            (true, _) => {}
            (false, proceed) => {
                preparation.kind = Kind::Statements { resets };
                let end = if proceed == Proceed::After { Request::Sync } else { Request::Flush };
                preparation.put_end(end);
            }
        }
        preparation
    }

    fn put_statement(&mut self, sql: &[u8]) {
        let out = &mut self.messages;
        frontend::put_parse(out, "", &[sql, b"\0\0\0"].concat());
        frontend::put_bind(out, "", "");
        frontend::put_execute(out, "");
        self.requests.extend([Request::Parse, Request::Bind, Request::Execute]);
    }

    fn put_end(&mut self, request: Request) {
        if request == Request::Sync {
            frontend::put_sync(&mut self.messages);
        } else {
            frontend::put_flush(&mut self.messages);
        }
        self.requests.push(request);
    }

    /// Its messages.
    #[must_use]
    pub fn messages(&self) -> &[u8] {
        &self.messages
    }

    /// What they ask for.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Whether the client's messages may go with it.
    #[must_use]
    pub fn goes_together(&self) -> bool {
        self.proceed == Proceed::Together
    }

    /// Whether it only asks whether the connection is alive.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Whether it changes settings or makes the session as new.
    #[must_use]
    pub fn has_statements(&self) -> bool {
        matches!(self.kind, Kind::Statements { .. })
    }

    /// Whether an error means that the session can't be reset, rather than that the server refuses a setting of the
    /// client's: `left` answers were still to come.
    #[must_use]
    pub fn was_resetting(&self, left: usize) -> bool {
        let answers = self.requests.iter().filter(|request| **request != Request::Flush).count();
        matches!(self.kind, Kind::Statements { resets } if answers - left < resets)
    }

    /// Notes in the books what is being sent; they run ahead of the server.
    pub(super) fn apply(&self, server: &mut ServerState) {
        if self.has_statements() {
            server.unnamed = UnnamedStatement::Unknown;
        }
        match self.policy {
            ResetPolicy::All => {
                server.on_discard_all();
                server.used = UsedBy::Nothing;
            }
            ResetPolicy::Sequences => server.sequences = Sequences::Untouched,
            ResetPolicy::Nothing => {}
        }
    }
}

/// Whether the server commits a statement that can't run in a transaction block before it reads the next message
/// (`XACT_FLAGS_NEEDIMMEDIATECOMMIT` in `src/include/access/xact.h`, since August 2022). Others would take a reset back if
/// the client's first statement failed.
fn commits_at_once(server: &ServerState) -> bool {
    let version = server.params.get(b"server_version").unwrap_or_default();
    let mut numbers = version
        .split(|b| !b.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()));
    let major = numbers.next().flatten().unwrap_or(0);
    let minor = numbers.next().flatten().unwrap_or(0);
    let since = match major {
        10 => 22,
        11 => 17,
        12 => 12,
        13 => 8,
        14 => 5,
        _ => return major > 14,
    };
    minor >= since
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::{Params, Wanted};

    fn server(version: &str) -> ServerState {
        let mut params = Params::default();
        params.set(b"server_version", version.as_bytes());
        params.set(b"TimeZone", b"UTC");
        ServerState::new(params, Wanted::default())
    }

    #[test]
    fn old_minor_releases_would_take_a_reset_back() {
        for (version, at_once) in [
            ("15.18 (Debian 15.18-0+deb12u1)", true),
            ("18beta1", true),
            ("14.5", true),
            ("14.4", false),
            ("13.8", true),
            ("10.21", false),
            ("9.6.24", false),
            ("", false),
        ] {
            assert_eq!(commits_at_once(&server(version)), at_once, "{version}");
        }
    }

    #[test]
    fn nothing_is_sent_where_nothing_differs() {
        let server = server("15.1");
        let parameters = ParameterCache::default();
        parameters.learn_baseline(&mut server.params.clone(), &Wanted::default());
        let client = ClientState::new(Wanted::default(), server.params.clone());
        let idle = Preparation::new(&server, &client, 1, &parameters, ResetPolicy::All, false);
        assert!(idle.requests().is_empty() && idle.messages().is_empty());
        let probe = Preparation::new(&server, &client, 1, &parameters, ResetPolicy::All, true);
        assert_eq!((probe.requests(), probe.is_probe()), (&[Request::Sync][..], true));
    }

    #[test]
    fn a_reset_comes_first_and_an_error_tells_which_part_failed() {
        let mut server = server("15.1");
        let parameters = ParameterCache::default();
        parameters.learn_baseline(&mut server.params.clone(), &Wanted::default());
        server.used = UsedBy::Nothing.and(7, 1);
        let mut wanted = Wanted::default();
        wanted.set("application_name", Some(b"me"));
        server.params.set(b"application_name", b"");
        server.base.set(b"application_name", b"");
        let client = ClientState::new(wanted, server.params.clone());
        let preparation = Preparation::new(&server, &client, 1, &parameters, ResetPolicy::All, false);
        // DISCARD ALL, BEGIN, SET, COMMIT, and a Flush.
        assert_eq!(preparation.requests().len(), 4 * 3 + 1);
        assert!(preparation.was_resetting(12) && preparation.was_resetting(10) && !preparation.was_resetting(9));
        let own = Preparation::new(&server, &client, 7, &parameters, ResetPolicy::All, false);
        assert_eq!(own.requests().len(), 3 * 3 + 1, "its own state is not reset");
    }
}
