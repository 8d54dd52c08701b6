//! A client's prepared statements that drop, rename, move or copy a database.

use super::client_statements::significant;

/// Number of such statements that are remembered at a time.
const MAX_STATEMENTS: usize = 64;

/// The client's prepared statements that want a database to be free of connections, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct VacatingStatements(Vec<Vacating>);

/// One of them.
#[derive(Debug)]
struct Vacating {
    name: Box<[u8]>,
    database: Box<[u8]>,
}

impl VacatingStatements {
    /// Notes that `name` stands for a statement that wants no connection to `database`, or for another one. Where there are very
    /// many, the oldest is forgotten.
    pub(crate) fn set(&mut self, name: &[u8], database: Option<&[u8]>) {
        let name = significant(name);
        self.0.retain(|known| *known.name != *name);
        let Some(database) = database else { return };
        if self.0.len() == MAX_STATEMENTS {
            self.0.remove(0);
        }
        self.0.push(Vacating { name: name.into(), database: database.into() });
    }

    /// Returns whether there is none, as in nearly every session.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the database to which the statement with this name wants no connection.
    #[must_use]
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|known| *known.name == *significant(name)).map(|known| &*known.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_the_last_that_it_was_given() {
        let mut statements = VacatingStatements::default();
        statements.set(b"", Some(b"shop"));
        statements.set(b"drop", Some(b"old"));
        assert_eq!((statements.get(b""), statements.get(b"drop")), (Some(&b"shop"[..]), Some(&b"old"[..])));
        statements.set(b"", None);
        statements.set(b"drop", Some(b"older"));
        assert_eq!((statements.get(b""), statements.get(b"drop")), (None, Some(&b"older"[..])));
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let mut statements = VacatingStatements::default();
        for number in 0..=MAX_STATEMENTS {
            statements.set(number.to_string().as_bytes(), Some(b"shop"));
        }
        assert_eq!(statements.get(b"0"), None);
        assert_eq!(statements.get(b"1"), Some(&b"shop"[..]));
        assert_eq!(statements.0.len(), MAX_STATEMENTS);
    }
}
