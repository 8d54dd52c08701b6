//! From the first byte to the startup packet: `SSLRequest`, `GSSENCRequest`, `CancelRequest`, version negotiation.
//!
//! The order of things and the texts are those of PostgreSQL's `ProcessStartupPacket`.

use crate::error::{Blame, Fault, sqlstate};
use crate::net::{Conn, RecvError};
use crate::wire::{Opening, Startup, StartupError, backend, startup};

/// What a client wants.
#[derive(Debug)]
pub enum Hello {
    /// Nothing: a health check, or a client that changed its mind.
    Gone,
    /// To cancel somebody's query.
    Cancel {
        /// The pid of the session.
        pid: i32,
        /// Its secret.
        secret: Vec<u8>,
    },
    /// To log in.
    Startup(Startup),
}

/// Reads the opening packets. A `NegotiateProtocolVersion` that is due is left in the connection's output.
///
/// # Errors
/// What the client is told when it says what it should not.
pub async fn handshake(conn: &mut Conn) -> Result<Hello, Fault> {
    let (mut asked_ssl, mut asked_gss) = (false, false);
    loop {
        // PostgreSQL too closes without a word: what speaks like that does not read answers.
        let Ok(packet) = receive(conn).await else { return Ok(Hello::Gone) };
        let opening = startup::parse(&packet).map_err(|error| refusal(&error))?;
        let (asked, what, minor) = match opening {
            Opening::Cancel { pid, secret } => return Ok(Hello::Cancel { pid, secret }),
            Opening::Startup(startup) => return finish(conn, startup).map(Hello::Startup),
            Opening::Ssl => (&mut asked_ssl, "SSL", 5679),
            Opening::GssEnc => (&mut asked_gss, "GSSAPI encryption", 5680),
        };
        if std::mem::replace(asked, true) {
            return Err(refusal(&StartupError::Version { major: 1234, minor }));
        }
        if !conn.input.is_empty() {
            // What was sent before the answer could be smuggled in front of an encrypted session (CVE-2021-23214).
            return Err(Fault::fatal(
                Blame::Client,
                sqlstate::PROTOCOL_VIOLATION,
                format!("received unencrypted data after {what} request"),
            )
            .detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            ));
        }
        conn.output.push(b'N');
        if conn.flush().await.is_err() {
            return Ok(Hello::Gone);
        }
    }
}

async fn receive(conn: &mut Conn) -> Result<Vec<u8>, RecvError> {
    let length = conn.peek(startup::LENGTH).await?;
    let Ok(Some(size)) = startup::size(length) else { return Err(RecvError::Closed) };
    let packet = conn.peek(size).await?.to_vec();
    conn.consume(size);
    Ok(packet)
}

fn finish(conn: &mut Conn, startup: Startup) -> Result<Startup, Fault> {
    let (version, tell) = startup.negotiated();
    if tell {
        backend::put_negotiate(&mut conn.output, version, &startup.protocol_options);
    }
    if startup.get("user").is_none() {
        return Err(Fault::fatal(
            Blame::Client,
            sqlstate::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    Ok(startup)
}

fn refusal(error: &StartupError) -> Fault {
    let code = match error {
        StartupError::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
        StartupError::Length | StartupError::Layout => sqlstate::PROTOCOL_VIOLATION,
    };
    Fault::fatal(Blame::Client, code, error.to_string())
}
