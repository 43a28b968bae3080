//! Syncs that are followed: what one side commits is on the other a moment later, and what is not told is found.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use sandbox::{Fault, Rule};
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::two_way::{CAPTURED, InPostgres, account, bench, id_of, text};

/// A sync that is followed by a process of its own.
pub(crate) struct Followed {
    /// There until it is stopped.
    child: Option<Child>,
    /// What it says to people. Nothing waits for somebody to read it.
    errors: File,
}

impl Drop for Followed {
    /// Shows what it said, where a test fails while it goes on.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        println!("the process that follows ended with {:?} and said: {:?}", child.wait(), self.said());
    }
}

impl Followed {
    /// Starts it, and waits until both sides are in step.
    pub(crate) async fn start(bench: &Bench) -> Result<Self, Failed> {
        Self::start_of(bench, "both").await
    }

    /// Starts following a sync by its name.
    pub(crate) async fn start_of(bench: &Bench, sync: &str) -> Result<Self, Failed> {
        let errors = tempfile::tempfile()?;
        let mut command = bench.command(&["run", "--follow", sync, "--force"]);
        let mut child = command.env("BRIDGEHEAD_LOG", "info").stderr(errors.try_clone()?).spawn()?;
        let output = child.stdout.take().ok_or("its output")?;
        let mut followed = Self { child: Some(child), errors };
        let (said, output) = tokio::task::spawn_blocking(move || {
            let (mut said, mut output) = (String::new(), BufReader::new(output));
            output.read_line(&mut said).map(|_| (said, output))
        })
        .await??;
        if !said.contains("in step") {
            return Err(format!("it is not in step: {said}").into());
        }
        if let Some(child) = &mut followed.child {
            child.stdout = Some(output.into_inner());
        }
        Ok(followed)
    }

