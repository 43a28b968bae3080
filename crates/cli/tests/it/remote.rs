//! The command line at a server elsewhere: what `--server` asks for goes through the admin API, with a token.

use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::serve::Served;

/// A server, and the folder of somebody who has nothing but an address and a token: no state, no secrets.
struct Elsewhere {
    bench: Bench,
    served: Served,
    token: String,
}

impl Elsewhere {
    async fn new() -> Result<Self, Failed> {
        let bench = Bench::new().await?;
        bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
        let made = bench.call(&["token", "make", "ci", "--role", "admin"]).await?;
        let token = String::from_utf8(made.stdout)?.trim().to_owned();
        let served = Served::logging(&bench, "warn")?;
        Ok(Self { bench, served, token })
    }

    async fn said(&self, arguments: &[&str], token: &str) -> Result<(i32, String), Failed> {
        let mut command = self.bench.command(&["--server", &self.served.url]);
        command.args(arguments).env("BRIDGEHEAD_TOKEN", token).env_remove("BICYCLE_ORG_URL");
        command.env_remove("BICYCLE_ORG_SECRET");
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(token), "no token is shown: {text}");
        Ok((output.status.code().unwrap_or(-1), text))
    }

    async fn expect(&self, arguments: &[&str], code: i32, parts: &[&str]) -> Result<String, Failed> {
        let (ended, text) = self.said(arguments, &self.token).await?;
        assert_eq!(ended, code, "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?} says {part:?}: {text}");
        }
        Ok(text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_deployed_and_run_at_a_server() -> Result<(), Failed> {
    let there = Elsewhere::new().await?;
    let client = there.bench.client()?;
    for number in 1..=3 {
        let fields =
            json!({"Name": format!("A{number}"), "Customer_No__c": format!("C-{number}"), "BillingCity": "Bonn"});
        client.create("Account", &fields).await?;
    }
    // Who has no token, or a wrong one, is told where it belongs.
    let (code, text) = there.said(&["runs"], "bh_wrong").await?;
    assert!(code == 5 && text.contains("BRIDGEHEAD_TOKEN"), "{code} {text}");
    there.expect(&["discover", "crm", "Bike_Order__c"], 0, &["Order_No__c", "text"]).await?;
    there.expect(&["discover", "erp"], 0, &["customers", "orders"]).await?;
    there.expect(&["discover", "nowhere"], 4, &["there is no connection"]).await?;
    there.expect(&["check"], 0, &["customers_out: good", "orders_in: good"]).await?;
    there.expect(&["plan", "customers_out"], 0, &["customers_out: 3 rows, about", "API calls in all"]).await?;
    // All of them, however many a page has.
    let paged = there.expect(&["plan", "--json"], 0, &[]).await?;
    let known = there.expect(&["check"], 0, &[]).await?;
    assert_eq!(paged.lines().count(), known.lines().filter(|line| line.ends_with(": good")).count());

    // A first version comes from a folder whose systems only the server reaches.
    let why = ["--reason", "first", "--author", "ada"];
    there.expect(&[&["deploy"], &why[..]].concat(), 0, &["Version 1 is at work."]).await?;
    there.expect(&["deploy", "--reason", "again"], 0, &["has all that the folder has"]).await?;
    there.bench.edit("mappings/customers.yaml", "external: city", "external: citty")?;
    there.expect(&["check"], 4, &["mappings/customers.yaml:", "did you mean city?"]).await?;
    there.expect(&["deploy", "--reason", "typo"], 4, &["mappings/customers.yaml:", "did you mean city?"]).await?;
    there.bench.edit("mappings/customers.yaml", "external: citty", "external: city, to_external: \"upper(value)\"")?;
    there.expect(&["diff"], 0, &["+++ mappings/customers.yaml (the folder)", "upper(value)"]).await?;
    there.expect(&["deploy", "--reason", "loud", "--dry-run"], 0, &["upper(value)", "Nothing was kept"]).await?;
    there.expect(&["deploy", "--reason", "loud", "--staged"], 0, &["Version 2 is kept"]).await?;
    there.expect(&["promote", "--reason", "looked at"], 0, &["Version 2 is at work."]).await?;
    there.expect(&["versions"], 0, &["1", "ada", "first", "2", "loud", "at work"]).await?;

    // A slice, then the rest; what runs there is told as if it had run here.
    let settled = |answer: &Value| answer["settings"][0]["value"] == "version 2";
    let mut served = there.served;
    served.token = Some(there.token.clone());
    served.until("/api/v1/settings", settled).await?;
    let there = Elsewhere { served, ..there };
    there
        .expect(&["run", "customers_out", "--pilot", "1"], 0, &["(pilot): 1 read, 1 created", "no row missing"])
        .await?;
    there.expect(&["run", "customers_out"], 0, &["(full): 3 read, 2 created, 1 unchanged", "no row missing"]).await?;
    let told = there.expect(&["run", "customers_out", "--full", "--json"], 0, &["\"full\":true"]).await?;
    let report: Value = serde_json::from_str(told.lines().next().unwrap_or_default())?;
    assert_eq!((&report["sync"], &report["counts"]["unchanged"]), (&json!("customers_out"), &json!(3)));
    assert_eq!(
        there.bench.erp()?.query_row("SELECT min(city) FROM customers", [], |row| row.get::<_, String>(0))?,
        "BONN"
    );
    there
        .bench
        .erp()?
        .execute_batch("UPDATE customers SET city = 'OSLO' WHERE id = 'C-1'; DELETE FROM customers WHERE id = 'C-2'")?;
    let page = there.bench.path("found.html");
    let html = page.to_str().ok_or("a path")?;
    let differ = ["BOTH SIDES DIFFER", "1 missing", "1 different", "OSLO"];
    there.expect(&["reconcile", "customers_out", "--html", html], 3, &differ).await?;
    assert!(std::fs::read_to_string(&page)?.contains("Both sides differ"));
    there.expect(&["reconcile", "customers_out", "--ignore", "city"], 3, &["1 missing"]).await?;
    there.expect(&["reconcile", "customers_out", "--repair"], 0, &["repaired in run"]).await?;
    there.expect(&["reconcile", "customers_out"], 0, &["both sides agree"]).await?;
    // A run that can't go on says why.
    there.bench.erp()?.execute_batch("ALTER TABLE customers RENAME TO gone")?;
    there.expect(&["run", "customers_out"], 70, &["customers_out", "customers"]).await?;
    there.bench.erp()?.execute_batch("ALTER TABLE gone RENAME TO customers")?;
    there.expect(&["run", "nobody"], 4, &["there is no sync"]).await?;
    there.expect(&["run", "--follow"], 4, &["leave `--server` out"]).await?;
    there.expect(&["rollback", "--reason", "too loud"], 0, &["Version 1 is at work."]).await?;
    // Who did it stands in the chain, and not the server.
    let audit = there.expect(&["audit", "list", "--what", "run_begun"], 0, &["ci"]).await?;
    assert!(!audit.contains("scheduler"), "{audit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_a_server_is_looked_after_from_elsewhere() -> Result<(), Failed> {
    let there = Elsewhere::new().await?;
    let client = there.bench.client()?;
    client.create("Product2", &json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    client.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    let insert = "INSERT INTO orders VALUES (?1, 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', ?2, ?3)";
    for (id, stage, at) in [("O-1", "Melted", "01"), ("O-2", "Melted", "01"), ("O-3", "P", "02")] {
        there.bench.erp()?.execute(insert, [id, stage, &format!("2026-01-{at}T00:00:00.000Z")])?;
    }
    there.expect(&["run", "orders_in"], 3, &["2 dead letters", "wait as dead letters"]).await?;
    there.expect(&["dead-letters", "list", "orders_in", "--limit", "1"], 0, &["O-1", "and 1 more"]).await?;
    let shown = there.expect(&["dead-letters", "show", "1"], 0, &["Melted"]).await?;
    let stage = shown.lines().find_map(|line| line.strip_suffix(" = \"Melted\""));
    let stage = stage.ok_or("a stage")?.trim().to_owned();
    there.expect(&["dead-letters", "mend", "1"], 4, &["FIELD=VALUE"]).await?;
    there.expect(&["dead-letters", "mend", "1", "nothing=1"], 4, &["nothing is no field of this record"]).await?;
    there.expect(&["dead-letters", "mend", "1", &format!("{stage}=P")], 0, &["= \"P\""]).await?;
    there
        .expect(&["dead-letters", "replay", "orders_in"], 3, &["1 created", "1 dead letters of orders_in wait still"])
        .await?;
    let made = "SELECT COUNT() FROM Bike_Order__c WHERE Order_No__c = 'O-1'";
    assert_eq!(client.count(made, false).await?, 1);
    there.expect(&["dead-letters", "list"], 0, &["O-2"]).await?;
    there.expect(&["dead-letters", "drop", "2"], 0, &["Dropped 2."]).await?;
    there.expect(&["runs"], 0, &["orders_in"]).await?;
    there.expect(&["pause", "orders_in", "--why", "stocktaking"], 0, &["orders_in is paused."]).await?;
    there.expect(&["resume", "orders_in"], 0, &["goes on"]).await?;
    there.expect(&["resume", "orders_in"], 4, &["is not paused"]).await?;
    there.expect(&["undo", "1"], 4, &["goes one way"]).await?;
    there.expect(&["conflicts", "list"], 0, &["No conflict waits"]).await?;
    there.expect(&["conflicts", "show", "7"], 4, &["there is no conflict 7"]).await?;
    there.expect(&["streams"], 0, &["No sync is followed"]).await?;
    there.expect(&["capture", "list"], 0, &["No sync has `capture`"]).await?;
    there.expect(&["alerts"], 0, &["Nobody is told", "No alert holds"]).await?;
    there.expect(&["alerts", "--test", "desk"], 4, &["there is no \"desk\""]).await?;
    there.expect(&["audit", "verify"], 0, &["is whole"]).await?;
    there.expect(&["audit", "verify", "--head", "00ff"], 70, &["it is another one"]).await?;
    let exported = there.expect(&["audit", "export"], 0, &["\"before\"", "\"hash\""]).await?;
    let here = String::from_utf8(there.bench.call(&["audit", "export"]).await?.stdout)?;
    assert!(exported.lines().count() > 5 && here.starts_with(&exported), "the same chain is told here and there");
    there.expect(&["audit", "prune", "--before", "yesterday"], 4, &["is no date"]).await?;
    // A token that is taken back is good for nothing, here as there.
    let made = there.expect(&["token", "make", "looker"], 0, &["looker, viewer until"]).await?;
    let viewer = made.lines().next().unwrap_or_default().to_owned();
    let (code, text) = there.said(&["pause", "orders_in", "--why", "x"], &viewer).await?;
    assert!(code == 5 && text.contains("needs the role operator"), "{code} {text}");
    there.expect(&["token", "list"], 0, &["looker", "viewer", "ci", "admin"]).await?;
    there.expect(&["token", "revoke", "2"], 0, &["good for nothing"]).await?;
    assert_eq!(there.said(&["runs"], &viewer).await?.0, 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_go_over_a_network_for_all_to_read() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let mut command = bench.command(&["--server", "http://bridgehead.example", "runs"]);
    command.env("BRIDGEHEAD_TOKEN", "bh_secret");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(4) && text.contains("use https") && !text.contains("bh_secret"), "{text}");
    bench.expect(&["--server", "bridgehead.example", "runs"], 4, &["with its scheme"]).await?;
    bench.expect(&["--server", "http://127.0.0.1:9", "runs"], 6, &["no answer from 127.0.0.1:9"]).await
}
