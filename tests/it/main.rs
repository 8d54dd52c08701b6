//! Integration tests, against a real PostgreSQL that the harness starts.
#![allow(unreachable_pub, reason = "nothing is exported from a test binary")]

mod harness;

mod admin;
mod basics;
mod blocking;
mod cancel;
mod carried;
mod cases;
mod catalogue;
mod chaos;
mod cli;
mod client_auth;
mod client_tls;
mod clients;
mod console;
mod console_rights;
mod corpus;
mod credentials;
mod crosstalk;
mod differential;
mod docs;
mod doctor;
mod handshake;
mod hangs;
mod hostile;
mod identity;
mod import;
mod layout;
mod lockout;
mod log;
mod login;
mod pids;
mod pool;
mod ports;
mod random;
mod relay;
mod reload;
mod reset;
mod settings;
mod several;
mod shutdown;
mod upstream_tls;
