//! Where a text of SQL names statements of the extended protocol.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::client_statements::ClientStatements;
use super::lexis::Lexis;
use super::sql::{Token, Tokens};
use super::sql_effects::SqlEffects;
use super::sql_statement::is;
use super::statements::{PREFIX, Statement};
use super::unknown_settings::UnknownSettings;

/// Mention of a statement in a text.
#[derive(Clone, Debug)]
pub(crate) struct Mention {
    /// Range in the text, in bytes.
    pub at: Range<usize>,
    /// The name.
    pub name: Box<[u8]>,
    /// The statement.
    pub statement: Arc<Statement>,
    /// Purpose.
    pub purpose: Purpose,
}

/// Purposes of a mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is run, by `EXECUTE`.
    Run,
    /// It is freed, by `DEALLOCATE`.
    Free,
    /// Another one is to be made of its name, by `PREPARE`, which fails.
    Make,
}

/// Finds where a text says `EXECUTE name`, `DEALLOCATE name` or `PREPARE name` of a statement that `names` knows: SQL sees
/// the statements of the extended protocol too, but under the names they have on the server. Behind a `DEALLOCATE ALL` there are none.
#[must_use]
pub(crate) fn mentions(sql: &[u8], names: &ClientStatements, lexis: Lexis) -> Vec<Mention> {
    let mut found = Vec::new();
    if names.is_empty() {
        return found;
    }
    each_name(sql, lexis, |at, name, purpose| {
        let Named::One(name) = name else { return Walk::Ends };
        let named = names.get(&name);
        found.extend(named.map(|named| Mention { at, statement: Arc::clone(&named.statement), name, purpose }));
        Walk::GoesOn
    });
    found
}

/// Returns the effects of a text that runs what it mentions: the tags of that are not among those that its own commands expect.
#[must_use]
pub(crate) fn joined<'e>(effects: &'e SqlEffects, mentioned: &[Mention]) -> Cow<'e, SqlEffects> {
    let mut joined = Cow::Borrowed(effects);
    let run = mentioned.iter().filter(|mention| mention.purpose == Purpose::Run);
    for text in run.filter_map(|mention| mention.statement.text.as_ref()) {
        if text.effects.sets() || text.effects.names_statements {
            joined.to_mut().unknown_settings = UnknownSettings::ForSession;
        }
        if text.effects.defines_code && !joined.defines_code {
            joined.to_mut().defines_code = true;
        }
        if text.effects.transaction > joined.transaction {
            joined.to_mut().transaction = text.effects.transaction;
        }
    }
    joined
}

/// Returns a name that a text mentions which is one of pgferry's own on the server, and none that `names` knows: another client's
/// statement may have it.
#[must_use]
pub(crate) fn others_name(sql: &[u8], names: &ClientStatements, lexis: Lexis) -> Option<Box<[u8]>> {
    let mut found = None;
    each_name(sql, lexis, |_, name, _| match name {
        Named::One(name) if name.starts_with(PREFIX.as_bytes()) && names.get(&name).is_none() => {
            found = Some(name);
            Walk::Ends
        }
        _ => Walk::GoesOn,
    });
    found
}

/// Statements that are named.
enum Named {
    /// The one with this name.
    One(Box<[u8]>),
    /// All.
    All,
}

/// Progress of a walk through a text's names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    GoesOn,
    Ends,
}

/// Gives `see` each name in a text that stands where `EXECUTE`, `DEALLOCATE` and `PREPARE` have that of a statement.
fn each_name(sql: &[u8], lexis: Lexis, mut see: impl FnMut(Range<usize>, Named, Purpose) -> Walk) {
    let mut tokens = Tokens::new(sql, lexis);
    let mut place = Place::Beginning;
    loop {
        let start = sql.len() - tokens.skip_to_token();
        let Some(token) = tokens.next() else { return };
        let Place::Name(purpose) = place else {
            place = place.behind(token);
            continue;
        };
        if is_keyword(token, purpose, &tokens) {
            continue;
        }
        place = if token == Token::Semicolon { Place::Beginning } else { Place::Elsewhere };
        let at = start..sql.len() - tokens.rest().len();
        let walk = match token {
            Token::Word(word) if purpose == Purpose::Free && is(word, b"all") => see(at, Named::All, purpose),
            Token::Word(word) if is_reserved(word) => Walk::GoesOn,
            token => token.identifier().map_or(Walk::GoesOn, |name| see(at, Named::One(name.into()), purpose)),
        };
        if walk == Walk::Ends {
            return;
        }
    }
}

