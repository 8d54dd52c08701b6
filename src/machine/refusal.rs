//! Answers a client's requests with an error of pgferry's own where there is no connection, as PostgreSQL would.
//!
//! A simple query is over with it, an extended request when its `Sync` has come. A refused text that would have begun a
//! transaction leaves the client in a failed one: what it has sent behind it counts on being part of that, and must not be
//! carried out by itself. What takes no connection, as a `Close` does, is answered and not refused: an error there would have
//! everything up to a `Sync` discarded.

use super::refused_unread::is_refused_unread;
use super::statement_errors::existing_statement;
use crate::buffer::Buffer;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::track::client_statements::{MAX_CLIENT_BYTES, NamedStatement};
use crate::track::message_target::{MessageTarget, target_of};
use crate::track::statements::StatementCache;
use crate::track::transaction_block::IDLE;
use crate::track::transaction_block::{self, Block};
use crate::track::{ClientState, Pins, Request};
use crate::wire::{backend, cstr, frame, frontend, head};

/// The transaction status of a failed transaction.
const FAILED: u8 = b'E';

/// State of the client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next message that needs a connection is the one that is refused.
    Refusing,
    /// Everything up to the next `Sync` is discarded; this is what the discarded texts would have left.
    Skipping(Block),
    /// It is in a transaction that has failed.
    Failed,
    /// An extended request is about to end the failed transaction.
    Ending(Ending),
    /// The client's requests are served again.
    Over,
}

/// Progress of an extended request that ends the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Its statement is known.
    Parsed,
    /// Its portal as well.
    Bound,
    /// It has been carried out.
    Executed,
}

/// Next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More of the client's messages is needed.
    NeedMore,
    /// The client's requests are served again.
    Over,
    /// The client has sent `Terminate`.
    Terminated,
}

/// The refusal of one request, and of what follows from it.
#[derive(Debug)]
pub struct Refusal {
    state: State,
    client_error: ClientError,
    /// Bytes of the current message that are still to be dropped.
    left: usize,
}

/// A message of the client's, as far as it is there.
struct Message<'m> {
    tag: u8,
    /// Number of bytes of all of it.
    size: usize,
    body: &'m [u8],
    client: &'m mut ClientState,
    statements: Option<&'m StatementCache>,
}

