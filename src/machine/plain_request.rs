//! A request that leaves nothing but, perhaps, its client's unnamed statement, on a connection that needs nothing in front
//! of it but a probe, perhaps: most of what most clients say.
//!
//! While all goes as usual no machine is made for it: the request is there whole, and then its answer, which is rows and a
//! `ReadyForQuery`. Anything else makes the machine, which finds the same messages and says the same of them.

use std::borrow::Cow;
use std::sync::Arc;

use super::ensure_prepared::fits;
use super::preparation::Preparation;
use super::{Buffers, Context, Counts, End, Machine, MachineResult};
use crate::buffer::Buffer;
use crate::config::Mode;
use crate::track::server_state::{CloseMethod, Ran};
use crate::track::sql_effects::{self, SqlEffects};
use crate::track::statements::{ParsedQuery, Statement};
use crate::track::unnamed_statement::UnnamedStatement;
use crate::track::{ClientState, Pins, Pipeline, ServerState};
use crate::wire::{backend, cstr, frame, frontend, head};

/// First word of a plain request's text, and of the tag of its answer.
const SELECT: &[u8] = b"SELECT";

/// `ReadyForQuery` outside of transactions.
const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

/// `Describe` of the unnamed portal.
const DESCRIBE_PORTAL: &[u8] = b"D\0\0\0\x06P\0";

/// `Execute` of the unnamed portal, up to its limit of rows.
const EXECUTE_PORTAL: &[u8] = b"E\0\0\0\x09\0";

/// Number of bytes of that limit.
const LIMIT_BYTES: usize = 4;

/// `Sync`.
const SYNC: &[u8] = b"S\0\0\0\x04";

/// `ParseComplete`, and `BindComplete` behind it.
const PARSED_AND_BOUND: &[u8] = b"1\0\0\0\x042\0\0\0\x04";

/// `BindComplete`.
const BOUND: &[u8] = b"2\0\0\0\x04";

/// All that a client has sent.
#[derive(Clone, Debug)]
pub enum PlainRequest {
    /// A simple query.
    Query,
    /// From `Parse` to `Sync`: this text becomes the unnamed statement, and is run by the unnamed portal.
    Unnamed(Arc<ParsedQuery>),
    /// From `Bind` to `Sync`: this statement, which the connection has, is run by the unnamed portal.
    Named(Arc<Statement>),
}

/// Progress of a plain request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainProgress {
    /// The kernel has taken so many bytes of the preparation and the request.
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

impl PlainRequest {
    /// Returns the request that is all that the client has sent, where it is a plain one, and `preparation` at most a probe.
    #[must_use]
    pub fn read(
        from_client: &Buffer,
        mode: Mode,
        client: &ClientState,
        server: &ServerState,
        preparation: &Preparation,
    ) -> Option<Self> {
        let fits = !preparation.has_statements() && !client.settings.has_changes() && server.params == client.view;
        if mode != Mode::Transaction || !fits {
            return None;
        }
        let bytes = from_client.unparsed();
        match *bytes.first()? {
            frontend::QUERY => Self::query(bytes, client),
            frontend::PARSE => Self::unnamed(bytes, client),
            frontend::BIND => Self::named(bytes, client, server),
            _ => None,
        }
    }

    fn query(bytes: &[u8], client: &ClientState) -> Option<Self> {
        let (body, rest) = message(frontend::QUERY, bytes)?;
        let sql = frontend::query(body);
        let is_all = rest.is_empty() && frontend::is_well_formed(frontend::QUERY, body) && selects(sql);
        (is_all && leaves_nothing(&sql_effects::analyze(sql, client.lexis()))).then_some(Self::Query)
    }

    fn unnamed(bytes: &[u8], client: &ClientState) -> Option<Self> {
        let (parse, rest) = message(frontend::PARSE, bytes)?;
        let parsed = parse.strip_prefix(b"\0")?;
        let (bind, rest) = message(frontend::BIND, rest)?;
        bind.strip_prefix(b"\0\0")?;
        Run::of(rest)?;
        if !frontend::is_well_formed(frontend::PARSE, parse) || !selects(frontend::query(parsed)) {
            return None;
        }
        let text = client.parsed_unnamed(parsed);
        leaves_nothing(&text.effects).then_some(Self::Unnamed(text))
    }