/// Place in a text, as far as a statement's name may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A statement begins.
    Beginning,
    /// Within a statement that may have an `EXECUTE`, and behind a word that it may stand behind.
    BeforeExecute(Around),
    /// Within such a statement, behind another word.
    Within(Around),
    /// A statement's name is next.
    Name(Purpose),
    Elsewhere,
}

/// Statements that may have an `EXECUTE` in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Around {
    Explain,
    /// `CREATE TABLE … AS`; of a trigger, too, but that one does not stand behind `AS`.
    Create,
}

impl Place {
    /// Returns the place behind `token`, which is no name here.
    fn behind(self, token: Token<'_>) -> Self {
        let word = match token {
            Token::Semicolon => return Self::Beginning,
            Token::Word(word) => word,
            _ => b"",
        };
        match self {
            Self::Beginning | Self::BeforeExecute(_) if is(word, b"execute") => Self::Name(Purpose::Run),
            Self::Beginning if is(word, b"deallocate") => Self::Name(Purpose::Free),
            Self::Beginning if is(word, b"prepare") => Self::Name(Purpose::Make),
            Self::Beginning if is(word, b"explain") => Self::BeforeExecute(Around::Explain),
            Self::Beginning if is(word, b"create") => Self::Within(Around::Create),
            Self::BeforeExecute(around) | Self::Within(around) if is(word, b"as") => Self::BeforeExecute(around),
            Self::BeforeExecute(Around::Explain) | Self::Within(Around::Explain)
                if [&b"analyze"[..], b"analyse", b"verbose"].iter().any(|option| is(word, option))
                    || token == Token::Other(b')') =>
            {
                Self::BeforeExecute(Around::Explain)
            }
            Self::BeforeExecute(around) | Self::Within(around) => Self::Within(around),
            Self::Beginning | Self::Name(_) | Self::Elsewhere => Self::Elsewhere,
        }
    }
}

/// Returns whether `token`, where a statement's name may be, is a word in front of that, or of another kind of statement; `behind` it
/// is what decides.
fn is_keyword(token: Token<'_>, purpose: Purpose, behind: &Tokens<'_>) -> bool {
    let Token::Word(word) = token else { return false };
    let next = behind.clone().next();
    match purpose {
        // `DEALLOCATE prepare` frees a statement of that name.
        Purpose::Free => is(word, b"prepare") && !matches!(next, None | Some(Token::Semicolon)),
        Purpose::Make => {
            is(word, b"transaction") && matches!(next, Some(Token::Text(_) | Token::Continued(_) | Token::Unclear))
        }
        Purpose::Run => false,
    }
}

/// Returns whether an unquoted word can't be a name (`ColId` in `src/backend/parser/gram.y`).
fn is_reserved(word: &[u8]) -> bool {
    let word = word.to_ascii_lowercase();
    RESERVED.binary_search(&&*word).is_ok()
}

/// Words that are no names unless they are quoted, in every version of PostgreSQL.
const RESERVED: [&[u8]; 100] = [
    b"all",
    b"analyse",
    b"analyze",
    b"and",
    b"any",
    b"array",
    b"as",
    b"asc",
    b"asymmetric",
    b"authorization",
    b"binary",
    b"both",
    b"case",
    b"cast",
    b"check",
    b"collate",
    b"collation",
    b"column",
    b"concurrently",
    b"constraint",
    b"create",
    b"cross",
    b"current_catalog",
    b"current_date",
    b"current_role",
    b"current_schema",
    b"current_time",
    b"current_timestamp",
    b"current_user",
    b"default",
    b"deferrable",
    b"desc",
    b"distinct",
    b"do",
    b"else",
    b"end",
    b"except",
    b"false",
    b"fetch",
    b"for",
    b"foreign",
    b"freeze",
    b"from",
    b"full",
    b"grant",
    b"group",
    b"having",
    b"ilike",
    b"in",
    b"initially",
    b"inner",
    b"intersect",
    b"into",
    b"is",
    b"isnull",
    b"join",
    b"lateral",
    b"leading",
    b"left",
    b"like",
    b"limit",
    b"localtime",
    b"localtimestamp",
    b"natural",
    b"not",
    b"notnull",
    b"null",
    b"offset",
    b"on",
    b"only",
    b"or",
    b"order",
    b"outer",
    b"overlaps",
    b"placing",
    b"primary",
    b"references",
    b"returning",
    b"right",
    b"select",
    b"session_user",
    b"similar",
    b"some",
    b"symmetric",
    b"table",
    b"tablesample",
    b"then",
    b"to",
    b"trailing",
    b"true",
    b"union",
    b"unique",
    b"user",
    b"using",
    b"variadic",
    b"verbose",
    b"when",
    b"where",
    b"window",
    b"with",
];

