//! Integration tests, against a real PostgreSQL that the harness starts.

mod harness;

mod basics;
mod cancel;
mod differential;
mod handshake;
mod login;
mod pool;
mod relay;
mod reset;