    fn named(bytes: &[u8], client: &ClientState, server: &ServerState) -> Option<Self> {
        let (name, _, rest) = split_bind(bytes)?;
        let run = Run::of(rest)?;
        let named = client.names.get(name).filter(|_| name.is_ascii())?;
        let statement = &named.statement;
        let text = statement.text.as_ref()?;
        if !selects(frontend::query(&text.body)) || !leaves_nothing(&text.effects) {
            return None;
        }
        let context = client.current_parse_context()?;
        let is_here = server.prepared.standing(statement.id).is_some();
        let has_told_columns = match &named.described {
            Some(told) => server.columns(statement.id) == Some(told),
            // The answer would tell them.
            None => run == Run::Unseen,
        };
        let types = named.types.as_ref();
        let has_told_types = types.is_none_or(|told| server.prepared.types(statement.id) == Some(told));
        let is_ready =
            is_here && has_told_columns && has_told_types && fits(statement, Some(context), client.text_params());
        is_ready.then(|| Self::Named(Arc::clone(statement)))
    }

    /// Begins to have it run on a connection.
    pub fn begin(server: &mut ServerState) -> PlainProgress {
        // As for a machine: dropped in the middle of something, the connection is closed without a word.
        server.close_method = CloseMethod::Silent;
        PlainProgress::Sent(0)
    }

    /// Returns what is sent to the server: `preparation`, and the request, which is all that the client has sent.
    #[must_use]
    pub fn messages<'b>(&self, from_client: &'b Buffer, preparation: &Preparation) -> Cow<'b, [u8]> {
        let bytes = from_client.unparsed();
        let Self::Named(statement) = self else {
            return match preparation.messages() {
                [] => bytes.into(),
                messages => [messages, bytes].concat().into(),
            };
        };
        let (_, values, behind) = split_bind(bytes).unwrap_or_default();
        let name = statement.name();
        let mut messages = Vec::with_capacity(preparation.messages().len() + bytes.len() + name.len());
        messages.extend_from_slice(preparation.messages());
        frontend::put_renamed(&mut messages, frontend::BIND, b"\0", name, values.len());
        messages.extend_from_slice(values);
        messages.extend_from_slice(behind);
        messages.into()
    }

    /// Returns the client's part of `answer`, if that is all of the answer to `preparation` and the request, and only that: rows, and
    /// that the server is ready.
    #[must_use]
    pub fn told_by<'b>(&self, answer: &'b [u8], preparation: &Preparation) -> Option<&'b [u8]> {
        let told = behind_probe(answer, preparation)?;
        let mut rest = told.strip_prefix(self.acknowledgements())?;
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

    /// The beginning of its answer.
    fn acknowledgements(&self) -> &'static [u8] {
        match self {
            Self::Query => b"",
            Self::Unnamed(_) => PARSED_AND_BOUND,
            Self::Named(_) => BOUND,
        }
    }

    /// Brings the books up to date once the client has its `answer`, which is all of one (see [`PlainRequest::told_by`]).
    #[must_use]
    pub fn finish(
        self,
        context: &Context<'_>,
        client: &mut ClientState,
        server: &mut ServerState,
        preparation: &Preparation,
        answer: &[u8],
    ) -> MachineResult {
        // As a machine does when it is made and opened.
        server.params.share(&client.view);
        client.in_force.on_reported();
        preparation.apply(server);
        server.planned.runs_under(&client.view, client.settings.kept());
        server.used = server.used.and(context.client, client.work);
        match self {
            Self::Query => {
                client.unnamed = None;
                (server.unnamed, server.unnamed_columns) = (UnnamedStatement::Absent, None);
            }
            Self::Unnamed(text) => {
                let rows = behind_probe(answer, preparation).and_then(|told| told.strip_prefix(PARSED_AND_BOUND));
                let columns = rows.and_then(|rows| message(backend::ROW_DESCRIPTION, rows)).map(|(columns, _)| columns);
                let id = context.statements.next_id();
                client.set_unnamed(id, &text, columns);
                (server.unnamed, server.unnamed_columns) = (UnnamedStatement::Is(id), None);
                if let Some(columns) = client.unnamed.as_ref().and_then(|unnamed| unnamed.described()) {
                    server.describe(id, columns);
                }
            }
            Self::Named(statement) => {
                server.prepared.has(&statement);
                if server.may_have_other_settings() {
                    server.prepared.use_under_unknown_settings(statement.id);
                }
            }
        }
        server.prepared.begin_message();
        server.ran = Ran::Something;
        if !server.sources.are_by(client.lexis()) {
            server.sources.are_read_by(client.lexis());
        }
        server.code.is_settled();
        server.kept.clone_from(client.settings.kept());
        server.close_method = CloseMethod::Terminate;
        MachineResult { pipeline: Pipeline::new(), pins: Pins::empty(), partial_down: 0, cut: false }
    }

    /// Counts of its messages, those after which the server is ready left out.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Query => Counts::default(),
            Self::Unnamed(_) => Counts { client_parses: 1, server_parses: 1, binds: 1, ..Counts::default() },
            Self::Named(_) => Counts { binds: 1, ..Counts::default() },
        }
    }
}

