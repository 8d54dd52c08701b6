//! Integration tests, against a real PostgreSQL that the harness starts.

mod harness;
mod basics;
mod differential;
mod handshake;
mod login;
