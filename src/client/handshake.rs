//! From the first byte to the startup packet: `SSLRequest`, `GSSENCRequest`, `CancelRequest`, version negotiation.
//!
//! The order of things and the texts are those of PostgreSQL's `ProcessStartupPacket`.

use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::Shared;
use super::error_log::ErrorEvent;
use super::startup_cache::ParsedStartup;
use super::tls_incapable::Program;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::tls::client::ALPN;
use crate::net::tls::session::rejects_certificate;
use crate::net::tls::{CertificateOrigin, TlsSession};
use crate::net::{Conn, RecvError};
use crate::wire::{Opening, StartupError, backend, startup};

/// The first byte of TLS's first record: a client that begins with encryption (PostgreSQL 17's `sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 0x16;

/// The minor version under which `SSLRequest` is known.
const SSL_MINOR: u16 = 5679;

/// The minor version under which `GSSENCRequest` is known.
const GSS_MINOR: u16 = 5680;

/// Outcome of a client's opening packets.
#[derive(Debug)]
pub(crate) enum Hello {
    /// Nothing: a health check, or a client that changed its mind.
    Gone,
    /// To cancel a session's query.
    Cancel {
        /// The pid of the session.
        pid: i32,
        /// Its secret.
        secret: Vec<u8>,
    },
    /// To log in.
    Startup(Arc<ParsedStartup>),
}

/// Outcome of a client's request for encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Encryption {
    /// It has not asked.
    Unasked,
    /// It was told that there is none.
    Declined(Declined),
    /// All that it says is encrypted.
    Established(CertificateOrigin),
}

/// Reason why a client was told that there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Declined {
    /// It is not offered to it.
    NotOffered,
    /// Its program is known to leave where it is offered.
    Incapable(Program),
}

/// Ways in which a client asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsRequest {
    /// With `SSLRequest`, which is answered before TLS begins.
    Postgres,
    /// With TLS's own first message.
    Direct,
}

/// Reads the opening packets. A `NegotiateProtocolVersion` that is due is left in the connection's output.
///
/// # Errors
/// What the client is told when it says what it should not.
pub(crate) async fn handshake(conn: &mut Conn, shared: &Shared) -> Result<Hello, ClientError> {
    let mut encryption = Encryption::Unasked;
    let mut asked_gss = false;
    if matches!(conn.peek(1).await, Ok([TLS_HANDSHAKE])) {
        match Box::pin(encrypt(conn, shared, TlsRequest::Direct)).await {
            Some(Encryption::Established(origin)) => encryption = Encryption::Established(origin),
            Some(declined) => return Ok(disconnected(shared, &declined)),
            None => return Ok(Hello::Gone),
        }
        if conn.stream().tls().and_then(TlsSession::alpn) != Some(ALPN) {
            return Err(ClientError::violation(
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ));
        }
    }
    loop {
        // PostgreSQL too closes without a word: what speaks like that does not read answers.
        let Ok(packet) = receive(conn).await else { return Ok(disconnected(shared, &encryption)) };
        let size = packet.len();
        if let Some(known) = shared.startup_cache.find(packet) {
            conn.consume(size);
            return finish(conn, known).map(Hello::Startup);
        }
        let packet = Bytes::copy_from_slice(packet);
        conn.consume(size);
        match startup::parse(&packet).map_err(|error| refusal(&error))? {
            Opening::Cancel { pid, secret } => return Ok(Hello::Cancel { pid, secret }),
            Opening::Startup(startup) => {
                let parsed_startup = Arc::new(ParsedStartup::new(startup));
                shared.startup_cache.remember(&packet, &parsed_startup);
                return finish(conn, parsed_startup).map(Hello::Startup);
            }
            Opening::Ssl => {
                if encryption != Encryption::Unasked {
                    return Err(asked_twice(SSL_MINOR));
                }
                refuse_smuggled(conn, "SSL")?;
                match Box::pin(encrypt(conn, shared, TlsRequest::Postgres)).await {
                    Some(answered) => encryption = answered,
                    None => return Ok(Hello::Gone),
                }
            }
            Opening::GssEnc => {
                if std::mem::replace(&mut asked_gss, true) {
                    return Err(asked_twice(GSS_MINOR));
                }
                refuse_smuggled(conn, "GSSAPI encryption")?;
                conn.output.push(b'N');
                if conn.flush().await.is_err() {
                    return Ok(Hello::Gone);
                }
            }
        }
    }
}

