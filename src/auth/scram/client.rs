//! The client's half: logs in to a server, and makes sure that the server knows the password as well.

use super::ScramError;
use super::keys::{ClientKey, KEY_BYTES, Keys, MAX_ITERATIONS, MAX_SALT_BYTES, hash, mac, same, xor};
use super::message::{Attributes, decode, encode, is_nonce};
use crate::auth::Credential;

/// Channel binding of the client's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// It can't, or shall not.
    None,
    /// It could, but the server does not offer it.
    NotOffered,
    /// It does: the `tls-server-end-point` data.
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }
}

/// The client's half, before the server has said anything.
#[derive(Debug)]
pub(crate) struct Client {
    binding: Binding,
    nonce: String,
}

/// The client's half, after its last message.
#[derive(Debug)]
pub(crate) struct Answered {
    expected: [u8; KEY_BYTES],
}

impl Client {
    /// An exchange with the given 18 random bytes.
    #[must_use]
    pub(crate) fn new(binding: Binding, random: [u8; 18]) -> Self {
        Self { binding, nonce: encode(&random) }
    }

    /// `client-first-message`.
    #[must_use]
    pub(crate) fn first(&self) -> String {
        format!("{}{}", self.binding.header(), self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes `server-first-message` and gives `client-final-message`. Takes milliseconds.
    ///
    /// # Errors
    /// What is wrong with the message, or that it asks for too much.
    pub(crate) fn answer(self, server_first: &[u8], credential: &Credential) -> Result<(String, Answered), ScramError> {
        let mut said = Attributes::of(server_first, "server-first-message")?;
        let nonce = said.value('r')?;
        if !is_nonce(nonce) || nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(said.malformed("The nonce does not continue ours."));
        }
        let salt = said.value('s')?;
        let salt = said.decoded(salt, "salt")?;
        if salt.is_empty() || salt.len() > MAX_SALT_BYTES {
            return Err(said.malformed("The salt's length is out of bounds."));
        }
        let iterations = said.value('i')?;
        let iterations: u32 = iterations.parse().map_err(|_| said.malformed("Malformed iteration count."))?;
        // Extensions may follow; the ones that must be understood come first and are refused there.
        match iterations {
            0 => return Err(said.malformed("Malformed iteration count.")),
            1..=MAX_ITERATIONS => {}
            _ => return Err(ScramError::TooMuchWork(iterations)),
        }
        let (client_key, server_key) = keys(credential, &salt, iterations)?;
        let mut bound = self.binding.header().as_bytes().to_vec();
        if let Binding::EndPoint(data) = &self.binding {
            bound.extend_from_slice(data);
        }
        let without_proof = format!("c={},r={nonce}", encode(&bound));
        let signed = [self.first_bare().as_bytes(), server_first, without_proof.as_bytes()].join(&b","[..]);
        let proof = xor(&client_key.0, &mac(&hash(&client_key.0), &signed));
        let answered = Answered { expected: mac(&server_key, &signed) };
        Ok((format!("{without_proof},p={}", encode(&proof)), answered))
    }
}

fn keys(credential: &Credential, salt: &[u8], iterations: u32) -> Result<(ClientKey, [u8; KEY_BYTES]), ScramError> {
    match credential {
        Credential::Password(password) => {
            let keys = Keys::of(password, salt, iterations);
            Ok((keys.client.clone(), keys.server))
        }
        Credential::Key(key, verifier) if verifier.salt == salt && verifier.iterations == iterations => {
            Ok((key.clone(), verifier.server))
        }
        Credential::Key(..) | Credential::Md5(_) => Err(ScramError::OtherVerifier),
    }
}

impl Answered {
    /// Takes `server-final-message`.
    ///
    /// # Errors
    /// When the server refuses, or can't prove that it knows the password.
    pub(crate) fn finish(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut said = Attributes::of(server_final, "server-final-message")?;
        if let Some(error) = said.rest().strip_prefix("e=") {
            return Err(ScramError::Refused(error.to_owned()));
        }
        let signature = decode(said.value('v')?).ok_or_else(|| said.malformed("Malformed server signature."))?;
        if same(&signature, &self.expected) { Ok(()) } else { Err(ScramError::Impostor) }
    }
}
