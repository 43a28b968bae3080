//! Both sides of a sync compared, and what differs put right.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};

/// Runs `reconcile` with its answer as JSON; `code` is what it must end with.
async fn reconciled(bench: &Bench, arguments: &[&str], code: i32) -> Result<Value, Failed> {
    let all: Vec<&str> = ["reconcile", "--json"].iter().chain(arguments).copied().collect();
    let output = bench.call(&all).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn counts(report: &Value) -> Value {
    let names = ["missing", "extra", "different", "unlinked", "refused", "duplicates", "passing", "not_looked_at"];
    names.iter().map(|name| (*name, report[*name].clone())).filter(|(_, count)| *count != 0).collect()
}

async fn accounts(bench: &Bench, count: usize) -> Result<Vec<String>, Failed> {
    let client = bench.client()?;
    let mut ids = Vec::new();
    for number in 0..count {
        let fields = json!({"Name": format!("N\u{e4}me {number}"), "Customer_No__c": format!("C-{number:02}"),
            "BillingCity": "X", "AnnualRevenue": number * 100});
        ids.push(client.create("Account", &fields).await?);
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_outside_is_found_told_and_put_right() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    let ids = accounts(&bench, 40).await?;
    bench.expect(&["reconcile", "customers_out"], 3, &["40 and 0 rows compared", "40 missing in the target"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["40 created"]).await?;
    bench.expect(&["reconcile", "customers_out"], 0, &["40 and 40 rows compared: both sides agree"]).await?;

    let erp: Connection = bench.erp()?;
    erp.execute_batch(
        "DELETE FROM customers WHERE id = 'C-03';
         UPDATE customers SET city = '<b>Elsewhere</b>', revenue = revenue + 0.25 WHERE id IN ('C-04', 'C-05');
         UPDATE customers SET revenue = NULL WHERE id = 'C-06';
         INSERT INTO customers (id, name) VALUES ('OURS', 'not from Salesforce')",
    )?;
    bench.client()?.delete("Account", &ids[7]).await?;
    let page = bench.path("differences.html");
    let report = reconciled(&bench, &["customers_out", "--html", page.to_str().unwrap_or_default()], 3).await?;
    assert_eq!(counts(&report), json!({"missing": 1, "extra": 1, "different": 3, "unlinked": 1}), "{report}");
    assert_eq!(report["fields"], json!({"city": 2, "revenue": 3}), "{report}");
    let sample = report["samples"].as_array().into_iter().flatten().find(|one| one["key"] == "C-06").cloned();
    let sample = sample.ok_or("a sample of C-06")?;
    assert_eq!(sample["fields"], json!([{"field": "revenue", "source": "600", "target": null}]));
    let page = std::fs::read_to_string(page)?;
    assert!(page.contains("C-03") && page.contains("&lt;b&gt;Elsewhere") && !page.contains("<b>Elsewhere"), "{page}");
    // A second look at five records takes two queries more: by id, and by key.
    let calls = |name: &str| report[name].as_u64().unwrap_or_default();
    assert_eq!(calls("calls_forecast") + 2, calls("calls"), "{report}");

    // Told to, it minds no quarters and no cities.
    let arguments = ["customers_out", "--tolerance", "revenue=0.25", "--ignore", "city"];
    let report = reconciled(&bench, &arguments, 3).await?;
    assert_eq!(counts(&report), json!({"missing": 1, "extra": 1, "different": 1, "passing": 2, "unlinked": 1}));

    bench
        .expect(&["reconcile", "customers_out", "--repair"], 0, &["repaired in run", "1 created, 3 updated, 1 deleted"])
        .await?;
    bench.expect(&["reconcile", "customers_out"], 0, &["both sides agree; 1 in the target from elsewhere"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await?;
    let rows: i64 = bench.erp()?.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?;
    assert_eq!(rows, 40, "39 and the one from elsewhere");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn few_looks_count_the_rest_as_it_was_read() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    accounts(&bench, 20).await?;
    bench.expect(&["run", "customers_out"], 0, &["20 created"]).await?;
    bench.erp()?.execute("UPDATE customers SET city = 'Y'", [])?;
    let report = reconciled(&bench, &["customers_out", "--looks", "5", "--samples", "2", "--repair"], 3).await?;
    assert_eq!((&report["different"], &report["not_looked_at"]), (&json!(20), &json!(15)), "{report}");
    assert_eq!(report["samples"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["repair"]["counts"]["updated"], 5, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_salesforce_is_found_with_its_references() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let erp = bench.erp()?;
    erp.execute_batch(
        "DELETE FROM orders;
         INSERT INTO orders VALUES ('O-1', 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'P', '2026-01-01T00:00:00.000Z');
         INSERT INTO orders VALUES ('O-2', 'C-2', 'M-01', 2, 20, 'Ada', '2026-01-02', 'B', '2026-01-01T00:00:00.000Z')",
    )?;
    let client = bench.client()?;
    client.create("Product2", &json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    for key in ["C-1", "C-2"] {
        client.create("Account", &json!({"Name": key, "Customer_No__c": key})).await?;
    }
    bench.expect(&["run", "orders_in"], 0, &["2 created"]).await?;
    bench.expect(&["reconcile", "orders_in"], 0, &["2 and 2 rows compared: both sides agree"]).await?;
    let page = client.query("SELECT Id, Account__c FROM Bike_Order__c ORDER BY Order_No__c", false).await?;
    let text = |row: usize, name: &str| page.records[row][name].as_str().unwrap_or_default().to_owned();
    // Somebody moves one order to the other customer, and makes one that the ERP does not know.
    client.update("Bike_Order__c", &text(0, "Id"), &json!({"Account__c": text(1, "Account__c")})).await?;
    client.create("Bike_Order__c", &json!({"Order_No__c": "BY-HAND", "Account__c": text(1, "Account__c")})).await?;
    let report = reconciled(&bench, &["orders_in"], 3).await?;
    assert_eq!(counts(&report), json!({"different": 1, "unlinked": 1}), "{report}");
    assert_eq!(report["fields"].as_object().map(serde_json::Map::len), Some(1), "{report}");
    bench.expect(&["reconcile", "orders_in", "--repair"], 0, &["1 updated"]).await?;
    bench.expect(&["reconcile", "orders_in"], 0, &["both sides agree"]).await?;
    let again = client.query("SELECT Id, Account__c FROM Bike_Order__c ORDER BY Order_No__c", false).await?;
    assert_eq!(again.records[1]["Account__c"].as_str(), Some(text(0, "Account__c").as_str()), "BY-HAND comes first");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_two_way_sync_is_merged_where_nothing_told_of_a_change() -> Result<(), Failed> {
    let bench = crate::two_way::bench("").await?;
    let ids = accounts(&bench, 10).await?;
    bench.erp()?.execute_batch("INSERT INTO customers (id, name) VALUES ('E-1', 'made outside')")?;
    bench.expect(&["run"], 0, &["11 created"]).await?;
    bench.expect(&["reconcile"], 0, &["11 and 11 rows compared: both sides agree"]).await?;
    // The table has no cursor: only a comparison tells of these before the next full read.
    bench.erp()?.execute_batch(
        "UPDATE customers SET name = 'renamed outside' WHERE id = 'C-01'; DELETE FROM customers WHERE id = 'C-02';
         INSERT INTO customers (id, name) VALUES ('E-2', 'new outside')",
    )?;
    bench.client()?.update("Account", &ids[3], &json!({"BillingCity": "moved inside"})).await?;
    let report = reconciled(&bench, &["both"], 3).await?;
    assert_eq!(counts(&report), json!({"missing": 1, "extra": 1, "different": 2}), "{report}");
    bench.expect(&["reconcile", "--repair"], 0, &["1 created, 2 updated, 1 deleted"]).await?;
    bench.expect(&["reconcile"], 0, &["11 and 11 rows compared: both sides agree"]).await?;
    assert_eq!(crate::two_way::account(&bench, "C-01", "Name").await?, "renamed outside");
    assert_eq!(crate::two_way::text(&bench.erp()?, "city", "C-03")?.as_deref(), Some("moved inside"));
    assert!(crate::two_way::id_of(&bench, "C-02").await.is_err(), "what was deleted outside is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compared_by_reading_them_twice_and_mistakes_are_named() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.edit("bridgehead.yaml", "syncs:", "  files: { kind: files, url: out }\nsyncs:")?;
    bench.edit(
        "mappings/customers.yaml",
        "connection: erp, entity: customers, key: id",
        "connection: files, entity: c.csv, key: id, create: true",
    )?;
    accounts(&bench, 6).await?;
    bench.expect(&["reconcile", "customers_out"], 4, &["is not there yet: run customers_out first"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["6 created"]).await?;
    bench.expect(&["reconcile", "customers_out"], 0, &["6 and 6 rows compared: both sides agree"]).await?;
    let wrong = ["reconcile", "customers_out", "--ignore", "nope"];
    bench.expect(&wrong, 4, &["compares no field \"nope\"", "name, city, country, revenue, address"]).await?;
    bench.expect(&["reconcile", "customers_out", "--tolerance", "x"], 2, &["FIELD=NUMBER"]).await?;
    Ok(())
}
