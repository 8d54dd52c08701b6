//! The words of the system's errors.

use std::borrow::Cow;

/// Beginning of what the standard library puts behind the system's words: the number of the error, which tells people nothing.
const NUMBER: &str = " (os error ";

/// Returns `text` without the numbers that stand behind the system's words in it.
#[must_use]
pub(crate) fn without_numbers(text: &str) -> Cow<'_, str> {
    if !text.contains(NUMBER) {
        return Cow::Borrowed(text);
    }
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, behind)) = rest.split_once(NUMBER) {
        kept.push_str(before);
        let unnumbered = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = match unnumbered.strip_prefix(')') {
            Some(after) if unnumbered.len() < behind.len() => after,
            _ => {
                kept.push_str(NUMBER);
                behind
            }
        };
    }
    kept.push_str(rest);
    Cow::Owned(kept)
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
        // Clients' names stand in messages, too.
        assert_eq!(without_numbers(&" (os error 5)".repeat(100_000)), "");
        let unfinished = " (os error ".repeat(100_000);
        assert_eq!(without_numbers(&unfinished), unfinished);
    }
}
