//! Sockets.
//!
//! - `byte_stream`: bytes in and out. `socket`: a connected socket that the runtime watches. [`stream`]: the same, encrypted or not.
//! - [`conn`]: a stream with its buffers: framed reading and ordered writing.
//! - [`read_coalescing`]: waiting for more at once, where much comes in small pieces.
//! - [`listen`]: listeners: socket files with an owner, abstract sockets, TCP; `listen_error` why one can't be opened.
//! - `socket_lock`: locks on socket files. [`takeover`]: listeners on their way to another process.
//! - [`tls`]: encryption and certificates. `unix_client`: connecting without a runtime.

mod byte_stream;
pub(crate) mod conn;
pub(crate) mod listen;
mod listen_error;
pub(crate) mod namespace;
pub(crate) mod read_coalescing;
mod socket;
mod socket_lock;
pub(crate) mod stream;
pub(crate) mod takeover;
mod timer;
pub(crate) mod tls;
mod unix_client;

pub(crate) use crate::buffer::BufferPool;
pub(crate) use byte_stream::ByteStream;
pub(crate) use conn::{Conn, RecvError};
pub(crate) use listen::{Listener, find_group};
pub(crate) use listen_error::ListenError;
pub(crate) use read_coalescing::ReadCoalescer;
pub(crate) use stream::{Peer, Stream};
pub(crate) use takeover::{InheritedListener, ListenerTransfer};
pub(crate) use unix_client::connect_within;
