//! Eight people edit the same records on both sides while the engine is killed again and again: in the end both sides
//! are equal, and every edit is there, was seen by whoever replaced it, or stands in a conflict.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Fault, Rule};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::bench::{Bench, Failed};
use crate::crash::Moments;
use crate::follow::Followed;

const RECORDS: usize = 10_000;
const EDITS: usize = 50_000;
const WRITERS: usize = 8;
const KILLS: usize = 10;

const MAPPING: &str = "
mapping: customers
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: db, entity: TABLE, key: id, capture: log }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCity, external: city }
  - { salesforce: BillingCountry, external: country }
";

/// The fields: one that both sides edit, one of Salesforce alone, one of the database alone.
const FIELDS: [[&str; 2]; 3] = [["Name", "name"], ["BillingCity", "city"], ["BillingCountry", "country"]];

/// What somebody wrote last to a field of a record: the value, and when they began and knew that it was done.
type Last = HashMap<(usize, usize), (String, [Instant; 2])>;

fn key(record: usize) -> String {
    format!("K-{record:05}")
}

async fn postgres(url: &str) -> Result<tokio_postgres::Client, Failed> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Edits on one side until its share of the edits is made; returns what it wrote last.
async fn edit_in_salesforce(client: Arc<salesforce::Client>, writer: usize) -> Result<Last, String> {
    let mut dice = Moments(writer as u64 * 7919 + 1);
    let mut last = Last::new();
    for edit in 0..EDITS / WRITERS {
        let (record, field) = (dice.next(RECORDS as u64) as usize, dice.next(2) as usize);
        // One writer a record and side: the last edit is known.
        let record = record / (WRITERS / 2) * (WRITERS / 2) + writer;
        let value = format!("s{writer}-{edit}");
        let path = client.path(&format!("sobjects/Account/Customer_No__c/{}", key(record)));
        let body = json!({FIELDS[field][0]: value});
        let request = outbound::Request::new("PATCH", path).json(&body);
        let begun = Instant::now();
        client.send(&request).await.map_err(|error| format!("{error:?}"))?;
        last.insert((record, field), (value, [begun, Instant::now()]));
    }
    Ok(last)
}

