//! A result: columns with PostgreSQL's types, and rows; as messages, as text for people, as JSON for programs.

use std::fmt::Write as _;

use crate::log::{visible, visible_json};
use crate::wire::backend;

/// A column's type, as far as the console has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// `text`.
    Text,
    /// `int4`.
    Int,
    /// `int8`.
    Big,
    /// `numeric`.
    Numeric,
}

impl Type {
    /// Its OID in `pg_type`, and its length.
    fn oid(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int => (23, 4),
            Self::Big => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// NULL.
    Null,
    /// A text.
    Text(String),
    /// A whole number.
    Number(u64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<bool> for Cell {
    /// As PgBouncer shows it.
    fn from(truth: bool) -> Self {
        Self::Number(truth.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Cell {
    fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone()),
            Self::Number(number) => Some(number.to_string()),
        }
    }

    /// The value as the binary format of `kind` has it.
    fn binary(&self, kind: Type) -> Option<Vec<u8>> {
        match (kind, self) {
            (Type::Int, Self::Number(number)) => {
                Some(i32::try_from(*number).unwrap_or(i32::MAX).to_be_bytes().to_vec())
            }
            (Type::Big, Self::Number(number)) => {
                Some(i64::try_from(*number).unwrap_or(i64::MAX).to_be_bytes().to_vec())
            }
            (Type::Numeric, Self::Number(number)) => Some(numeric(*number)),
            _ => self.text().map(String::into_bytes),
        }
    }
}

/// `numeric`'s binary format (`numeric_send`): base-10000 digits, the first of weight `n`.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0 {
        // Below 10,000.
        digits.push(u16::try_from(number % 10_000).unwrap_or_default());
        number /= 10_000;
    }
    // At most five digits.
    let count = u16::try_from(digits.len()).unwrap_or_default();
    let header = [count, count.saturating_sub(1), 0, 0];
    header.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

/// Columns and rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Names and types.
    pub columns: Vec<(&'static str, Type)>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// No rows yet.
    #[must_use]
    pub(crate) fn new(columns: &[(&'static str, Type)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Appends a `RowDescription` with these format codes.
    pub(crate) fn put_description(&self, out: &mut Vec<u8>, formats: &[i16]) {
        let columns = self.columns.iter().enumerate().map(|(at, (name, kind))| {
            let (oid, length) = kind.oid();
            backend::Column { name, oid, length, format: format_of(formats, at) }
        });
        backend::put_row_description(out, columns);
    }

    /// Appends row number `at` as a `DataRow`.
    pub(crate) fn put_row(&self, out: &mut Vec<u8>, at: usize, formats: &[i16]) {
        let cells = self.rows[at].iter().zip(&self.columns).enumerate();
        let cells = cells.map(|(at, (cell, (_, kind)))| match format_of(formats, at) {
            0 => cell.text().map(String::into_bytes),
            _ => cell.binary(*kind),
        });
        backend::put_data_row(out, cells);
    }
}

/// The format of column `at`: none given means text, one given means that one for all.
fn format_of(formats: &[i16], at: usize) -> i16 {
    match formats {
        [] => 0,
        [one] => *one,
        many => many.get(at).copied().unwrap_or(0),
    }
}

/// A table for people: columns aligned as psql aligns them, numbers to the right. What clients call themselves is no command to a
/// terminal.
#[must_use]
pub(crate) fn aligned(columns: &[(String, bool)], rows: &[Vec<Option<String>>]) -> String {
    let width = |text: &str| text.chars().count();
    let cell = |row: &Vec<Option<String>>, at: usize| {
        let text = row.get(at).and_then(Option::as_deref).unwrap_or_default();
        visible(text).into_owned()
    };
    let widths: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(at, (name, _))| {
            rows.iter().map(|row| width(&cell(row, at))).chain([width(&visible(name))]).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let heads: Vec<_> =
        columns.iter().zip(&widths).map(|((name, _), &width)| format!(" {:^width$} ", visible(name))).collect();
    // Writing to a string does not fail; neither below.
    let _ = writeln!(out, "{}", heads.join("|").trim_end());
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let _ = writeln!(out, "{}", rules.join("+"));
    for row in rows {
        let cells = columns.iter().zip(&widths).enumerate().map(|(at, ((_, is_number), &width))| {
            let text = cell(row, at);
            if *is_number { format!(" {text:>width$} ") } else { format!(" {text:<width$} ") }
        });
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("|").trim_end());
    }
    let _ = writeln!(out, "({} row{})", rows.len(), if rows.len() == 1 { "" } else { "s" });
    out
}

/// The same for programs: an array of objects.
#[must_use]
pub(crate) fn json(columns: &[(String, bool)], rows: &[Vec<Option<String>>]) -> String {
    let object = |row: &Vec<Option<String>>| {
        let fields = columns.iter().zip(row).map(|((name, is_number), cell)| {
            let number = cell.as_ref().filter(|_| *is_number).and_then(|text| text.parse::<u64>().ok());
            let value = match (number, cell) {
                (Some(number), _) => number.into(),
                (None, Some(text)) => text.clone().into(),
                (None, None) => serde_json::Value::Null,
            };
            (name.clone(), value)
        });
        serde_json::Value::Object(fields.collect())
    };
    visible_json(&format!("{:#}", serde_json::Value::Array(rows.iter().map(object).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_numerics_binary_format() {
        // From PostgreSQL's numeric_send.
        assert_eq!(numeric(0), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(numeric(7), [0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(numeric(123_456_789), [0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 0x09, 0x29, 0x1a, 0x85]);
    }

    #[test]
    fn rows_are_aligned_for_people_and_typed_for_programs() {
        let columns = [("database".to_owned(), false), ("n".to_owned(), true)];
        let rows = [vec![Some("shop".to_owned()), Some("7".to_owned())], vec![Some("é".to_owned()), None]];
        assert_eq!(aligned(&columns, &rows), " database | n\n----------+---\n shop     | 7\n é        |\n(2 rows)\n");
        let forged = [vec![Some("a\nb\u{1b}[2K".to_owned()), None]];
        assert_eq!(aligned(&columns, &forged).lines().count(), 4);
        assert!(aligned(&columns, &forged).contains(" a\\nb\\u{1b}[2K |"));
        let told = json(&columns, &[vec![Some("a\n\u{9b}\u{202e}".to_owned()), None]]);
        assert!(told.contains("\"a\\n\\u009b\\u202e\"") && told.lines().count() == 6, "{told}");
        let parsed: serde_json::Value = serde_json::from_str(&json(&columns, &rows)).expect("JSON");
        assert_eq!(parsed, serde_json::json!([{"database": "shop", "n": 7}, {"database": "é", "n": null}]));
    }
}
