//! SQL's lexis, as far as one must know it to tell a keyword from what stands in a string or a comment.
//!
//! The rules are those of PostgreSQL's manual, chapter "Lexical Structure".

use super::lexis::{Backslashes, Characters, Lexis};
use super::unicode_name;

/// A piece of SQL text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or an unquoted name, as written.
    Word(&'a [u8]),
    /// Identifier between double quotes.
    Quoted(&'a [u8]),
    /// Contents of a string constant or between dollar quotes.
    Text(&'a [u8]),
    /// `;`.
    Semicolon,
    /// Any other character, the first of the digits of a number, or the `$` of a parameter.
    Other(u8),
    /// Identifier with escapes by number, `U&"…"`.
    UnicodeName {
        /// Text between the double quotes.
        name: &'a [u8],
        /// The character that an escape begins with.
        escape: u8,
    },
    /// Contents of a string constant that is continued on a later line, with what stands between its pieces.
    Continued(&'a [u8]),
    /// Text that needs decoding: `U&` escapes in a string.
    Unclear,
}

/// Bytes of a name that PostgreSQL keeps (`NAMEDATALEN`).
const MAX_NAME_BYTES: usize = 63;

impl Token<'_> {
    /// Returns the name that an identifier stands for: folded unless it is quoted, without doubled quotes, and cut off where
    /// PostgreSQL does, at the last character that ends within its length (`truncate_identifier` in `src/backend/parser/scansup.c`).
    #[must_use]
    pub(crate) fn identifier(&self) -> Option<Vec<u8>> {
        let mut name = match self {
            Token::Word(word) => word.to_ascii_lowercase(),
            Token::Quoted(name) => without_doubled_quotes(name),
            Token::UnicodeName { name, escape } => unicode_name::decoded(&without_doubled_quotes(name), *escape)?,
            _ => return None,
        };
        if name.len() > MAX_NAME_BYTES {
            let within = |byte: u8| byte & 0xC0 == 0x80;
            let end = (0..=MAX_NAME_BYTES).rev().find(|&end| !within(name[end])).unwrap_or(MAX_NAME_BYTES);
            name.truncate(end);
        }
        Some(name)
    }
}

/// The name that stands between double quotes.
fn without_doubled_quotes(name: &[u8]) -> Vec<u8> {
    let mut after_quote = false;
    let mut is_kept = |byte: &u8| {
        after_quote = *byte == b'"' && !after_quote;
        *byte != b'"' || after_quote
    };
    name.iter().copied().filter(|byte| is_kept(byte)).collect()
}

/// Walks the tokens of a text. Comments are passed over; an unfinished string or comment reaches to the end.
#[derive(Clone, Debug)]
pub(crate) struct Tokens<'a> {
    rest: &'a [u8],
    lexis: Lexis,
}

impl<'a> Tokens<'a> {
    /// Walks `sql`, which is read as `lexis` says.
    #[must_use]
    pub(crate) fn new(sql: &'a [u8], lexis: Lexis) -> Self {
        Self { rest: sql, lexis }
    }

    /// Returns the rest, which has not been walked.
    #[must_use]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Passes over blanks and comments; returns how many bytes that leaves.
    pub(crate) fn skip_to_token(&mut self) -> usize {
        self.skip_blanks_and_comments();
        self.rest.len()
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, rest @ ..] => self.rest = rest,
                [b'-', b'-', ..] => {
                    let line = self.rest.iter().position(|&b| b == b'\n' || b == b'\r');
                    self.take(line.unwrap_or(usize::MAX));
                }
                [b'/', b'*', ..] => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.rest {
                [b'/', b'*', ..] => {
                    depth += 1;
                    self.take(2);
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    self.take(2);
                    if depth == 0 {
                        return;
                    }
                }
                [] => return,
                _ => {
                    self.take(1);
                }
            }
        }
    }

    /// Reads up to the closing `quote`, doubled quotes being part of the content. Where `backslashes` escape, one
    /// takes the next byte along.
    fn quoted(&mut self, quote: u8, backslashes: Backslashes) -> &'a [u8] {
        self.take(1);
        let mut at = 0;
        while let Some(&byte) = self.rest.get(at) {
            if backslashes == Backslashes::Escape && byte == b'\\' {
                at += 1 + self.rest.get(at + 1).map_or(1, |&next| self.lexis.characters.length(next));
            } else if byte == quote {
                if self.rest.get(at + 1) != Some(&quote) {
                    break;
                }
                at += 2;
            } else {
                at += self.lexis.characters.length(byte);
            }
        }
        let content = self.take(at);
        self.take(1);
        content
    }

    /// A string with escapes or without, and those behind it on later lines that continue it: they have escapes as it has.
    fn string(&mut self, backslashes: Backslashes) -> Token<'a> {
        let all = self.rest;
        let mut token = Token::Text(self.quoted(b'\'', backslashes));
        while let Some(blanks) = continues(self.rest) {
            self.take(blanks);
            self.quoted(b'\'', backslashes);
            let length = all.len() - self.rest.len();
            token = Token::Continued(all.get(1..length.saturating_sub(1)).unwrap_or_default());
        }
        token
    }

    /// Reads a parameter, or a constant between dollar quotes.
    fn dollar(&mut self) -> Token<'a> {
        if self.rest.get(1).is_some_and(u8::is_ascii_digit) {
            self.take(1);
            self.skip_digits();
            return Token::Other(b'$');
        }
        let tag_end = self.rest[1..].iter().position(|&b| b == b'$').map(|at| at + 2);
        let tag = tag_end.map(|end| &self.rest[..end]);
        let is_tag = |tag: &&[u8]| {
            let name = &tag[1..tag.len() - 1];
            !name.first().is_some_and(u8::is_ascii_digit)
                && self.word_length(name) == name.len()
                && !name.contains(&b'$')
        };
        let Some(tag) = tag.filter(is_tag) else {
            self.take(1);
            return Token::Other(b'$');
        };
        self.take(tag.len());
        let end = self.rest.windows(tag.len()).position(|window| window == tag);
        let content = self.take(end.unwrap_or(usize::MAX));
        self.take(tag.len());
        Token::Text(content)
    }

    fn word(&mut self) -> Token<'a> {
        let end = self.word_length(self.rest);
        let word = self.take(end);
        match word {
            &[letter] => self.letter(letter).unwrap_or(Token::Word(word)),
            _ => Token::Word(word),
        }
    }

    /// Number of bytes of a name at the beginning of `text`.
    fn word_length(&self, text: &[u8]) -> usize {
        let end = |text: &[u8]| text.iter().position(|&b| !is_word(b)).unwrap_or(text.len());
        if self.lexis.characters == Characters::AsciiAlone {
            return end(text);
        }
        let mut at = 0;
        while let Some(&byte) = text.get(at).filter(|&&byte| is_word(byte)) {
            at += self.lexis.characters.length(byte);
        }
        at.min(text.len())
    }

    /// Reads a token that begins with one letter which is no word but the kind of a string.
    fn letter(&mut self, letter: u8) -> Option<Token<'a>> {
        match (letter, self.rest) {
            (b'e' | b'E', [b'\'', ..]) => Some(self.string(Backslashes::Escape)),
            (b'b' | b'B' | b'x' | b'X', [b'\'', ..]) => Some(self.string(Backslashes::Literal)),
            (b'n' | b'N', [b'\'', ..]) => Some(self.string(self.lexis.backslashes)),
            (b'u' | b'U', [b'&', b'\'', ..]) => {
                self.take(1);
                self.quoted(b'\'', Backslashes::Literal);
                Some(Token::Unclear)
            }
            (b'u' | b'U', [b'&', b'"', ..]) => {
                self.take(1);
                let name = self.quoted(b'"', Backslashes::Literal);
                Some(Token::UnicodeName { name, escape: self.unicode_escape() })
            }
            _ => None,
        }
    }

    /// Reads the `UESCAPE` behind a name, if there is one. Only a string can stand behind that word, so that no other name is
    /// read ahead: it would have an `UESCAPE` looked for itself, and so each in a text of thousands.
    fn unicode_escape(&mut self) -> u8 {
        let mut ahead = self.clone();
        ahead.skip_to_token();
        let (word, behind) = ahead.rest.split_at(ahead.word_length(ahead.rest));
        ahead.rest = behind;
        ahead.skip_to_token();
        let is_string = matches!(ahead.rest, [b'\'' | b'$', ..] | [b'e' | b'E', b'\'', ..]);
        let is_escape = is_string && word.eq_ignore_ascii_case(b"uescape");
        match Some(&mut ahead).filter(|_| is_escape).and_then(Iterator::next) {
            Some(Token::Text(&[escape])) => {
                *self = ahead;
                escape
            }
            _ => b'\\',
        }
    }

    /// Passes over a number: before PostgreSQL 15 a word may follow it without a blank.
    fn skip_number(&mut self) {
        self.skip_digits();
        if let [b'.', behind @ ..] = self.rest
            && behind.first() != Some(&b'.')
        {
            self.rest = behind;
            self.skip_digits();
        }
        if let [b'e' | b'E', b'0'..=b'9', ..] = self.rest {
            self.take(1);
            self.skip_digits();
        }
    }

    fn skip_digits(&mut self) {
        let end = self.rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(self.rest.len());
        self.take(end);
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (&first, rest) = self.rest.split_first()?;
            return Some(match first {
                b' ' => {
                    self.rest = rest;
                    continue;
                }
                _ if begins_word(first) => self.word(),
                b'0'..=b'9' => {
                    self.skip_number();
                    Token::Other(first)
                }
                b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'-' | b'/' => {
                    if self.skip_to_token() == rest.len() + 1 {
                        // It is an operator.
                        self.rest = rest;
                        Token::Other(first)
                    } else {
                        continue;
                    }
                }
                b'\'' => self.string(self.lexis.backslashes),
                b'"' => Token::Quoted(self.quoted(b'"', Backslashes::Literal)),
                b'$' => self.dollar(),
                _ => {
                    self.rest = rest;
                    if first == b';' { Token::Semicolon } else { Token::Other(first) }
                }
            });
        }
    }
}

