//! Tests of plain requests, against the machine that does the same.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::preparation::{Liveness, ResetPolicy};
use super::super::{Context, Flush, Next};
use super::*;
use crate::buffer::BufferPool;
use crate::config::Pin;
use crate::track::RequestedParams;
use crate::track::ServerParams;
use crate::track::client_statements::NamedStatement;
use crate::track::parameter_cache::ParameterCache;
use crate::track::prepared_statement::Standing;
use crate::track::server_state::UsedBy;
use crate::track::statements::{Columns, Limits, StatementCache};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(u32::try_from(body.len() + 4).expect("short").to_be_bytes());
    message.extend(body);
    message
}

fn query(sql: &str) -> Vec<u8> {
    message(frontend::QUERY, &[sql.as_bytes(), b"\0"].concat())
}

fn parse(sql: &str) -> Vec<u8> {
    message(frontend::PARSE, &[b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

fn bind(name: &str) -> Vec<u8> {
    message(frontend::BIND, &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

fn run(limit: u32) -> Vec<u8> {
    [EXECUTE_PORTAL, &limit.to_be_bytes(), frontend::SYNC_MESSAGE].concat()
}

fn unnamed(sql: &str) -> Vec<u8> {
    [&parse(sql)[..], &bind(""), DESCRIBE_PORTAL, &run(0)].concat()
}

fn named(name: &str) -> Vec<u8> {
    [&bind(name)[..], DESCRIBE_PORTAL, &run(0)].concat()
}

fn columns() -> Vec<u8> {
    message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
}

fn answer() -> Vec<u8> {
    let rows = [columns(), message(b'D', b"\0\0"), message(b'D', b"\0\0")].concat();
    [rows, message(b'C', b"SELECT 2\0"), message(b'Z', b"I")].concat()
}

/// Kinds of requests.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Query,
    Unnamed,
    UnnamedUnseen,
    Named,
}

impl Kind {
    fn messages(self) -> Vec<u8> {
        match self {
            Self::Query => query("select a from b"),
            Self::Unnamed => unnamed("select a from b"),
            Self::UnnamedUnseen => [parse("select a from b"), bind(""), run(0)].concat(),
            Self::Named => named("s"),
        }
    }

    /// The messages as the server gets them.
    fn sent(self) -> Vec<u8> {
        if let Self::Named = self { named("pgferry_1") } else { self.messages() }
    }

    fn answer(self) -> Vec<u8> {
        match self {
            Self::Query => answer(),
            Self::Unnamed => [PARSED_AND_BOUND, &answer()].concat(),
            Self::UnnamedUnseen => [PARSED_AND_BOUND, &answer()[columns().len()..]].concat(),
            Self::Named => [BOUND, &answer()].concat(),
        }
    }

    fn answer_to(self, liveness: Liveness) -> Vec<u8> {
        match liveness {
            Liveness::Known => self.answer(),
            Liveness::Unknown => [READY_FOR_QUERY, &self.answer()].concat(),
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Query), Just(Kind::Unnamed), Just(Kind::UnnamedUnseen), Just(Kind::Named)]
}

/// Returns whether `answer` is all of an answer to a simple query.
fn is_all(answer: &[u8]) -> bool {
    let [plain, probe] = [Liveness::Known, Liveness::Unknown].map(|liveness| Lab::new().preparation(liveness));
    let probed = [READY_FOR_QUERY, answer].concat();
    let told_by = |answer, preparation| PlainRequest::Query.told_by(answer, preparation);
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

    /// With a statement that the client calls "s", which the connection has.
    fn with_statement(mut self) -> Self {
        let statement = self.client.intern(&self.statements, b"select a from b\0\0\0", Pins::empty());
        let told: Columns = backend::shape(&columns()[frame::HEADER_BYTES..]).into();
        self.server.prepared.add(&statement, Standing::Trusted);
        self.server.describe(statement.id, &told);
        self.client.names.set(b"s", Some(NamedStatement { described: Some(told), ..NamedStatement::new(statement) }));
        self
    }

    /// With an unnamed statement of the client's.
    fn with_unnamed(mut self, sql: &str) -> Self {
        let text = self.client.parsed_unnamed(&parse(sql)[frame::HEADER_BYTES + 1..]);
        self.client.set_unnamed(self.statements.next_id(), &text, Some(&columns()[frame::HEADER_BYTES..]));
        self
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        receive(&mut self.from_client, bytes);
        self
    }

    fn preparation(&self, liveness: Liveness) -> Preparation {
        let known = (&self.parameters, &self.statements);
        Preparation::new(&self.server, &self.client, 1, known, ResetPolicy::Nothing, liveness)
    }

    fn read(&self, mode: Mode) -> Option<PlainRequest> {
        PlainRequest::read(&self.from_client, mode, &self.client, &self.server, &self.preparation(Liveness::Known))
    }

    fn is_plain(&self) -> bool {
        assert!(self.read(Mode::Session).is_none());
        self.read(Mode::Transaction).is_some()
    }

    fn context<'a>(statements: &'a StatementCache, parameters: &'a ParameterCache) -> Context<'a> {
        Context {
            mode: Mode::Transaction,
            pin: Pin::Auto,
            limits: Limits { count: 10, bytes: 10_000, client_bytes: 100_000 },
            max_text_bytes: 4096,
            statements,
            parameters,
            user: b"u",
            client: 1,
            given_pid: 1,
            backend_pid: 2,
        }
    }

    /// State after a request and its `answer`, and what the server got, without a machine.
    fn left_plain(mut self, liveness: Liveness, answer: &[u8]) -> (String, Vec<u8>) {
        let request = self.read(Mode::Transaction).expect("a plain request");
        PlainRequest::begin(&mut self.client, &mut self.server);
        let preparation = self.preparation(liveness);
        let sent = request.messages(&self.from_client, &preparation).into_owned();
        let context = Self::context(&self.statements, &self.parameters);
        let remains = request.finish(&context, &mut self.client, &mut self.server, &preparation, answer);
        (format!("{remains:?} {:?} {:?}", self.client, self.server), sent)
    }

    /// The same with a machine that takes over at `progress`; and what the client got.
    fn left(mut self, progress: PlainProgress, liveness: Liveness, answer: &[u8]) -> (String, Vec<u8>, Vec<u8>) {
        if let PlainProgress::Answered(_) = progress {
            receive(&mut self.from_server, answer);
        }
        let (remains, up, down) = self.with_machine(liveness, |machine, io| {
            progress.catch_up(machine, io).expect("nothing has ended");
            let (mut up, mut down) = (std::mem::take(io.to_server), Vec::new());
            machine.on_sent();
            if let PlainProgress::Sent(_) = progress {
                receive(io.from_server, answer);
                machine.server_sent(io).expect("nothing has ended");
            }
            up.extend(io.from_client.unsent());
            down.extend(std::mem::take(io.to_client));
            down.extend(io.from_server.unsent());
            io.from_server.sent(down.len());
            assert!(matches!(machine.boundary(io, Flush::Done), Next::End(End::Settled)));
            (machine.finish(io, Some(&End::Settled), Flush::Done), up, down)
        });
        (format!("{remains:?} {:?} {:?}", self.client, self.server), up, down)
    }

    /// Has a machine do `work` for a request that was taken for a plain one.
    fn with_machine<T>(&mut self, liveness: Liveness, work: impl FnOnce(&mut Machine<'_>, &mut Buffers<'_>) -> T) -> T {
        PlainRequest::begin(&mut self.client, &mut self.server);
        let preparation = self.preparation(liveness);
        let context = Self::context(&self.statements, &self.parameters);
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        let mut io = Buffers {
            from_client: &mut self.from_client,
            to_client: &mut to_client,
            from_server: &mut self.from_server,
            to_server: &mut to_server,
        };
        let mut machine = Machine::new(context, &mut self.client, &mut self.server, preparation);
        work(&mut machine, &mut io)
    }
}

fn receive(buffer: &mut Buffer, bytes: &[u8]) {
    buffer.space()[..bytes.len()].copy_from_slice(bytes);
    buffer.received(bytes.len());
}

#[test]
fn one_text_that_leaves_nothing_is_plain() {
    for sql in ["select 1", "select 'a', b from c where d = 1 -- why", "SELECT 1; select 2;"] {
        assert!(Lab::new().with(&query(sql)).is_plain(), "{sql}");
        assert!(Lab::new().with_unnamed("select 1").with(&query(sql)).is_plain(), "{sql}");
        assert!(Lab::new().with(&unnamed(sql)).is_plain(), "{sql}");
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
        "select 'ü'",
        "execute a",
    ] {
        assert!(!Lab::new().with(&query(sql)).is_plain(), "{sql}");
        assert!(!Lab::new().with(&unnamed(sql)).is_plain(), "{sql}");
        assert!(!Lab::new().with_unnamed(sql).with(&unnamed(sql)).is_plain(), "{sql}");
    }
}

#[test]
fn a_request_is_plain_by_itself_and_whole() {
    for bytes in [
        [query("select 1"), query("select 2")].concat(),
        query("select 1")[..10].to_vec(),
        query("select 1\0"),
        message(frontend::SYNC, b""),
        b"Q".to_vec(),
        b"Q\0\0\0\0".to_vec(),
        Vec::new(),
        [unnamed("select 1"), query("select 2")].concat(),
        [parse("select 1"), bind("")].concat(),
        [parse("select 1"), run(0)].concat(),
        [parse("select 1"), bind("s"), run(0)].concat(),
        [message(frontend::PARSE, b"s\0select 1\0\0\0"), bind(""), run(0)].concat(),
        [message(frontend::PARSE, b"\0select 1\0\0\x01"), bind(""), run(0)].concat(),
        [parse("select 1"), message(frontend::BIND, b"p\0\0\0\0\0\0\0\0"), run(0)].concat(),
        [parse("select 1"), bind(""), message(frontend::DESCRIBE, b"S\0"), run(0)].concat(),
        [parse("select 1"), bind(""), message(frontend::EXECUTE, b"p\0\0\0\0\0"), frontend::SYNC_MESSAGE.to_vec()]
            .concat(),
        [parse("select 1"), bind(""), EXECUTE_PORTAL.to_vec()].concat(),
        [bind(""), run(0)].concat(),
        [bind("unknown"), run(0)].concat(),
    ] {
        assert!(!Lab::new().with_statement().with(&bytes).is_plain(), "{}", bytes.escape_ascii());
    }
    for kind in [Kind::Query, Kind::Unnamed, Kind::UnnamedUnseen, Kind::Named] {
        let whole = kind.messages();
        assert!(Lab::new().with_statement().with(&whole).is_plain(), "{kind:?}");
        for part in 0..whole.len() {
            assert!(!Lab::new().with_statement().with(&whole[..part]).is_plain(), "{kind:?}");
        }
        assert!(!Lab::new().with_statement().with(&[&whole, frontend::SYNC_MESSAGE].concat()).is_plain(), "{kind:?}");
    }
    assert!(Lab::new().with(&[parse("select 1"), bind(""), run(9)].concat()).is_plain());
}

#[test]
fn what_the_connection_lacks_needs_a_machine() {
    for kind in [Kind::Query, Kind::Unnamed, Kind::UnnamedUnseen, Kind::Named] {
        let asked = || Lab::new().with_statement().with(&kind.messages());
        let mut other = asked();
        other.server.params.set(b"TimeZone", b"CET");
        assert!(!other.is_plain());
        let mut set = asked();
        set.client.learned(b"work_mem", Some(b"1MB"));
        assert!(!set.is_plain());
    }
}

#[test]
fn a_statement_that_is_not_there_as_it_was_told_needs_a_machine() {
    let asked = || Lab::new().with_statement().with(&named("s"));
    assert!(asked().is_plain());
    let mut missing = asked();
    missing.server.prepared.remove(1);
    assert!(!missing.is_plain());
    let mut other = asked();
    other.server.describe(1, &Columns::from(&b"b"[..]));
    assert!(!other.is_plain());
    let retired = asked();
    retired.statements.retire(&retired.client.names.get(b"s").expect("it was made").statement);
    assert!(!retired.is_plain());
    let mut untold = asked();
    let statement = Arc::clone(&untold.client.names.get(b"s").expect("it was made").statement);
    untold.client.names.set(b"s", Some(NamedStatement::new(statement)));
    assert!(!untold.is_plain(), "the answer tells the client");
    untold.from_client.skip(named("s").len());
    assert!(untold.with(&[bind("s"), run(0)].concat()).is_plain());
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
        [message(b'C', b"INSERT 0 1\0"), done()].concat(),
        [message(b'C', b"SELECT 0\0"), message(b'C', b"GRANT ROLE\0"), answer()].concat(),
        [message(b'C', b"SELECT 0\0"), message(b'Z', b"T")].concat(),
        [message(b'C', b"SELECT 0\0"), message(b'D', b"\0\0"), message(b'Z', b"I")].concat(),
        [done(), message(b'S', b"a\0b\0")].concat(),
        [message(b'S', b"a\0b\0"), done()].concat(),
        [message(b'N', b"\0"), done()].concat(),
        [message(b'E', b"\0"), message(b'Z', b"I")].concat(),
        [message(b'G', b"\0\0\0"), done()].concat(),
        [message(b's', b""), message(b'Z', b"I")].concat(),
        [PARSED_AND_BOUND, &answer()].concat(),
        b"T\0\0\0\0".to_vec(),
    ] {
        assert!(!is_all(&other), "{}", other.escape_ascii());
    }
}

#[test]
fn what_was_parsed_or_bound_is_acknowledged_first() {
    for kind in [Kind::Unnamed, Kind::UnnamedUnseen, Kind::Named] {
        let lab = Lab::new().with_statement().with(&kind.messages());
        let request = lab.read(Mode::Transaction).expect("a plain request");
        let told = |answer: &[u8]| request.told_by(answer, &lab.preparation(Liveness::Known)).is_some();
        assert!(told(&kind.answer()), "{kind:?}");
        assert!(!told(&answer()), "{kind:?}");
        assert!(!told(&kind.answer()[5..]), "{kind:?}");
    }
}

proptest! {
    /// Wherever a machine takes over, as much is sent and told, and the same state left, as where none is needed.
    #[test]
    fn a_machine_that_takes_over_says_and_leaves_the_same(
        kind in kinds(),
        before in prop::option::of(prop_oneof![Just("select a from b"), Just("insert into a values (1)")]),
        at in 0_usize..200,
        is_answered: bool,
        liveness in prop_oneof![Just(Liveness::Known), Just(Liveness::Unknown)],
    ) {
        let asked = || {
            let lab = Lab::new().with_statement().with(&kind.messages());
            if let Some(before) = before { lab.with_unnamed(before) } else { lab }
        };
        let answer = kind.answer_to(liveness);
        let (state, all) = asked().left_plain(liveness, &answer);
        let progress = if is_answered {
            PlainProgress::Answered(at.min(kind.answer().len()))
        } else {
            PlainProgress::Sent(at.min(all.len()))
        };
        prop_assert!(all.ends_with(&kind.sent()));
        let (left, up, down) = asked().left(progress, liveness, &answer);
        prop_assert_eq!(left, state);
        let (sent, told) = match progress {
            PlainProgress::Sent(sent) => (sent, 0),
            PlainProgress::Answered(told) => (all.len(), told),
        };
        prop_assert_eq!(up, &all[sent..]);
        prop_assert_eq!(down, kind.answer().split_off(told));
    }
}

#[test]
fn a_session_that_the_server_has_ended_is_not_given_back() {
    for (answer, is_over) in [(answer(), false), (message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"), true)] {
        let mut lab = Lab::new().with(&query("select a from b"));
        lab.with_machine(Liveness::Known, |machine, io| {
            PlainProgress::Sent(0).catch_up(machine, io).expect("nothing has ended");
            io.from_client.sent(io.from_client.unsent().len());
            io.to_server.clear();
            machine.on_sent();
            receive(io.from_server, &answer);
            machine.server_sent(io).expect("the client is to be told first");
            // It is gone by then.
            machine.finish(io, None, Flush::Done);
        });
        assert_eq!(lab.server.close_method == CloseMethod::Silent, is_over);
    }
}

#[test]
fn what_was_sent_is_not_sent_otherwise_once_another_client_has_retired_its_statement() {
    for sent in [1, 7] {
        let mut lab = Lab::new().with_statement().with(&Kind::Named.messages());
        let request = lab.read(Mode::Transaction).expect("a plain request");
        let all = request.messages(&lab.from_client, &lab.preparation(Liveness::Known)).into_owned();
        let retired = Arc::clone(&lab.client.names.get(b"s").expect("a statement").statement);
        lab.statements.retire(&retired);
        let up = lab.with_machine(Liveness::Known, |machine, io| {
            PlainProgress::Sent(sent).catch_up(machine, io).expect("nothing has ended");
            [std::mem::take(io.to_server), io.from_client.unsent().to_vec()].concat()
        });
        assert_eq!(up, &all[sent..]);
    }
}
