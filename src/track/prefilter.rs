//! A quick pass over SQL that spares most statements the analysis: they hold nothing that could leave anything behind.
//!
//! It looks at bytes and words only, whether they stand in double quotes or not, and lets nothing pass that [`super::sql`]
//! would have to understand: string constants, comments, several statements. What it does not pass is
//! analysed properly.

use super::sql::is_word;

/// Returns whether `sql` is certain to do nothing that [`super::sql_effects::analyze`] looks for.
///
/// ```
/// use pgferry::internals::track::prefilter::is_stateless;
///
/// assert!(is_stateless(b"select id from basket where customer = $1"));
/// assert!(!is_stateless(b"set work_mem = '1GB'"));
/// assert!(!is_stateless(b"select 'a string is for the analysis'"));
/// ```
#[must_use]
pub fn is_stateless(sql: &[u8]) -> bool {
    let mut at = 0;
    let mut begun = false;
    let mut inserts = false;
    while let Some(&byte) = sql.get(at) {
        let from = at;
        at += 1;
        match KINDS[usize::from(byte)] {
            // It is part of a number, perhaps, and what stands behind that a word of its own.
            Kind::Letter if is_exponent(sql, from) => return false,
            Kind::Letter => {
                let mut marks = WORD[usize::from(byte)];
                for &byte in &sql[at..] {
                    let mark = WORD[usize::from(byte)];
                    if mark == NO_WORD {
                        break;
                    }
                    marks |= mark;
                    at += 1;
                }
                let has_underscore = marks & UNDERSCORE != 0;
                let word = &sql[from..at];
                let harmless = if begun {
                    // Most words need no closer look.
                    !(MAY_MATTER[usize::from(byte)] || has_underscore) || is_harmless(word, inserts)
                } else {
                    begins_harmlessly(word)
                };
                if !harmless {
                    return false;
                }
                inserts |= !begun && word.eq_ignore_ascii_case(b"insert");
                begun = true;
            }
            Kind::Blank => {}
            Kind::Sign if begun => {}
            // Comments begin with two.
            Kind::Dash if begun && !matches!(sql.get(at), Some(b'-' | b'*')) => {}
            // A parameter. Dollar quotes don't begin so.
            Kind::Dollar if begun && sql.get(at).is_some_and(u8::is_ascii_digit) => {}
            Kind::Semicolon => return sql[at..].iter().all(|&b| KINDS[usize::from(b)] == Kind::Blank),
            Kind::Sign | Kind::Dash | Kind::Dollar | Kind::Other => return false,
        }
    }
    true
}

/// Returns whether what begins at `at` may be the exponent of a number.
fn is_exponent(sql: &[u8], at: usize) -> bool {
    matches!(sql[at..], [b'e' | b'E', b'0'..=b'9', ..]) && matches!(sql[..at], [.., b'0'..=b'9' | b'.'])
}

/// Returns whether the first word of a statement says that it only reads and writes rows, or begins a transaction.
fn begins_harmlessly(word: &[u8]) -> bool {
    const WORDS: [&[u8]; 7] = [b"select", b"insert", b"update", b"delete", b"with", b"values", b"begin"];
    WORDS.iter().any(|harmless| word.eq_ignore_ascii_case(harmless))
}

/// Returns whether a word without an underscore may matter that begins with this byte.
const MAY_MATTER: [bool; 256] = {
    let mut table = [false; 256];
    // The first letters of what `is_harmless` and `may_name_state` know.
    let mut first = *b"cdhilmnpqst";
    let mut at = 0;
    while at < first.len() {
        table[first[at] as usize] = true;
        first[at] = first[at].to_ascii_uppercase();
        table[first[at] as usize] = true;
        at += 1;
    }
    table
};

/// Returns whether a word behind that, in a statement that `inserts` or does not, is none that matters, and begins or holds none of the
/// names that do.
fn is_harmless(word: &[u8], inserts: bool) -> bool {
    const WORDS: [&[u8]; 3] = [b"temp", b"temporary", b"hold"];
    const UNLESS_INSERTING: [&[u8]; 4] = [b"into", b"default", b"insert", b"merge"];
    let matters = |words: &[&[u8]]| words.iter().any(|matters| word.eq_ignore_ascii_case(matters));
    !matters(&WORDS) && (inserts || !matters(&UNLESS_INSERTING)) && !may_name_state(word)
}

/// Returns whether `name` may be that of a function or schema that means session state by its name, by how those begin, or because
/// it may hold `advisory_` behind something.
pub(super) fn may_name_state(name: &[u8]) -> bool {
    let &[a, b, c, _, _, _, ..] = name else { return false };
    let begins = matches!(
        &[a, b, c].map(|byte| byte.to_ascii_lowercase()),
        b"set" | b"nex" | b"cur" | b"las" | b"pg_" | b"dbl" | b"que" | b"ts_" | b"isn" | b"sep"
    );
    begins || may_be_advisory(name)
}