    /// Asks it to stop, and returns what it says in the end.
    pub(crate) async fn stop(mut self) -> Result<String, Failed> {
        let child = self.child.take().ok_or("it was stopped before")?;
        Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), self.said()?);
        assert!(output.status.success(), "{text}");
        Ok(text)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Failed> {
        let child = self.child.as_ref().ok_or("it was stopped")?;
        let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status()?;
        if sent.success() { Ok(()) } else { Err(format!("SIG{name} was not sent").into()) }
    }

    fn said(&mut self) -> std::io::Result<String> {
        let mut said = String::new();
        self.errors.rewind()?;
        self.errors.read_to_string(&mut said).map(|_| said)
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> Result<bool, Failed>) -> Result<Duration, Failed> {
    let begun = Instant::now();
    while !so().await? {
        assert!(begun.elapsed() < Duration::from_mins(1), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(begun.elapsed())
}

fn by_log() -> String {
    CAPTURED.replace("capture: triggers", "capture: log")
}

async fn city(there: &InPostgres, key: &str) -> Result<Option<String>, Failed> {
    let row = there.db.query_opt("SELECT city FROM customers WHERE id = $1", &[&key]).await?;
    Ok(row.and_then(|row| row.get(0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_either_side_is_soon_on_the_other() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "followed").await?;
    let (bench, client) = (&there.bench, there.bench.client()?);
    there.sql("INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme', 'Bonn'), ('C-2', 'Birch', 'Oslo')")?;
    let followed = Followed::start(bench).await?;
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 2, "in step means that all is there");

    // An edit, a new record and a deletion each way.
    let id = id_of(bench, "C-1").await?;
    client.update("Account", &id, &json!({"BillingCity": "Köln"})).await?;
    until("an edit in Salesforce", async || Ok(city(&there, "C-1").await?.as_deref() == Some("Köln"))).await?;
    there.sql("UPDATE customers SET city = 'Ulm' WHERE id = 'C-1'")?;
    until("an edit outside", async || Ok(account(bench, "C-1", "BillingCity").await? == json!("Ulm"))).await?;
    client.create("Account", &json!({"Name": "Dale", "Customer_No__c": "C-4", "BillingCity": "Rom"})).await?;
    until("a new record in Salesforce", async || Ok(city(&there, "C-4").await?.as_deref() == Some("Rom"))).await?;
    there.sql("INSERT INTO customers (id, name) VALUES ('C-5', 'Elm')")?;
    let made = "SELECT COUNT() FROM Account WHERE Customer_No__c = 'C-5'";
    until("a new record outside", async || Ok(client.count(made, false).await? == 1)).await?;
    there.sql("DELETE FROM customers WHERE id = 'C-2'")?;
    let gone = "SELECT COUNT() FROM Account WHERE Customer_No__c = 'C-2'";
    until("a deletion outside", async || Ok(client.count(gone, false).await? == 0)).await?;
    client.delete("Account", &id_of(bench, "C-5").await?).await?;
    let left = "SELECT count(*) FROM customers WHERE id = 'C-5'";
    until("a deletion in Salesforce", async || Ok(there.db.query_one(left, &[]).await?.get::<_, i64>(0) == 0)).await?;

    // What the streams do can be looked at while they do it.
    until("the streams are shown", async || {
        let output = bench.call(&["streams", "--json"]).await?;
        let lines = String::from_utf8(output.stdout)?;
        let shown: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let told = |side: usize| shown[side]["stream"]["changes"].as_u64().unwrap_or(0);
        Ok(shown.len() == 2 && shown[0]["state"] == "listening" && told(0) >= 3 && told(1) >= 3)
    })
    .await?;
    bench.expect(&["run"], 8, &["another run of both is going on"]).await?;
    let said = followed.stop().await?;
    assert!(said.contains("from commit to commit p50"), "{said}");
    bench.expect(&["streams"], 0, &["stopped"]).await?;
    // There was no echo, and there is nothing left to do.
    let images: i64 = rusqlite::Connection::open(bench.path(".bridgehead/state.db"))?.query_row(
        "SELECT count(*) FROM image WHERE run = (SELECT max(id) FROM run)",
        [],
        |row| row.get(0),
    )?;
    assert_eq!(images, 8, "two records at first, and a write for each edit");
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_told_is_looked_for() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "untold").await?;
    let (bench, client) = (&there.bench, there.bench.client()?);
    there.sql(
        "INSERT INTO customers (id, name, city) SELECT 'C-' || n, 'n' || n, 'Bonn' FROM generate_series(1, 50) n",
    )?;
    let followed = Followed::start(bench).await?;
    let set = async |key: &str, city: &str| {
        client.update("Account", &id_of(bench, key).await?, &json!({"BillingCity": city})).await.map_err(Failed::from)
    };
    let come = async |key: &str, wanted: &str| {
        let what = format!("{key} is in {wanted}");
        until(&what, async || Ok(city(&there, key).await?.as_deref() == Some(wanted))).await
    };
    // The looks that joining takes would find what follows; the next by itself comes in five minutes.
    until("joining is over", async || {
        let output = bench.call(&["streams", "--json"]).await?;
        let looks = |line: &str| serde_json::from_str::<Value>(line).ok()?["stream"]["looks"].as_u64();
        Ok(String::from_utf8(output.stdout)?.lines().next().and_then(looks) >= Some(2))
    })
    .await?;
    // A gap names records without their values; an overflow names nothing.
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventGap) });
    set("C-1", "Gap").await?;
    come("C-1", "Gap").await?;
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventOverflow) });
    set("C-2", "Overflow").await?;
    come("C-2", "Overflow").await?;
    // Twice, and out of order.
    bench.sandbox.behave();
    bench.sandbox.misbehave(Rule::new(Fault::EventDoubled));
    bench.sandbox.misbehave(Rule::new(Fault::EventReordered));
    for at in 3..10 {
        set(&format!("C-{at}"), "Twice").await?;
    }
    come("C-9", "Twice").await?;
    // A stream that breaks goes on where it was.
    bench.sandbox.behave();
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::StreamCut) });
    set("C-10", "Cut").await?;
    come("C-10", "Cut").await?;
    set("C-11", "Again").await?;
    come("C-11", "Again").await?;
    // The session ends under it.
    bench.sandbox.expire_sessions();
    let client = bench.client()?;
    client.update("Account", &id_of(bench, "C-12").await?, &json!({"BillingCity": "Renewed"})).await?;
    come("C-12", "Renewed").await?;
    // Outside, a table that is emptied tells no rows.
    there.sql("BEGIN; CREATE TABLE kept AS SELECT * FROM customers WHERE id <> 'C-50'; TRUNCATE customers; INSERT INTO customers SELECT * FROM kept; UPDATE customers SET city = 'Anew' WHERE id = 'C-13'; COMMIT")?;
    until("an edit after a TRUNCATE", async || Ok(account(bench, "C-13", "BillingCity").await? == json!("Anew")))
        .await?;
    // The connection that streams the log is cut.
    let cut = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots JOIN pg_publication_tables ON pubname = slot_name
         JOIN pg_stat_replication ON pid = active_pid WHERE schemaname = '{}'",
        there.schema
    );
    // One that is let go of at that moment for a look is not missed: once more.
    until("the cut is shown", async || {
        there.db.query(&cut, &[]).await?;
        let output = bench.call(&["streams", "--json"]).await?;
        let outside =
            String::from_utf8(output.stdout)?.lines().nth(1).map(serde_json::from_str::<Value>).transpose()?;
        Ok(outside.is_some_and(|shown| shown["stream"]["reconnects"].as_u64() >= Some(1)))
    })
    .await?;
    there.sql("UPDATE customers SET city = 'Behind the cut' WHERE id = 'C-14'")?;
    until("an edit behind the cut", async || {
        Ok(account(bench, "C-14", "BillingCity").await? == json!("Behind the cut"))
    })
    .await?;
    followed.stop().await?;
    let output = bench.call(&["streams", "--json"]).await?;
    for line in String::from_utf8(output.stdout)?.lines() {
        let shown: Value = serde_json::from_str(line)?;
        let stream = &shown["stream"];
        assert!(stream["reconnects"].as_u64() >= Some(1) && stream["gaps"].as_u64() >= Some(1), "{shown}");
    }
    // Three days in which nobody listened: the changes are found all the same.
    set_aside(&there, bench).await?;
    there.cleared().await
}

