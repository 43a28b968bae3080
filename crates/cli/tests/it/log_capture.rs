//! Changes told by the log of PostgreSQL, with all that may happen to a log.

use serde_json::{Value, json};

use crate::bench::Failed;
use crate::two_way::{CAPTURED, InPostgres, account, captured, id_of};

fn by_log() -> String {
    let mapping = CAPTURED.replace("capture: triggers", "capture: log");
    mapping + "  - { salesforce: Description, external: notes }\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_what_changed() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "logged").await?;
    let bench = &there.bench;
    bench.expect(&["capture", "list"], 0, &["nothing yet"]).await?;
    captured(bench, &|sql| there.sql(sql)).await?;
    bench.expect(&["capture", "list"], 0, &["bridgehead_log_", "none"]).await?;

    // A value that is stored apart is left out of the log where it did not change.
    there.sql("UPDATE customers SET notes = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 900) n) WHERE id = 'C-1'")?;
    bench.expect(&["run"], 0, &["both (changes)", "1 updated"]).await?;
    there.sql("UPDATE customers SET city = 'Ulm' WHERE id = 'C-1'")?;
    bench.expect(&["run"], 0, &["both (changes)", "1 updated"]).await?;
    assert_eq!(account(bench, "C-1", "BillingCity").await?, json!("Ulm"));
    assert_eq!(account(bench, "C-1", "Description").await?.as_str().map(str::len), Some(28_800));

    // The table changes its columns between two changes, and a change of Salesforce comes in between.
    bench.client()?.update("Account", &id_of(bench, "C-4").await?, &json!({"Name": "Dale & Co"})).await?;
    there.sql(
        "UPDATE customers SET city = 'Bonn' WHERE id = 'C-1';
         ALTER TABLE customers ADD COLUMN first text DEFAULT 'x'; UPDATE customers SET city = 'Kiel' WHERE id = 'C-4';
         ALTER TABLE customers DROP COLUMN first; UPDATE customers SET city = 'Jena' WHERE id = 'C-5'",
    )?;
    bench.expect(&["run"], 0, &["both (changes)", "no row missing"]).await?;
    for (key, city) in [("C-1", "Bonn"), ("C-4", "Kiel"), ("C-5", "Jena")] {
        assert_eq!(account(bench, key, "BillingCity").await?, json!(city));
    }
    let name = there.db.query_one("SELECT name FROM customers WHERE id = 'C-4'", &[]).await?;
    assert_eq!(name.get::<_, String>(0), "Dale & Co");

    // Large transactions come in parts; what is given up in the end was nothing.
    there.sql(
        "BEGIN; INSERT INTO customers (id, name) SELECT 'L-' || n, 'large ' || n FROM generate_series(1, 3000) n;
         SAVEPOINT a; INSERT INTO customers (id, name) SELECT 'S-' || n, 'no' FROM generate_series(1, 2000) n;
         ROLLBACK TO a; COMMIT;
         BEGIN; INSERT INTO customers (id, name) SELECT 'R-' || n, 'no' FROM generate_series(1, 3000) n; ROLLBACK",
    )?;
    bench.expect(&["run"], 0, &["both (changes)", "3000 created", "no row missing"]).await?;
    assert_eq!(bench.client()?.count("SELECT COUNT() FROM Account", false).await?, 3003);
    there.sql("DELETE FROM customers WHERE id LIKE 'L-%'")?;
    bench.expect(&["run"], 0, &["both (changes)", "3000 deleted"]).await?;
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_tells_nothing_any_more_is_made_good_by_reading_everything() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "unlogged").await?;
    let bench = &there.bench;
    there.sql("INSERT INTO customers (id, name) VALUES ('C-1', 'Acme'), ('C-2', 'Birch'), ('C-3', 'Cedar')")?;
    bench.expect(&["run"], 0, &["3 created"]).await?;
    bench.expect(&["plan"], 0, &["changes only"]).await?;
    let output = bench.call(&["capture", "list", "--json"]).await?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let slot = listed["capture"]["name"].as_str().ok_or("a slot")?.to_owned();

    // A TRUNCATE names no rows.
    there.sql("TRUNCATE customers; INSERT INTO customers (id, name) VALUES ('C-2', 'Birch'), ('C-4', 'Dale')")?;
    bench.expect(&["plan"], 0, &["what changed is not known any more"]).await?;
    bench.expect(&["run"], 0, &["both (full)", "1 created", "2 deleted"]).await?;

    // Somebody drops the slot, and somebody the publication.
    there.sql(&format!(
        "SELECT pg_drop_replication_slot('{slot}'); UPDATE customers SET name = 'Birch & Co' WHERE id = 'C-2'"
    ))?;
    bench.expect(&["run"], 0, &["both (full)", "1 updated"]).await?;
    there.sql("UPDATE customers SET name = 'Dale & Co' WHERE id = 'C-4'")?;
    bench.expect(&["run"], 0, &["both (changes)", "1 updated"]).await?;
    there.sql(&format!("DROP PUBLICATION {slot}; UPDATE customers SET name = 'Dale' WHERE id = 'C-4'"))?;
    bench.expect(&["run"], 0, &["both (full)", "1 updated"]).await?;
    there.sql("DELETE FROM customers WHERE id = 'C-4'")?;
    bench.expect(&["run"], 0, &["both (changes)", "1 deleted"]).await?;

    // Another mapping is another window.
    bench.edit("mappings/customers.yaml", "version: 1", "version: 2")?;
    bench.expect(&["plan"], 0, &["the mapping is another"]).await?;
    bench.expect(&["run"], 0, &["both (full)"]).await?;
    bench.expect(&["run"], 0, &["both (changes)"]).await?;
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_can_not_tell_is_refused_before_anything_is_published() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "refused").await?;
    // Deletions of a table without an identity name no row, and updates of it would fail once it is published.
    there.sql("ALTER TABLE customers DROP CONSTRAINT customers_pkey; ALTER TABLE customers ADD COLUMN n serial PRIMARY KEY; CREATE UNIQUE INDEX ON customers (id)")?;
    there.bench.expect(&["run"], 4, &["the log does not tell id of rows", "REPLICA IDENTITY FULL"]).await?;
    there.sql("INSERT INTO customers (id, name) VALUES ('C-1', 'Acme'); UPDATE customers SET name = 'Acme AG'")?;
    there.sql("ALTER TABLE customers REPLICA IDENTITY FULL")?;
    there.bench.expect(&["run"], 0, &["1 created"]).await?;
    there.sql("DELETE FROM customers")?;
    there.bench.expect(&["run"], 0, &["both (changes)", "1 deleted"]).await?;
    // One who may not read the log is told so.
    let role = format!("plain_{}", std::process::id());
    there.sql(&format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {0} TO {role};
         GRANT ALL ON DATABASE postgres TO {role}; CREATE TABLE {0}.other (id varchar(20) PRIMARY KEY, name text NOT NULL, city text, notes text);
         ALTER TABLE {0}.other OWNER TO {role}",
        there.schema
    ))?;
    there.bench.expect(&["capture", "drop", "both"], 0, &["Removed"]).await?;
    there.bench.edit("mappings/customers.yaml", ".customers", ".other")?;
    there.bench.edit("bridgehead.yaml", "postgres://postgres@", &format!("postgres://{role}@"))?;
    there.bench.expect(&["run"], 4, &["REPLICATION", "capture: triggers"]).await?;
    let published = "SELECT FROM pg_publication_rel WHERE prrelid = 'other'::regclass";
    assert!(there.db.query(published, &[]).await?.is_empty(), "nothing is published that nobody reads");
    there.sql(&format!("DROP SCHEMA {} CASCADE; DROP OWNED BY {role}; DROP ROLE {role}", there.schema))
}
