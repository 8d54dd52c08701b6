//! Sockets.
//!
//! - `socket`: a connected socket that the runtime watches. [`stream`]: the same, encrypted or not.
//! - [`conn`]: a stream with its buffers: framed reading and ordered writing.
//! - [`gather`]: waiting for more at once, where much comes in small pieces.
//! - [`listen`]: listeners: socket files with an owner, abstract sockets, TCP.
//! - `claim`: whose a socket file is. [`handover`]: listeners on their way to another process.
//! - [`tls`]: encryption, and who proves what with which certificate.

mod claim;
pub mod conn;
pub mod gather;
pub mod handover;
pub mod listen;
pub mod namespace;
mod socket;
pub mod stream;
mod timer;
pub mod tls;

pub use crate::buffer::{Buffer, BufferPool};
pub use conn::{Conn, RecvError};
pub use gather::Gather;
pub use handover::{Handover, Inherited};
pub use listen::{Bound, ListenError};
pub use stream::{Io, Peer, Stream};
