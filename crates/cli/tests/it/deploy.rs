//! Versions, environments, first slices and drift as a user sees them.

use serde_json::{Value, json};

use crate::bench::{Bench, Failed};

/// Gives the org so many customers.
async fn customers(bench: &Bench, count: usize) -> Result<(), Failed> {
    for number in 0..count {
        let fields =
            json!({"Name": format!("A{number}"), "Customer_No__c": format!("C-{number:02}"), "BillingCity": "Bonn"});
        bench.client()?.create("Account", &fields).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_kept_compared_put_to_work_and_taken_back() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.expect(&["versions"], 0, &["No version was kept yet"]).await?;
    bench.expect(&["diff"], 4, &["no version was put to work yet"]).await?;
    bench.expect(&["deploy", "--reason", "first", "--author", "ada"], 0, &["Version 1 is at work."]).await?;
    bench.expect(&["deploy", "--reason", "again"], 0, &["Version 1 is at work, and has all"]).await?;
    bench.edit("mappings/customers.yaml", "external: city", "external: city, to_external: \"upper(value)\"")?;
    let changed =
        ["--- mappings/customers.yaml (version 1)", "+++ mappings/customers.yaml (the folder)", "upper(value)"];
    bench.expect(&["diff"], 0, &changed).await?;
    bench.expect(&["deploy", "--reason", "shout", "--dry-run"], 0, &["upper(value)", "Nothing was kept"]).await?;
    bench.expect(&["deploy", "--reason", "shout", "--author", "bob", "--staged"], 0, &["Version 2 is kept"]).await?;
    bench.expect(&["versions"], 0, &["1", "ada", "first", "at work", "2", "bob", "shout"]).await?;
    let dry = ["promote", "--reason", "it is good", "--dry-run"];
    bench.expect(&dry, 0, &["+++", "upper(value)", "Version 2 is good. Nothing was changed."]).await?;
    bench.expect(&["promote", "--reason", "it is good"], 0, &["Version 2 is at work."]).await?;
    bench.expect(&["promote", "--reason", "it is good"], 0, &["Version 2 is at work already."]).await?;
    // What can't work is not kept, and not put to work.
    bench.edit("mappings/customers.yaml", "external: city", "external: citty")?;
    bench.expect(&["deploy", "--reason", "typo"], 4, &["customers.yaml:", "did you mean city?"]).await?;
    bench.expect(&["promote", "7", "--reason", "x"], 4, &["there is no version 7"]).await?;
    bench.erp()?.execute_batch("ALTER TABLE customers RENAME COLUMN city TO town")?;
    bench.expect(&["rollback", "--reason", "x"], 4, &["version 1, mappings/customers.yaml:", "city"]).await?;
    bench.erp()?.execute_batch("ALTER TABLE customers RENAME COLUMN town TO city")?;
    let dry = ["rollback", "--reason", "too loud", "--dry-run"];
    bench.expect(&dry, 0, &["-", "upper(value)", "Version 1 is good. Nothing was changed."]).await?;
    bench.expect(&["rollback", "--reason", "too loud"], 0, &["Version 1 is at work."]).await?;
    bench.expect(&["diff", "2"], 0, &["citty"]).await?;
    bench.expect(&["diff", "1", "1"], 0, &["version 1 and version 1 are the same."]).await?;
    bench.expect(&["audit", "list"], 0, &["version_kept", "deployed", "ada", "too loud"]).await?;
    bench.expect(&["audit", "verify"], 0, &["is whole"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_has_its_own_connections_schedules_and_state() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    customers(&bench, 1).await?;
    std::fs::create_dir(bench.path("environments"))?;
    let staging =
        "connections:\n  erp: { path: staging.db }\nsyncs:\n  customers_out: { deletes: ignore, schedule: null }\n";
    std::fs::write(bench.path("environments/staging.yaml"), staging)?;
    rusqlite::Connection::open(bench.path("staging.db"))?
        .execute_batch(include_str!("../../../../examples/bicycle/erp.sql"))?;
    bench.expect(&["--env", "staging", "run", "customers_out"], 0, &["1 created"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 0, "what is at work elsewhere is left alone");
    bench.expect(&["run", "customers_out"], 0, &["customers_out (full)", "1 created"]).await?;
    assert!(bench.path(".bridgehead/staging/state.db").exists() && bench.path(".bridgehead/state.db").exists());
    bench
        .expect(&["--env", "nowhere", "check"], 4, &["there is no environment \"nowhere\"", "there are staging"])
        .await?;
    bench.expect(&["--env", "../staging", "check"], 4, &["there is no environment"]).await?;
    bench.edit("environments/staging.yaml", "customers_out", "nobody")?;
    bench.expect(&["--env", "staging", "check"], 4, &["staging.yaml: there is no sync \"nobody\""]).await?;
    bench.edit("environments/staging.yaml", "nobody: { deletes", "customers_out: { delete")?;
    bench.expect(&["--env", "staging", "check"], 4, &["staging.yaml:4:"]).await?;
    bench.edit("environments/staging.yaml", "delete: ignore", "deletes: ignore")?;
    bench.edit("environments/staging.yaml", "path:", "pfad:")?;
    bench.expect(&["--env", "staging", "check"], 4, &["staging.yaml:2:", "connection erp", "pfad"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_slice_is_written_and_the_rest_comes_with_the_next_run() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    customers(&bench, 6).await?;
    bench.client()?.create("Account", &json!({"Name": "Far", "Customer_No__c": "C-99", "BillingCity": "Oslo"})).await?;
    bench
        .expect(&["run", "customers_out", "--pilot", "2"], 0, &["(pilot): 2 read, 2 created", "no row missing"])
        .await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 2);
    let narrowed = ["run", "customers_out", "--where", "BillingCity = 'Oslo'"];
    bench.expect(&narrowed, 0, &["(pilot): 1 read, 1 created"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 3);
    bench.expect(&["run", "customers_out", "--where", "Nonsense"], 4, &[]).await?;
    // The brake has nothing to brake: what a slice left out is not gone.
    bench.expect(&["run", "customers_out"], 0, &["(full): 7 read, 4 created", "3 unchanged", "no row missing"]).await?;
    bench.expect(&["run", "customers_out", "--pilot", "2"], 0, &["(pilot): 2 read, 2 unchanged"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["(changes): ", "no row missing"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 7);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_stops_a_sync_that_wants_it_and_missing_columns_are_added() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    customers(&bench, 2).await?;
    bench.edit("bridgehead.yaml", "mapping: customers,", "mapping: customers, drift: stop,")?;
    bench.expect(&["run", "customers_out"], 0, &["2 created"]).await?;
    bench.erp()?.execute_batch("ALTER TABLE customers ADD COLUMN fax TEXT")?;
    let stopped = ["stopped before it read anything", "customers.fax is new (text)", "--force"];
    bench.expect(&["run", "customers_out"], 8, &stopped).await?;
    bench.expect(&["runs"], 0, &["stopped"]).await?;
    bench.expect(&["run", "customers_out", "--force"], 0, &["no row missing"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await?;
    // A field of the mapping whose column is missing.
    bench.edit("mappings/customers.yaml", "fields:\n", "fields:\n  - { salesforce: Phone, external: phone }\n")?;
    bench.expect(&["check"], 4, &["no field \"phone\""]).await?;
    bench.edit("bridgehead.yaml", "drift: stop", "drift: add_columns")?;
    bench.expect(&["check"], 0, &["customers_out: good"]).await?;
    let columns = "SELECT count(*) FROM pragma_table_info('customers') WHERE name = 'phone'";
    assert_eq!(bench.erp()?.query_row(columns, [], |row| row.get::<_, i64>(0))?, 0, "a check adds nothing");
    bench.expect(&["run", "customers_out"], 0, &["(full)", "no row missing"]).await?;
    assert_eq!(bench.erp()?.query_row(columns, [], |row| row.get::<_, i64>(0))?, 1);
    bench.edit("bridgehead.yaml", "mapping: orders,", "mapping: orders, drift: add_columns,")?;
    bench
        .expect(&["check"], 4, &["the sync orders_in: `drift: add_columns` is for syncs with direction: to_external"])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_slice_of_a_two_way_sync_is_merged_and_the_rest_comes_with_the_next_run() -> Result<(), Failed> {
    let bench = crate::two_way::bench("").await?;
    let client = bench.client()?;
    for at in 1..=4 {
        client.create("Account", &json!({"Name": format!("Org {at}"), "Customer_No__c": format!("S-{at}")})).await?;
    }
    let erp = bench.erp()?;
    erp.execute_batch("INSERT INTO customers (id, name) VALUES ('E-1', 'Erp 1'), ('E-2', 'Erp 2'), ('E-3', 'Erp 3')")?;
    let counts =
        || -> Result<i64, Failed> { Ok(erp.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?) };
    bench.expect(&["run", "--pilot", "2"], 0, &["both (pilot): 4 read, 4 created", "no row missing"]).await?;
    assert_eq!((counts()?, client.count("SELECT COUNT() FROM Account", false).await?), (5, 6));
    bench.expect(&["run", "--where", "Name = 'Org 4'"], 0, &["both (pilot): 1 read, 1 created"]).await?;
    assert_eq!(crate::two_way::text(&erp, "name", "S-4")?.as_deref(), Some("Org 4"));
    // It was a run: it can be undone, and the next one makes the rest.
    bench.expect(&["undo", "2"], 0, &["1 taken away"]).await?;
    assert_eq!(counts()?, 5);
    bench.expect(&["run", "--full"], 0, &["no row missing"]).await?;
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 7);
    let report: Value = serde_json::from_slice(&bench.call(&["run", "--json"]).await?.stdout)?;
    let (foreseen, spent) = (report["calls_forecast"].as_u64(), report["calls"].as_u64());
    assert!(foreseen > Some(0) && foreseen <= spent.map(|spent| 2 * spent), "{report}");
    Ok(())
}
