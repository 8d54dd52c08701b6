//! SCRAM messages: attributes, each a letter and a value, between commas.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ScramError;

/// Reads the attributes of one message in their order.
pub(super) struct Attributes<'a> {
    rest: Option<&'a str>,
    what: &'static str,
}

impl<'a> Attributes<'a> {
    /// The attributes of `text`; `what` names it in errors.
    pub(super) fn of(text: &'a [u8], what: &'static str) -> Result<Self, ScramError> {
        if text.is_empty() {
            return Err(ScramError::Malformed(what, "The message is empty.".into()));
        }
        match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => Ok(Self { rest: Some(text), what }),
            _ => Err(ScramError::Malformed(what, "Message length does not match input length.".into())),
        }
    }

    /// Returns the rest, which has not been read.
    pub(super) fn rest(&self) -> &'a str {
        self.rest.unwrap_or_default()
    }

    /// The part up to the next comma, without it.
    pub(super) fn part(&mut self) -> Result<&'a str, ScramError> {
        let rest = self.rest.ok_or_else(|| self.malformed("Expected another attribute, but the message ends."))?;
        let (part, rest) = rest.split_once(',').map_or((rest, None), |(part, rest)| (part, Some(rest)));
        self.rest = rest;
        Ok(part)
    }

    /// The value of the next attribute, which must be `letter`.
    pub(super) fn value(&mut self, letter: char) -> Result<&'a str, ScramError> {
        let part = self.part()?;
        let value = part.strip_prefix(letter).and_then(|part| part.strip_prefix('='));
        value.ok_or_else(|| {
            let found = part.chars().next().filter(char::is_ascii_graphic);
            let found = found.map_or_else(|| "something else".to_owned(), |found| format!("\"{found}\""));
            self.malformed(&format!("Expected attribute \"{letter}\" but found {found}."))
        })
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), ScramError> {
        match self.rest {
            None => Ok(()),
            Some(_) => Err(self.malformed("Garbage found at the end of the message.")),
        }
    }

    pub(super) fn malformed(&self, detail: &str) -> ScramError {
        ScramError::Malformed(self.what, detail.to_owned())
    }

    /// The bytes of a base64 value.
    pub(super) fn decoded(&self, value: &str, name: &str) -> Result<Vec<u8>, ScramError> {
        decode(value).ok_or_else(|| self.malformed(&format!("Malformed {name}: not base64.")))
    }
}

/// Returns whether a nonce is one: printable ASCII without commas (RFC 5802, section 7).
pub(super) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',')
}

/// Writes base64.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads base64, strictly: with its padding and without stray bits.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
