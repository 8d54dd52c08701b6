use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::client::Client;
use super::client::{Answered, Binding};
use super::server::Offered;
use super::server::Server;
use super::*;
use crate::auth::{Credential, Password};

fn password(text: &str) -> Password {
    Password::new(text.as_bytes().to_vec())
}

fn verifier(text: &str) -> Verifier {
    Verifier::of(&password(text), vec![7; 16], 8)
}

/// Runs both halves against each other; `edit` may change the client's messages on their way (0: first, 1: final).
fn exchange(
    credential: &Credential,
    verifier: &Verifier,
    binding: Binding,
    offered: &Offered,
    edit: impl Fn(usize, String) -> Vec<u8>,
) -> Result<(server::Proven, Answered), ScramError> {
    let client = Client::new(binding, [1; 18]);
    let server = Server::new(&edit(0, client.first()), offered, verifier.clone(), [2; 18])?;
    let (message, answered) = client.answer(server.first().as_bytes(), credential)?;
    Ok((server.finish(&edit(1, message))?, answered))
}

fn unchanged(_: usize, message: String) -> Vec<u8> {
    message.into_bytes()
}

#[test]
fn the_example_of_rfc_7677() {
    // Its user name is in the first message, which PostgreSQL ignores.
    let salt = "W22ZaJ0SNY7soEsUEjb6gQ==";
    let verifier = Verifier::parse(&format!(
        "SCRAM-SHA-256$4096:{salt}$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    ));
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let server = Server::example("n=user,r=rOprNGfwEbeRWgbNEkqO", nonce, verifier.expect("a verifier"));
    assert_eq!(server.first(), format!("r={nonce},s={salt},i=4096"));
    let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let proven = server.finish(last.as_bytes()).expect("the right password");
    assert_eq!(proven.message, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn a_key_that_was_shown_logs_in_elsewhere() {
    let verifier = verifier("secret");
    let credential = Credential::Password(password("secret"));
    let (proven, answered) =
        exchange(&credential, &verifier, Binding::None, &Offered::Plain, unchanged).expect("right");
    answered.finish(proven.message.as_bytes()).expect("the right server");
    let key = Credential::Key(proven.key.clone(), Box::new(verifier.clone()));
    let (again, answered) = exchange(&key, &verifier, Binding::None, &Offered::Plain, unchanged).expect("right");
    answered.finish(again.message.as_bytes()).expect("the right server");
    let other = Verifier::of(&password("secret"), vec![8; 16], 8);
    let error = exchange(&key, &other, Binding::None, &Offered::Plain, unchanged).expect_err("another verifier");
    assert_eq!(error, ScramError::OtherVerifier);
}

#[test]
fn channel_binding_is_agreed_upon() {
    let verifier = verifier("x");
    let credential = Credential::Password(password("x"));
    let plus = |chosen| Offered::Plus(vec![9; 32], chosen);
    let bound = || Binding::EndPoint(vec![9; 32]);
    for (binding, offered, good) in [
        (Binding::None, Offered::Plain, true),
        (Binding::None, plus(false), true),
        (Binding::NotOffered, Offered::Plain, true),
        (bound(), plus(true), true),
        // An attacker has hidden the offer.
        (Binding::NotOffered, plus(false), false),
        (Binding::None, plus(true), false),
        (Binding::NotOffered, plus(true), false),
        (bound(), plus(false), false),
        (bound(), Offered::Plain, false),
        // Another channel.
        (Binding::EndPoint(vec![8; 32]), plus(true), false),
    ] {
        let outcome = exchange(&credential, &verifier, binding.clone(), &offered, unchanged);
        assert_eq!(outcome.is_ok(), good, "{binding:?} {offered:?}");
        assert_ne!(outcome.err(), Some(ScramError::WrongPassword));
    }
}

#[test]
fn what_clients_may_not_say_is_refused_for_what_it_is() {
    let verifier = verifier("x");
    let credential = Credential::Password(password("x"));
    let refused = |nth: usize, from: &str, to: &str| {
        let edit = |at, message: String| {
            let message = if at == nth { message.replacen(from, to, 1) } else { message };
            message.into_bytes()
        };
        let outcome = exchange(&credential, &verifier, Binding::None, &Offered::Plain, edit);
        outcome.err().unwrap_or_else(|| panic!("{from} → {to} was taken"))
    };
    let is_malformed = |error: &ScramError| matches!(error, ScramError::Malformed(..));
    for (nth, from, to) in [
        (0, "n,,", ""),
        (0, "n,,", "x,,"),
        (0, "n,,", "n,b=x,"),
        (0, "n,,", "p=tls-server-end-point,,"),
        (0, "n=", "x="),
        (0, ",r=", ",s="),
        (0, "r=", "r=\u{7f}"),
        (0, "r=", "r=a b"),
        (1, "c=", "d="),
        (1, "r=", "r=x"),
        (1, ",p=", ",p=?"),
        (1, ",p=", ",p=AAAA"),
        (1, ",p=", ",q="),
    ] {
        let error = refused(nth, from, to);
        assert!(is_malformed(&error) || matches!(error, ScramError::Binding(_)), "{from} → {to}: {error:?}");
    }
    assert!(matches!(refused(0, "n,,", "n,a=me,"), ScramError::Unsupported(_)));
    assert!(matches!(refused(0, "n=,", "m=x,n=,"), ScramError::Unsupported(_)));
    assert!(is_malformed(&refused(1, "c=biws", "c=eSws")), "another header than before");
    assert!(is_malformed(&refused(1, ",p=", ",p=AAAA,p=")), "garbage behind the proof");
}

#[test]
fn what_servers_may_not_say_is_refused() {
    let credential = Credential::Password(password("x"));
    let nonce = message::encode(&[1; 18]);
    let answer = |text: &str| {
        let text = text.replace("NONCE", &nonce);
        Client::new(Binding::None, [1; 18]).answer(text.as_bytes(), &credential).map(drop)
    };
    assert_eq!(answer("r=NONCEmore,s=AAAA,i=8"), Ok(()));
    for bad in [
        "",
        "r=NONCE,s=AAAA,i=8",
        "r=more,s=AAAA,i=8",
        "r=NONCEmo re,s=AAAA,i=8",
        "r=NONCEmore,s=,i=8",
        "r=NONCEmore,s=A,i=8",
        "r=NONCEmore,s=AAAA,i=0",
        "r=NONCEmore,s=AAAA,i=-1",
        "r=NONCEmore,s=AAAA,i=99999999999999999999",
        "r=NONCEmore,s=AAAA",
        "m=x,r=NONCEmore,s=AAAA,i=8",
        "r=NONCEmore,s=AAAA,i=8\0",
    ] {
        assert!(matches!(answer(bad), Err(ScramError::Malformed(..))), "{bad}");
    }
    assert_eq!(answer("r=NONCEmore,s=AAAA,i=2147483647"), Err(ScramError::TooMuchWork(2_147_483_647)));
    let long = format!("r=NONCEmore,s={},i=8", "AAAA".repeat(10_000));
    assert!(matches!(answer(&long), Err(ScramError::Malformed(..))), "a salt without end");
    let (_, answered) =
        exchange(&credential, &verifier("x"), Binding::None, &Offered::Plain, unchanged).expect("right");
    assert_eq!(answered.finish(b"e=other-error"), Err(ScramError::Refused("other-error".into())));
    let (_, answered) =
        exchange(&credential, &verifier("x"), Binding::None, &Offered::Plain, unchanged).expect("right");
    assert_eq!(answered.finish(b"v=AAAA"), Err(ScramError::Impostor));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_right_password_and_no_other(
        right in proptest::collection::vec(1u8.., 1..40),
        wrong in proptest::collection::vec(1u8.., 1..40),
        bound in any::<bool>(),
    ) {
        prop_assume!(right != wrong);
        let verifier = Verifier::of(&Password::new(right.clone()), vec![3; 16], 2);
        let (binding, offered) = if bound {
            (Binding::EndPoint(vec![5; 32]), Offered::Plus(vec![5; 32], true))
        } else {
            (Binding::None, Offered::Plain)
        };
        let run = |bytes: &[u8]| {
            let credential = Credential::Password(Password::new(bytes.to_vec()));
            exchange(&credential, &verifier, binding.clone(), &offered, unchanged)
        };
        let (proven, answered) = run(&right).expect("the right password");
        prop_assert_eq!(answered.finish(proven.message.as_bytes()), Ok(()));
        // Different bytes may be the same password to SASLprep.
        if !Verifier::of(&Password::new(wrong.clone()), vec![3; 16], 2).eq(&verifier) {
            prop_assert_eq!(run(&wrong).err(), Some(ScramError::WrongPassword));
        }
    }

    /// The client of another library gets in, with and without channel binding.
    #[test]
    fn the_server_understands_other_clients(secret in "[a-zA-Z0-9 äöü]{1,30}", bound in any::<bool>()) {
        let (binding, offered) = if bound {
            (ChannelBinding::tls_server_end_point(vec![5; 32]), Offered::Plus(vec![5; 32], true))
        } else {
            (ChannelBinding::unsupported(), Offered::Plain)
        };
        let mut client = ScramSha256::new(secret.as_bytes(), binding);
        let server = Server::new(client.message(), &offered, verifier(&secret), [2; 18]).expect("good");
        client.update(server.first().as_bytes()).expect("good");
        let proven = server.finish(client.message()).expect("the right password");
        client.finish(proven.message.as_bytes()).expect("the right server");
    }

    /// Whatever bytes come: an error at most, and never a way in.
    #[test]
    fn arbitrary_messages_do_not_panic(first in any::<Vec<u8>>(), last in any::<Vec<u8>>()) {
        let _ = Server::new(&first, &Offered::Plus(vec![1], true), verifier("x"), [0; 18]);
        let client = Client::new(Binding::None, [1; 18]);
        let server = Server::new(client.first().as_bytes(), &Offered::Plain, verifier("x"), [0; 18]).expect("good");
        prop_assert!(server.finish(&last).is_err());
        let _ = client.answer(&first, &Credential::Password(password("x")));
    }

    /// A changed byte anywhere in either message is never taken.
    #[test]
    fn every_byte_counts(nth in 0usize..2, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let credential = Credential::Password(password("x"));
        let edit = |message_nth: usize, message: String| {
            let mut bytes = message.into_bytes();
            if message_nth == nth {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            bytes
        };
        let outcome = exchange(&credential, &verifier("x"), Binding::None, &Offered::Plain, edit);
        // The client's half does not know that its first message was changed, so that the server's half must notice.
        prop_assert!(outcome.is_err());
    }
}
