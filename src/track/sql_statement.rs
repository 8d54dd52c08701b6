//! What decides, of the words of one statement, what it is.

use super::pins::Pins;
use super::sequences::Sequences;
use super::sql::Token;

/// Words in front of a parenthesis that are no function's name.
const NOT_CALLED: [&[u8]; 32] = [
    b"all",
    b"and",
    b"any",
    b"as",
    b"between",
    b"by",
    b"case",
    b"distinct",
    b"else",
    b"except",
    b"exists",
    b"from",
    b"having",
    b"ilike",
    b"in",
    b"intersect",
    b"is",
    b"lateral",
    b"like",
    b"limit",
    b"not",
    b"on",
    b"or",
    b"over",
    b"select",
    b"set",
    b"some",
    b"then",
    b"union",
    b"using",
    b"values",
    b"where",
];

/// Code of a `DO`.
#[derive(Clone, Copy, Default)]
pub(super) struct Code<'a> {
    pub(super) text: &'a [u8],
    pub(super) language: Language,
}

/// The language of a `DO`'s code.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Language {
    #[default]
    PlPgSql,
    /// One that is not read here.
    Other,
}

/// Context of a token.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Behind {
    /// A name in double quotes, which may be that of a function.
    QuotedName,
    #[default]
    Other,
}

/// The words of one statement that decide what it is.
#[derive(Default)]
pub(super) struct Statement<'a> {
    /// Offset at which it begins in its text.
    pub(super) start: Option<usize>,
    pub(super) first: Option<&'a [u8]>,
    second: Option<&'a [u8]>,
    last: Option<&'a [u8]>,
    /// Parentheses that are open.
    depth: usize,
    /// Number of open parentheses where the arguments of a function began.
    call: Option<usize>,
    /// Context of the next token.
    behind: Behind,
    /// It is a `SET` of a role.
    role: bool,
    /// Code that it runs, if it is a `DO`.
    pub(super) code: Option<Code<'a>>,
    body: Body,
    /// It has said `UPDATE`.
    pub(super) updates: bool,
    makes: Makes,
    pub(super) sequences: Sequences,
}

/// Object that a statement makes, as far as it has been read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Makes {
    /// Object named by its first word, if any.
    #[default]
    AsItBegins,
    /// Something temporary.
    Temporary,
    /// A table, by an `INTO` that is not that of an `INSERT`.
    Table,
}

/// The body of a function in SQL's own form, `BEGIN ATOMIC …; END`: its semicolons end no statement of the text.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Body {
    /// None has begun, or it has ended.
    #[default]
    None,
    /// One of its statements may begin, or it ends.
    BetweenStatements,
    /// Within one of its statements, where `END` is a part of that.
    WithinStatement,
}

impl<'a> Statement<'a> {
    /// One in a procedural language, where the first word does not say what it is.
    pub(super) fn in_code() -> Self {
        Self { first: Some(b""), ..Self::default() }
    }

    /// Takes its next token.
    pub(super) fn token(&mut self, token: Token<'a>) {
        match token {
            Token::Word(word) => {
                self.word(word);
            }
            Token::Quoted(name) => self.named(name),
            Token::Other(byte) => {
                self.parenthesis(byte);
                self.other();
            }
            Token::Semicolon => self.semicolon(),
            Token::Text(_) | Token::Continued(_) | Token::UnicodeName { .. } | Token::Unclear => self.other(),
        }
    }

    pub(super) fn other(&mut self) {
        self.first.get_or_insert(b"");
        if self.last.is_some() {
            self.second.get_or_insert(b"");
        }
        self.last = Some(b"");
        self.behind = Behind::Other;
        if self.body == Body::BetweenStatements {
            self.body = Body::WithinStatement;
        }
    }

    /// A semicolon that does not end it.
    pub(super) fn semicolon(&mut self) {
        self.other();
        if self.body == Body::WithinStatement {
            self.body = Body::BetweenStatements;
        }
    }

    /// A name in double quotes.
    pub(super) fn named(&mut self, name: &'a [u8]) {
        self.other();
        self.behind = Behind::QuotedName;
        self.names_language(name);
    }

    /// Takes a constant as what a `DO` runs, or as the language of that; says whether it is.
    pub(super) fn takes_code(&mut self, text: &'a [u8]) -> bool {
        let Some(code) = &mut self.code else { return false };
        if self.last.is_some_and(|last| is(last, b"language")) {
            self.names_language(text);
        } else {
            code.text = text;
        }
        true
    }

    /// A word of a `DO`, which can only be that of its language.
    pub(super) fn names_language(&mut self, name: &[u8]) {
        if let Some(code) = &mut self.code
            && !is(name, b"language")
        {
            code.language = if is(name, b"plpgsql") { Language::PlPgSql } else { Language::Other };
        }
    }

