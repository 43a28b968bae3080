//! Every database endpoint under the contract.

use endpoints_data::sqlite::Sqlite;

#[tokio::test]
async fn sqlite_keeps_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.db");
    rusqlite::Connection::open(&path)?.execute_batch(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE \"wid\"\"gets\" (k VARCHAR(40) PRIMARY KEY NOT NULL, name VARCHAR(80) NOT NULL CHECK (length(name) <= 80),
                              amount DECIMAL(18,2), at DATETIME);",
    )?;
    endpoint::contract::check(&Sqlite::new(path), "wid\"gets", ["k", "name", "amount", "at"]).await;
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES")
        .map_err(|_| "BRIDGEHEAD_TEST_POSTGRES names no PostgreSQL; `cargo xtask test` starts one")?;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let create = "DROP SCHEMA IF EXISTS contract CASCADE; CREATE SCHEMA contract;
                  CREATE TABLE contract.widgets (k varchar(40) PRIMARY KEY, name varchar(80), amount numeric(18,2), at timestamptz)";
    client.batch_execute(create).await?;
    let endpoint = endpoints_data::postgres::Postgres::new(&url, None)?;
    endpoint::contract::check(&endpoint, "contract.widgets", ["k", "name", "amount", "at"]).await;
    Ok(())
}
