//! The server's half: accepts clients that know the password. The order of checks and the texts are PostgreSQL's
//! (`auth-scram.c`).

use super::ScramError;
use super::keys::{ClientKey, KEY_BYTES, Verifier, hash, mac, same, xor};
use super::message::{Attributes, encode, is_nonce};

/// Name of the client's messages in errors.
const WHAT: &str = "malformed SCRAM message";

/// Mechanisms that the server's half offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// No channel binding.
    Plain,
    /// Channel binding as well, with this `tls-server-end-point` data; and whether the client chose it.
    Plus(Vec<u8>, bool),
}

/// The server's half, after its first message.
#[derive(Debug)]
pub(crate) struct Server {
    verifier: Verifier,
    /// The header of the client's first message and the binding data, which its last must repeat.
    bound: Vec<u8>,
    client_first_bare: String,
    first: String,
    nonce: String,
}

/// A client that knows the password.
#[derive(Debug)]
pub(crate) struct Proven {
    /// `server-final-message`.
    pub message: String,
    /// The client's key, good for logging in wherever the verifier is the same.
    pub key: ClientKey,
}

impl Server {
    /// Takes `client-first-message`; [`Server::first`] is then to be sent. `random` makes the nonce.
    ///
    /// # Errors
    /// What is wrong with the message.
    pub(crate) fn new(
        client_first: &[u8],
        offered: &Offered,
        verifier: Verifier,
        random: [u8; 18],
    ) -> Result<Self, ScramError> {
        let mut said = Attributes::of(client_first, WHAT)?;
        let whole = said.rest();
        let flag = said.part()?;
        let data = check_flag(flag, offered, &said)?;
        match said.part()? {
            "" => {}
            identity if identity.starts_with("a=") => {
                return Err(ScramError::Unsupported("client uses authorization identity, but it is not supported"));
            }
            _ => return Err(said.malformed("Unexpected attribute in client-first-message.")),
        }
        let bare = said.rest();
        let header = &whole[..whole.len() - bare.len()];
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
        }
        // The user is the one of the startup packet.
        said.value('n')?;
        let client_nonce = said.value('r')?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Malformed("non-printable characters in SCRAM nonce", String::new()));
        }
        let nonce = format!("{client_nonce}{}", encode(&random));
        let first = format!("r={nonce},s={},i={}", encode(&verifier.salt), verifier.iterations);
        let bound = [header.as_bytes(), data].concat();
        Ok(Self { bound, client_first_bare: bare.to_owned(), first, nonce, verifier })
    }

    /// `server-first-message`.
    #[must_use]
    pub(crate) fn first(&self) -> &str {
        &self.first
    }

    /// Takes `client-final-message`.
    ///
    /// # Errors
    /// What is wrong with the message, or that the password is.
    pub(crate) fn finish(self, client_final: &[u8]) -> Result<Proven, ScramError> {
        let mut said = Attributes::of(client_final, WHAT)?;
        let whole = said.rest();
        if said.value('c')? != encode(&self.bound) {
            return Err(match self.bound.first() {
                Some(b'p') => ScramError::Binding("SCRAM channel binding check failed"),
                _ => ScramError::Malformed(
                    "unexpected SCRAM channel-binding attribute in client-final-message",
                    String::new(),
                ),
            });
        }
        let nonce = said.value('r')?;
        // Extensions may stand before the proof, which is last.
        let mut proof = said.part()?;
        let mut before = whole.len() - said.rest().len() - proof.len();
        while !proof.starts_with("p=") {
            proof = said.part()?;
            before = whole.len() - said.rest().len() - proof.len();
        }
        said.end()?;
        let without_proof = whole[..before].strip_suffix(',').unwrap_or_default();
        let proof = said.decoded(&proof[2..], "proof in client-final-message")?;
        let proof = <[u8; KEY_BYTES]>::try_from(proof)
            .map_err(|_| said.malformed("Malformed proof in client-final-message."))?;
        if nonce != self.nonce {
            return Err(ScramError::Malformed("invalid SCRAM response", "Nonce does not match.".into()));
        }
        let signed = [self.client_first_bare.as_str(), self.first.as_str(), without_proof].join(",").into_bytes();
        let key = ClientKey(xor(&proof, &mac(&self.verifier.stored, &signed)));
        if !same(&hash(&key.0), &self.verifier.stored) {
            return Err(ScramError::WrongPassword);
        }
        Ok(Proven { message: format!("v={}", encode(&mac(&self.verifier.server, &signed))), key })
    }
}

#[cfg(test)]
impl Server {
    /// A server's half with a nonce of one's own, for the examples of standards.
    pub(super) fn example(client_first_bare: &str, nonce: &str, verifier: Verifier) -> Self {
        let first = format!("r={nonce},s={},i={}", encode(&verifier.salt), verifier.iterations);
        let (client_first_bare, nonce) = (client_first_bare.to_owned(), nonce.to_owned());
        Self { bound: b"n,,".to_vec(), client_first_bare, first, nonce, verifier }
    }
}

/// Looks at what the client says of channel binding, and gives the data that it must repeat.
fn check_flag<'a>(flag: &str, offered: &'a Offered, said: &Attributes<'_>) -> Result<&'a [u8], ScramError> {
    let negotiation = ScramError::Binding("SCRAM channel binding negotiation error");
    match (flag, offered) {
        ("n", Offered::Plain | Offered::Plus(_, false)) | ("y", Offered::Plain) => Ok(&[]),
        // It believes that we do not offer it, though we do: an attacker is in between.
        ("y", Offered::Plus(_, false)) => Err(negotiation),
        ("n" | "y", Offered::Plus(_, true)) => Err(said.malformed(
            "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
        )),
        ("p=tls-server-end-point", Offered::Plus(data, true)) => Ok(data),
        (flag, Offered::Plus(_, true)) if flag.starts_with("p=") => {
            Err(ScramError::Malformed("unsupported SCRAM channel-binding type", String::new()))
        }
        (flag, _) if flag.starts_with("p=") => Err(said.malformed(
            "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel \
             binding data.",
        )),
        _ => Err(said.malformed("Unexpected channel-binding flag.")),
    }
}
