//! The simulator: several clients over few connections, the real machine in between, a model of PostgreSQL as the server,
//! and one seed for all of it.
//!
//! - `case`: what a run consists of; `tokens`: scripts of which it can be told what must have been carried out.
//! - `world`, `wire`, `play`: tasks, sockets, and the steps in which a run goes.
//! - `session`, `relay`, `pool`, `link`: what pgferry does around the machine, without its I/O.
//! - `catalogs`: what is known of the code in the databases.
//! - `cancel`, `tentative`, `janitor`: cancel requests, connections that clients have and do not use, and those nobody has.
//! - `client`: the other side.
//! - `account`: what the protocol allows, and what a client is owed.
//! - `types`: types of parameters, which stay.
//! - `defaults`: what clients may see of defaults that change.
//! - `check`: what must hold; `expected`: what a mode changes by design.
//!
//! `SIM_STEPS=10000000 make sim` runs as many steps. `SIM_SEED=7` runs one seed and tells what happens; `SIM_FROM=7` begins
//! there. `SIM_CASE=file` runs a case in the notation in which findings are printed. `SIM_MODE`, `SIM_RESET` and `SIM_FAULTS` choose.

mod account;
mod cancel;
mod case;
mod catalogs;
mod check;
mod client;
mod defaults;
mod expected;
mod hunt;
mod janitor;
mod link;
mod play;
mod pool;
mod regressions;
mod relay;
mod session;
mod tentative;
mod tokens;
mod types;
mod wire;
mod world;
