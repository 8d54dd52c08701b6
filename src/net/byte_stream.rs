//! Bytes in and out, whatever carries them.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in and out, whatever carries them.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}