/// Messages behind a `Bind` of the unnamed portal that run that, and end with a `Sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Its columns are asked for.
    Described,
    /// They are not.
    Unseen,
}

impl Run {
    /// Returns what `messages` are, if they are all of that, and nothing else.
    fn of(messages: &[u8]) -> Option<Self> {
        let (run, execute) = match messages.strip_prefix(DESCRIBE_PORTAL) {
            Some(behind) => (Self::Described, behind),
            None => (Self::Unseen, messages),
        };
        let limit = execute.strip_prefix(EXECUTE_PORTAL)?;
        (limit.get(LIMIT_BYTES..)? == SYNC).then_some(run)
    }
}

/// The body of the first message, if that is one of type `tag`, and what follows it.
fn message(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = head(bytes, frame::BACKEND_LIMIT).ok()?.filter(|head| head.tag == tag)?;
    let (message, rest) = bytes.split_at_checked(head.size)?;
    Some((&message[frame::HEADER_BYTES..], rest))
}

/// The client's part of `answer`, unless the probe's comes first and is not there.
fn behind_probe<'b>(answer: &'b [u8], preparation: &Preparation) -> Option<&'b [u8]> {
    if preparation.is_probe() { answer.strip_prefix(READY_FOR_QUERY) } else { Some(answer) }
}

/// The statement's name in a `Bind` of the unnamed portal, the rest of the message, and what follows it.
fn split_bind(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (bind, behind) = message(frontend::BIND, bytes)?;
    let (name, values) = cstr(bind.strip_prefix(b"\0")?)?;
    Some((name, values, behind))
}

/// Returns whether `sql` reads rows, and is certain to be read: the server may refuse unread what is not ASCII.
fn selects(sql: &[u8]) -> bool {
    let selects = sql.get(..SELECT.len()).is_some_and(|word| word.eq_ignore_ascii_case(SELECT));
    selects && sql.is_ascii()
}