/// Number of bytes in front of the string that continues the one before: blanks and comments to the end of a line, of which
/// at least one has ended.
fn continues(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut lines = 0;
    loop {
        match rest.get(at..)? {
            [b'\n' | b'\r', ..] => (at, lines) = (at + 1, lines + 1),
            [b' ' | b'\t' | 0x0b | 0x0c, ..] => at += 1,
            [b'-', b'-', comment @ ..] => at += 2 + comment.iter().position(|&b| b == b'\n' || b == b'\r')?,
            [b'\'', ..] if lines > 0 => return Some(at),
            _ => return None,
        }
    }
}

/// The content of a string constant without what stands between its pieces. One with an escaped quote at the end of a line loses that.
pub(super) fn joined(continued: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(continued.len());
    let mut rest = continued;
    while let Some((&byte, behind)) = rest.split_first() {
        let blanks = if byte == b'\'' { continues(behind) } else { None };
        rest = behind.get(blanks.map_or(0, |blanks| blanks + 1)..).unwrap_or_default();
        joined.extend(blanks.is_none().then_some(byte));
    }
    joined
}

/// A byte that may begin an unquoted name.
fn begins_word(byte: u8) -> bool {
    is_word(byte) && !byte.is_ascii_digit() && byte != b'$'
}

