//! Sockets.
//!
//! - `socket`: a connected socket that the runtime watches. [`stream`]: the same, encrypted or not.
//! - [`conn`]: a stream with its buffers: framed reading and ordered writing.
//! - [`gather`]: waiting for more at once, where much comes in small pieces.
//! - [`listen`]: listeners: socket files with an owner, abstract sockets, TCP.
//! - `claim`: whose a socket file is. [`handover`]: listeners on their way to another process.
//! - [`tls`]: encryption, and who proves what with which certificate.

pub mod conn;
pub mod listen;
pub mod namespace;
pub mod read_coalescing;
mod socket;
mod socket_lock;
pub mod stream;
pub mod takeover;
mod timer;
pub mod tls;

pub use crate::buffer::{Buffer, BufferPool};
pub use conn::{Conn, RecvError};
pub use listen::{ListenError, Listener};
pub use read_coalescing::ReadCoalescer;
pub use stream::{Io, Peer, Stream};
pub use takeover::{InheritedListener, ListenerTransfer};
