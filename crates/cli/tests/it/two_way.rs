//! Two-way syncs with the real program: the sandbox on one side, a database on the other.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};

pub(crate) const MAPPING: &str = "
mapping: customers
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: erp, entity: customers, key: id }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCity, external: city }
  - { salesforce: BillingCountry, external: country, to_external: 'upper(value)' }
  - { salesforce: AnnualRevenue, external: revenue, owner: external }
  - { external: address, to_external: 'concat_ws('', '', BillingStreet, BillingCity)' }
match:
  - { when_key_missing: 'lower(trim(\"Name\"))', external: 'lower(trim(name))' }
";

/// The example with one two-way sync; `rules` are added to it.
pub(crate) async fn bench(rules: &str) -> Result<Bench, Failed> {
    two_way(Bench::new().await?, rules)
}

/// The same in an org that is set up otherwise.
pub(crate) fn two_way(bench: Bench, rules: &str) -> Result<Bench, Failed> {
    std::fs::write(bench.path("mappings/customers.yaml"), MAPPING)?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let (head, _) = config.split_once("syncs:").ok_or("no syncs")?;
    let sync = format!(
        "syncs:\n  - {{ sync: both, mapping: customers, direction: two_way, deletes: propagate, brake: 1{rules} }}\n"
    );
    std::fs::write(bench.path("bridgehead.yaml"), format!("{head}{sync}"))?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    Ok(bench)
}

pub(crate) fn text(erp: &Connection, column: &str, id: &str) -> Result<Option<String>, Failed> {
    Ok(erp.query_row(&format!("SELECT CAST({column} AS TEXT) FROM customers WHERE id = ?1"), [id], |row| row.get(0))?)
}

pub(crate) async fn account(bench: &Bench, key: &str, field: &str) -> Result<Value, Failed> {
    let soql = format!("SELECT {field} FROM Account WHERE Customer_No__c = '{key}'");
    let page = bench.client()?.query(&soql, false).await?;
    Ok(page.records.first().map(|record| record[field].clone()).ok_or(format!("no account {key}"))?)
}

