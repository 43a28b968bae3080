//! Runs as a user sees them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

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
async fn the_demo_that_is_kept_has_a_console_and_goes_on() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
    command.args(["demo", "--keep", "--folder"]).arg(folder.path().join("demo"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let said = child.stdout.take().ok_or("its output")?;
    let mut lines = BufReader::new(said).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains("shows what they do"));
    let line = line.ok_or("it says where its console is")?;
    assert!(line.starts_with("4 of 4 syncs"), "{line}");
    let (_, rest) = line.split_once("http://").ok_or("an address")?;
    let address = format!("http://{}", rest.split('/').next().unwrap_or_default());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let page = http.get(format!("{address}/")).send().await?.text().await?;
    assert!(page.contains("orders_in") && page.contains("customers_out"), "{page}");
    // By its schedule it runs again.
    let again = async {
        loop {
            let answer = http.get(format!("{address}/api/v1/runs?sync=products_in")).send().await?.text().await?;
            let runs: serde_json::Value = serde_json::from_str(&answer)?;
            if runs["runs"].as_array().is_some_and(|runs| runs.len() > 3) {
                return Ok::<(), Failed>(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), again).await??;
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert!(sent.success());
    std::thread::spawn(move || lines.for_each(drop));
    let ended = tokio::task::spawn_blocking(move || child.wait()).await??;
    assert!(ended.success(), "{ended}");
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

const TASKS: &str = "\
mapping: tasks
version: 1
salesforce: { connection: crm, object: Task, key: Id }
external: { connection: erp, entity: tasks, key: id, create: true }
fields:
  - { salesforce: Subject, external: subject }
  - { salesforce: WhatId, external: customer_id, lookup: customers }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_to_several_objects_is_looked_up_through_links() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    std::fs::write(bench.path("mappings/tasks.yaml"), TASKS)?;
    bench.edit(
        "bridgehead.yaml",
        "syncs:",
        "syncs:\n  - { sync: tasks_out, mapping: tasks, direction: to_external }",
    )?;
    let client = bench.client()?;
    let known = client.create("Account", &serde_json::json!({"Name": "A", "Customer_No__c": "C-1"})).await?;
    let late = client.create("Account", &serde_json::json!({"Name": "B"})).await?;
    for (subject, what) in [("Call", &known), ("Write", &late)] {
        client.create("Task", &serde_json::json!({"Subject": subject, "WhatId": what})).await?;
    }
    // Named in any order, parents run first.
    bench.expect(&["run", "tasks_out", "customers_out"], 0, &["tasks_out (full): 2 read, 1 created, 1 parked"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["MISSING_PARENT", "has no link in the mapping customers yet"]).await?;
    client.update("Account", &late, &serde_json::json!({"Customer_No__c": "C-2"})).await?;
    bench.expect(&["run", "customers_out", "tasks_out"], 0, &["tasks_out (changes): 2 read, 1 created"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    let erp = bench.erp()?;
    let mut statement = erp.prepare("SELECT subject, customer_id FROM tasks ORDER BY subject")?;
    let rows: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    assert_eq!(rows, [("Call".into(), "C-1".into()), ("Write".into(), "C-2".into())]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_out_to_files_and_follow_their_changes() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.edit("bridgehead.yaml", "syncs:", "  files: { kind: files, url: out }\nsyncs:")?;
    bench.edit(
        "mappings/customers.yaml",
        "connection: erp, entity: customers, key: id",
        "connection: files, entity: c.csv, key: id, create: true",
    )?;
    let client = bench.client()?;
    let mut ids = Vec::new();
    for number in 0..12 {
        let fields = serde_json::json!({"Name": format!("N {number}"), "Customer_No__c": format!("C-{number:02}"), "AnnualRevenue": 1});
        ids.push(client.create("Account", &fields).await?);
    }
    bench.expect(&["run", "customers_out"], 0, &["12 created"]).await?;
    client.update("Account", &ids[3], &serde_json::json!({"Name": "K\u{f6}ln; \"3\""})).await?;
    client.delete("Account", &ids[4]).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 updated", "1 deleted"]).await?;
    let text = std::fs::read_to_string(bench.path("out/c.csv"))?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 12, "{text}");
    assert_eq!(lines[0], "id,name,city,country,revenue,address");
    assert!(text.contains("C-03,\"K\u{f6}ln; \"\"3\"\"\",,,1,") && !text.contains("C-04"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_mapping_reaches_every_record_and_a_rule_can_reject_a_run() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let fields = serde_json::json!({"Name": "A", "Customer_No__c": "C-1", "BillingCity": "Lyon", "AnnualRevenue": -5});
    bench.client()?.create("Account", &fields).await?;
    bench.edit("mappings/customers.yaml", "on_fail: dead_letter", "on_fail: reject")?;
    bench.expect(&["run", "customers_out"], 3, &["the rule revenue_not_negative does not hold for \"C-1\""]).await?;
    assert!(bench.erp_customers("customers")?.is_empty(), "a rejected run writes nothing");
    bench.edit("mappings/customers.yaml", "on_fail: reject", "on_fail: warn")?;
    bench.expect(&["run", "customers_out"], 0, &["1 created", "1 warnings"]).await?;
    bench.expect(&["plan", "customers_out"], 0, &["reads changes only"]).await?;
    let city = "{ salesforce: BillingCity, external: city";
    bench.edit("mappings/customers.yaml", city, &format!("{city}, to_external: \"upper(value)\""))?;
    bench.expect(&["plan", "customers_out"], 0, &["reads everything, since the mapping is another"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["customers_out (full)", "1 updated"]).await?;
    assert_eq!(bench.erp_customers("customers")?[0].2, "LYON");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_knows_every_kind_and_a_wrong_word_is_named_with_its_line() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let kinds = ["\"salesforce\"", "\"postgres\"", "\"sqlite\"", "\"files\"", "\"client_credentials\""];
    bench.expect(&["schema"], 0, &kinds).await?;
    bench.expect(&["schema", "mapping"], 0, &["\"when_key_missing\"", "\"to_external\""]).await?;
    bench.edit("bridgehead.yaml", "path: erp.db", "pth: erp.db")?;
    bench
        .expect(&["check"], 4, &["bridgehead.yaml:9:5: connection erp", "unknown field `pth`, expected `path`"])
        .await?;
    bench.edit("bridgehead.yaml", "kind: sqlite", "kind: sqlight")?;
    bench.expect(&["check"], 4, &["its kind is \"sqlight\"; there are salesforce, postgres, sqlite, files"]).await
}