impl Message<'_> {
    /// Returns whether the server would refuse it too, without reading what it asks for.
    fn is_refused_unread(&self) -> bool {
        is_refused_unread(self.client, self.tag, self.size, self.body)
    }

    /// The text that it runs or prepares, where that is known.
    fn text(&self) -> Option<Vec<u8>> {
        if self.is_refused_unread() {
            return None;
        }
        match (self.tag, target_of(self.tag, self.body)) {
            (frontend::QUERY, _) => Some(frontend::query(self.body).to_vec()),
            (frontend::PARSE, MessageTarget::Statement { rest, .. }) => {
                Some(cstr(rest).map_or(rest, |(text, _)| text).to_vec())
            }
            (frontend::BIND, MessageTarget::Statement { name, .. }) if !name.is_empty() => {
                let text = self.client.names.get(name)?.statement.text.as_ref()?;
                Some(frontend::query(&text.body).to_vec())
            }
            (frontend::BIND, MessageTarget::Statement { .. }) => {
                let text = self.client.unnamed.as_ref()?.text.as_ref()?;
                Some(frontend::query(&text.body).to_vec())
            }
            _ => None,
        }
    }

    /// Returns whether PostgreSQL answers it with nothing where it is not copying.
    fn is_ignored(&self) -> bool {
        match self.tag {
            frontend::FLUSH => self.body.is_empty(),
            tag => matches!(tag, frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL),
        }
    }

    fn is_unnamed(&self) -> bool {
        matches!(target_of(self.tag, self.body), MessageTarget::Statement { name: b"", .. })
    }

    /// Returns the transaction block that its text leaves, if it decides that.
    fn block(&self) -> Option<Block> {
        transaction_block::after(&self.text()?, self.client.lexis())
    }

    fn only_ends_transaction(&self) -> bool {
        self.text().is_some_and(|text| transaction_block::only_ends(&text, self.client.lexis()))
    }

    /// Prepares its text for the client, which is on no connection.
    ///
    /// # Errors
    /// What the client is told.
    fn prepare(&mut self) -> Result<(), ClientError> {
        let (Some(statements), MessageTarget::Statement { name, rest, .. }) =
            (self.statements, target_of(self.tag, self.body))
        else {
            return Err(aborted());
        };
        if self.client.names.get(name).is_some() {
            return Err(existing_statement(name));
        }
        if self.client.names.bytes() + name.len() + rest.len() > MAX_CLIENT_BYTES {
            return Err(aborted());
        }
        let statement = self.client.intern(statements, rest, Pins::empty());
        self.client.names.set(name, Some(NamedStatement::new(statement)));
        Ok(())
    }

    /// The unnamed statement is gone: a simple query drops it, and a `Parse` takes its place, whatever comes of either
    /// once it is read (`drop_unnamed_stmt` in `src/backend/tcop/postgres.c`).
    fn drop_unnamed(&mut self) {
        let takes_its_place = self.tag == frontend::QUERY || (self.tag == frontend::PARSE && self.is_unnamed());
        if takes_its_place && !self.is_refused_unread() {
            self.client.unnamed = None;
        }
    }

    /// Its text is the client's unnamed statement, which a connection gets once it is needed there.
    fn prepare_unnamed(&mut self) {
        let (Some(statements), MessageTarget::Statement { rest, .. }) =
            (self.statements, target_of(self.tag, self.body))
        else {
            return;
        };
        let text = self.client.parsed_unnamed(rest);
        self.client.set_unnamed(statements.next_id(), &text, None);
    }

    /// Returns whether it closes something, which takes no connection: the server has no errors for what is not there.
    fn closes(&self) -> bool {
        let has_target =
            matches!(self.body, [b'S' | b'P', ..]) && target_of(self.tag, self.body) != MessageTarget::Unseen;
        self.tag == frontend::CLOSE && has_target && !self.is_refused_unread()
    }

    /// Frees the name that it closes.
    fn close(&mut self) {
        match target_of(self.tag, self.body) {
            MessageTarget::Statement { name: b"", .. } => self.client.unnamed = None,
            MessageTarget::Statement { name, .. } => drop(self.client.names.set(name, None)),
            _ => {}
        }
    }
}

impl Refusal {
    /// Refuses the first message that is there and needs a connection with `client_error`, which leaves the session usable.
    #[must_use]
    pub fn new(client_error: ClientError) -> Self {
        Self { state: State::Refusing, client_error, left: 0 }
    }

    /// Returns whether the client is between two requests of a failed transaction.
    #[must_use]
    pub fn waits_in_failed_transaction(&self) -> bool {
        self.state == State::Failed && self.left == 0
    }

