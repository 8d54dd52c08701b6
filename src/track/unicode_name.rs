//! Names that are written with their characters' numbers: `U&"d\\0061t\\+000061"`.

/// Returns the name that is written as `text`, of which an escape begins with `escape`; `None` where the server would not
/// take it (`str_udeescape` in `src/backend/parser/parser.c`).
pub(super) fn decoded(text: &[u8], escape: u8) -> Option<Vec<u8>> {
    let is_escape = !escape.is_ascii_hexdigit() && !b"+'\" \t\n\r\x0b\x0c".contains(&escape);
    let mut rest = Some(text).filter(|_| is_escape)?;
    let mut name = Vec::with_capacity(text.len());
    // The first half of a character that is written as a pair.
    let mut half = None;
    while let Some((&byte, behind)) = rest.split_first() {
        let number = match behind {
            _ if byte != escape => None,
            [next, ..] if *next == escape => None,
            [b'+', digits @ ..] => Some(number(digits, 6)?),
            digits => Some(number(digits, 4)?),
        };
        let (number, behind) = match number {
            Some(number) => number,
            None if half.is_some() => return None,
            None => {
                name.push(byte);
                rest = if byte == escape { behind.get(1..)? } else { behind };
                continue;
            }
        };
        rest = behind;
        half = match (half.take(), number) {
            (None, 0xd800..=0xdbff) => Some(number),
            (Some(first), 0xdc00..=0xdfff) => {
                push(&mut name, 0x10000 + ((first - 0xd800) << 10) + (number - 0xdc00))?;
                None
            }
            (Some(_), _) => return None,
            (None, _) => {
                push(&mut name, number)?;
                None
            }
        };
    }
    half.is_none().then_some(name)
}

/// The number that `text` begins with, in `count` digits, and what is behind it.
fn number(text: &[u8], count: usize) -> Option<(u32, &[u8])> {
    let (digits, behind) = text.split_at_checked(count)?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    Some((u32::from_str_radix(digits, 16).ok()?, behind))
}

/// Adds the character of this number.
fn push(name: &mut Vec<u8>, number: u32) -> Option<()> {
    let character = char::from_u32(number).filter(|&character| character != '\0')?;
    name.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_characters() {
        for (text, escape, name) in [
            (r"x", b'\\', Some("x")),
            (r"\0078\+000079z", b'\\', Some("xyz")),
            (r"a\\b", b'\\', Some(r"a\b")),
            (r"!0078\", b'!', Some(r"x\")),
            (r"\00e4\d83d\de00", b'\\', Some("\u{e4}\u{1f600}")),
            (r"\d83dx", b'\\', None),
            (r"\d83d", b'\\', None),
            (r"\de00", b'\\', None),
            (r"\0000", b'\\', None),
            (r"\007", b'\\', None),
            (r"\+00007", b'\\', None),
            (r"\+0x0078", b'\\', None),
            ("x", b'a', None),
            ("x", b'+', None),
        ] {
            assert_eq!(decoded(text.as_bytes(), escape).as_deref(), name.map(str::as_bytes), "{text}");
        }
    }
}