/// Returns whether a text with these effects leaves nothing in a session.
fn leaves_nothing(effects: &SqlEffects) -> bool {
    *effects == SqlEffects::default()
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
    use crate::track::prepared_statement::Standing;
    use crate::track::server_state::UsedBy;
    use crate::track::statements::{Columns, Limits, NamedStatement, StatementCache};

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
        [EXECUTE_PORTAL, &limit.to_be_bytes(), SYNC].concat()
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

        fn answer_to(self, probe: bool) -> Vec<u8> {
            if probe { [READY_FOR_QUERY, &self.answer()].concat() } else { self.answer() }
        }
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Query), Just(Kind::Unnamed), Just(Kind::UnnamedUnseen), Just(Kind::Named)]
    }

    /// Returns whether `answer` is all of an answer to a simple query.
    fn is_all(answer: &[u8]) -> bool {
        let [plain, probe] = [false, true].map(|probe| Lab::new().preparation(probe));
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
            self.client
                .names
                .set(b"s", Some(NamedStatement { described: Some(told), ..NamedStatement::new(statement) }));
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

        fn preparation(&self, probe: bool) -> Preparation {
            let known = (&self.parameters, &self.statements);
            Preparation::new(&self.server, &self.client, 1, known, ResetPolicy::Nothing, probe)
        }

        fn read(&self, mode: Mode) -> Option<PlainRequest> {
            PlainRequest::read(&self.from_client, mode, &self.client, &self.server, &self.preparation(false))
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

        /// Books after a request and its `answer`, and what the server got, without a machine.
        fn left_plain(mut self, probe: bool, answer: &[u8]) -> (String, Vec<u8>) {
            let request = self.read(Mode::Transaction).expect("a plain request");
            PlainRequest::begin(&mut self.server);
            let preparation = self.preparation(probe);
            let sent = request.messages(&self.from_client, &preparation).into_owned();
            let context = Self::context(&self.statements, &self.parameters);
            let remains = request.finish(&context, &mut self.client, &mut self.server, &preparation, answer);
            (format!("{remains:?} {:?} {:?}", self.client, self.server), sent)
        }

        /// The same with a machine that takes over at `progress`; and what the client got.
        fn left(mut self, progress: PlainProgress, probe: bool, answer: &[u8]) -> (String, Vec<u8>, Vec<u8>) {
            PlainRequest::begin(&mut self.server);
            let preparation = self.preparation(probe);
            let context = Self::context(&self.statements, &self.parameters);
            if let PlainProgress::Answered(_) = progress {
                receive(&mut self.from_server, answer);
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
                receive(io.from_server, answer);
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
            [parse("select 1"), bind(""), message(frontend::EXECUTE, b"p\0\0\0\0\0"), SYNC.to_vec()].concat(),
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
            assert!(!Lab::new().with_statement().with(&[&whole, SYNC].concat()).is_plain(), "{kind:?}");
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
            let told = |answer: &[u8]| request.told_by(answer, &lab.preparation(false)).is_some();
            assert!(told(&kind.answer()), "{kind:?}");
            assert!(!told(&answer()), "{kind:?}");
            assert!(!told(&kind.answer()[5..]), "{kind:?}");
        }
    }

    proptest! {
        /// Wherever a machine takes over, as much is sent and told, and left in the books, as where none is needed.
        #[test]
        fn a_machine_that_takes_over_says_and_leaves_the_same(
            kind in kinds(),
            before in prop::option::of(prop_oneof![Just("select a from b"), Just("insert into a values (1)")]),
            at in 0_usize..200,
            is_answered: bool,
            probe: bool,
        ) {
            let asked = || {
                let lab = Lab::new().with_statement().with(&kind.messages());
                if let Some(before) = before { lab.with_unnamed(before) } else { lab }
            };
            let answer = kind.answer_to(probe);
            let (books, all) = asked().left_plain(probe, &answer);
            let progress = if is_answered {
                PlainProgress::Answered(at.min(kind.answer().len()))
            } else {
                PlainProgress::Sent(at.min(all.len()))
            };
            prop_assert!(all.ends_with(&kind.sent()));
            let (left, up, down) = asked().left(progress, probe, &answer);
            prop_assert_eq!(left, books);
            let (sent, told) = match progress {
                PlainProgress::Sent(sent) => (sent, 0),
                PlainProgress::Answered(told) => (all.len(), told),
            };
            prop_assert_eq!(up, &all[sent..]);
            prop_assert_eq!(down, kind.answer().split_off(told));
        }
    }
}
