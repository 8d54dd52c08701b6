//! The words of the system's errors.

use std::borrow::Cow;

/// Beginning of what the standard library puts behind the system's words: the number of the error, which tells people nothing.
const NUMBER: &str = " (os error ";

/// Returns `text` without the numbers that stand behind the system's words in it.
#[must_use]
pub(crate) fn without_numbers(text: &str) -> Cow<'_, str> {
    let Some(at) = text.find(NUMBER) else { return Cow::Borrowed(text) };
    let (before, rest) = (&text[..at], &text[at + NUMBER.len()..]);
    let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    match behind.strip_prefix(')') {
        Some(behind) if behind.len() + 1 < rest.len() => Cow::Owned(format!("{before}{}", without_numbers(behind))),
        _ => Cow::Owned(format!("{before}{NUMBER}{}", without_numbers(rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_errors_go() {
        let error = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(
            without_numbers(&format!("/x: {error}; /y: {error}")),
            "/x: No such file or directory; /y: No such file or directory"
        );
        for text in ["", "plain", "x (os error )", "x (os error 5", "x (os error five)"] {
            assert_eq!(without_numbers(text), text);
        }
    }
}