/// Returns whether `word` may hold `advisory_`.
fn may_be_advisory(word: &[u8]) -> bool {
    word.get(b"advisor".len()..).is_some_and(|end| end.windows(2).any(|two| matches!(two, b"y_" | b"Y_")))
}

/// Mark of a byte that ends a word.
const NO_WORD: u8 = 0;

/// Mark of a letter or another byte of a word that is no underscore.
const LETTER: u8 = 1;

/// Mark of an underscore.
const UNDERSCORE: u8 = 2;

/// Marks of bytes in words.
const WORD: [u8; 256] = {
    let mut marks = [NO_WORD; 256];
    let mut byte = u8::MAX;
    loop {
        marks[byte as usize] = match byte {
            b'_' => UNDERSCORE,
            _ if is_word(byte) => LETTER,
            _ => NO_WORD,
        };
        if byte == 0 {
            break marks;
        }
        byte -= 1;
    }
};

/// Kinds of bytes outside words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It begins a word.
    Letter,
    Blank,
    /// An operator, punctuation or a digit that means nothing by itself.
    Sign,
    /// `-` or `/`.
    Dash,
    Dollar,
    Semicolon,
    /// It may begin or hide something else.
    Other,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = u8::MAX;
    loop {
        kinds[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Kind::Letter,
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Kind::Blank,
            b'!'..=b'#' | b'%' | b'('..=b',' | b'.' | b'0'..=b':' | b'<'..=b'@' | b'[' | b']' | b'^' | b'|' | b'~' => {
                Kind::Sign
            }
            b'-' | b'/' => Kind::Dash,
            b'$' => Kind::Dollar,
            b';' => Kind::Semicolon,
            _ => Kind::Other,
        };
        if byte == 0 {
            break kinds;
        }
        byte -= 1;
    }
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lexis::Lexis;
    use super::*;
    use crate::track::sql_effects::{SqlEffects, analyze_tokens};

    #[test]
    fn what_programs_mostly_say_passes() {
        for sql in [
            "",
            "select 1",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "select \"users\".\"id\" from \"users\" where \"users\".\"id\" = $1 limit $2",
            "UPDATE t SET a = a + -1 / b\nWHERE id IN ($1, $2) RETURNING *",
            "insert into t (a, b) values ($1::text[], $2) ; ",
            "begin",
        ] {
            assert!(is_stateless(sql.as_bytes()), "{sql}");
            assert_eq!(analyze_tokens(sql.as_bytes(), Lexis::default()), SqlEffects::default(), "{sql}");
        }
    }

    #[test]
    fn what_may_hide_something_does_not() {
        for sql in [
            "set a = 1",
            "select 1; set a = 1",
            "select 'x'",
            "select a -- b",
            "select $$x$$",
            "select 1$a$ set $a$",
            "select U&\"x\"",
            "select * from pg_temp.t",
            "select \"Set_Config\"($1, $2, $3)",
            "select 1into temp t",
            "select 1e1into temp t",
            "select 1.e1nextval('s')",
            "select 1 INTO TEMPORARY t",
            "select 2setval($1, 1)",
            "select my_ADVISORY_lock(1)",
        ] {
            assert!(!is_stateless(sql.as_bytes()), "{sql}");
        }
    }

    /// Texts in which there is much to be missed.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "select",
            "INSERT",
            "with",
            "begin",
            "end",
            "set",
            "Set_Config",
            "nextval",
            "setseed",
            "lastval",
            "temp",
            "temporary",
            "create",
            "into",
            "hold",
            "listen",
            "x",
            "pg_temp",
            "dblink_exec",
            "my_Advisory_lock",
            "advisory",
            "advisory_unlock",
            "local",
            "to",
            "rollback",
            "savepoint",
            "e",
            "U&",
            "$",
            "$1",
            "$a$",
            "1",
            "\"",
            "'",
            "\\",
            ";",
            " ",
            " ",
            " ",
            "\n",
            "--",
            "/*",
            "*/",
            "-",
            "(",
            ")",
            ",",
            "=",
            "é",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..9)
            .prop_map(|pieces| pieces.concat().into_bytes())
    }

    #[test]
    fn what_is_not_looked_at_closely_does_not_matter() {
        let names = ["temp", "temporary", "hold", "into", "default", "insert", "merge"];
        let beginnings = [
            "setval",
            "nextval",
            "currval",
            "lastval",
            "pg_temp",
            "dblink",
            "query_to_xml",
            "ts_stat",
            "isn_weak",
            "sepgsql_setcon",
        ];
        for word in names.into_iter().chain(beginnings) {
            for word in [word.to_owned(), word.to_uppercase()] {
                assert!(MAY_MATTER[usize::from(word.as_bytes()[0])], "{word}");
                assert!(!is_harmless(word.as_bytes(), false), "{word}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn nothing_that_matters_is_let_through(begin in "(select|with|commit)? ?", text in texts()) {
            let sql = [begin.as_bytes(), &text].concat();
            prop_assert!(!is_stateless(&sql) || analyze_tokens(&sql, Lexis::default()) == SqlEffects::default());
        }
    }
}
