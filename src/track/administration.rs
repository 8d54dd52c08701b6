//! What a client does to the databases and roles of its server: other connections may stand in its way, or be out of date
//! behind it.

use super::lexis::Lexis;
use super::sql::{Token, Tokens};

/// The database that others are copied from where a text names none.
const DEFAULT_TEMPLATE: &[u8] = b"template1";

/// The database to which a text wants no connection: that it drops, renames, moves or copies.
///
/// Such commands stand alone in a text, since they can't be part of a transaction.
#[must_use]
pub(crate) fn vacated(sql: &[u8], lexis: Lexis) -> Option<Vec<u8>> {
    let mut tokens = Tokens::new(sql, lexis);
    let command = tokens.find(|token| *token != Token::Semicolon)?;
    // By far most texts begin otherwise.
    let [drops, alters, creates] = [&b"drop"[..], b"alter", b"create"].map(|word| is(&command, word));
    if !(drops || alters || creates) || !is(&tokens.next()?, b"database") {
        return None;
    }
    let mut name = tokens.next()?;
    if drops && is(&name, b"if") && tokens.clone().next().is_some_and(|token| is(&token, b"exists")) {
        name = tokens.nth(1)?;
    }
    let name = identifier(&name)?;
    if drops {
        return Some(name);
    }
    let statement = tokens.take_while(|token| *token != Token::Semicolon).collect::<Vec<_>>();
    let place_of = |word: &[u8]| statement.iter().position(|token| is(token, word));
    if alters {
        let moves = place_of(b"rename") == Some(0) || matches!(place_of(b"tablespace"), Some(0 | 1));
        return moves.then_some(name);
    }
    let Some(at) = place_of(b"template") else { return Some(DEFAULT_TEMPLATE.to_vec()) };
    let template = statement.get(at + 1..)?.iter().find(|token| **token != Token::Other(b'='))?;
    if is(template, b"default") { Some(DEFAULT_TEMPLATE.to_vec()) } else { identifier(template) }
}

/// Effect of commands on the roles that may log in, and on what their sessions begin with; the greater includes the lesser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleChange {
    /// There is none.
    #[default]
    Unchanged,
    /// There may be another role: a login that was refused may succeed.
    Created,
    /// Sessions may begin with something else, or may no longer be had.
    Changed,
}

impl RoleChange {
    /// The effect of a command with this tag (`CommandComplete`).
    #[must_use]
    pub(crate) fn by(tag: &[u8]) -> Self {
        match tag {
            b"ALTER ROLE" | b"ALTER DATABASE" | b"DROP OWNED" | b"DROP ROLE" | b"REVOKE" | b"REVOKE ROLE"
            | b"GRANT ROLE" => Self::Changed,
            b"CREATE ROLE" => Self::Created,
            _ => Self::Unchanged,
        }
    }
}

fn is(token: &Token<'_>, word: &[u8]) -> bool {
    matches!(token, Token::Word(written) if written.eq_ignore_ascii_case(word))
}

/// The name that stands for an object, which may be a text where the command takes one.
fn identifier(token: &Token<'_>) -> Option<Vec<u8>> {
    if let Token::Text(name) = token { Some(name.to_vec()) } else { token.identifier() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_must_be_free_of_connections_are_named() {
        for (sql, database) in [
            ("drop database shop", Some("shop")),
            ("/* by dropdb */ DROP DATABASE IF EXISTS Shop WITH (FORCE);", Some("shop")),
            ("drop database \"A \"\"b\"\"\"", Some("A \"b\"")),
            ("alter database shop rename to old", Some("shop")),
            ("ALTER DATABASE shop SET TABLESPACE fast", Some("shop")),
            ("alter database shop tablespace = fast", Some("shop")),
            ("; ;drop database U&\"sh\\006fp\"", Some("shop")),
            ("drop database if", Some("if")),
            ("alter database shop set work_mem = '1MB'", None),
            ("alter database shop owner to reader", None),
            ("create database shop", Some("template1")),
            ("CREATE DATABASE shop OWNER = me ENCODING 'UTF8'", Some("template1")),
            ("create database test_shop with template = \"Shop\" owner me", Some("Shop")),
            ("create database test_shop template shop;", Some("shop")),
            ("create database test_shop template default", Some("template1")),
            ("create database test_shop template 'shop'", Some("shop")),
            ("drop table database", None),
            ("select 'drop database shop'", None),
            ("create table template (a int)", None),
            ("drop database", None),
            ("drop", None),
            ("", None),
        ] {
            let expected = database.map(|name| name.as_bytes().to_vec());
            assert_eq!(vacated(sql.as_bytes(), Lexis::default()), expected, "{sql}");
        }
    }

    #[test]
    fn tags_tell_of_changed_roles() {
        for (tag, change) in [
            (&b"ALTER ROLE"[..], RoleChange::Changed),
            (b"REVOKE", RoleChange::Changed),
            // It takes back the right to connect.
            (b"DROP OWNED", RoleChange::Changed),
            (b"CREATE ROLE", RoleChange::Created),
            (b"ALTER TABLE", RoleChange::Unchanged),
            (b"GRANT", RoleChange::Unchanged),
        ] {
            assert_eq!(RoleChange::by(tag), change, "{}", tag.escape_ascii());
        }
    }
}