    /// Goes as far as what the client has sent allows; answers are appended to `out`. `statements` are those that follow
    /// clients from connection to connection, where they do.
    ///
    /// # Errors
    /// What the client is told at its end, where its next bytes are no message.
    pub fn advance(
        &mut self,
        input: &mut Buffer,
        out: &mut Vec<u8>,
        client: &mut ClientState,
        statements: Option<&StatementCache>,
    ) -> Result<Step, ClientError> {
        loop {
            let here = self.left.min(input.unparsed().len());
            input.skip(here);
            self.left -= here;
            if self.left > 0 {
                return Ok(Step::NeedMore);
            }
            if self.state == State::Over {
                return Ok(Step::Over);
            }
            let next = head(input.unparsed(), frame::FRONTEND_LIMIT);
            let Some(head) = next.map_err(|bad| ClientError::violation(bad.to_string()))? else {
                if self.state == State::Refusing && input.unparsed().is_empty() {
                    // Nothing that was there needed a connection, and what comes later has not been refused.
                    self.state = State::Over;
                    continue;
                }
                return Ok(Step::NeedMore);
            };
            if head.tag == frontend::TERMINATE {
                return Ok(Step::Terminated);
            }
            if Request::of(head).is_none() {
                return Err(ClientError::unknown_message(head.tag));
            }
            let bytes = input.unparsed();
            if bytes.len() < head.size && !input.is_full() {
                // What it says decides what follows. Of one that does not fit the beginning has to do.
                return Ok(Step::NeedMore);
            }
            let body = bytes.get(frame::HEADER_BYTES..head.size.min(bytes.len())).unwrap_or_default();
            self.message(&mut Message { tag: head.tag, size: head.size, body, client, statements }, out);
            self.left = head.size;
        }
    }

    /// Answers one message.
    fn message(&mut self, message: &mut Message<'_>, out: &mut Vec<u8>) {
        if message.tag == frontend::SYNC && !message.body.is_empty() {
            // As `pq_getmsgend` in `src/backend/libpq/pqformat.c` has it; it is a Sync nevertheless.
            malformed().put(out);
        }
        if !matches!(self.state, State::Skipping(_) | State::Over) {
            message.drop_unnamed();
        }
        match self.state {
            State::Refusing => self.refuse(message, out),
            State::Skipping(block) => self.skip(message, block, out),
            State::Failed => self.in_failed_transaction(message, out),
            State::Ending(ending) => self.end(message, ending, out),
            State::Over => {}
        }
    }

    fn refuse(&mut self, message: &mut Message<'_>, out: &mut Vec<u8>) {
        if message.is_ignored() {
            return;
        }
        if message.closes() {
            // An error here would have a simple query behind it discarded: pgjdbc sends one without a Sync between.
            message.close();
            return backend::put_close_complete(out);
        }
        let block = message.block().unwrap_or(Block::Closed);
        if message.tag == frontend::SYNC {
            return self.ready(Block::Closed, out);
        }
        self.client_error.put(out);
        if matches!(message.tag, frontend::QUERY | frontend::FUNCTION_CALL) {
            return self.ready(block, out);
        }
        self.state = State::Skipping(block);
    }

    fn skip(&mut self, message: &Message<'_>, block: Block, out: &mut Vec<u8>) {
        if message.tag == frontend::SYNC {
            return self.ready(block, out);
        }
        self.state = State::Skipping(message.block().unwrap_or(block));
    }

    /// Tells the client that it may go on.
    fn ready(&mut self, block: Block, out: &mut Vec<u8>) {
        match block {
            Block::Open => {
                backend::put_ready(out, FAILED);
                self.state = State::Failed;
            }
            Block::Closed => {
                backend::put_ready(out, IDLE);
                self.state = State::Over;
            }
        }
    }

    fn in_failed_transaction(&mut self, message: &mut Message<'_>, out: &mut Vec<u8>) {
        match message.tag {
            frontend::QUERY if message.only_ends_transaction() => {
                backend::put_command_complete(out, "ROLLBACK");
                self.ready(Block::Closed, out);
            }
            frontend::SYNC => backend::put_ready(out, FAILED),
            frontend::QUERY | frontend::FUNCTION_CALL => {
                aborted().put(out);
                backend::put_ready(out, FAILED);
            }
            frontend::PARSE if message.is_unnamed() && message.only_ends_transaction() => {
                message.prepare_unnamed();
                backend::put_parse_complete(out);
                self.state = State::Ending(Ending::Parsed);
            }
            frontend::PARSE if message.only_ends_transaction() => match message.prepare() {
                Ok(()) => {
                    backend::put_parse_complete(out);
                    self.state = State::Ending(Ending::Parsed);
                }
                Err(client_error) => {
                    client_error.put(out);
                    self.state = State::Skipping(Block::Open);
                }
            },
            frontend::BIND if !message.is_unnamed() && message.only_ends_transaction() => {
                backend::put_bind_complete(out);
                self.state = State::Ending(Ending::Bound);
            }
            _ if message.is_ignored() => {}
            _ if message.closes() => {
                message.close();
                backend::put_close_complete(out);
            }
            _ => {
                aborted().put(out);
                self.state = State::Skipping(Block::Open);
            }
        }
    }

