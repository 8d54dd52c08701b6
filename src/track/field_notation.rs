//! Functions that are called as if they were fields of their argument, as in `('s'::regclass).nextval` (`ParseFuncOrColumn` in
//! `src/backend/parser/parse_func.c`).

use super::sql::Token;

/// Place of a token in that notation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldNotation {
    #[default]
    Elsewhere,
    /// The end of what may be an argument: an expression in parentheses, an element of an array, a parameter.
    Argument,
    /// The dot behind that.
    Dot,
    /// The name behind the dot, which may be a function's.
    Name,
}

impl FieldNotation {
    /// Returns the place of `token`, which follows this one.
    #[must_use]
    pub(super) fn then(self, token: Token<'_>) -> Self {
        match (self, token) {
            (_, Token::Other(b')' | b']' | b'$')) => Self::Argument,
            (Self::Argument | Self::Name, Token::Other(b'.')) => Self::Dot,
            (Self::Dot, Token::Word(_) | Token::Quoted(_)) => Self::Name,
            _ => Self::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexis::Lexis;
    use super::super::pins::Pins;
    use super::super::sequences::Sequences;
    use super::super::sql_effects::analyze;

    #[test]
    fn functions_that_are_called_as_fields_are_seen() {
        for (sql, pins) in [
            ("select (1::bigint).pg_advisory_lock", Pins::LOCK),
            ("select ('s'::regclass) . \"nextval\"", Pins::NEXTVAL),
            ("select (row(1, 's'::regclass)).f2.currval", Pins::SEQUENCE),
            ("select (array['s'::regclass])[1].currval", Pins::SEQUENCE),
            ("select $1.currval", Pins::SEQUENCE),
            ("select $1 /* x */ .pg_advisory_lock", Pins::LOCK),
            ("select (0.5::float8).setseed", Pins::UNRESETTABLE),
            ("select ('select 1'::text).ts_stat, 'x')", Pins::SERVER_CODE.union(Pins::UNRESETTABLE)),
            ("do 'begin perform (1::bigint).pg_advisory_lock; end'", Pins::LOCK),
        ] {
            assert_eq!(analyze(sql.as_bytes(), Lexis::default()).pins, pins, "{sql}");
        }
        for sql in [
            "select t.currval, lastval from t",
            "select (a) lastval from t",
            "select $1 lastval",
            "select a[1] currval",
        ] {
            let effects = analyze(sql.as_bytes(), Lexis::default());
            assert_eq!((effects.pins, effects.sequences), (Pins::empty(), Sequences::Untouched), "{sql}");
        }
    }
}
