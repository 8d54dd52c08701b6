//! The words behind the one that a statement begins with, as far as they make it a command that can be followed.

use super::{SessionCommand, is_followed};
use crate::track::characteristics;
use crate::track::lexis::Lexis;
use crate::track::sql::{Token, Tokens};
use crate::track::sql_statement::is;

/// The longest `SET` that is kept, in bytes. A longer one pins.
const MAX_SET_BYTES: usize = 4096;

/// Forms of a `SET`, by what words mean as its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetForm {
    /// `LOCAL` is a value like others: `synchronous_commit` has it.
    General,
    /// `SET TIME ZONE`: `LOCAL` is another way to say `DEFAULT`.
    TimeZone,
}

/// The words of one statement, read one after another.
pub(super) struct Words<'a> {
    sql: &'a [u8],
    tokens: Tokens<'a>,
    lexis: Lexis,
}

impl<'a> Words<'a> {
    /// The words of `sql`.
    pub(super) fn new(sql: &'a [u8], lexis: Lexis) -> Self {
        Self { sql, tokens: Tokens::new(sql, lexis), lexis }
    }

    fn next(&mut self) -> Option<Token<'a>> {
        self.tokens.next()
    }

    /// The next token, and where it begins.
    pub(super) fn next_at(&mut self) -> Option<(Token<'a>, usize)> {
        let start = self.sql.len() - self.tokens.skip_to_token();
        self.tokens.next().map(|token| (token, start))
    }

    /// The next token, if it is a word.
    pub(super) fn word(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Returns whether nothing follows.
    fn ends(&mut self) -> bool {
        self.next().is_none()
    }

    /// A name that ends the statement.
    pub(super) fn last_name(&mut self) -> Option<Box<[u8]>> {
        let name = self.next()?.identifier()?.into();
        self.ends().then_some(name)
    }

    /// Returns whether what follows `SET` or `RESET` is no setting that is followed: a role, a transaction's properties,
    /// constraints. A name may begin with such a word too (`SET transaction.x = 1`).
    pub(super) fn sets_other(&self) -> bool {
        let mut ahead = self.tokens.clone();
        let mut word = || match ahead.next() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        };
        let Some(mut first) = word() else { return false };
        if is(first, b"session") || is(first, b"local") {
            let Some(second) = word() else { return false };
            if is(first, b"session") && is(second, b"characteristics") {
                // It changes settings for good.
                return false;
            }
            first = second;
        }
        let other = [&b"role"[..], b"transaction", b"constraints", b"authorization"].iter().any(|name| is(first, name));
        other && !matches!(ahead.next(), Some(Token::Other(b'.')))
    }

    /// Reads the rest of a `SET` that begins at `start`.
    pub(super) fn set(&mut self, start: usize) -> Option<SessionCommand> {
        let mut local = false;
        let mut token = self.next()?;
        if let Token::Word(word) = token
            && (is(word, b"local") || is(word, b"session"))
            && !self.is_at_dot()
        {
            local = is(word, b"local");
            token = self.next()?;
            if !local && matches!(token, Token::Word(word) if is(word, b"characteristics")) && !self.is_at_dot() {
                return characteristics::sets(&mut self.tokens).map(|sets| SessionCommand::SetCharacteristics { sets });
            }
        }
        let (name, form) = self.setting(token)?;
        let (default, end) = self.value(&name, form)?;
        let text = self.sql.get(start..end)?;
        // What is not finished would swallow what is said behind it. A schema for temporary tables in a search_path makes
        // tables that belong to the session.
        if !is_finished(text, self.lexis) || text.windows(7).any(|window| is(window, b"pg_temp")) {
            return None;
        }
        // What these mean depends on settings that may be others when the statement is said again.
        let varies = text.iter().any(|&b| b == b'\\' || b >= 0x80);
        // Which configuration a plain name means depends on the search_path of then.
        let plain = *name == *b"default_text_search_config" && !text.contains(&b'.') && !default;
        if text.len() > MAX_SET_BYTES || varies || plain {
            return (!local).then_some(SessionCommand::UnknownSet { name: Some(name) });
        }
        Some(match (default, local) {
            (true, false) => SessionCommand::Reset { name },
            (true, true) => SessionCommand::ResetLocal { name, text: text.into() },
            (false, true) => SessionCommand::SetLocal { name, text: text.into() },
            (false, false) => SessionCommand::Set { name, text: text.into() },
        })
    }

    fn is_at_dot(&self) -> bool {
        matches!(self.tokens.clone().next(), Some(Token::Other(b'.')))
    }

    /// The name of the setting that begins with `first`, and `TO` or `=` behind it where the `SET` has this form.
    fn setting(&mut self, first: Token<'a>) -> Option<(Box<[u8]>, SetForm)> {
        if let Token::Word(word) = first
            && !self.is_at_dot()
        {
            match word.to_ascii_lowercase().as_slice() {
                b"time" => {
                    if !is(self.word()?, b"zone") {
                        return None;
                    }
                    return Some(((*b"timezone").into(), SetForm::TimeZone));
                }
                b"xml" => {
                    if !is(self.word()?, b"option") {
                        return None;
                    }
                    return Some(((*b"xmloption").into(), SetForm::General));
                }
                b"names" => return Some(((*b"client_encoding").into(), SetForm::General)),
                b"schema" => return Some(((*b"search_path").into(), SetForm::General)),
                _ => {}
            }
        }
        let mut name = first.identifier()?.to_ascii_lowercase();
        loop {
            match self.next()? {
                Token::Other(b'.') => {
                    name.push(b'.');
                    name.extend(self.next()?.identifier()?.to_ascii_lowercase());
                }
                Token::Other(b'=') => break,
                Token::Word(word) if is(word, b"to") => break,
                _ => return None,
            }
        }
        is_followed(&name).then(|| (name.into(), SetForm::General))
    }

    /// The value of the setting `name` to the end of the statement: whether it is `DEFAULT`, and where it ends.
    fn value(&mut self, name: &[u8], form: SetForm) -> Option<(bool, usize)> {
        let mut count = 0;
        let mut default = false;
        let mut end = None;
        while let Some(token) = self.next() {
            match token {
                Token::Semicolon | Token::Continued(_) | Token::UnicodeName { .. } | Token::Unclear => return None,
                Token::Word(word) => {
                    let local = form == SetForm::TimeZone && is(word, b"local");
                    default = count == 0 && (is(word, b"default") || local);
                }
                // To this setting alone it means the same as a value (`check_datestyle` in `src/backend/commands/variable.c`).
                Token::Text(value) | Token::Quoted(value) if name == b"datestyle" => {
                    default = count == 0 && is(value.trim_ascii(), b"default");
                }
                _ => default = false,
            }
            count += 1;
            end = Some(self.sql.len() - self.tokens.rest().len());
        }
        end.map(|end| (default, end))
    }

    /// Reads the rest of a `RESET`.
    pub(super) fn reset(&mut self) -> Option<SessionCommand> {
        let first = self.next()?;
        if let Token::Word(word) = first
            && !self.is_at_dot()
        {
            if is(word, b"all") {
                return self.ends().then_some(SessionCommand::ResetAll);
            }
            if is(word, b"time") {
                let zone = is(self.word()?, b"zone");
                return (zone && self.ends()).then(|| SessionCommand::Reset { name: (*b"timezone").into() });
            }
        }
        let mut name = first.identifier()?.to_ascii_lowercase();
        loop {
            match self.next() {
                None => break,
                Some(Token::Other(b'.')) => {
                    name.push(b'.');
                    name.extend(self.next()?.identifier()?.to_ascii_lowercase());
                }
                Some(_) => return None,
            }
        }
        is_followed(&name).then(|| SessionCommand::Reset { name: name.into() })
    }

    /// `ROLLBACK [WORK | TRANSACTION] TO [SAVEPOINT] name`, or a plain one.
    pub(super) fn rollback(&mut self) -> SessionCommand {
        let mut word = self.word();
        if word.is_some_and(|word| is(word, b"work") || is(word, b"transaction")) {
            word = self.word();
        }
        match word {
            Some(word) if is(word, b"to") => {
                self.savepoint().map_or(SessionCommand::Rollback, |name| SessionCommand::RollbackTo { name })
            }
            _ => SessionCommand::Rollback,
        }
    }

    /// `[SAVEPOINT] name`.
    pub(super) fn savepoint(&mut self) -> Option<Box<[u8]>> {
        let mut token = self.next()?;
        let keyword = matches!(token, Token::Word(word) if is(word, b"savepoint"));
        if keyword && self.tokens.clone().next().is_some() {
            token = self.next()?;
        }
        let name = token.identifier()?.into();
        self.ends().then_some(name)
    }

    /// Reads the rest of a `DEALLOCATE` or `DISCARD`, whichever `first` is.
    pub(super) fn sweep(&mut self, first: &[u8]) -> Option<SessionCommand> {
        if !is(first, b"deallocate") {
            let all = self.word().is_some_and(|word| is(word, b"all"));
            return all.then_some(SessionCommand::DiscardAll);
        }
        let mut token = self.next()?;
        // `DEALLOCATE prepare` frees a statement of that name.
        if matches!(token, Token::Word(word) if is(word, b"prepare")) {
            token = self.next().unwrap_or(token);
        }
        match token {
            Token::Word(word) if is(word, b"all") => Some(SessionCommand::DeallocateAll),
            token => token.identifier().map(|name| SessionCommand::Deallocate { name: name.into() }),
        }
    }
}

/// Returns whether another statement can stand behind `text`.
fn is_finished(text: &[u8], lexis: Lexis) -> bool {
    let closed = [text, b";"].concat();
    Tokens::new(&closed, lexis).last() == Some(Token::Semicolon)
}