pub(crate) async fn id_of(bench: &Bench, key: &str) -> Result<String, Failed> {
    Ok(account(bench, key, "Id").await?.as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_on_either_side_is_told_by_the_plan() -> Result<(), Failed> {
    let bench = bench("").await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    bench
        .erp()?
        .execute_batch("ALTER TABLE customers DROP COLUMN city; ALTER TABLE customers ADD COLUMN city VARCHAR(20)")?;
    let column = "drift: customers.city: was: 40 characters, now: 20 characters";
    let rule = bench.refuse_ghosts().await?;
    bench.expect(&["plan"], 0, &[column, rule]).await?;
    // A run takes note of what is there now; of a rule it knows only what it asked for when the mapping was new.
    bench.expect(&["run"], 0, &["both"]).await?;
    let told = String::from_utf8(bench.call(&["plan"]).await?.stdout)?;
    assert!(told.contains(rule) && !told.contains(column), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_on_both_sides_are_merged_field_by_field() -> Result<(), Failed> {
    let bench = bench("").await?;
    let client = bench.client()?;
    client.create("Account", &json!({"Name": "Acme", "BillingCity": "K\u{f6}ln", "BillingCountry": "Germany"})).await?;
    client.create("Account", &json!({"Name": "Birch ", "BillingCity": "Oslo"})).await?;
    let erp = bench.erp()?;
    erp.execute("INSERT INTO customers VALUES ('C-2', 'birch', 'Oslo', 'NORWAY', 10, NULL), ('C-3', 'Cedar', 'Rome', NULL, 7, NULL)", [])?;
    let unlike = "BillingCountry: \"Germany\" comes back as \"GERMANY\"; give the field an owner";
    bench.expect(&["check"], 0, &["both: good", unlike]).await?;
    bench.expect(&["plan"], 0, &["both: 4 rows", unlike]).await?;
    bench.expect(&["run"], 0, &["both (full)", "no row missing"]).await?;
    // Acme got a key, Birch was recognised, Cedar was made.
    let keys: Vec<String> = erp
        .prepare("SELECT id FROM customers ORDER BY name COLLATE NOCASE")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    assert_eq!((keys.len(), &keys[1][..], &keys[2][..]), (3, "C-2", "C-3"), "{keys:?}");
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 3);
    assert_eq!(text(&erp, "country", &keys[0])?.as_deref(), Some("GERMANY"));
    assert_eq!(account(&bench, "C-3", "AnnualRevenue").await?, json!(7.0));
    assert_eq!(account(&bench, "C-2", "BillingCountry").await?, json!("NORWAY"));
    bench.expect(&["run"], 0, &["both (full)", "no row missing"]).await?;

    // Different fields on both sides, then nothing more to do.
    let id = id_of(&bench, "C-3").await?;
    client.update("Account", &id, &json!({"BillingCity": "Milan"})).await?;
    erp.execute("UPDATE customers SET name = 'Cedar & Co', revenue = 8 WHERE id = 'C-3'", [])?;
    bench.expect(&["run"], 0, &["2 updated", "no row missing"]).await?;
    assert_eq!(text(&erp, "city", "C-3")?.as_deref(), Some("Milan"));
    assert_eq!(text(&erp, "address", "C-3")?.as_deref(), Some("Milan"));
    assert_eq!(account(&bench, "C-3", "Name").await?, json!("Cedar & Co"));
    let output = bench.call(&["run", "--json"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let counts = &report["counts"];
    assert_eq!([&counts["created"], &counts["updated"], &counts["deleted"]], [0, 0, 0], "no echo: {report}");

    // A delete goes over, and an edit beats a delete unless told otherwise.
    client.delete("Account", &id_of(&bench, "C-2").await?).await?;
    client.delete("Account", &id).await?;
    erp.execute("UPDATE customers SET city = 'Turin' WHERE id = 'C-3'", [])?;
    bench.expect(&["run"], 0, &["1 deleted"]).await?;
    let left: i64 = erp.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?;
    assert_eq!(left, 2);
    assert_eq!(account(&bench, "C-3", "BillingCity").await?, json!("Turin"), "made again, with the edit");
    bench.expect(&["conflicts", "list", "--all"], 0, &["(the record)", "decided: external"]).await?;
    erp.execute("DELETE FROM customers WHERE id = 'C-3'", [])?;
    bench.expect(&["run"], 0, &["1 deleted"]).await?;
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_waits_for_a_person_and_the_rest_goes_on() -> Result<(), Failed> {
    let bench = bench(", conflicts: manual").await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute("INSERT INTO customers VALUES ('C-1', 'Acme', 'Bonn', NULL, 1, NULL)", [])?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    let id = id_of(&bench, "C-1").await?;
    client.update("Account", &id, &json!({"Name": "Acme AG", "BillingCity": "Trier", "AnnualRevenue": 2})).await?;
    erp.execute("UPDATE customers SET name = 'Acme GmbH', revenue = 3 WHERE id = 'C-1'", [])?;
    bench.expect(&["run"], 0, &["1 conflicts decided", "1 conflicts held"]).await?;
    assert_eq!(text(&erp, "city", "C-1")?.as_deref(), Some("Trier"), "what is no conflict goes on");
    assert_eq!(account(&bench, "C-1", "AnnualRevenue").await?, json!(3.0), "the field's owner wins");
    assert_eq!(text(&erp, "name", "C-1")?.as_deref(), Some("Acme GmbH"));
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("Acme AG"));
    bench.expect(&["conflicts", "list"], 0, &["Acme AG", "Acme GmbH", "held"]).await?;
    let output = bench.call(&["conflicts", "list", "--json"]).await?;
    let held: Value = serde_json::from_slice(&output.stdout)?;
    let number = held["id"].to_string();
    bench
        .expect(&["conflicts", "show", &number], 0, &["before      Acme\n", "Salesforce  Acme AG", "It waits"])
        .await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert_eq!(text(&erp, "name", "C-1")?.as_deref(), Some("Acme GmbH"), "it waits on");
    bench.expect(&["conflicts", "resolve", &number, "external"], 0, &["decided"]).await?;
    bench.expect(&["run"], 0, &["1 updated"]).await?;
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("Acme GmbH"));
    bench.expect(&["conflicts", "list"], 0, &["No conflict waits"]).await?;
    bench.expect(&["conflicts", "resolve", &number, "external"], 4, &["waits for nobody"]).await?;
    bench.expect(&["conflicts", "show", "99"], 4, &["there is no conflict 99"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_two_records_is_asked_and_not_doubled() -> Result<(), Failed> {
    let bench = bench("").await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    let id = client.create("Account", &json!({"Name": "Acme"})).await?;
    erp.execute(
        "INSERT INTO customers VALUES ('C-1', 'ACME', 'Bonn', NULL, 1, NULL), ('C-2', 'acme', 'Rome', NULL, 1, NULL)",
        [],
    )?;
    for _ in 0..2 {
        bench.expect(&["run"], 3, &["dead letters"]).await?;
        assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 1, "nobody is doubled");
    }
    bench.expect(&["dead-letters", "list"], 0, &["AMBIGUOUS_MATCH", "it may be C-1 (\"acme\", 1.00), C-2"]).await?;
    client.update("Account", &id, &json!({"Customer_No__c": "C-2"})).await?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    assert_eq!(account(&bench, "C-2", "Name").await?, json!("Acme"));
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("ACME"));
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_two_way_sync_that_cannot_work_says_why() -> Result<(), Failed> {
    let bench = bench("").await?;
    bench.edit("mappings/customers.yaml", "key: Customer_No__c", "key: Id")?;
    bench.expect(&["check"], 4, &["customers.yaml:4", "a two-way sync needs a key that both systems keep"]).await?;
    bench.edit("mappings/customers.yaml", "key: Id", "key: Customer_No__c")?;
    bench.edit("bridgehead.yaml", "direction: two_way", "direction: to_external, conflicts: manual")?;
    bench.expect(&["check"], 4, &["the sync both: `conflicts`"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn brakes_stop_a_run_before_it_writes() -> Result<(), Failed> {
    let bench = bench(", change_brake: 0.2").await?;
    let erp = bench.erp()?;
    for number in 0..200 {
        erp.execute("INSERT INTO customers VALUES (?1, 'n', 'c', NULL, 1, NULL)", [format!("C-{number:03}")])?;
    }
    bench.edit(
        "mappings/customers.yaml",
        "match:\n  - { when_key_missing: 'lower(trim(\"Name\"))', external: 'lower(trim(name))' }\n",
        "",
    )?;
    bench.expect(&["run"], 0, &["200 created"]).await?;
    bench.edit("bridgehead.yaml", "brake: 1,", "brake: 0.1,")?;
    erp.execute("DELETE FROM customers WHERE id < 'C-150'", [])?;
    bench.expect(&["run"], 8, &["would delete 150 of 200"]).await?;
    assert_eq!(bench.client()?.count("SELECT COUNT() FROM Account", false).await?, 200);
    bench.expect(&["run", "--force"], 0, &["150 deleted"]).await?;
    assert_eq!(bench.client()?.count("SELECT COUNT() FROM Account", false).await?, 50);
    bench.edit("bridgehead.yaml", "change_brake: 0.2", "change_brake: 0")?;
    erp.execute("INSERT INTO customers SELECT 'D-' || id, name, city, country, revenue, NULL FROM customers", [])?;
    erp.execute("INSERT INTO customers SELECT 'E-' || id, name, city, country, revenue, NULL FROM customers", [])?;
    bench.expect(&["run"], 0, &["150 created"]).await?;
    erp.execute("UPDATE customers SET name = 'oops'", [])?;
    bench.expect(&["run"], 8, &["more than the usual share", "--force"]).await?;
    assert!(bench.client()?.count("SELECT COUNT() FROM Account WHERE Name = 'oops'", false).await? <= 100);
    Ok(())
}

const CONTACTS: &str = "
mapping: contacts
version: 1
salesforce: { connection: crm, object: Contact, key: Contact_No__c }
external: { connection: erp, entity: people, key: id }
fields:
  - { salesforce: LastName, external: name }
  - { salesforce: AccountId, external: customer_id, lookup: customers }
  - { salesforce: ReportsToId, external: boss_id, lookup: contacts }
";

const CONTACT_NO: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CustomField xmlns="http://soap.sforce.com/2006/04/metadata">
    <fullName>Contact_No__c</fullName><label>Contact No</label><type>Text</type><length>20</length>
    <externalId>true</externalId><unique>true</unique><required>false</required>
</CustomField>"#;

#[tokio::test(flavor = "multi_thread")]
async fn references_are_carried_both_ways_and_missing_parents_are_waited_for() -> Result<(), Failed> {
    let bench = bench("").await?;
    let fields = bench.path("org/force-app/main/default/objects/Contact/fields");
    std::fs::create_dir_all(&fields)?;
    std::fs::write(fields.join("Contact_No__c.field-meta.xml"), CONTACT_NO)?;
    let bench = bench.restarted().await?;
    std::fs::write(bench.path("mappings/contacts.yaml"), CONTACTS)?;
    bench.edit(
        "bridgehead.yaml",
        "syncs:\n",
        "syncs:\n  - { sync: people, mapping: contacts, direction: two_way, deletes: propagate, brake: 1 }\n",
    )?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute_batch(
        "DROP TABLE IF EXISTS contacts;
         CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, customer_id TEXT, boss_id TEXT);
         INSERT INTO customers VALUES ('C-1', 'Acme', NULL, NULL, NULL, NULL);
         INSERT INTO people VALUES ('P-1', 'Worker', 'C-1', 'P-9'), ('P-9', 'Boss', 'C-1', NULL)",
    )?;
    let account = client.create("Account", &json!({"Name": "Birch"})).await?;
    client.create("Contact", &json!({"LastName": "Late", "AccountId": account})).await?;
    bench.expect(&["run", "people"], 0, &["parked"]).await?;
    // Parents run first; then everybody is there, whoever was made first.
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    let soql = "SELECT Contact_No__c, Account.Name, ReportsTo.LastName FROM Contact ORDER BY LastName";
    let page = client.query(soql, false).await?;
    let rows: Vec<[Value; 2]> = page
        .records
        .iter()
        .map(|record| [record["Account"]["Name"].clone(), record["ReportsTo"]["LastName"].clone()])
        .collect();
    let expected = [[json!("Acme"), Value::Null], [json!("Birch"), Value::Null], [json!("Acme"), json!("Boss")]];
    assert_eq!(rows, expected);
    let birch: String = erp.query_row(
        "SELECT c.name FROM people p JOIN customers c ON c.id = p.customer_id WHERE p.name = 'Late'",
        [],
        |row| row.get(0),
    )?;
    assert_eq!(birch, "Birch");
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    // Somebody moves to another customer, and somebody loses the boss.
    erp.execute_batch(
        "UPDATE people SET customer_id = (SELECT customer_id FROM people WHERE name = 'Late') WHERE id = 'P-9';
         UPDATE people SET boss_id = NULL WHERE id = 'P-1'",
    )?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    let page = client.query(soql, false).await?;
    assert_eq!(page.records[0]["Account"]["Name"], json!("Birch"));
    assert_eq!(page.records[2]["ReportsTo"], Value::Null);
    Ok(())
}

/// A two-way sync whose changes outside are told by triggers, with a database of either kind.
pub(crate) async fn captured(bench: &Bench, sql: &dyn Fn(&str) -> Result<(), Failed>) -> Result<(), Failed> {
    let client = bench.client()?;
    sql(
        "INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme', 'Bonn'), ('C-2', 'Birch', 'Oslo'), ('C-3', 'Cedar', 'Rome')",
    )?;
    bench.expect(&["check"], 0, &["both: good"]).await?;
    bench.expect(&["run"], 0, &["both (full)", "3 created"]).await?;
    sql("UPDATE customers SET city = 'Trier' WHERE id = 'C-1'")?;
    sql("DELETE FROM customers WHERE id = 'C-2'")?;
    sql("INSERT INTO customers (id, name) VALUES ('C-4', 'Dale')")?;
    sql("UPDATE customers SET id = 'C-5' WHERE id = 'C-3'")?;
    bench.expect(&["plan"], 0, &["changes only"]).await?;
    bench.expect(&["run"], 0, &["both (changes)", "2 created", "2 deleted", "no row missing"]).await?;
    let page = client.query("SELECT Customer_No__c, BillingCity FROM Account ORDER BY Customer_No__c", false).await?;
    let rows: Vec<[Value; 2]> =
        page.records.iter().map(|record| [record["Customer_No__c"].clone(), record["BillingCity"].clone()]).collect();
    let expected = [[json!("C-1"), json!("Trier")], [json!("C-4"), Value::Null], [json!("C-5"), json!("Rome")]];
    assert_eq!(rows, expected);
    for _ in 0..2 {
        let output = bench.call(&["run", "--json"]).await?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let counts = &report["counts"];
        assert_eq!([&counts["created"], &counts["updated"], &counts["deleted"]], [0, 0, 0], "no echo: {report}");
    }
    Ok(())
}

pub(crate) const CAPTURED: &str = "
mapping: customers
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: erp, entity: customers, key: id, capture: triggers }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCity, external: city }
";

#[tokio::test(flavor = "multi_thread")]
async fn triggers_tell_what_changed_in_sqlite() -> Result<(), Failed> {
    let bench = bench("").await?;
    std::fs::write(bench.path("mappings/customers.yaml"), CAPTURED)?;
    let erp = bench.erp()?;
    captured(&bench, &|sql| Ok(erp.execute_batch(sql)?)).await
}

/// A project whose customers are in PostgreSQL, in a schema of their own.
pub(crate) struct InPostgres {
    pub(crate) bench: Bench,
    pub(crate) schema: String,
    pub(crate) db: std::sync::Arc<tokio_postgres::Client>,
}

impl InPostgres {
    pub(crate) async fn new(mapping: &str, schema: &str) -> Result<Self, Failed> {
        let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES").map_err(|_| "BRIDGEHEAD_TEST_POSTGRES is not set")?;
        let (db, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let schema = format!("{schema}_{}", std::process::id());
        let bench = bench("").await?;
        let entity = format!("entity: {schema}.customers");
        std::fs::write(bench.path("mappings/customers.yaml"), mapping.replace("entity: customers", &entity))?;
        // Little memory for the decoding of the log: what is large comes in parts.
        let url = format!("{url}?options=-c%20logical_decoding_work_mem%3D64kB");
        bench.edit("bridgehead.yaml", "kind: sqlite\n    path: erp.db", &format!("kind: postgres\n    url: {url}"))?;
        let make = format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema};
             CREATE TABLE customers (id varchar(20) PRIMARY KEY, name text NOT NULL, city text, notes text)"
        );
        db.batch_execute(&make).await?;
        Ok(Self { bench, schema, db: std::sync::Arc::new(db) })
    }

    pub(crate) fn sql(&self, sql: &str) -> Result<(), Failed> {
        let run = self.db.batch_execute(sql);
        tokio::task::block_in_place(|| Ok(tokio::runtime::Handle::current().block_on(run)?))
    }

    /// Removes all that was made in the database.
    pub(crate) async fn cleared(self) -> Result<(), Failed> {
        self.bench.expect(&["capture", "drop", "both"], 0, &["Removed"]).await?;
        Ok(self.db.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_tell_what_changed_in_postgres() -> Result<(), Failed> {
    let there = InPostgres::new(CAPTURED, "captured").await?;
    captured(&there.bench, &|sql| there.sql(sql)).await?;
    there.cleared().await
}
