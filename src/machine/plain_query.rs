//! A simple query that leaves nothing, on a connection that needs nothing in front of it but a probe, perhaps: most of
//! what most clients say.
//!
//! While all goes as usual no machine is made for it: the query is there whole, and then its answer, which is rows and a
//! `ReadyForQuery`. Anything else makes the machine, which finds the same messages and says the same of them.

use std::borrow::Cow;

use super::preparation::Preparation;
use super::{Buffers, End, Machine, MachineResult};
use crate::buffer::Buffer;
use crate::config::Mode;
use crate::track::server_state::{CloseMethod, Ran};
use crate::track::sql_effects::{self, SqlEffects};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{ClientState, Pins, Pipeline, ServerState};
use crate::wire::{backend, frame, frontend, head};

/// First word of a plain query, and of the tag of its answer.
const SELECT: &[u8] = b"SELECT";

/// `ReadyForQuery` outside of transactions.
const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

/// Progress of a plain query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainProgress {
    /// The kernel has taken so many bytes of the preparation and the query.
    Sent(usize),
    /// All of the answer has come, and the kernel has taken so many bytes of it for the client.
    Answered(usize),
}

impl PlainProgress {
    /// Opens a machine that has just been made, and brings it as far.
    ///
    /// # Errors
    /// How the machine has ended at once.
    pub fn catch_up(self, machine: &mut Machine<'_>, io: &mut Buffers<'_>) -> Result<(), End> {
        machine.open(io)?;
        match self {
            Self::Sent(0) => {}
            Self::Sent(sent) => {
                io.to_server.drain(..sent.min(io.to_server.len()));
                machine.on_sent();
            }
            Self::Answered(told) => {
                io.to_server.clear();
                machine.on_sent();
                machine.server_sent(io)?;
                io.from_server.sent(told.min(io.from_server.unsent().len()));
            }
        }
        Ok(())
    }
}

/// Returns whether all that the client has sent is such a query, and `preparation` at most a probe.
#[must_use]
pub fn is_all_of(
    from_client: &Buffer,
    mode: Mode,
    client: &ClientState,
    server: &ServerState,
    preparation: &Preparation,
) -> bool {
    let bytes = from_client.unparsed();
    let Ok(Some(head)) = head(bytes, frame::FRONTEND_LIMIT) else { return false };
    if head.tag != frontend::QUERY || head.size != bytes.len() || mode != Mode::Transaction {
        return false;
    }
    let body = &bytes[frame::HEADER_BYTES..];
    let nothing_open = client.unnamed.is_none() && !client.settings.has_changes();
    let fits = !preparation.has_statements() && nothing_open && server.params == client.view;
    fits && frontend::is_well_formed(frontend::QUERY, body) && leaves_nothing(frontend::query(body), client)
}

/// Begins to have it run on a connection.
pub fn begin(server: &mut ServerState) -> PlainProgress {
    // As for a machine: dropped in the middle of something, the connection is closed without a word.
    server.close_method = CloseMethod::Silent;
    PlainProgress::Sent(0)
}

/// Returns what is sent to the server: `preparation`, and the query that is all that the client has sent.
#[must_use]
pub fn messages<'b>(from_client: &'b Buffer, preparation: &Preparation) -> Cow<'b, [u8]> {
    let query = from_client.unparsed();
    match preparation.messages() {
        [] => query.into(),
        messages => [messages, query].concat().into(),
    }
}

/// Returns the client's part of `answer`, if that is all of the answer to `preparation` and the query, and only that: rows, and that
/// the server is ready.
#[must_use]
pub fn told_by<'b>(answer: &'b [u8], preparation: &Preparation) -> Option<&'b [u8]> {
    let told = if preparation.is_probe() { answer.strip_prefix(READY_FOR_QUERY)? } else { answer };
    let mut rest = told;
    let mut completed = false;
    while let Ok(Some(head)) = head(rest, frame::BACKEND_LIMIT) {
        let (message, behind) = rest.split_at_checked(head.size)?;
        match head.tag {
            backend::ROW_DESCRIPTION | backend::DATA_ROW => completed = false,
            backend::COMMAND_COMPLETE => completed = message[frame::HEADER_BYTES..].starts_with(SELECT),
            backend::READY if completed && rest == READY_FOR_QUERY => return Some(told),
            _ => return None,
        }
        rest = behind;
    }
    None
}

/// Brings the books up to date once it has been answered.
#[must_use]
pub fn finish(
    client_number: u64,
    client: &mut ClientState,
    server: &mut ServerState,
    preparation: &Preparation,
) -> MachineResult {
    // As a machine does when it is made and opened.
    server.params.share(&client.view);
    client.in_force.on_reported();
    preparation.apply(server);
    server.planned.runs_under(&client.view, client.settings.kept());
    server.used = server.used.and(client_number, client.work);
    server.ran = Ran::Something;
    if !server.sources.are_by(client.lexis()) {
        server.sources.are_read_by(client.lexis());
    }
    (server.unnamed, server.unnamed_columns) = (UnnamedStatement::Absent, None);
    server.code.is_settled();
    server.kept.clone_from(client.settings.kept());
    server.close_method = CloseMethod::Terminate;
    MachineResult { pipeline: Pipeline::new(), pins: Pins::empty(), partial_down: 0, cut: false }
}

