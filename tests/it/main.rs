//! Integration tests, against a real PostgreSQL that the harness starts.

mod harness;

mod admin;
mod basics;
mod cancel;
mod carried;
mod chaos;
mod cli;
mod client_auth;
mod client_tls;
mod clients;
mod console;
mod corpus;
mod credentials;
mod crosstalk;
mod differential;
mod doctor;
mod handshake;
mod hostile;
mod identity;
mod import;
mod layout;
mod lockout;
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
