//! Runs as a user sees them.

use std::process::Command;

use crate::bench::{Bench, Failed};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_leaves_a_project() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
    command.arg("demo").arg("--folder").arg(folder.path().join("demo"));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["5000 created", "2 updated", "1 deleted", "MISSING_PARENT", "STRING_TOO_LONG", "nothing was lost"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(folder.path().join("demo/bridgehead.yaml").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_travel_and_the_brake_holds() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let client = bench.client()?;
    let mut ids = Vec::new();
    for number in 0..30 {
        let fields = serde_json::json!({"Name": format!("A{number}"), "Customer_No__c": format!("C-{number:02}"), "BillingCity": "X"});
        ids.push(client.create("Account", &fields).await?);
    }
    bench.expect(&["plan", "customers_out"], 0, &["30 rows", "reads everything"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["30 created"]).await?;
    client.delete("Account", &ids[0]).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 deleted"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 29);
    for id in &ids[1..20] {
        client.delete("Account", id).await?;
    }
    bench.expect(&["run", "customers_out"], 8, &["would delete 19 of 29", "brake"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 29, "nothing was deleted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_comes_late_releases_what_waits_for_it() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let insert = "INSERT INTO orders VALUES ('O-1', 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'P', '2026-01-01T00:00:00.000Z')";
    bench.erp()?.execute(insert, [])?;
    bench.client()?.create("Product2", &serde_json::json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    bench.expect(&["run", "orders_in"], 0, &["1 parked"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["MISSING_PARENT", "O-1"]).await?;
    bench.client()?.create("Account", &serde_json::json!({"Name": "Late", "Customer_No__c": "C-1"})).await?;
    bench.expect(&["run", "orders_in"], 0, &["no row missing"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    let count = bench
        .client()?
        .count("SELECT COUNT() FROM Bike_Order__c WHERE Account__r.Customer_No__c = 'C-1'", false)
        .await?;
    assert_eq!(count, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_says_what_and_where_and_exits_by_its_class() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.expect(&["run", "nope"], 4, &["there is no sync \"nope\"", "orders_in"]).await?;
    bench.expect(&["discover", "nope"], 4, &["there is no connection \"nope\"", "crm, erp"]).await?;
    bench.expect(&["discover", "crm", "Nope__c"], 4, &["no object Nope__c"]).await?;
    let wrong = tokio::task::spawn_blocking({
        let mut command = bench.command(&["check"]);
        command.env("BICYCLE_ORG_SECRET", "wrong");
        move || command.output()
    })
    .await??;
    assert_eq!(wrong.status.code(), Some(5), "{}", String::from_utf8_lossy(&wrong.stderr));
    bench.edit("mappings/orders.yaml", "external: engraving", "external: engravin")?;
    bench.expect(&["check"], 4, &["orders.yaml:8:", "did you mean engraving?"]).await?;
    bench.edit("mappings/orders.yaml", "external: engravin", "external: engraving")?;
    bench.edit("mappings/orders.yaml", "salesforce: Quantity__c", "salesforce: Ordered_On__c")?;
    bench.expect(&["check"], 4, &["Ordered_On__c is date, and integer can't become that"]).await?;
    bench.edit("mappings/orders.yaml", "mapping: orders", "mapping: [")?;
    bench.expect(&["check"], 4, &["orders.yaml:"]).await?;
    bench.edit("bridgehead.yaml", "\"${env:BICYCLE_ORG_SECRET}\"", "plain")?;
    bench.edit("mappings/orders.yaml", "mapping: [", "mapping: orders")?;
    bench.expect(&["check"], 4, &["a secret stands in bridgehead.yaml itself"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_of_one_sync_says_so_and_leaves() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let store = state::Store::open(&bench.path(".bridgehead/state.db"))?;
    let lock = store.lock("orders_in")?;
    bench.expect(&["run", "orders_in"], 8, &["another run of orders_in is going on"]).await?;
    drop(lock);
    bench.expect(&["run", "orders_in"], 0, &["0 read"]).await
}
