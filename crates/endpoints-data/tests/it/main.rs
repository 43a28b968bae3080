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
