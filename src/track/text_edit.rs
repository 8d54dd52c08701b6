//! Changes to a text of SQL on its way to the server, and what they do to the positions in errors.

use std::ops::Range;

/// A piece of text put in place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Range that it replaces, in bytes of the client's text; empty where it is only inserted.
    pub at: Range<usize>,
    /// Replacement.
    pub with: Vec<u8>,
}

/// Positions of the edits of a text, which translate a position in the changed text to one in the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// In characters: where the piece begins in the changed text, how long it is there, how long what it replaces.
    edits: Box<[(usize, usize, usize)]>,
}

/// The text with `edits`, which don't overlap.
#[must_use]
pub(crate) fn apply(sql: &[u8], mut edits: Vec<Edit>) -> (Vec<u8>, Positions) {
    edits.sort_by_key(|edit| edit.at.start);
    let mut changed = Vec::new();
    let mut positions = Vec::new();
    let (mut done, mut begin) = (0, 0);
    for Edit { at, with } in edits {
        let (Some(before), Some(replaced)) = (sql.get(done..at.start), sql.get(at.clone())) else { continue };
        changed.extend_from_slice(before);
        begin += characters(before);
        positions.push((begin, characters(&with), characters(replaced)));
        begin += characters(&with);
        changed.extend_from_slice(&with);
        done = at.end;
    }
    changed.extend_from_slice(&sql[done..]);
    (changed, Positions { edits: positions.into() })
}

/// Characters of UTF-8. In other encodings of several bytes positions may be a little off, as those of errors are.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

impl Positions {
    /// The position in the client's text of a character at `position` in the changed one; both count from 1.
    #[must_use]
    pub fn original(&self, position: usize) -> usize {
        let at = position.saturating_sub(1);
        let mut shift = 0_isize;
        for &(begin, length, replaced) in &self.edits {
            if at < begin {
                break;
            }
            if at < begin + length {
                return begin.saturating_add_signed(shift) + 1;
            }
            shift += replaced.cast_signed() - length.cast_signed();
        }
        at.saturating_add_signed(shift) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_lead_back() {
        let sql = "execute é; reset all; bad".as_bytes();
        let edit = |at: Range<usize>, with: &str| Edit { at, with: with.into() };
        let (changed, positions) = apply(sql, vec![edit(21..21, ";SET a TO 1"), edit(8..10, "pgferry_17")]);
        let changed = String::from_utf8(changed).expect("UTF-8");
        assert_eq!(changed, "execute pgferry_17; reset all;SET a TO 1; bad");
        let original = |word: &str| positions.original(changed.find(word).expect("there") + 1);
        assert_eq!(original("execute"), 1);
        assert_eq!(original("pgferry"), 9);
        assert_eq!(original("reset"), 12);
        assert_eq!(original("bad"), 23);
        assert_eq!(Positions::default().original(7), 7);
    }
}
