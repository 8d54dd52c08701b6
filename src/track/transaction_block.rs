//! Whether a transaction block is open behind a text of SQL, as far as the text decides that.

use super::lexis::Lexis;
use super::sql::{Token, Tokens};
use super::sql_statement::Statement;

/// The transaction status `I`: no transaction is open.
pub const IDLE: u8 = b'I';

/// Transaction block that a text leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// An open transaction block.
    Open,
    /// None.
    Closed,
}

impl Block {
    /// Returns whether one is open.
    #[must_use]
    pub(crate) fn is_open(self) -> bool {
        self == Self::Open
    }
}

/// Returns what `sql` leaves if all of it succeeds; `None` where it neither begins nor ends a block.
#[must_use]
pub(crate) fn after(sql: &[u8], lexis: Lexis) -> Option<Block> {
    let mut block = None;
    let mut tokens = Tokens::new(sql, lexis);
    let mut statement = Statement::default();
    while let Some(token) = tokens.next() {
        if token == Token::Semicolon && !statement.is_nested() {
            statement = Statement::default();
            continue;
        }
        if let Token::Word(word) = token
            && statement.first.is_none()
        {
            block = of_statement(word, tokens.clone()).or(block);
        }
        statement.token(token);
    }
    block
}

/// Returns whether `sql` is nothing but the end of a transaction.
#[must_use]
pub(crate) fn only_ends(sql: &[u8], lexis: Lexis) -> bool {
    let mut tokens = Tokens::new(sql, lexis);
    let Some(Token::Word(first)) = tokens.next() else { return false };
    let ends = of_statement(first, tokens.clone()) == Some(Block::Closed);
    let mut behind = tokens.skip_while(|token| *token != Token::Semicolon);
    ends && !behind.any(|token| token != Token::Semicolon)
}

/// Returns whether `sql` is nothing but the beginning of a transaction.
#[must_use]
pub(crate) fn only_begins(sql: &[u8], lexis: Lexis) -> bool {
    let mut tokens = Tokens::new(sql, lexis);
    let Some(Token::Word(first)) = tokens.next() else { return false };
    let begins = of_statement(first, tokens.clone()) == Some(Block::Open);
    begins && !tokens.skip_while(|token| *token != Token::Semicolon).any(|token| token != Token::Semicolon)
}

fn of_statement(first: &[u8], behind: Tokens<'_>) -> Option<Block> {
    let is = |word: &[u8], wanted: &str| word.eq_ignore_ascii_case(wanted.as_bytes());
    let mut words = behind.take_while(|token| *token != Token::Semicolon).filter_map(|token| match token {
        Token::Word(word) => Some(word),
        _ => None,
    });
    if is(first, "begin") || is(first, "start") {
        return Some(Block::Open);
    }
    if is(first, "prepare") {
        return words.next().filter(|word| is(word, "transaction")).map(|_| Block::Closed);
    }
    if !["commit", "end", "rollback", "abort"].iter().any(|end| is(first, end)) {
        return None;
    }
    let mut words = words.skip_while(|word| is(word, "work") || is(word, "transaction"));
    match words.next() {
        Some(word) if is(word, "to") => None,
        // COMMIT PREPARED, ROLLBACK PREPARED.
        Some(word) if is(word, "prepared") => None,
        Some(word) if is(word, "and") && words.next().is_some_and(|next| is(next, "chain")) => Some(Block::Open),
        _ => Some(Block::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_leaves() {
        for (sql, block) in [
            ("begin", Some(Block::Open)),
            ("/* x */ START TRANSACTION; insert into t values ('; commit')", Some(Block::Open)),
            ("begin; commit", Some(Block::Closed)),
            ("rollback work and chain", Some(Block::Open)),
            ("commit and no chain", Some(Block::Closed)),
            ("rollback to s", None),
            ("rollback prepared 'x'", None),
            ("prepare transaction 'x'", Some(Block::Closed)),
            ("prepare x as select 1", None),
            ("select 1", None),
            ("end; begin", Some(Block::Open)),
            ("begin; create function f() returns int begin atomic select 1; end", Some(Block::Open)),
            ("create rule r as on delete to t do (select 1; end)", None),
        ] {
            assert_eq!(after(sql.as_bytes(), Lexis::default()), block, "{sql}");
        }
    }

    #[test]
    fn texts_that_only_end_a_transaction() {
        for sql in ["commit", "ROLLBACK;", " end ; ", "abort work"] {
            assert!(only_ends(sql.as_bytes(), Lexis::default()), "{sql}");
        }
        for sql in ["commit; select 1", "rollback to s", "commit and chain", "select 1", ""] {
            assert!(!only_ends(sql.as_bytes(), Lexis::default()), "{sql}");
        }
    }
}