/// An outage of more than three days, by the org's clock.
async fn set_aside(there: &InPostgres, bench: &Bench) -> Result<(), Failed> {
    bench.client()?.update("Account", &id_of(bench, "C-20").await?, &json!({"BillingCity": "Before"})).await?;
    bench.sandbox.move_clock(73 * 3_600);
    bench.client()?.update("Account", &id_of(bench, "C-21").await?, &json!({"BillingCity": "After"})).await?;
    there.sql("UPDATE customers SET city = 'Outside' WHERE id = 'C-22'")?;
    let followed = Followed::start(bench).await?;
    for (key, wanted) in [("C-20", "Before"), ("C-21", "After")] {
        until(wanted, async || Ok(city(there, key).await?.as_deref() == Some(wanted))).await?;
    }
    assert_eq!(account(bench, "C-22", "BillingCity").await?, json!("Outside"));
    followed.stop().await.map(drop)
}

/// A day by the org's clock, an hour at a step. In the middle the process is held up for three days: the stream that it had
/// is cut, and what it would go on from is past when it wakes.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_an_outage_of_three_ends_with_both_sides_equal() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "a_day").await?;
    let bench = &there.bench;
    there.sql(
        "INSERT INTO customers (id, name, city) SELECT 'C-' || n, 'n' || n, 'Bonn' FROM generate_series(0, 29) n",
    )?;
    let followed = Followed::start(bench).await?;
    let set = async |at: i64, city: &str| -> Result<(), Failed> {
        // Sessions end by the org's clock.
        let (client, key) = (bench.client()?, format!("C-{at}"));
        Ok(client.update("Account", &id_of(bench, &key).await?, &json!({"BillingCity": city})).await?)
    };
    let mut clock = 0;
    for hour in 0..24_i64 {
        clock += 3_600;
        bench.sandbox.move_clock(clock);
        let at = hour % 10;
        if hour == 12 {
            followed.signal("STOP")?;
            let rule = bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::StreamCut) });
            set(at, "Before the cut").await?;
            until("the stream is cut", async || Ok(bench.sandbox.struck(rule) == Some(1))).await?;
            // Nobody hears of this, and in three days nobody can.
            set(25, "Unheard").await?;
            clock += 73 * 3_600;
            bench.sandbox.move_clock(clock);
            set(26, "After three days").await?;
            there.sql("UPDATE customers SET city = 'Meanwhile' WHERE id = 'C-27'")?;
            followed.signal("CONT")?;
        }
        set(at, &format!("Hour {hour}")).await?;
        there.sql(&format!("UPDATE customers SET city = 'Outside {hour}' WHERE id = 'C-{}'", at + 10))?;
        until("an edit in Salesforce", async || {
            Ok(city(&there, &format!("C-{at}")).await?.as_deref() == Some(&format!("Hour {hour}")))
        })
        .await?;
        until("an edit outside", async || {
            Ok(account(bench, &format!("C-{}", at + 10), "BillingCity").await? == json!(format!("Outside {hour}")))
        })
        .await?;
    }
    // What was told to nobody is there, too.
    until("both sides are equal", async || {
        for at in 0..30 {
            let key = format!("C-{at}");
            if account(bench, &key, "BillingCity").await? != json!(city(&there, &key).await?) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;
    assert_eq!(account(bench, "C-3", "BillingCity").await?, json!("Hour 23"));
    for (at, wanted) in [(25, "Unheard"), (26, "After three days"), (27, "Meanwhile")] {
        assert_eq!(city(&there, &format!("C-{at}")).await?.as_deref(), Some(wanted));
    }
    let said = followed.stop().await?;
    assert!(said.contains("not all changes were told") && said.contains("no row missing"), "{said}");
    let output = bench.call(&["streams", "--json"]).await?;
    let first: Value = serde_json::from_str(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default())?;
    let why = first["stream"]["last_gap"].as_str().unwrap_or_default();
    assert!(why.contains("three days"), "{first}");
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_by_its_triggers_and_a_mapping_with_expressions_looks_at_records() -> Result<(), Failed> {
    let bench = bench("").await?;
    // By hand, so that a conflict waits while the rest goes on.
    bench.edit("bridgehead.yaml", "brake: 1", "brake: 1, conflicts: manual")?;
    let mapping = CAPTURED.to_owned() + "  - { external: address, to_external: \"upper(\\\"BillingStreet\\\")\" }\n";
    std::fs::write(bench.path("mappings/customers.yaml"), mapping)?;
    let (erp, client) = (bench.erp()?, bench.client()?);
    erp.execute("INSERT INTO customers (id, name) VALUES ('C-1', 'Acme'), ('C-2', 'Birch')", [])?;
    let followed = Followed::start(&bench).await?;
    erp.execute("UPDATE customers SET name = 'Acme AG' WHERE id = 'C-1'", [])?;
    until("an edit outside", async || Ok(account(&bench, "C-1", "Name").await? == json!("Acme AG"))).await?;
    // A field that only an expression reads.
    let id = id_of(&bench, "C-2").await?;
    client.update("Account", &id, &json!({"BillingStreet": "Ring 1"})).await?;
    until("what is made of it", async || Ok(text(&erp, "address", "C-2")?.as_deref() == Some("RING 1"))).await?;
    assert!(followed.stop().await?.contains("no row missing"));
    // Both sides change while nobody follows: a person is asked, and what he says is done when following goes on.
    client.update("Account", &id, &json!({"BillingCity": "Ulm"})).await?;
    erp.execute("UPDATE customers SET city = 'Bonn', name = 'Birch & Co' WHERE id = 'C-2'", [])?;
    let followed = Followed::start(&bench).await?;
    assert_eq!(account(&bench, "C-2", "Name").await?, json!("Birch & Co"), "the rest of the record goes on");
    bench.expect(&["conflicts", "resolve", "1", "external"], 0, &[]).await?;
    until("the decision", async || Ok(account(&bench, "C-2", "BillingCity").await? == json!("Bonn"))).await?;
    followed.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_goes_one_way_is_followed_out_of_salesforce() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let (erp, client) = (bench.erp()?, bench.client()?);
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await?;
    let rows = |erp: &rusqlite::Connection| -> Result<i64, Failed> {
        Ok(erp.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?)
    };
    let city = |erp: &rusqlite::Connection, key: &str| -> Result<Option<String>, Failed> {
        let sql = "SELECT max(city) FROM customers WHERE id = ?";
        Ok(erp.query_row(sql, [key], |row| row.get(0))?)
    };
    let before = rows(&erp)?;
    let followed = Followed::start_of(&bench, "customers_out").await?;
    let account = json!({"Name": "Dale", "Customer_No__c": "C-900", "BillingCity": "Rom"});
    let id = client.create("Account", &account).await?;
    until("a new record", async || Ok(city(&erp, "C-900")?.as_deref() == Some("Rom"))).await?;
    client.update("Account", &id, &json!({"BillingCity": "Köln"})).await?;
    until("an edit", async || Ok(city(&erp, "C-900")?.as_deref() == Some("Köln"))).await?;
    // What the mapping's condition leaves out is no deletion, and never comes.
    client.create("Account", &json!({"Name": "No number"})).await?;
    client.update("Account", &id, &json!({"Customer_No__c": null, "BillingCity": "Bari"})).await?;
    client.create("Account", &json!({"Name": "Elm", "Customer_No__c": "C-901", "BillingCity": "Ulm"})).await?;
    until("the next record", async || Ok(city(&erp, "C-901")?.as_deref() == Some("Ulm"))).await?;
    assert_eq!((city(&erp, "C-900")?.as_deref(), rows(&erp)?), (Some("Köln"), before + 2));
    // A stream that tells nothing any more, and a record that is deleted meanwhile.
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::StreamCut) });
    client.delete("Account", &id_of(&bench, "C-901").await?).await?;
    until("a deletion", async || Ok(rows(&erp)? == before + 1)).await?;
    let said = followed.stop().await?;
    assert!(said.contains("no row missing") && said.contains("from commit to commit p50"), "{said}");
    bench.expect(&["streams"], 0, &["customers_out", "Salesforce", "stopped"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn salesforce_is_followed_by_the_streaming_api_where_that_is_wanted() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "streaming").await?;
    let (bench, client) = (&there.bench, there.bench.client()?);
    bench.edit("bridgehead.yaml", "    kind: salesforce\n", "    kind: salesforce\n    events: streaming\n")?;
    there.sql("INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme', 'Bonn'), ('C-2', 'Birch', 'Oslo')")?;
    let followed = Followed::start(bench).await?;
    for wanted in ["Köln", "Ulm", "Rom"] {
        client.update("Account", &id_of(bench, "C-1").await?, &json!({"BillingCity": wanted})).await?;
        until("an edit in Salesforce", async || Ok(city(&there, "C-1").await?.as_deref() == Some(wanted))).await?;
    }
    // A gap, an overflow, and a session that ends.
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventGap) });
    client.update("Account", &id_of(bench, "C-2").await?, &json!({"BillingCity": "Gap"})).await?;
    until("a gap", async || Ok(city(&there, "C-2").await?.as_deref() == Some("Gap"))).await?;
    bench.sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventOverflow) });
    client.update("Account", &id_of(bench, "C-2").await?, &json!({"BillingCity": "Many"})).await?;
    until("an overflow", async || Ok(city(&there, "C-2").await?.as_deref() == Some("Many"))).await?;
    bench.sandbox.expire_sessions();
    let client = bench.client()?;
    client.update("Account", &id_of(bench, "C-2").await?, &json!({"BillingCity": "Renewed"})).await?;
    until("a new session", async || Ok(city(&there, "C-2").await?.as_deref() == Some("Renewed"))).await?;
    assert!(followed.stop().await?.contains("no row missing"));
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_followed_is_said_at_once() -> Result<(), Failed> {
    let bench = bench("").await?;
    bench
        .expect(&["run", "--follow"], 4, &["changes of customers can't be followed: capture them by triggers"])
        .await?;
    let bench = Bench::new().await?;
    bench.expect(&["run", "--follow", "orders_in"], 4, &["changes of orders can't be followed"]).await?;
    bench.expect(&["streams"], 0, &["No sync is followed"]).await
}

