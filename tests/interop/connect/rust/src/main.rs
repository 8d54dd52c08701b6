//! One connection by a driver of Rust's: DRIVER FORM, where the form is a URL or keywords.

use std::error::Error;

use sqlx::Connection as _;

const QUERY: &str = "select current_user || ' ' || current_database()";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let said = match arguments.as_slice() {
        [driver, form] if driver == "sqlx" => by_sqlx(form).await?,
        [_, form] => by_tokio_postgres(form).await?,
        _ => return Err("DRIVER FORM".into()),
    };
    println!("{said}");
    Ok(())
}

async fn by_sqlx(form: &str) -> Result<String, Box<dyn Error>> {
    let mut connection = sqlx::PgConnection::connect(form).await?;
    let said = sqlx::query_scalar(QUERY).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(said)
}

async fn by_tokio_postgres(form: &str) -> Result<String, Box<dyn Error>> {
    // As sslmode=require means it in libpq: any certificate will do.
    let connector = native_tls::TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()?;
    let connector = postgres_native_tls::MakeTlsConnector::new(connector);
    let (client, connection) = tokio_postgres::connect(form, connector).await?;
    tokio::spawn(connection);
    Ok(client.query_one(QUERY, &[]).await?.get(0))
}
