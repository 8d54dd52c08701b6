//! `deadpool-postgres` on `tokio-postgres`: cached statements, pipelined queries, COPY both ways, and what is said when a
//! connection is handed out again.

use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;

use deadpool_postgres::{Config, ManagerConfig, Pool, PoolConfig, RecyclingMethod, Runtime};
use futures_util::future::{try_join, try_join_all};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio::sync::Barrier;
use tokio_postgres::{IsolationLevel, NoTls};

use crate::{CLIENTS, Error, Place, ROUNDS, Told};

pub async fn run(place: &Place) -> Result<Told, Error> {
    let mut told = Vec::new();
    for recycling_method in [RecyclingMethod::Fast, RecyclingMethod::Verified, RecyclingMethod::Clean] {
        let mut config = Config::new();
        config.host = Some(place.host.clone());
        config.port = Some(place.port);
        config.user = Some("postgres".to_owned());
        config.dbname = Some("postgres".to_owned());
        config.options = Some("-c statement_timeout=30s".to_owned());
        config.manager = Some(ManagerConfig { recycling_method });
        config.pool = Some(PoolConfig::new(CLIENTS));
        let pool = config.create_pool(Some(Runtime::Tokio1), NoTls)?;
        let make = "drop table if exists pool_deadpool; create table pool_deadpool (client int, turn int)";
        pool.get().await?.batch_execute(make).await?;
        let barrier = Arc::new(Barrier::new(CLIENTS));
        let clients = (0..i32::try_from(CLIENTS)?).map(|number| client(pool.clone(), barrier.clone(), number));
        told.extend(try_join_all(clients).await?);
        pool.close();
    }
    Ok(told)
}

async fn client(pool: Pool, barrier: Arc<Barrier>, number: i32) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for turn in 0..ROUNDS {
        let mut connection = pool.get().await?;
        barrier.wait().await;
        let insert = connection.prepare_cached("insert into pool_deadpool values ($1, $2)").await?;
        let count = connection.prepare_cached("select count(*) from pool_deadpool where client = $1").await?;
        let (_, row) =
            try_join(connection.execute(&insert, &[&number, &turn]), connection.query_one(&count, &[&number])).await?;
        told.push(row.get::<_, i64>(0).to_string());

        let transaction = connection
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let rows = transaction.prepare_cached("select n from generate_series(1, $1) n").await?;
        let portal = transaction.bind(&rows, &[&7]).await?;
        for _ in 0..3 {
            told.push(transaction.query_portal(&portal, 3).await?.len().to_string());
        }
        let failed = transaction.query_one("select 1 / $1", &[&0]).await;
        told.push(failed.err().and_then(|error| error.code().cloned()).ok_or("a division by zero")?.code().to_owned());
        transaction.rollback().await?;

        let mut sink = pin!(connection.copy_in("copy pool_deadpool from stdin").await?);
        sink.send(Cursor::new(format!("{number}\t{turn}\n"))).await?;
        told.push(sink.as_mut().finish().await?.to_string());
        let copy = format!("copy (select turn from pool_deadpool where client = {number}) to stdout");
        let copied: Vec<_> = connection.copy_out(&copy).await?.try_collect().await?;
        told.push(copied.len().to_string());
        told.push(connection.query_one("show statement_timeout", &[]).await?.get(0));
        barrier.wait().await;
    }
    Ok(told)
}
