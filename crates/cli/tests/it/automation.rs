//! Orgs that do something of their own when a record is saved.

use std::time::Duration;

use sandbox::{Automation, Save, When};
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::two_way::{account, id_of, text, two_way};

pub(crate) fn rule(name: &str, condition: &str) -> Automation {
    Automation {
        name: name.to_owned(),
        object: "Account".to_owned(),
        on: vec![Save::Create, Save::Update],
        when: When::Before,
        condition: Some(condition.to_owned()),
        set: std::collections::BTreeMap::new(),
        assign: None,
        create: None,
        publish: None,
        send: None,
        fail: None,
        takes_ms: 0,
    }
}

/// Rewrites cities, refuses a name, goes round in a circle, and takes its time.
async fn org(wait_ms: u64) -> Result<Bench, Failed> {
    let set = |field: &str, formula: &str| [(field.to_owned(), formula.to_owned())].into();
    let rules = vec![
        Automation { set: set("BillingCity", "UPPER(BillingCity)"), ..rule("Capitals", "NOT(ISBLANK(BillingCity))") },
        Automation { fail: Some("We don't.".to_owned()), ..rule("No_Enron", "Name = \"Enron\"") },
        Automation { when: When::After, set: set("Site", "Site & \"x\""), ..rule("Loop", "Name = \"Loop\"") },
        Automation { takes_ms: 1_500, ..rule("Slow", "Site = \"slow\"") },
    ];
    let bench = Bench::with(|config| {
        config.definition.automation = rules;
        config.definition.locks.wait_ms = wait_ms;
    })
    .await?;
    two_way(bench, "")
}

async fn counts(bench: &Bench) -> Result<Value, Failed> {
    let output = bench.call(&["run", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    Ok(report["counts"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_org_rewrites_comes_back_once_and_what_it_refuses_waits() -> Result<(), Failed> {
    let bench = org(1_000).await?;
    let erp = bench.erp()?;
    for (id, name) in [("C-1", "Acme"), ("C-2", "Enron"), ("C-3", "Loop"), ("C-4", "Birch")] {
        erp.execute("INSERT INTO customers (id, name, city) VALUES (?1, ?2, 'Bonn')", [id, name])?;
    }
    bench.expect(&["run"], 3, &["2 created", "2 dead letters"]).await?;
    assert_eq!(account(&bench, "C-1", "BillingCity").await?, json!("BONN"));
    bench.expect(&["dead-letters", "list"], 0, &["C-2", "We don't.", "C-3", "maximum trigger depth exceeded"]).await?;
    // What the org made of it is an edit in Salesforce: it comes back once, and is no conflict.
    counts(&bench).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("BONN"));
    let again = counts(&bench).await?;
    assert_eq!([&again["created"], &again["updated"]], [0, 0], "no echo: {again}");
    // So does an edit outside that the org rewrites.
    erp.execute("UPDATE customers SET city = 'Ulm' WHERE id = 'C-4'", [])?;
    counts(&bench).await?;
    counts(&bench).await?;
    assert_eq!(text(&erp, "city", "C-4")?.as_deref(), Some("ULM"));
    assert_eq!(account(&bench, "C-4", "BillingCity").await?, json!("ULM"));
    let again = counts(&bench).await?;
    assert_eq!([&again["created"], &again["updated"]], [0, 0], "no echo: {again}");
    bench.expect(&["conflicts", "list", "--all"], 0, &["No conflicts."]).await?;
    // What was refused goes when its cause is gone.
    erp.execute("UPDATE customers SET name = 'Enroff' WHERE id = 'C-2'", [])?;
    erp.execute("UPDATE customers SET name = 'Line' WHERE id = 'C-3'", [])?;
    bench.expect(&["run"], 0, &["2 created"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_slow_automation_holds_is_tried_again() -> Result<(), Failed> {
    let bench = org(10).await?;
    let erp = bench.erp()?;
    erp.execute("INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme', 'BONN'), ('C-2', 'Birch', 'OSLO')", [])?;
    bench.expect(&["run"], 0, &["2 created"]).await?;
    erp.execute("UPDATE customers SET name = 'Acme AG' WHERE id = 'C-1'", [])?;
    erp.execute("UPDATE customers SET name = 'Birch AG' WHERE id = 'C-2'", [])?;
    let (client, id) = (bench.client()?, id_of(&bench, "C-1").await?);
    // Somebody else's save holds the record for longer than the org lets us wait.
    let saved = tokio::spawn(async move { client.update("Account", &id, &json!({"Site": "slow"})).await });
    let held = async || Ok::<_, Failed>(account(&bench, "C-1", "Site").await? == json!("slow"));
    crate::follow::until("the record is held", held).await?;
    bench.call(&["run"]).await?;
    assert_eq!(account(&bench, "C-2", "Name").await?, json!("Birch AG"), "the others go on");
    saved.await??;
    let settled = async || {
        bench.call(&["run"]).await?;
        Ok::<_, Failed>(account(&bench, "C-1", "Name").await? == json!("Acme AG"))
    };
    tokio::time::timeout(Duration::from_mins(1), crate::follow::until("it is written in the end", settled)).await??;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await
}