    fn end(&mut self, message: &mut Message<'_>, ending: Ending, out: &mut Vec<u8>) {
        match (message.tag, ending) {
            _ if message.is_ignored() => {}
            (frontend::DESCRIBE, _) => {
                if message.body.first() == Some(&b'S') {
                    backend::put_no_parameters(out);
                }
                backend::put_no_data(out);
            }
            (frontend::BIND, Ending::Parsed) if message.is_unnamed() || message.only_ends_transaction() => {
                backend::put_bind_complete(out);
                self.state = State::Ending(Ending::Bound);
            }
            (frontend::EXECUTE, Ending::Bound) => {
                backend::put_command_complete(out, "ROLLBACK");
                self.state = State::Ending(Ending::Executed);
            }
            _ if message.closes() => {
                message.close();
                backend::put_close_complete(out);
            }
            (frontend::SYNC, Ending::Executed) => self.ready(Block::Closed, out),
            (frontend::SYNC, _) => self.ready(Block::Open, out),
            // It was over without a Sync: this one needs a connection again.
            (_, Ending::Executed) => self.refuse(message, out),
            // Another one is as any in a failed transaction. A simple query is answered to its end, also behind extended ones.
            _ => self.in_failed_transaction(message, out),
        }
    }
}

/// PostgreSQL's words for a message that is too long.
fn malformed() -> ClientError {
    ClientError::error(ErrorSource::Client, sqlstate::PROTOCOL_VIOLATION, "invalid message format")
}

