//! The worker for sqlx: a task per client.

mod client;

use std::time::{Duration, Instant};

use client::Client;

/// What the worker is told: DRIVER HOST PORT USER PASSWORD CLIENTS SECONDS SESSION LEAVES SEED.
#[derive(Clone, Debug)]
struct Arguments {
    driver: String,
    host: String,
    port: u16,
    user: String,
    password: String,
    clients: usize,
    session: u64,
    leaves: bool,
    seed: u64,
    end: Instant,
}

impl Arguments {
    fn read() -> Option<Self> {
        let all: Vec<String> = std::env::args().skip(1).collect();
        let [driver, host, port, user, password, clients, seconds, session, leaves, seed] = all.as_slice() else {
            return None;
        };
        Some(Self {
            driver: driver.clone(),
            host: host.clone(),
            port: port.parse().ok()?,
            user: user.clone(),
            password: password.clone(),
            clients: clients.parse().ok()?,
            session: session.parse().ok()?,
            leaves: leaves == "1",
            seed: seed.parse().ok()?,
            end: Instant::now() + Duration::from_secs(seconds.parse().ok()?),
        })
    }
}

/// Prints one line of the workers' protocol.
fn say(line: &str) {
    println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(arguments) = Arguments::read() else {
        eprintln!("DRIVER HOST PORT USER PASSWORD CLIENTS SECONDS SESSION LEAVES SEED");
        std::process::exit(2);
    };
    let tasks: Vec<_> =
        (0..arguments.clients).map(|number| tokio::spawn(Client::new(arguments.clone(), number).run())).collect();
    let mut operations = 0;
    for task in tasks {
        operations += task.await.expect("a client that does not panic");
    }
    say(&format!("done {operations}"));
}
