//! From the first byte to the startup packet: `SSLRequest`, `GSSENCRequest`, `CancelRequest`, version negotiation.
//!
//! The order of things and the texts are those of PostgreSQL's `ProcessStartupPacket`.

use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::Shared;
use super::startup_cache::ParsedStartup;
use crate::error::{ClientError, ErrorSource, sqlstate};
use crate::net::tls::client::ALPN;
use crate::net::tls::{Server, TlsSession};
use crate::net::{Conn, RecvError};
use crate::wire::{Opening, StartupError, backend, startup};

/// The first byte of TLS's first record: a client that begins with encryption (PostgreSQL 17's `sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 0x16;

/// The minor version under which `SSLRequest` is known.
const SSL_MINOR: u16 = 5679;

/// What a client wants.
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

/// Reads the opening packets. A `NegotiateProtocolVersion` that is due is left in the connection's output.
///
/// # Errors
/// What the client is told when it says what it should not.
pub(crate) async fn handshake(conn: &mut Conn, shared: &Shared) -> Result<Hello, ClientError> {
    let (mut asked_ssl, mut asked_gss) = (false, false);
    // As in PostgreSQL, there is no encryption on unix sockets.
    let client_auth = conn.stream().is_tcp().then(|| shared.client_auth.load_full());
    let tls = client_auth.as_ref().and_then(|client_auth| client_auth.tls.as_ref());
    if let Some(tls) = tls {
        let Ok(first) = conn.peek(1).await else { return Ok(Hello::Gone) };
        if first == [TLS_HANDSHAKE] {
            if !Box::pin(secure(conn, tls)).await {
                return Ok(Hello::Gone);
            }
            if conn.stream().tls().and_then(TlsSession::alpn) != Some(ALPN) {
                return Err(ClientError::violation(
                    "received direct SSL connection request without ALPN protocol negotiation extension",
                ));
            }
            asked_ssl = true;
        }
    }
    loop {
        // PostgreSQL too closes without a word: what speaks like that does not read answers.
        let Ok(packet) = receive(conn).await else { return Ok(Hello::Gone) };
        let size = packet.len();
        if let Some(known) = shared.startup_cache.find(packet) {
            conn.consume(size);
            return finish(conn, known).map(Hello::Startup);
        }
        let packet = Bytes::copy_from_slice(packet);
        conn.consume(size);
        let opening = startup::parse(&packet).map_err(|error| refusal(&error))?;
        let (asked, what, minor) = match opening {
            Opening::Cancel { pid, secret } => return Ok(Hello::Cancel { pid, secret }),
            Opening::Startup(startup) => {
                let parsed_startup = Arc::new(ParsedStartup::new(startup));
                shared.startup_cache.remember(&packet, &parsed_startup);
                return finish(conn, parsed_startup).map(Hello::Startup);
            }
            Opening::Ssl => (&mut asked_ssl, "SSL", SSL_MINOR),
            Opening::GssEnc => (&mut asked_gss, "GSSAPI encryption", 5680),
        };
        if std::mem::replace(asked, true) {
            return Err(refusal(&StartupError::Version { major: 1234, minor }));
        }
        if !conn.input.is_empty() {
            // What was sent before the answer could be smuggled in front of an encrypted session (CVE-2021-23214).
            return Err(ClientError::fatal(
                ErrorSource::Client,
                sqlstate::PROTOCOL_VIOLATION,
                format!("received unencrypted data after {what} request"),
            )
            .detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            ));
        }
        let encrypt = tls.filter(|_| minor == SSL_MINOR);
        conn.output.push(if encrypt.is_some() { b'S' } else { b'N' });
        if conn.flush().await.is_err() {
            return Ok(Hello::Gone);
        }
        if let Some(tls) = encrypt
            && !Box::pin(secure(conn, tls)).await
        {
            return Ok(Hello::Gone);
        }
    }
}

/// Encrypts; `false` when that fails, of which the client has been told in TLS's own words.
async fn secure(conn: &mut Conn, tls: &Server) -> bool {
    let secured = match tls.accept().await {
        Ok((session, end_point)) => conn.secure(session, end_point).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &secured {
        debug!("could not accept SSL connection: {error}");
    }
    secured.is_ok()
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
