//! `sqlx::PgPool`: prepared statements, transactions with a savepoint, a cursor, settings in the startup packet and behind it.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Acquire as _, Executor as _, PgPool};
use tokio::sync::Barrier;

use crate::{CLIENTS, Error, Place, ROUNDS, Told};

pub async fn run(place: &Place) -> Result<Told, Error> {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&place.host)
        .port(place.port)
        .username("postgres")
        .database("postgres")
        .application_name("pool")
        .options([("work_mem", "5MB")]);
    let clients = u32::try_from(CLIENTS)?;
    let pool = PgPoolOptions::new()
        .min_connections(clients)
        .max_connections(clients)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute("set statement_timeout = '30s'").await.map(|_| ()) })
        })
        .connect_with(options)
        .await?;
    pool.execute("drop table if exists pool_sqlx").await?;
    pool.execute("create table pool_sqlx (client int, turn int)").await?;
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let told =
        try_join_all((0..clients).map(|number| client(pool.clone(), barrier.clone(), number.cast_signed()))).await?;
    pool.close().await;
    Ok(told)
}

async fn client(pool: PgPool, barrier: Arc<Barrier>, number: i32) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    for turn in 0..ROUNDS {
        let mut connection = pool.acquire().await?;
        barrier.wait().await;
        let mut transaction = connection.begin().await?;
        let insert = sqlx::query("insert into pool_sqlx values ($1, $2)").bind(number).bind(turn);
        insert.execute(&mut *transaction).await?;
        let mut savepoint = transaction.begin().await?;
        let failed = sqlx::query_scalar::<_, i32>("select 1 / $1").bind(0).fetch_one(&mut *savepoint).await;
        told.push(code(&failed.err().ok_or("a division by zero")?));
        savepoint.rollback().await?;
        transaction.commit().await?;
        let count = "select count(*) from pool_sqlx where client = $1";
        let count: i64 = sqlx::query_scalar(count).bind(number).fetch_one(&mut *connection).await?;
        told.push(count.to_string());
        let series = sqlx::query_scalar::<_, i32>("select n from generate_series($1, 10) n").bind(turn);
        let rows: Vec<i32> = series.fetch(&mut *connection).try_collect().await?;
        told.push(format!("{rows:?}"));
        let settings =
            "select current_setting(name) from unnest(array['statement_timeout', 'work_mem', 'application_name']) name";
        told.extend(sqlx::query_scalar::<_, String>(settings).fetch_all(&mut *connection).await?);
        barrier.wait().await;
    }
    Ok(told)
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code().map(Into::into));
    code.unwrap_or_else(|| error.to_string())
}
