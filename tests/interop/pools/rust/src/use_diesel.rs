//! `diesel` on libpq, pooled by `r2d2`: the settings and the cached statements of its connections, and a check of each connection
//! that is handed out.

use std::sync::Barrier;

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::result::Error as Failure;

use crate::{CLIENTS, Error, Place, ROUNDS, Told};

type Connections = Pool<ConnectionManager<PgConnection>>;

diesel::table! {
    pool_diesel (client, turn) {
        client -> Integer,
        turn -> Integer,
    }
}

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = diesel::sql_types::Text)]
    setting: String,
}

pub fn run(place: &Place) -> Result<Told, Error> {
    let url = format!("host={} port={} user=postgres dbname=postgres", place.host, place.port);
    let pool = Pool::builder()
        .max_size(u32::try_from(CLIENTS)?)
        .test_on_check_out(true)
        .build(ConnectionManager::<PgConnection>::new(url))?;
    pool.get()?.batch_execute("drop table if exists pool_diesel; create table pool_diesel (client int, turn int)")?;
    let barrier = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        let start = |number| {
            scope.spawn({
                let (pool, barrier) = (&pool, &barrier);
                move || client(pool, barrier, number)
            })
        };
        let threads: Vec<_> = (0..i32::try_from(CLIENTS)?).map(start).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?).collect()
    })
}

fn client(pool: &Connections, barrier: &Barrier, number: i32) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for turn in 0..ROUNDS {
        let mut connection = pool.get()?;
        barrier.wait();
        let connection = &mut *connection;
        connection.build_transaction().serializable().read_only().run(|connection| {
            told.push(setting(connection, "transaction_isolation")?);
            Ok::<_, Failure>(())
        })?;
        connection.transaction(|connection| {
            let row = (pool_diesel::client.eq(number), pool_diesel::turn.eq(turn));
            diesel::insert_into(pool_diesel::table).values(row).execute(connection)?;
            let failed = connection.transaction(|connection| {
                diesel::sql_query("select 1 / $1").bind::<diesel::sql_types::Integer, _>(0).execute(connection)
            });
            told.push(failed.err().map_or_else(String::new, |error| error.to_string()));
            Ok::<_, Failure>(())
        })?;
        let mine = pool_diesel::table.filter(pool_diesel::client.eq(number));
        told.push(mine.count().get_result::<i64>(connection)?.to_string());
        let turns: Vec<i32> = mine.select(pool_diesel::turn).order(pool_diesel::turn).load(connection)?;
        told.push(format!("{turns:?}"));
        told.push(setting(connection, "timezone")?);
        barrier.wait();
    }
    Ok(told)
}

fn setting(connection: &mut PgConnection, name: &str) -> QueryResult<String> {
    let ask = diesel::sql_query("select current_setting($1) as setting").bind::<diesel::sql_types::Text, _>(name);
    Ok(ask.get_result::<Setting>(connection)?.setting)
}