/// What was told last is remembered by its replay id: what happened while nobody listened is told, too, and of what no query
/// shows any more there is nothing else that tells.
#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_behind_the_last_event_that_had_an_outcome() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "replayed").await?;
    let (bench, client) = (&there.bench, there.bench.client()?);
    there.sql(
        "INSERT INTO customers (id, name, city) SELECT 'C-' || n, 'n' || n, 'Bonn' FROM generate_series(1, 9) n",
    )?;
    let followed = Followed::start(bench).await?;
    client.update("Account", &id_of(bench, "C-1").await?, &json!({"BillingCity": "Ulm"})).await?;
    until("an edit", async || Ok(city(&there, "C-1").await?.as_deref() == Some("Ulm"))).await?;
    followed.stop().await?;
    // One goes for good, one has other values since than its first event says.
    let (gone, moved) = (id_of(bench, "C-2").await?, id_of(bench, "C-3").await?);
    client.delete("Account", &gone).await?;
    let purge = outbound::Request::new("POST", "/sandbox/api/purge").json(&json!({"ids": [gone]}));
    client.send(&purge).await?;
    for wanted in ["Rom", "Bari"] {
        client.update("Account", &moved, &json!({"BillingCity": wanted})).await?;
    }
    let followed = Followed::start(bench).await?;
    assert_eq!(city(&there, "C-3").await?.as_deref(), Some("Bari"), "the look comes first");
    let left = "SELECT count(*) FROM customers WHERE id = 'C-2'";
    until("what no query shows", async || Ok(there.db.query_one(left, &[]).await?.get::<_, i64>(0) == 0)).await?;
    followed.stop().await?;
    assert_eq!(city(&there, "C-3").await?.as_deref(), Some("Bari"), "what was told of it was past");
    bench.expect(&["conflicts", "list", "--all"], 0, &["No conflicts"]).await?;
    there.cleared().await
}