/// PostgreSQL's words for what comes in a failed transaction.
fn aborted() -> ClientError {
    ClientError::error(
        ErrorSource::Client,
        sqlstate::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::BufferPool;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("small").to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn query(sql: &str) -> Vec<u8> {
        message(b'Q', &[sql.as_bytes(), b"\0"].concat())
    }

    fn parse(sql: &str) -> Vec<u8> {
        message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat())
    }

    fn run() -> Vec<u8> {
        [message(b'B', &[0; 8]), message(b'E', &[0; 5]), message(b'S', b"")].concat()
    }

    /// The tags of the answers, with the status of `ReadyForQuery`, and the last step.
    fn answers(pieces: &[Vec<u8>]) -> (String, Step) {
        answers_to(&mut ClientState::default(), pieces)
    }

    fn answers_to(client: &mut ClientState, pieces: &[Vec<u8>]) -> (String, Step) {
        let statements = StatementCache::default();
        let mut refusal = Refusal::new(ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "full"));
        let mut input = Buffer::new(BufferPool::new(4096, 1));
        let mut out = Vec::new();
        let mut step = Step::NeedMore;
        for piece in pieces {
            let space = input.space();
            space[..piece.len()].copy_from_slice(piece);
            input.received(piece.len());
            step = refusal.advance(&mut input, &mut out, client, Some(&statements)).expect("messages");
        }
        let mut seen = String::new();
        for frame in crate::wire::Frames::new(&out, frame::BACKEND_LIMIT) {
            let frame = frame.expect("whole");
            seen.push(char::from(frame.tag));
            if frame.tag == b'Z' {
                seen.push(char::from(frame.body()[0]).to_ascii_lowercase());
            }
        }
        (seen, step)
    }

    #[test]
    fn one_request_is_refused_and_the_next_is_served() {
        assert_eq!(answers(&[query("select 1")]), ("EZi".into(), Step::Over));
        assert_eq!(answers(&[parse("select 1"), run()]), ("EZi".into(), Step::Over));
        assert_eq!(answers(&[parse("select 1"), query("x"), message(b'S', b"")]), ("EZi".into(), Step::Over));
        assert_eq!(answers(&[parse("select 1"), message(b'X', b"")]), ("E".into(), Step::Terminated));
        assert_eq!(answers(&[message(b'S', b"")]), ("Zi".into(), Step::Over));
    }

    #[test]
    fn a_message_of_an_unknown_type_ends_the_session_before_its_body_has_come() {
        for before in [&b""[..], &query("begin"), &parse("select 1")] {
            let mut refusal =
                Refusal::new(ClientError::error(ErrorSource::Limits, sqlstate::TOO_MANY_CONNECTIONS, "full"));
            let mut input = Buffer::new(BufferPool::new(4096, 1));
            let bytes = [before, b"z", &(1_u32 << 29).to_be_bytes()].concat();
            input.space()[..bytes.len()].copy_from_slice(&bytes);
            input.received(bytes.len());
            let end = refusal.advance(&mut input, &mut Vec::new(), &mut ClientState::default(), None);
            assert_eq!(end.expect_err("its end").to_string(), ClientError::unknown_message(b'z').to_string());
        }
    }

    #[test]
    fn what_follows_a_refused_begin_is_refused_with_it() {
        let rest = [query("insert 1"), query("insert 2"), query("commit")].concat();
        assert_eq!(answers(&[query("begin"), rest]), ("EZeEZeEZeCZi".into(), Step::Over));
        let extended = [parse("begin"), run(), parse("insert"), run(), parse("commit"), run()];
        assert_eq!(answers(&extended), ("EZeEZe12CZi".into(), Step::Over));
        assert_eq!(answers(&[query("begin; insert 1; commit")]), ("EZi".into(), Step::Over));
        assert_eq!(answers(&[query("begin"), query("rollback to s")]), ("EZeEZe".into(), Step::NeedMore));
    }

    #[test]
    fn a_simple_query_behind_an_end_that_no_sync_follows_is_answered() {
        let begun = [query("begin"), parse("abort")];
        let with = |rest: &[Vec<u8>]| answers(&[&begun[..], rest].concat());
        assert_eq!(with(&[query("rollback")]), ("EZe1CZi".into(), Step::Over));
        assert_eq!(with(&[query("select 1"), query("rollback")]), ("EZe1EZeCZi".into(), Step::Over));
        let bound = message(b'B', &[0; 8]);
        assert_eq!(with(&[bound.clone(), query("rollback")]), ("EZe12CZi".into(), Step::Over));
        let executed = [bound, message(b'E', &[0; 5])];
        let behind = |rest: &[Vec<u8>]| with(&[&executed[..], rest].concat());
        assert_eq!(behind(&[query("select 1")]), ("EZe12CEZi".into(), Step::Over));
        assert_eq!(behind(&[parse("select 1"), run()]), ("EZe12CEZi".into(), Step::Over));
        assert_eq!(with(&[parse("abort"), run()]), ("EZe112CZi".into(), Step::Over));
    }

    #[test]
    fn named_statements_that_end_a_refused_transaction_are_kept() {
        let named = |tag: u8, name: &str, rest: &str| message(tag, format!("{name}{rest}").as_bytes());
        let ends = |name: &str| {
            let bind = named(b'B', &format!("\0{name}"), "\0\0\0\0\0\0\0");
            [bind, message(b'E', &[0; 5]), message(b'S', b"")].concat()
        };
        let mut client = ClientState::default();
        let first = [query("begin"), named(b'P', "s1\0", "rollback\0\0\0"), ends("s1")];
        assert_eq!(answers_to(&mut client, &first), ("EZe12CZi".into(), Step::Over));
        let again = [query("begin"), named(b'P', "s1\0", "rollback\0\0\0"), message(b'S', b""), ends("s1")];
        assert_eq!(answers_to(&mut client, &again), ("EZeEZe2CZi".into(), Step::Over));
        assert!(client.names.get(b"s1").is_some());
        let closed = [query("begin"), named(b'C', "S", "s1\0"), message(b'S', b""), query("rollback")];
        assert_eq!(answers_to(&mut client, &closed), ("EZe3ZeCZi".into(), Step::Over));
        assert!(client.names.is_empty());
    }

    #[test]
    fn the_unnamed_statement_is_dropped_as_postgresql_drops_it() {
        let text = |client: &ClientState| {
            client.unnamed.as_ref().and_then(|unnamed| Some(frontend::query(&unnamed.text.as_ref()?.body).to_vec()))
        };
        let kept = |pieces: &[Vec<u8>]| {
            let mut client = ClientState::default();
            let before = client.parsed_unnamed(b"before\0\0\0");
            client.set_unnamed(1, &before, None);
            answers_to(&mut client, pieces);
            text(&client).map(|text| String::from_utf8(text).expect("text"))
        };
        let sync = || message(b'S', b"");
        assert_eq!(kept(&[sync()]).as_deref(), Some("before"));
        assert_eq!(kept(&[run()]).as_deref(), Some("before"));
        assert_eq!(kept(&[message(b'P', b"s\0select 1\0\0\0"), sync()]).as_deref(), Some("before"));
        assert_eq!(kept(&[message(b'F', &[0; 12])]).as_deref(), Some("before"));
        assert_eq!(kept(&[parse("select 1"), sync()]), None);
        assert_eq!(kept(&[query("select 1")]), None);
        // What is discarded drops nothing.
        assert_eq!(
            kept(&[message(b'B', &[0; 8]), query("select 1"), parse("select 1"), sync()]).as_deref(),
            Some("before")
        );
        let failed = [message(b'P', b"s\0begin\0\0\0"), sync()];
        assert_eq!(kept(&[&failed[..], &[parse("rollback"), run()]].concat()).as_deref(), Some("rollback"));
        assert_eq!(kept(&[&failed[..], &[query("select 1"), query("rollback")]].concat()), None);
    }

    /// PostgreSQL would discard the query behind a `Close` that fails, up to a `Sync` that the client does not send.
    #[test]
    fn a_close_in_front_of_what_is_refused_is_answered() {
        let close = || message(b'C', b"Ss1\0");
        assert_eq!(answers(&[[close(), query("select 1")].concat()]), ("3EZi".into(), Step::Over));
        assert_eq!(answers(&[[close(), close(), query("begin")].concat()]), ("33EZe".into(), Step::NeedMore));
        assert_eq!(
            answers(&[[close(), message(b'H', b""), parse("select 1"), run()].concat()]),
            ("3EZi".into(), Step::Over)
        );
        assert_eq!(answers(&[[close(), message(b'S', b"")].concat()]), ("3Zi".into(), Step::Over));
        assert_eq!(answers(&[[message(b'C', b"?s1\0"), message(b'S', b"")].concat()]), ("EZi".into(), Step::Over));
        assert_eq!(
            answers(&[query("begin"), message(b'C', b"?s1\0"), message(b'S', b"")]),
            ("EZeEZe".into(), Step::NeedMore)
        );
        assert_eq!(answers(&[close()]), ("3".into(), Step::Over));
    }

    #[test]
    fn messages_without_an_answer_are_not_refused() {
        assert_eq!(answers(&[[message(b'H', b""), query("select 1")].concat()]), ("EZi".into(), Step::Over));
        assert_eq!(answers(&[query("begin"), message(b'c', b""), query("rollback")]), ("EZeCZi".into(), Step::Over));
    }

    #[test]
    fn messages_in_pieces() {
        let begin = query("begin");
        let pieces: Vec<_> = begin.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(answers(&pieces), ("EZe".into(), Step::NeedMore));
    }
}
