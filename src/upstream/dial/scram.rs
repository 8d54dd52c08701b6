//! The part of a login that is SCRAM.

use std::io;

use bytes::BytesMut;
use postgres_protocol::message::{backend::Message, frontend as protocol};
use tokio::task::spawn_blocking;

use super::DialError;
use super::incoming::{Incoming, send};
use crate::auth::Credential;
use crate::auth::scram::client::{Binding as Bound, Client};
use crate::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};
use crate::config::Binding;

/// Mechanisms that a server offers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mechanisms {
    /// `SCRAM-SHA-256`.
    pub plain: bool,
    /// `SCRAM-SHA-256-PLUS`, with channel binding.
    pub plus: bool,
}

/// The mechanism to use, and what is said about channel binding; `None` when the server offers none that will do.
/// `end_point` is what the connection gives to bind to: `None` for one that is not encrypted, or that leads to a server with a
/// certificate that gives nothing of the kind.
pub(super) fn choose(
    Mechanisms { plain, plus }: Mechanisms,
    end_point: Option<Vec<u8>>,
    wanted: Binding,
) -> Option<(&'static str, Bound)> {
    match (end_point, wanted) {
        (Some(data), Binding::Prefer | Binding::Require) if plus => Some((SCRAM_SHA_256_PLUS, Bound::EndPoint(data))),
        (_, Binding::Require) => None,
        // To say that it was not offered helps a server notice an attacker in between that has hidden the offer.
        (Some(_), Binding::Prefer) => plain.then_some((SCRAM_SHA_256, Bound::NotOffered)),
        _ => plain.then_some((SCRAM_SHA_256, Bound::None)),
    }
}

/// Runs the exchange.
pub(super) async fn exchange(
    incoming: &mut Incoming<'_>,
    mechanism: &str,
    binding: Bound,
    credential: Credential,
) -> Result<(), DialError> {
    let mut random = [0; 18];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let client = Client::new(binding, random);
    let mut out = BytesMut::new();
    protocol::sasl_initial_response(mechanism, client.first().as_bytes(), &mut out)?;
    send(incoming.conn, &out).await?;
    let Message::AuthenticationSaslContinue(first) = incoming.request(Some(&credential)).await? else {
        return Err(DialError::Protocol("no SCRAM server-first-message".into()));
    };
    // Thousands of rounds of hashing: milliseconds that must not hold up other connections' data.
    let answer = spawn_blocking(move || {
        let answer = client.answer(first.data(), &credential);
        (answer, credential)
    });
    let (answer, credential) = answer.await.map_err(io::Error::other)?;
    let (message, answered) = answer.map_err(explain)?;
    let mut out = BytesMut::new();
    protocol::sasl_response(message.as_bytes(), &mut out)?;
    send(incoming.conn, &out).await?;
    match incoming.request(Some(&credential)).await? {
        Message::AuthenticationSaslFinal(body) => answered.finish(body.data()).map_err(explain),
        _ => Err(DialError::Protocol("no SCRAM server-final-message".into())),
    }
}

fn explain(error: ScramError) -> DialError {
    match error {
        ScramError::OtherVerifier => DialError::Credential(
            "the SCRAM secret that is stored here is not the one that the upstream server has: copy it from \
             pg_authid.rolpassword, or store the password itself"
                .into(),
        ),
        ScramError::TooMuchWork(iterations) => {
            DialError::Protocol(format!("it asks for {iterations} SCRAM iterations, which is more than pgferry does"))
        }
        ScramError::Impostor => {
            DialError::Protocol("incorrect SCRAM server signature: it does not know the password".into())
        }
        ScramError::Malformed(what, detail) => DialError::Protocol(format!("{what}: {detail}")),
        ScramError::Refused(why) => DialError::Protocol(format!("SCRAM: {why}")),
        ScramError::Binding(why) | ScramError::Unsupported(why) => DialError::Protocol(why.into()),
        ScramError::WrongPassword => DialError::Protocol("SCRAM: the password is wrong".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_chosen_as_by_libpq() {
        let data = || Some(vec![7]);
        for (plain, plus, end_point, wanted, expected) in [
            (true, true, data(), Binding::Prefer, Some((SCRAM_SHA_256_PLUS, Bound::EndPoint(vec![7])))),
            (true, true, data(), Binding::Require, Some((SCRAM_SHA_256_PLUS, Bound::EndPoint(vec![7])))),
            (true, true, data(), Binding::Disable, Some((SCRAM_SHA_256, Bound::None))),
            (true, false, data(), Binding::Prefer, Some((SCRAM_SHA_256, Bound::NotOffered))),
            (true, false, data(), Binding::Require, None),
            (true, true, None, Binding::Require, None),
            (true, false, None, Binding::Prefer, Some((SCRAM_SHA_256, Bound::None))),
            (true, false, None, Binding::Require, None),
            // A server that offers channel binding without encryption is no PostgreSQL; what it offers besides will do.
            (true, true, None, Binding::Prefer, Some((SCRAM_SHA_256, Bound::None))),
            (false, false, None, Binding::Prefer, None),
        ] {
            assert_eq!(
                choose(Mechanisms { plain, plus }, end_point.clone(), wanted),
                expected,
                "{plain} {plus} {end_point:?} {wanted}"
            );
        }
    }
}