/// A table whose changes are captured, and a sync that goes into Salesforce only: by runs, then followed.
async fn one_way(bench: &Bench, sql: &dyn Fn(&str) -> Result<(), Failed>) -> Result<(), Failed> {
    bench.edit("bridgehead.yaml", "direction: two_way", "direction: to_salesforce")?;
    bench.edit("mappings/customers.yaml", "key: id,", "key: id, where: \"name <> 'Hidden'\",")?;
    let client = bench.client()?;
    let full = async || -> Result<bool, Failed> {
        let output = bench.call(&["plan", "--json"]).await?;
        let plan: Value = serde_json::from_slice(&output.stdout)?;
        Ok(plan["forecast"]["full"].is_string() || plan["full"].is_string())
    };
    let count = async |key: &str| -> Result<u64, Failed> {
        let query = format!("SELECT COUNT() FROM Account WHERE Customer_No__c = '{key}'");
        Ok(client.count(&query, false).await?)
    };
    sql(
        "INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme', 'Bonn'), ('C-2', 'Birch', 'Oslo'), ('C-3', 'Cedar', NULL)",
    )?;
    assert!(full().await?, "nothing captures yet");
    bench.expect(&["run"], 0, &["3", "no row missing"]).await?;
    assert!(!full().await?);
    sql("UPDATE customers SET city = 'Ulm' WHERE id = 'C-1'; DELETE FROM customers WHERE id = 'C-2'")?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert_eq!(account(bench, "C-1", "BillingCity").await?, json!("Ulm"));
    assert_eq!(count("C-2").await?, 0, "what was deleted is told");

    let followed = Followed::start(bench).await?;
    sql("UPDATE customers SET city = 'Rom' WHERE id = 'C-1'")?;
    until("an edit", async || Ok(account(bench, "C-1", "BillingCity").await? == json!("Rom"))).await?;
    // What the mapping's condition leaves out never comes, and is no deletion where it was there before.
    sql(
        "INSERT INTO customers (id, name) VALUES ('C-4', 'Hidden'); UPDATE customers SET name = 'Hidden' WHERE id = 'C-3';
         INSERT INTO customers (id, name, city) VALUES ('C-5', 'Elm', 'Bari')",
    )?;
    until("a new row", async || Ok(count("C-5").await? == 1)).await?;
    assert_eq!((count("C-4").await?, account(bench, "C-3", "Name").await?), (0, json!("Cedar")));
    sql("DELETE FROM customers WHERE id = 'C-5'")?;
    until("a deletion", async || Ok(count("C-5").await? == 0)).await?;
    let said = followed.stop().await?;
    assert!(said.contains("no row missing"), "{said}");
    // How far it came is known to the next run.
    assert!(!full().await?);
    sql("UPDATE customers SET city = 'Pisa' WHERE id = 'C-1'")?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert_eq!(account(bench, "C-1", "BillingCity").await?, json!("Pisa"));
    // What captures is removed: everything is read once more, and it is made anew.
    bench.expect(&["capture", "drop", "both"], 0, &["Removed"]).await?;
    sql("UPDATE customers SET city = 'Lund' WHERE id = 'C-1'")?;
    assert!(full().await?);
    let followed = Followed::start(bench).await?;
    assert_eq!(account(bench, "C-1", "BillingCity").await?, json!("Lund"), "in step means that all is there");
    followed.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_goes_one_way_is_followed_out_of_postgres() -> Result<(), Failed> {
    let there = InPostgres::new(&by_log(), "one_way").await?;
    one_way(&there.bench, &|sql| there.sql(sql)).await?;
    // Somebody takes away what tells.
    let drop = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
         JOIN pg_publication_tables ON pubname = slot_name WHERE schemaname = '{}'",
        there.schema
    );
    there.db.query(&drop, &[]).await?;
    there.sql("UPDATE customers SET city = 'Unheard' WHERE id = 'C-1'")?;
    there.bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert_eq!(account(&there.bench, "C-1", "BillingCity").await?, json!("Unheard"));
    there.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_goes_one_way_is_followed_out_of_a_file() -> Result<(), Failed> {
    let bench = bench("").await?;
    std::fs::write(bench.path("mappings/customers.yaml"), CAPTURED)?;
    let erp = bench.erp()?;
    one_way(&bench, &|sql| Ok(erp.execute_batch(sql)?)).await
}