async fn edit_in_the_database(url: String, table: String, writer: usize) -> Result<Last, String> {
    let wrong = |error: tokio_postgres::Error| error.to_string();
    let client = postgres(&url).await.map_err(|error| error.to_string())?;
    let mut dice = Moments(writer as u64 * 104_729 + 3);
    let mut last = Last::new();
    let mut updates = Vec::new();
    for [_, column] in FIELDS {
        let sql = format!("UPDATE {table} SET {column} = $2 WHERE id = $1");
        updates.push(client.prepare(&sql).await.map_err(wrong)?);
    }
    for edit in 0..EDITS / WRITERS {
        let (record, field) = (dice.next(RECORDS as u64) as usize, dice.next(2) as usize * 2);
        let record = record / (WRITERS / 2) * (WRITERS / 2) + writer;
        let value = format!("e{writer}-{edit}");
        let begun = Instant::now();
        client.execute(&updates[field], &[&key(record), &value]).await.map_err(wrong)?;
        last.insert((record, field), (value, [begun, Instant::now()]));
        if edit % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(last)
}

async fn everything_in_salesforce(client: &salesforce::Client) -> Result<HashMap<String, [Option<String>; 3]>, Failed> {
    let mut page =
        Some(client.query("SELECT Customer_No__c, Name, BillingCity, BillingCountry FROM Account", false).await?);
    let mut found = HashMap::new();
    while let Some(current) = page {
        for record in &current.records {
            let text = |name: &str| record[name].as_str().map(str::to_owned);
            let values = FIELDS.map(|[name, _]| text(name));
            assert!(found.insert(text("Customer_No__c").unwrap_or_default(), values).is_none(), "one record a key");
        }
        page = client.next_page(&current).await?;
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_and_ten_kills_lose_nothing() -> Result<(), Failed> {
    crowd("crowd", &["run", "--force"]).await
}

/// The same where changes are followed as they happen, and events go wrong in every way that they can.
#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_ten_kills_and_events_that_go_wrong_lose_nothing() -> Result<(), Failed> {
    crowd("followers", &["run", "--follow", "both", "--force"]).await
}

/// Lets events go wrong: lost, twice, out of order, late, without what they tell, and with their stream cut.
fn mislead(bench: &Bench) {
    for (fault, probability) in [
        (Fault::EventLost, 0.01),
        (Fault::EventDoubled, 0.05),
        (Fault::EventReordered, 0.2),
        (Fault::EventLate { milliseconds: 30 }, 0.01),
        (Fault::EventGap, 0.02),
        (Fault::EventOverflow, 0.000_2),
        (Fault::StreamCut, 0.005),
        (Fault::ExpireSession, 0.000_2),
    ] {
        bench.sandbox.misbehave(Rule { probability, ..Rule::new(fault) });
    }
}

async fn crowd(name: &str, how: &[&str]) -> Result<(), Failed> {
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES").map_err(|_| "BRIDGEHEAD_TEST_POSTGRES is not set")?;
    let bench = Bench::new().await?;
    bench.sandbox.allow_calls(u64::from(u32::MAX));
    let table = format!("{name}_{}", std::process::id());
    let db = postgres(&url).await?;
    db.batch_execute(&format!(
        "DROP TABLE IF EXISTS {table};
         CREATE TABLE {table} (id text PRIMARY KEY, name text NOT NULL, city text, country text);
         INSERT INTO {table} (id, name) SELECT 'K-' || lpad(n::text, 5, '0'), 'n' || n FROM generate_series(0, {}) n",
        RECORDS - 1
    ))
    .await?;
    std::fs::write(bench.path("mappings/customers.yaml"), MAPPING.replace("TABLE", &format!("public.{table}")))?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let (head, _) = config.split_once("  erp:").ok_or("no erp")?;
    let rest = format!(
        "  db:\n    kind: postgres\n    url: {url}\nsyncs:\n  - {{ sync: both, mapping: customers, direction: two_way }}\n"
    );
    std::fs::write(bench.path("bridgehead.yaml"), format!("{head}{rest}"))?;
    bench.expect(&["run"], 0, &["10000 created", "no row missing"]).await?;

    let follows = how.contains(&"--follow");
    if follows {
        mislead(&bench);
    }
    let client = Arc::new(bench.client()?);
    let mut writers = Vec::new();
    for writer in 0..WRITERS / 2 {
        writers.push(tokio::spawn(edit_in_salesforce(client.clone(), writer)));
        writers.push(tokio::spawn(edit_in_the_database(url.clone(), table.clone(), writer)));
    }
    let mut dice = Moments(u64::from(std::process::id()) * 0x9E37_79B9 + 1);
    println!("moments of the kills from {}", dice.0);
    let begun = Instant::now();
    let mut kills = 0;
    while kills < KILLS || writers.iter().any(|writer| !writer.is_finished()) {
        assert!(begun.elapsed() < Duration::from_mins(8), "{kills} kills in eight minutes");
        // Long enough that it follows for a while, where it does.
        let moment = Duration::from_millis(300 + dice.next(if follows { 9_000 } else { 4_000 }));
        kills += usize::from(bench.killed_after(moment, how).await?);
    }
    let (mut ours, mut theirs) = (Last::new(), Last::new());
    for (at, writer) in writers.into_iter().enumerate() {
        let last = writer.await??;
        if at % 2 == 0 { ours.extend(last) } else { theirs.extend(last) }
    }
    if follows {
        bench.sandbox.behave();
        let followed = Followed::start(&bench).await?;
        let begun = Instant::now();
        let mut equal = false;
        while !equal {
            assert!(begun.elapsed() < Duration::from_mins(1), "both sides are not equal a minute after the last edit");
            let left = everything_in_salesforce(&client).await?;
            let rows = db.query(&format!("SELECT id, name, city, country FROM {table}"), &[]).await?;
            equal = rows.iter().all(|row| {
                let values: [Option<String>; 3] = [row.get(1), row.get(2), row.get(3)];
                left.get(&row.get::<_, String>(0)) == Some(&values)
            });
        }
        println!("equal after {:?}; {}", begun.elapsed(), followed.stop().await?);
    }
    // Soon there is nothing left to do.
    let mut quiet = false;
    for _ in 0..6 {
        let output = bench.call(&["run", "--force", "--json"]).await?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        quiet = ["created", "updated", "deleted"].iter().all(|count| report["counts"][*count] == 0);
        if quiet {
            break;
        }
    }
    assert!(quiet, "six runs after the last edit there is still something to write");

    let left = everything_in_salesforce(&client).await?;
    let rows = db.query(&format!("SELECT id, name, city, country FROM {table}"), &[]).await?;
    assert_eq!((left.len(), rows.len()), (RECORDS, RECORDS), "no record is doubled or lost");
    let store = state::Store::open(&bench.path(".bridgehead/state.db"))?;
    let conflicts = store.conflicts(Some("both"), None, 0, usize::MAX >> 1)?;
    let recorded: std::collections::HashSet<(String, String, String)> = conflicts
        .iter()
        .flat_map(|one| {
            let values = [&one.salesforce_value, &one.external_value].map(|value| value.clone().unwrap_or_default());
            values.map(|value| (one.external.clone(), one.field.clone(), value))
        })
        .collect();
    for row in &rows {
        let id: String = row.get(0);
        let number: usize = id[2..].parse()?;
        let record = left.get(&id).ok_or_else(|| format!("{id} is not in the org"))?;
        for (field, names) in FIELDS.iter().enumerate() {
            let value: Option<String> = row.get(field + 1);
            assert_eq!(record[field], value, "{id} {names:?} is equal on both sides");
            let edits = [ours.get(&(number, field)), theirs.get(&(number, field))];
            for (side, edit) in edits.into_iter().enumerate() {
                let Some((written, [begun, _])) = edit else { continue };
                let gone = value.as_ref() != Some(written);
                let told = recorded.contains(&(id.clone(), names[0].to_owned(), written.clone()));
                // An edit of the other side that ended behind the beginning of this one may have seen it, which may be carried
                // over before whoever made it knows that it is done.
                let seen = edits[1 - side].is_some_and(|(_, [_, done])| done > begun);
                assert!(!gone || told || seen, "{id} {}: {written} is gone untold, {value:?} is there", names[0]);
            }
        }
    }
    println!("{kills} kills, {} conflicts", conflicts.len());
    assert!(!conflicts.is_empty(), "people did edit the same field at the same time");
    bench.expect(&["capture", "drop", "both"], 0, &["Removed"]).await?;
    db.batch_execute(&format!("DROP TABLE {table}")).await?;
    Ok(())
}