/// A byte that may stand inside an unquoted name; bytes above ASCII count as letters, as in PostgreSQL's scanner.
pub(super) const fn is_word(byte: u8) -> bool {
    WORD[byte as usize]
}

/// [`is_word`] of every byte: texts are walked byte by byte.
const WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = u8::MAX;
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        if byte == 0 {
            break table;
        }
        byte -= 1;
    }
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(sql: &str) -> Vec<String> {
        Tokens::new(sql.as_bytes(), Lexis::default())
            .filter_map(|token| match token {
                Token::Word(word) => Some(String::from_utf8_lossy(word).into_owned()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn identifiers_are_what_postgresql_makes_of_them() {
        let long = "n".repeat(70);
        for (sql, expected) in [
            ("Abc", Some("abc")),
            ("\"A b\"", Some("A b")),
            ("\"a\"\"b\"\"\"", Some("a\"b\"")),
            ("\"\"\"\"", Some("\"")),
            (long.as_str(), Some(&long[..63])),
            // 63 bytes end within a character.
            (&"ä".repeat(40), Some(&*"ä".repeat(31))),
            (&format!("\"{}\"", "€".repeat(40)), Some(&*"€".repeat(21))),
            ("'a'", None),
            ("U&\"\\0061b\"", Some("ab")),
            ("u&\"!0041\"\"\" /* x */ uescape '!'", Some("A\"")),
            ("U&\"!0041\" UESCAPE e'!'", Some("A")),
            ("U&\"!0041\"uescape $$!$$", Some("A")),
            ("U&\"!0041\" uescapes '!'", Some("!0041")),
            ("U&\"!0041\" uescape u&'!'", Some("!0041")),
            ("U&\"\\zzzz\"", None),
            ("U&'a'", None),
            ("1", None),
        ] {
            let token = Tokens::new(sql.as_bytes(), Lexis::default()).next().expect("a token");
            assert_eq!(token.identifier().as_deref(), expected.map(str::as_bytes), "{sql}");
        }
    }

    #[test]
    fn comments_and_strings_hide_words() {
        assert_eq!(words("select /* a /* b */ c */ x -- y\n, 'z' , \"w\" from t"), ["select", "x", "from", "t"]);
        assert_eq!(words("select $$set$$, $a$ $$ set $a$, E'\\' set', x"), ["select", "x"]);
        assert_eq!(words("select 'it''s set' y"), ["select", "y"]);
        assert_eq!(words("select $1, $2 z"), ["select", "z"]);
        assert_eq!(words("a$b $c$d$c$ e"), ["a$b", "e"]);
    }

    #[test]
    fn escapes_that_need_decoding_are_unclear() {
        let unclear = |sql: &str| Tokens::new(sql.as_bytes(), Lexis::default()).any(|token| token == Token::Unclear);
        assert!(unclear(r"select U&'\0073et_config'"));
        assert!(!unclear(r"select 'C:\temp', e'\''"));
    }

    #[test]
    fn a_string_may_be_continued() {
        for (sql, content) in [
            ("'a'\n'b'", "ab"),
            ("'a'  -- why\n\n 'b' \r'c'", "abc"),
            ("n'it''s'\n''", "it''s"),
            ("E'a\\'b'\n'c'", "a\\'bc"),
        ] {
            let tokens: Vec<_> = Tokens::new(sql.as_bytes(), Lexis::default()).collect();
            let [Token::Continued(continued)] = tokens[..] else { panic!("{sql}: {tokens:?}") };
            assert_eq!(joined(continued), content.as_bytes(), "{sql}");
        }
        for sql in ["'a' 'b'", "'a' /* \n */ 'b'", "'a'\n, 'b'", "$$a$$\n'b'"] {
            assert!(!Tokens::new(sql.as_bytes(), Lexis::default()).any(|token| matches!(token, Token::Continued(_))));
        }
    }

    #[test]
    fn a_word_may_follow_a_number() {
        for sql in ["1into x", "1e5into x", "1.5e5into x", "1.E5into x", ".5into x", "1e+5into x"] {
            assert_eq!(words(sql).iter().filter(|word| **word != "e").collect::<Vec<_>>(), ["into", "x"], "{sql}");
        }
        assert_eq!(words("1..e5 t.e5 1efg"), ["e5", "t", "e5", "efg"]);
    }

    #[test]
    fn names_with_escapes_are_read_once_however_many_stand_in_a_row() {
        for (name, tokens) in [("U&\"a\" ", 1), ("U&\"a\" uescape ", 2), ("U&\"a\" uescape U&'b' ", 3)] {
            let sql = name.repeat(50_000);
            assert_eq!(Tokens::new(sql.as_bytes(), Lexis::default()).count(), 50_000 * tokens, "{name}");
        }
    }

    #[test]
    fn backslashes_escape_in_plain_strings_where_the_server_says_so() {
        let sql = r"select 'a\'; set x = 1; --'";
        let semicolons = |backslashes| {
            Tokens::new(sql.as_bytes(), Lexis::with_backslashes(backslashes))
                .filter(|token| *token == Token::Semicolon)
                .count()
        };
        assert_eq!((semicolons(Backslashes::Literal), semicolons(Backslashes::Escape)), (2, 0));
    }

    #[test]
    fn backslashes_escape_nothing_in_bits() {
        for sql in ["select b'\\'; x", "select X'1'\n '\\'; x"] {
            let tokens = Tokens::new(sql.as_bytes(), Lexis::with_backslashes(Backslashes::Escape));
            assert_eq!(tokens.filter(|token| *token == Token::Semicolon).count(), 1, "{sql}");
        }
    }

    #[test]
    fn a_byte_of_ascii_may_be_part_of_a_character() {
        let lexis = |characters| Lexis { backslashes: Backslashes::Escape, characters };
        let semicolons = |sql: &[u8], characters| {
            Tokens::new(sql, lexis(characters)).filter(|token| *token == Token::Semicolon).count()
        };
        for sql in [
            &b"'\x83\\'; select '\x83\\'"[..],
            b"E'\\\x83\\'; select E'\\\x83\\'",
            b"$\x83\\$ ' $\x83\\$; select $\x83\\$ ' $\x83\\$",
        ] {
            assert_eq!(semicolons(sql, Characters::AsciiAlone), 0, "{sql:?}");
            assert_eq!((semicolons(sql, Characters::Pairs), semicolons(sql, Characters::ShiftJis)), (1, 1), "{sql:?}");
        }
        let katakana = b"'\xb1\\'; '";
        assert_eq!((semicolons(katakana, Characters::Pairs), semicolons(katakana, Characters::ShiftJis)), (1, 0));
        let name = |characters| Tokens::new(b"a\x83\\b c", lexis(characters)).count();
        assert_eq!((name(Characters::AsciiAlone), name(Characters::Pairs)), (4, 2));
    }

    #[test]
    fn unfinished_tokens_reach_to_the_end() {
        for sql in ["select 'abc", "select \"abc", "select $$abc", "select /* abc", "select -- abc", "select e'\\"] {
            assert_eq!(words(sql), ["select"], "{sql}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_ends(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Tokens::new(&sql, Lexis::default()).count() <= sql.len());
        }

        #[test]
        fn texts_made_of_quotes_end(sql in "[ '\"$a;/*\\\\eU&-]{0,60}") {
            prop_assert!(Tokens::new(sql.as_bytes(), Lexis::default()).count() <= sql.len());
        }
    }
}