/// Returns whether `sql` reads rows, and leaves nothing in a session.
fn leaves_nothing(sql: &[u8], client: &ClientState) -> bool {
    let selects = sql.get(..SELECT.len()).is_some_and(|word| word.eq_ignore_ascii_case(SELECT));
    // What is not ASCII the server may refuse unread.
    selects && sql.is_ascii() && sql_effects::analyze(sql, client.lexis()) == SqlEffects::default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::preparation::ResetPolicy;
    use super::super::{Context, Next};
    use super::*;
    use crate::buffer::BufferPool;
    use crate::config::Pin;
    use crate::track::RequestedParams;
    use crate::track::ServerParams;
    use crate::track::parameter_cache::ParameterCache;
    use crate::track::server_state::UsedBy;
    use crate::track::statements::{Limits, StatementCache};

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag];
        message.extend(u32::try_from(body.len() + 4).expect("short").to_be_bytes());
        message.extend(body);
        message
    }

    fn query(sql: &str) -> Vec<u8> {
        message(frontend::QUERY, &[sql.as_bytes(), b"\0"].concat())
    }

    fn answer() -> Vec<u8> {
        let rows = [message(b'T', b"\0\0"), message(b'D', b"\0\0"), message(b'D', b"\0\0")].concat();
        [rows, message(b'C', b"SELECT 2\0"), message(b'Z', b"I")].concat()
    }

    fn answer_to(probe: bool) -> Vec<u8> {
        if probe { [READY_FOR_QUERY, &answer()].concat() } else { answer() }
    }

    /// Returns whether `answer` is all of an answer.
    fn is_all(answer: &[u8]) -> bool {
        let [plain, probe] = [false, true].map(|probe| Lab::new().preparation(probe));
        let probed = [READY_FOR_QUERY, answer].concat();
        assert!(told_by(answer, &probe).is_none());
        assert_eq!(told_by(&probed, &probe), told_by(answer, &plain));
        assert!(told_by(answer, &plain).is_none_or(|told| told == answer));
        told_by(answer, &plain).is_some()
    }

    /// A client and a connection that another one has used.
    struct Lab {
        statements: StatementCache,
        parameters: ParameterCache,
        client: ClientState,
        server: ServerState,
        from_client: Buffer,
        from_server: Buffer,
    }

    impl Lab {
        fn new() -> Self {
            let mut params = ServerParams::default();
            params.set(b"TimeZone", b"UTC");
            let mut server = ServerState::new(params.clone(), RequestedParams::default());
            server.used = UsedBy::One { client: 2, work: 1 };
            server.unnamed = UnnamedStatement::Unknown;
            let pool = BufferPool::new(4096, 4);
            Self {
                statements: StatementCache::default(),
                parameters: ParameterCache::default(),
                client: ClientState::new(RequestedParams::default(), params),
                server,
                from_client: Buffer::new(Arc::clone(&pool)),
                from_server: Buffer::new(pool),
            }
        }

        fn preparation(&self, probe: bool) -> Preparation {
            let known = (&self.parameters, &self.statements);
            Preparation::new(&self.server, &self.client, 1, known, ResetPolicy::Nothing, probe)
        }

        fn is_plain(&self, mode: Mode) -> bool {
            is_all_of(&self.from_client, mode, &self.client, &self.server, &self.preparation(false))
        }

        /// Books and messages after a query and its answer, with a machine that takes over at `progress`.
        fn left(mut self, progress: PlainProgress, probe: bool) -> (String, Vec<u8>, Vec<u8>) {
            let preparation = self.preparation(probe);
            let context = Context {
                mode: Mode::Transaction,
                pin: Pin::Auto,
                limits: Limits { count: 10, bytes: 10_000, client_bytes: 100_000 },
                max_text_bytes: 4096,
                statements: &self.statements,
                parameters: &self.parameters,
                user: b"u",
                client: 1,
                given_pid: 1,
                backend_pid: 2,
            };
            if let PlainProgress::Answered(_) = progress {
                receive(&mut self.from_server, &answer_to(probe));
            }
            let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
            let mut io = Buffers {
                from_client: &mut self.from_client,
                to_client: &mut to_client,
                from_server: &mut self.from_server,
                to_server: &mut to_server,
            };
            let mut machine = Machine::new(context, &mut self.client, &mut self.server, preparation);
            progress.catch_up(&mut machine, &mut io).expect("nothing has ended");
            let (mut up, mut down) = (std::mem::take(io.to_server), Vec::new());
            machine.on_sent();
            if let PlainProgress::Sent(_) = progress {
                receive(io.from_server, &answer_to(probe));
                machine.server_sent(&mut io).expect("nothing has ended");
            }
            up.extend(io.from_client.unsent());
            down.extend(std::mem::take(io.to_client));
            down.extend(io.from_server.unsent());
            io.from_server.sent(down.len());
            assert!(matches!(machine.boundary(&mut io, true), Next::End(End::Settled)));
            let remains = machine.finish(&mut io, Some(&End::Settled), true);
            (format!("{remains:?} {:?} {:?}", self.client, self.server), up, down)
        }
    }

    fn receive(buffer: &mut Buffer, bytes: &[u8]) {
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.received(bytes.len());
    }

    fn asked(bytes: &[u8]) -> Lab {
        let mut lab = Lab::new();
        receive(&mut lab.from_client, bytes);
        lab
    }

    #[test]
    fn one_query_that_leaves_nothing_is_plain() {
        for sql in ["select 1", "select 'a', b from c where d = 1 -- why", "SELECT 1; select 2;"] {
            assert!(asked(&query(sql)).is_plain(Mode::Transaction), "{sql}");
            assert!(!asked(&query(sql)).is_plain(Mode::Session));
        }
        for sql in [
            "",
            "begin",
            "set a.b = 1",
            "drop database a",
            "insert into a values (1)",
            "select 1 into temp a",
            "select pg_advisory_lock(1)",
            "select nextval('s')",
            "select set_config('a.b', 'c', false)",
            "execute a",
        ] {
            assert!(!asked(&query(sql)).is_plain(Mode::Transaction), "{sql}");
        }
        for bytes in [
            [query("select 1"), query("select 2")].concat(),
            query("select 1")[..10].to_vec(),
            query("select 1\0"),
            query("select 'ü'"),
            message(frontend::SYNC, b""),
            b"Q".to_vec(),
            b"Q\0\0\0\0".to_vec(),
            Vec::new(),
        ] {
            assert!(!asked(&bytes).is_plain(Mode::Transaction), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_the_connection_lacks_needs_a_machine() {
        let mut other = asked(&query("select 1"));
        other.server.params.set(b"TimeZone", b"CET");
        assert!(!other.is_plain(Mode::Transaction));
        let mut set = asked(&query("select 1"));
        set.client.learned(b"work_mem", Some(b"1MB"));
        assert!(!set.is_plain(Mode::Transaction));
    }

    #[test]
    fn rows_and_the_end_of_no_transaction_are_all_of_an_answer() {
        let done = || [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
        assert!(is_all(&answer()));
        assert!(is_all(&done()));
        assert!(is_all(&[message(b'T', b"\0\0"), message(b'C', b"SELECT 0\0"), answer()].concat()));
        for part in 0..answer().len() {
            assert!(!is_all(&answer()[..part]));
        }
        for other in [
            message(b'Z', b"I"),
            message(b'D', b"\0\0"),
            [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat(),
            [message(b'C', b"SELECT 0\0"), message(b'Z', b"T")].concat(),
            [message(b'C', b"SELECT 0\0"), message(b'D', b"\0\0"), message(b'Z', b"I")].concat(),
            [done(), message(b'S', b"a\0b\0")].concat(),
            [message(b'S', b"a\0b\0"), done()].concat(),
            [message(b'N', b"\0"), done()].concat(),
            [message(b'E', b"\0"), message(b'Z', b"I")].concat(),
            [message(b'G', b"\0\0\0"), done()].concat(),
            b"T\0\0\0\0".to_vec(),
        ] {
            assert!(!is_all(&other), "{}", other.escape_ascii());
        }
    }

    proptest! {
        /// Wherever a machine takes over, as much is sent and told, and left in the books, as where none is needed.
        #[test]
        fn a_machine_that_takes_over_says_and_leaves_the_same(at in 0_usize..100, is_answered: bool, probe: bool) {
            let mut plain = asked(&query("select a from b"));
            begin(&mut plain.server);
            let preparation = plain.preparation(probe);
            let all = [preparation.messages(), &query("select a from b")].concat();
            let remains = finish(1, &mut plain.client, &mut plain.server, &preparation);
            let books = format!("{remains:?} {:?} {:?}", plain.client, plain.server);

            let progress = if is_answered {
                PlainProgress::Answered(at.min(answer().len()))
            } else {
                PlainProgress::Sent(at.min(all.len()))
            };
            let mut lab = asked(&query("select a from b"));
            begin(&mut lab.server);
            let (left, up, down) = lab.left(progress, probe);
            prop_assert_eq!(left, books);
            let (sent, told) = match progress {
                PlainProgress::Sent(sent) => (sent, 0),
                PlainProgress::Answered(told) => (all.len(), told),
            };
            prop_assert_eq!(up, &all[sent..]);
            prop_assert_eq!(down, answer().split_off(told));
        }
    }
}