    pub(super) fn parenthesis(&mut self, byte: u8) {
        match byte {
            b'(' => {
                let called = |last: &[u8]| !last.is_empty() && !NOT_CALLED.iter().any(|word| is(last, word));
                if self.behind == Behind::QuotedName || self.last.is_some_and(called) {
                    self.call.get_or_insert(self.depth);
                }
                self.depth += 1;
            }
            b')' => {
                self.depth = self.depth.saturating_sub(1);
                self.call = self.call.filter(|&call| call < self.depth);
            }
            _ => {}
        }
    }

    /// Returns whether what comes is part of a function's arguments.
    pub(super) fn is_in_call(&self) -> bool {
        self.call.is_some()
    }

    /// Returns whether it is a `SET` that takes on another role than the session has begun with, perhaps: `NONE` is one.
    pub(super) fn takes_role(&self) -> bool {
        let gives_up = self.last.is_some_and(|last| is(last, b"default"));
        self.begins(b"set") && self.role && !gives_up
    }

    pub(super) fn is_nested(&self) -> bool {
        self.depth > 0 || self.body != Body::None
    }

    /// Returns whether its first word is that of a command which [`super::session_command`] knows.
    pub(super) fn may_be_command(&self) -> bool {
        const FIRST: [&[u8]; 11] = [
            b"set",
            b"reset",
            b"savepoint",
            b"release",
            b"rollback",
            b"abort",
            b"commit",
            b"end",
            b"prepare",
            b"deallocate",
            b"discard",
        ];
        FIRST.iter().any(|word| self.begins(word))
    }

    /// Returns whether it may write rows.
    pub(super) fn writes(&self) -> bool {
        self.updates || [&b"insert"[..], b"merge", b"copy"].iter().any(|word| self.begins(word))
    }

    /// Returns whether it may change what code is in the database: tables have defaults and constraints.
    pub(super) fn defines_code(&self) -> bool {
        let creates = self.begins(b"create") && self.makes != Makes::Temporary;
        let prepared = self.begins(b"commit") && self.second.is_some_and(|second| is(second, b"prepared"));
        creates
            || prepared
            || self.makes == Makes::Table
            || [&b"alter"[..], b"import", b"do"].iter().any(|word| self.begins(word))
    }

    /// Returns whether it makes something temporary, as far as its words say.
    pub(super) fn makes_temporary(&self) -> bool {
        self.makes == Makes::Temporary
    }

    /// Returns whether what it makes is the session's own and may call functions later: what is temporary, what SQL prepares.
    pub(super) fn keeps_for_session(&self) -> bool {
        self.makes_temporary() || self.begins(b"prepare")
    }

    pub(super) fn begins(&self, word: &[u8]) -> bool {
        self.first.is_some_and(|first| first.eq_ignore_ascii_case(word))
    }

    pub(super) fn word(&mut self, word: &'a [u8]) -> Pins {
        let last = self.last.replace(word);
        self.behind = Behind::Other;
        let Some(first) = self.first else {
            self.first = Some(word);
            self.updates = is(word, b"update");
            self.code = is(word, b"do").then(Code::default);
            return Pins::empty();
        };
        self.names_language(word);
        let after = |words: &[&[u8]]| last.is_some_and(|last| words.iter().any(|&w| is(last, w)));
        if self.second.is_none() {
            self.second = Some(word);
            self.role = is(first, b"set") && is(word, b"role");
            if is(first, b"prepare") && !is(word, b"transaction") {
                return Pins::PREPARE;
            }
        } else if is(first, b"set") && after(&[b"session"]) {
            self.role |= is(word, b"authorization") || is(word, b"role");
        }
        self.updates |= is(word, b"update");
        self.body = match self.body {
            Body::None if is(first, b"create") && is(word, b"atomic") && after(&[b"begin"]) => Body::BetweenStatements,
            Body::BetweenStatements if is(word, b"end") => Body::None,
            Body::BetweenStatements => Body::WithinStatement,
            body => body,
        };
        let inserts = is(first, b"insert");
        if is(word, b"create") && is(first, b"explain") {
            self.makes = Makes::Table;
        }
        if is(word, b"into") && !inserts && !after(&[b"insert", b"merge"]) {
            self.makes = Makes::Table;
        }
        if (is(word, b"temp") || is(word, b"temporary"))
            && after(&[b"create", b"replace", b"local", b"global", b"into"])
        {
            self.makes = Makes::Temporary;
            return Pins::TEMP;
        }
        if (is(word, b"insert") || is(word, b"merge")) && !inserts {
            // The tag is that of what it is a part of.
            self.sequences = Sequences::GaveValues;
        }
        if is(word, b"default") && self.updates && !inserts {
            // What it sets a column to may be what a sequence gives next. Of an INSERT the tag tells.
            self.sequences = Sequences::GaveValues;
        }
        if is(word, b"hold") && after(&[b"with"]) {
            return Pins::CURSOR;
        }
        Pins::empty()
    }
}

pub(super) fn is(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}
