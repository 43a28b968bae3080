//! Undo with the real program: what a run wrote is put back, and stays so.

use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::two_way::{account, bench, id_of, text};

/// The number of the last run.
async fn last_run(bench: &Bench) -> Result<String, Failed> {
    let output = bench.call(&["runs", "--json"]).await?;
    let runs: Value = serde_json::from_slice(&output.stdout)?;
    Ok(runs[0]["id"].to_string())
}

/// The number of the last undo.
async fn last_undo(bench: &Bench) -> Result<String, Failed> {
    let output = bench.call(&["runs", "--json"]).await?;
    let runs: Value = serde_json::from_slice(&output.stdout)?;
    let undo = runs.as_array().into_iter().flatten().find(|run| !run["report"]["undoes"].is_null());
    Ok(undo.ok_or("an undo")?["id"].to_string())
}

/// Runs, and checks that there was nothing to do.
async fn nothing_to_do(bench: &Bench, arguments: &[&str]) -> Result<(), Failed> {
    let output = bench.call(arguments).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let counts = &report["counts"];
    assert_eq!([&counts["created"], &counts["updated"], &counts["deleted"]], [0, 0, 0], "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_wrote_is_put_back_on_both_sides_and_stays_so() -> Result<(), Failed> {
    let bench = bench("").await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute_batch(
        "INSERT INTO customers VALUES ('C-1', 'Acme', 'Bonn', NULL, 1, NULL), ('C-2', 'Birch', 'Oslo', NULL, 2, NULL),
                                      ('C-3', 'Cedar', NULL, NULL, 3, NULL)",
    )?;
    bench.expect(&["run"], 0, &["3 created"]).await?;
    let first = last_run(&bench).await?;

    // A run that writes to both sides: fields, a new record each way, a deletion each way.
    client.update("Account", &id_of(&bench, "C-1").await?, &json!({"BillingCity": "Trier", "Name": "Acme AG"})).await?;
    erp.execute("UPDATE customers SET revenue = 9 WHERE id = 'C-1'", [])?;
    client.create("Account", &json!({"Name": "Dale", "Customer_No__c": "C-4"})).await?;
    erp.execute("INSERT INTO customers VALUES ('C-5', 'Elm', 'Rome', NULL, 5, NULL)", [])?;
    client.delete("Account", &id_of(&bench, "C-2").await?).await?;
    erp.execute("DELETE FROM customers WHERE id = 'C-3'", [])?;
    bench.expect(&["run"], 0, &["2 created", "2 updated", "2 deleted"]).await?;
    let second = last_run(&bench).await?;
    let undone = "2 put back, 2 made again, 2 taken away, 0 as they were";
    // To know what it would do changes nothing, and is no run.
    bench.expect(&["undo", &second, "--dry-run"], 0, &[&format!("Would undo run {second} of both"), undone]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Trier"));
    assert_eq!(last_run(&bench).await?, second);
    bench.expect(&["undo", &second], 0, &[&format!("Undid run {second} of both"), undone]).await?;
    bench.expect(&["runs"], 0, &[&format!("both (undo of {second})")]).await?;

    let there = async || -> Result<(), Failed> {
        // Outside is as it was before the run; in Salesforce, too; what people wrote themselves stays.
        assert_eq!(text(&erp, "name", "C-1")?.as_deref(), Some("Acme"));
        assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Bonn"));
        assert_eq!(text(&erp, "revenue", "C-1")?.as_deref(), Some("9"));
        assert_eq!(account(&bench, "C-1", "Name").await?, json!("Acme AG"));
        assert_eq!(account(&bench, "C-1", "AnnualRevenue").await?, json!(1.0));
        assert_eq!(text(&erp, "name", "C-2")?.as_deref(), Some("Birch"), "made again");
        assert_eq!(account(&bench, "C-3", "Name").await?, json!("Cedar"), "made again");
        let keys: String =
            erp.query_row("SELECT group_concat(id) FROM (SELECT id FROM customers ORDER BY id)", [], |row| row.get(0))?;
        assert_eq!(keys, "C-1,C-2,C-5", "C-4 is taken away");
        let page = client.query("SELECT Customer_No__c FROM Account ORDER BY Customer_No__c", false).await?;
        let keys: Vec<&str> = page.records.iter().filter_map(|record| record["Customer_No__c"].as_str()).collect();
        assert_eq!(keys, ["C-1", "C-3", "C-4"], "C-5 is taken away");
        Ok(())
    };
    there().await?;
    // Nothing comes back by itself, not even where everything is read.
    nothing_to_do(&bench, &["run", "--json"]).await?;
    nothing_to_do(&bench, &["run", "--full", "--json"]).await?;
    there().await?;
    bench.expect(&["dead-letters", "list"], 0, &["UNDONE", "replay"]).await?;
    // An edit goes on from there, as any.
    erp.execute("UPDATE customers SET city = 'Kiel' WHERE id = 'C-1'", [])?;
    bench.expect(&["run"], 0, &["1 updated"]).await?;
    assert_eq!(account(&bench, "C-1", "BillingCity").await?, json!("Kiel"));
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("Acme AG"));

    // What an undo took away is made again on request.
    bench.expect(&["dead-letters", "replay", "both"], 0, &["no row missing"]).await?;
    bench.expect(&["run", "--full"], 0, &["no row missing"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 5);
    // The first run made three records. One of them was edited; two are others now, as their keys say.
    bench.expect(&["undo", &first], 3, &["2 taken away", "left as they are", "(1 in all)", "(Salesforce)"]).await?;
    bench.expect(&["undo", "99"], 4, &["there is no run 99"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_by_force_puts_back_what_was_changed_since_and_can_be_undone() -> Result<(), Failed> {
    let bench = bench("").await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute("INSERT INTO customers VALUES ('C-1', 'Acme', 'Bonn', NULL, 1, NULL)", [])?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    client.update("Account", &id_of(&bench, "C-1").await?, &json!({"BillingCity": "Trier"})).await?;
    bench.expect(&["run"], 0, &["1 updated"]).await?;
    let run = last_run(&bench).await?;
    erp.execute("UPDATE customers SET city = 'Kiel' WHERE id = 'C-1'", [])?;
    bench.expect(&["undo", &run], 3, &["C-1 (outside)"]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Kiel"));
    bench.expect(&["undo", &run, "--force"], 0, &["1 put back"]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Bonn"));
    // It was a run, too.
    let forced = last_run(&bench).await?;
    nothing_to_do(&bench, &["run", "--json"]).await?;
    bench.expect(&["undo", &forced], 0, &["1 put back"]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Kiel"));
    nothing_to_do(&bench, &["run", "--json"]).await?;
    // A record that the undo of its making took away comes back with the undo of that.
    client.create("Account", &json!({"Name": "Birch", "Customer_No__c": "C-2"})).await?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    bench.expect(&["undo", &last_run(&bench).await?], 0, &["1 taken away"]).await?;
    nothing_to_do(&bench, &["run", "--json"]).await?;
    bench.expect(&["undo", &last_undo(&bench).await?], 0, &["1 made again"]).await?;
    assert_eq!(text(&erp, "name", "C-2")?.as_deref(), Some("Birch"));
    nothing_to_do(&bench, &["run", "--json"]).await?;
    client.update("Account", &id_of(&bench, "C-2").await?, &json!({"Name": "Birch & Co"})).await?;
    bench.expect(&["run"], 0, &["1 updated"]).await?;
    assert_eq!(text(&erp, "name", "C-2")?.as_deref(), Some("Birch & Co"), "they are a pair again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_one_way_is_not_undone() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(3)?;
    bench.expect(&["run", "customers_in"], 0, &["3 created"]).await?;
    bench.expect(&["undo", "1"], 4, &["goes one way"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_puts_back_what_was_written_since() -> Result<(), Failed> {
    let bench = bench("").await?;
    let erp = bench.erp()?;
    erp.execute_batch("INSERT INTO customers VALUES ('C-1', 'Acme', 'Bonn', NULL, 1, NULL)")?;
    bench.expect(&["deploy", "--reason", "first"], 0, &["Version 1"]).await?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    std::fs::write(bench.path("bridgehead.yaml"), config + "# another\n")?;
    bench.expect(&["deploy", "--reason", "second"], 0, &["Version 2"]).await?;
    bench.client()?.update("Account", &id_of(&bench, "C-1").await?, &json!({"BillingCity": "Trier"})).await?;
    bench.expect(&["run"], 0, &["1 updated"]).await?;
    let run = last_run(&bench).await?;
    let back = ["rollback", "--reason", "no", "--undo"];
    let would = format!("Would undo run {run} of both: 1 put back");
    bench.expect(&[&back[..], &["--dry-run"]].concat(), 0, &[&would, "-# another", "Nothing was changed"]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Trier"));
    let did = format!("Undid run {run} of both");
    bench.expect(&back, 0, &[&did, "1 put back", "Version 1 is at work."]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Bonn"), "what the first version wrote stays");
    let told = format!("\"undoes\":{run}");
    bench.expect(&["audit", "list", "--what", "run_begun"], 0, &[&told]).await?;
    bench.expect(&["audit", "list", "--what", "deployed"], 0, &["first", "second", "no"]).await
}