/// Encrypts the connection where the client is offered that; `None` when it goes away, or the TLS handshake fails, of which it
/// has been told in TLS's own words.
async fn encrypt(conn: &mut Conn, shared: &Shared, request: TlsRequest) -> Option<Encryption> {
    let counters = &shared.counters().client_tls;
    let client_auth = shared.client_auth.load_full();
    let server = client_auth.tls.to(conn.stream());
    // It may be gone when it has seen the answer.
    let program = server.filter(|_| request == TlsRequest::Postgres).and_then(|_| Program::of(conn.stream()));
    let offered = match (server, &program) {
        (None, _) => Err(Declined::NotOffered),
        (Some(_), Some(program)) if shared.tls_incapable.contains(program) => Err(Declined::Incapable(program.clone())),
        (Some(server), _) => Ok(server),
    };
    if request == TlsRequest::Postgres {
        conn.output.push(if offered.is_ok() { b'S' } else { b'N' });
        conn.flush().await.ok()?;
    }
    let server = match offered {
        Ok(server) => server,
        Err(why) => {
            counters.declined.add();
            return Some(Encryption::Declined(why));
        }
    };
    if conn.peek(1).await.is_err() {
        counters.failed.add();
        if let Some(program) = program {
            shared.tls_incapable.insert(program);
            shared.errors.note(ErrorEvent::Left, None, &incapable());
        }
        return None;
    }
    let secured = match server.accept().await {
        Ok((session, certificate)) => conn.secure(session, Some(certificate)).await,
        Err(error) => Err(error),
    };
    match secured {
        Ok(()) => {
            counters.established.add();
            Some(Encryption::Established(server.origin()))
        }
        Err(error) => {
            counters.failed.add();
            debug!("could not accept SSL connection: {error}");
            if rejects_certificate(&error) {
                shared.errors.note(ErrorEvent::Left, None, &distrusted(server.origin()));
            }
            None
        }
    }
}

/// The end of a client that does not log in. One that leaves because of the answer to its request for TLS is logged: its user
/// sees an error of the driver's, which names neither the cause nor the remedy.
fn disconnected(shared: &Shared, encryption: &Encryption) -> Hello {
    match encryption {
        Encryption::Unasked => {}
        Encryption::Declined(Declined::NotOffered) => shared.errors.note(ErrorEvent::Left, None, &declined()),
        Encryption::Declined(Declined::Incapable(program)) => shared.tls_incapable.remove(program),
        // Some drivers look at the certificate only when TLS's handshake is over.
        Encryption::Established(origin) => shared.errors.note(ErrorEvent::Left, None, &distrusted(*origin)),
    }
    Hello::Gone
}

fn incapable() -> ClientError {
    let message = "it asked for TLS over a unix socket and closed the connection when that was offered";
    ClientError::fatal(ErrorSource::Client, sqlstate::UNABLE_TO_CONNECT, message).hint(
        "It may have no host name to begin TLS with (tokio-postgres). From now on its program is told that there is no TLS, until \
         it closes a connection for that; sslmode=disable in its connection string spares the attempt.",
    )
}

fn declined() -> ClientError {
    let message = "it asked for TLS, was told that there is none, and closed the connection";
    ClientError::fatal(ErrorSource::Client, sqlstate::UNABLE_TO_CONNECT, message).hint(
        "Offer TLS (client_tls = \"auto\"; to other machines client_tls_cert_file and client_tls_key_file), or connect with sslmode=disable or \
         prefer.",
    )
}

fn distrusted(origin: CertificateOrigin) -> ClientError {
    let message = "it closed the connection when it had seen the certificate, which it may not trust";
    let client_error = ClientError::fatal(ErrorSource::Client, sqlstate::UNABLE_TO_CONNECT, message);
    match origin {
        CertificateOrigin::SelfSigned => client_error.hint(
            "pgferry made the certificate itself, and no client can verify it. Set client_tls_cert_file and client_tls_key_file, or connect with \
             sslmode=require in libpq's meaning (node-postgres: no-verify).",
        ),
        CertificateOrigin::Configured => client_error.hint("The certificate is that of client_tls_cert_file."),
    }
}

fn asked_twice(minor: u16) -> ClientError {
    refusal(&StartupError::Version { major: 1234, minor })
}

/// Refuses what was sent before the answer to a request for encryption: it could be smuggled in front of an encrypted session
/// (CVE-2021-23214).
fn refuse_smuggled(conn: &Conn, what: &str) -> Result<(), ClientError> {
    if conn.input.is_empty() {
        return Ok(());
    }
    Err(ClientError::fatal(
        ErrorSource::Client,
        sqlstate::PROTOCOL_VIOLATION,
        format!("received unencrypted data after {what} request"),
    )
    .detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."))
}

/// The next opening packet, which stays where it is.
async fn receive(conn: &mut Conn) -> Result<&[u8], RecvError> {
    let size = loop {
        let here = conn.input.unparsed();
        match startup::size(here) {
            Ok(Some(size)) if here.len() >= size => break size,
            Ok(Some(size)) => conn.input.make_room(size),
            Ok(None) => {}
            Err(_) => return Err(RecvError::Closed),
        }
        conn.input.shrink();
        conn.fill().await?;
    };
    Ok(&conn.input.unparsed()[..size])
}

fn finish(conn: &mut Conn, parsed_startup: Arc<ParsedStartup>) -> Result<Arc<ParsedStartup>, ClientError> {
    let startup = &parsed_startup.startup;
    let (version, tell) = startup.negotiated();
    if tell {
        backend::put_negotiate(&mut conn.output, version, &startup.protocol_options);
    }
    if startup.get("user").is_none() {
        return Err(ClientError::fatal(
            ErrorSource::Client,
            sqlstate::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    Ok(parsed_startup)
}

fn refusal(error: &StartupError) -> ClientError {
    let code = match error {
        StartupError::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
        StartupError::Length | StartupError::Layout => sqlstate::PROTOCOL_VIOLATION,
    };
    ClientError::fatal(ErrorSource::Client, code, error.to_string())
}