#[cfg(test)]
mod tests {
    use super::super::client_statements::NamedStatement;
    use super::super::statements::StatementCache;
    use super::*;

    #[test]
    fn sql_that_mentions_statements() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        for name in [&b"s1"[..], b"S 2", b"all", b"as", b"prepare", b"transaction", b"function"] {
            let statement = cache.uncached();
            names.set(name, Some(NamedStatement::new(statement)));
        }
        for (sql, mentioned) in [
            ("deallocate s1", vec!["s1"]),
            ("DEALLOCATE PREPARE S1;", vec!["S1"]),
            ("execute \"S 2\"(1, 2); /* x */ execute /* y */ s1", vec!["\"S 2\"", "s1"]),
            ("explain analyze execute s1", vec!["s1"]),
            ("select s1, 'execute s1' from s1", vec![]),
            ("execute s3", vec![]),
            ("prepare s1 as select 1", vec!["s1"]),
            ("prepare transaction 's1'", vec![]),
            ("deallocate all", vec![]),
            ("grant execute on function s1() to s1", vec![]),
            ("DEALLOCATE u&\"s\\0031\"", vec!["u&\"s\\0031\""]),
            ("execute U&\"!0053 2\" uescape '!' (1)", vec!["U&\"!0053 2\" uescape '!'"]),
            ("explain (analyze, costs off) execute s1", vec!["s1"]),
            ("create table t (a) as execute s1(1) with no data", vec!["s1"]),
            ("execute s1; deallocate all; execute s1; prepare s1 as select 1", vec!["s1"]),
            ("deallocate prepare all; deallocate s1", vec![]),
            ("deallocate \"all\"; deallocate s1", vec!["\"all\"", "s1"]),
            ("deallocate as", vec![]),
            ("deallocate prepare", vec!["prepare"]),
            ("deallocate prepare; deallocate s1", vec!["prepare", "s1"]),
            ("deallocate prepare prepare", vec!["prepare"]),
            ("prepare transaction as select 1", vec!["transaction"]),
            ("prepare transaction 'transaction'", vec![]),
            ("select prepare s1, execute s1 from t", vec![]),
            (
                "create trigger t after insert on u referencing new table as s1 when (true) execute function s1()",
                vec![],
            ),
        ] {
            let found = mentions(sql.as_bytes(), &names, Lexis::default());
            assert_eq!(found.iter().map(|mention| &sql[mention.at.clone()]).collect::<Vec<_>>(), mentioned, "{sql}");
            let frees = sql.to_ascii_lowercase().starts_with("deallocate");
            assert!(found.iter().all(|mention| (mention.purpose == Purpose::Free) == frees), "{sql}");
        }
    }

    #[test]
    fn names_of_the_server() {
        let cache = StatementCache::default();
        let mut names = ClientStatements::default();
        names.set(b"pgferry_2", Some(NamedStatement::new(cache.uncached())));
        for (sql, expected) in [
            ("execute pgferry_1", Some("pgferry_1")),
            ("select 1; DEALLOCATE PREPARE \"pgferry_12\"", Some("pgferry_12")),
            ("prepare pgferry_3 as select 1", Some("pgferry_3")),
            ("execute pgferry_2", None),
            ("select 'execute pgferry_1', pgferry_1 from pgferry_1", None),
            ("execute Pgferry_2; deallocate PGFERRY_1", Some("pgferry_1")),
        ] {
            let found = others_name(sql.as_bytes(), &names, Lexis::default());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{sql}");
        }
    }
}
