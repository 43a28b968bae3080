//! Every database endpoint under the contract.

use std::sync::Arc;

use endpoint::Sink as _;
use endpoints_data::files::{Dialect, Files};
use endpoints_data::sqlite::Sqlite;
use model::{Entity, Field, Type};

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

/// An entity of the contract, for systems that make it themselves.
fn widgets(name: &str) -> Entity {
    let money = Type::Decimal { precision: 18, scale: 2 };
    let fields = [("k", Type::Text), ("name", Type::Text), ("amount", money), ("at", Type::Timestamp)];
    Entity::new(name).with_key(["k"]).with_fields(fields.map(|(name, kind)| Field::new(name, kind)))
}

#[tokio::test]
async fn files_of_every_format_keep_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path())?;
    let dialect = Dialect { delimiter: b';', null: "NULL".to_owned() };
    let files = Files::new(Arc::new(store), folder.path().display().to_string(), dialect);
    for name in ["w.csv", "w.csv.gz", "w.csv.zst", "deep/w.ndjson", "w.jsonl.gz", "w.jsonl.zst", "w.parquet"] {
        if name.contains("json") {
            // Without rows NDJSON tells no fields.
            endpoint::contract::check_described(&files, widgets(name), ["k", "name", "amount", "at"]).await;
            continue;
        }
        files.create(&widgets(name)).await?;
        endpoint::contract::check(&files, name, ["k", "name", "amount", "at"]).await;
    }
    Ok(())
}
