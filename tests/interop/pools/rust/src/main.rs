//! Forty connections of one pool of Rust's, all held at once: POOL HOST PORT.

mod use_deadpool;
mod use_diesel;
mod use_sqlx;

/// How many connections each pool has, all of which are held at once.
pub const CLIENTS: usize = 40;

/// How often each client takes a connection, works, and gives it back.
pub const ROUNDS: i32 = 3;

/// What each client was told.
pub type Told = Vec<Vec<String>>;

/// Any error of a driver's, or of its pool's.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let [pool, host, port] = all.as_slice() else { return Err("POOL HOST PORT".into()) };
    let place = Place { host: host.clone(), port: port.parse()? };
    let told = match pool.as_str() {
        "sqlx" => use_sqlx::run(&place).await?,
        "deadpool" => use_deadpool::run(&place).await?,
        "diesel" => use_diesel::run(&place)?,
        _ => return Err(format!("no such pool: {pool}").into()),
    };
    for client in told {
        println!("{client:?}");
    }
    Ok(())
}
