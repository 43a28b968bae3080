//! Which records are one: merged ones, similar ones, ones that refer to each other in a circle; and which was changed last.

use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::two_way::{account, bench, id_of, text};

fn ids(bench: &Bench, table: &str) -> Result<String, Failed> {
    let sql = format!("SELECT coalesce(group_concat(id), '') FROM (SELECT id FROM {table} ORDER BY id)");
    Ok(bench.erp()?.query_row(&sql, [], |row| row.get(0))?)
}

/// Merges Salesforce records, as a person does.
async fn merge(bench: &Bench, winner: &str, loser: &str) -> Result<(), Failed> {
    let body = json!({"winner": winner, "losers": [loser]});
    bench.client()?.send(&outbound::Request::new("POST", "/sandbox/api/merge").json(&body)).await?;
    Ok(())
}

/// Adds a field to an object of the org.
fn add_field(bench: &Bench, object: &str, name: &str, rest: &str) -> Result<(), Failed> {
    let fields = bench.path(&format!("org/force-app/main/default/objects/{object}/fields"));
    std::fs::create_dir_all(&fields)?;
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
         <CustomField xmlns=\"http://soap.sforce.com/2006/04/metadata\">
             <fullName>{name}</fullName><label>{name}</label><required>false</required>{rest}
         </CustomField>"
    );
    Ok(std::fs::write(fields.join(format!("{name}.field-meta.xml")), text)?)
}

const KEY: &str = "<type>Text</type><length>20</length><externalId>true</externalId><unique>true</unique>";

const PEOPLE: &str = "
mapping: contacts
version: 1
salesforce: { connection: crm, object: Contact, key: Contact_No__c }
external: { connection: erp, entity: people, key: id }
fields:
  - { salesforce: LastName, external: name }
  - { salesforce: AccountId, external: customer_id, lookup: customers }
";

/// The bench with contacts, whose sync is called `people`.
async fn with_people(rules: &str) -> Result<Bench, Failed> {
    let bench = bench(rules).await?;
    add_field(&bench, "Contact", "Contact_No__c", KEY)?;
    let bench = bench.restarted().await?;
    std::fs::write(bench.path("mappings/contacts.yaml"), PEOPLE)?;
    bench.edit(
        "bridgehead.yaml",
        "syncs:\n",
        "syncs:\n  - { sync: people, mapping: contacts, direction: two_way, deletes: propagate, brake: 1 }\n",
    )?;
    let people = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, customer_id TEXT)";
    bench.erp()?.execute_batch(people)?;
    Ok(bench)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tied_to_a_merged_record_follows_the_winner() -> Result<(), Failed> {
    let bench = with_people("").await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute_batch(
        "INSERT INTO customers VALUES ('C-1', 'Acme', 'Bonn', NULL, 1, NULL), ('C-2', 'Acme Ltd', 'Bonn', NULL, 2, NULL),
             ('C-3', 'Birch', 'Oslo', NULL, 3, NULL), ('C-4', 'Cedar', 'Rome', NULL, 4, NULL), ('C-5', 'Cedar 2', NULL, NULL, 5, NULL);
         INSERT INTO people VALUES ('P-1', 'One', 'C-1'), ('P-2', 'Two', 'C-2'), ('P-3', 'Three', 'C-3')",
    )?;
    bench.expect(&["run"], 0, &["5 created", "3 created"]).await?;
    // Two pairs become one: the loser's external record is one too many, and what refers to it finds the winner.
    merge(&bench, &id_of(&bench, "C-1").await?, &id_of(&bench, "C-2").await?).await?;
    // A record that was never paired wins: the loser's external record is the winner's.
    let new = client.create("Account", &json!({"Name": "Birch & Co"})).await?;
    merge(&bench, &new, &id_of(&bench, "C-3").await?).await?;
    // The loser's external record was edited meanwhile: a person has to see that.
    merge(&bench, &id_of(&bench, "C-4").await?, &id_of(&bench, "C-5").await?).await?;
    erp.execute_batch(
        "UPDATE customers SET city = 'Bern' WHERE id = 'C-5'; INSERT INTO people VALUES ('P-4', 'Four', 'C-2')",
    )?;
    bench.expect(&["run"], 0, &["1 deleted", "1 conflicts held"]).await?;
    assert_eq!(ids(&bench, "customers")?, "C-1,C-3,C-4,C-5");
    assert_eq!(text(&erp, "name", "C-3")?.as_deref(), Some("Birch & Co"));
    assert_eq!(account(&bench, "C-3", "Id").await?, json!(new));
    let page =
        client.query("SELECT LastName, Account.Customer_No__c FROM Contact ORDER BY Contact_No__c", false).await?;
    let rows: Vec<[&Value; 2]> =
        page.records.iter().map(|record| [&record["LastName"], &record["Account"]["Customer_No__c"]]).collect();
    let expected = [["One", "C-1"], ["Two", "C-1"], ["Three", "C-3"], ["Four", "C-1"]].map(|row| row.map(Value::from));
    assert_eq!(rows, expected.each_ref().map(|row| [&row[0], &row[1]]));
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    let customers: String =
        erp.query_row("SELECT group_concat(customer_id) FROM (SELECT * FROM people ORDER BY id)", [], |row| {
            row.get(0)
        })?;
    assert_eq!(customers, "C-1,C-1,C-3,C-1");
    // Runs later it is still a question, however often the record is looked at; then it is decided.
    erp.execute("UPDATE customers SET city = 'Basel' WHERE id = 'C-5'", [])?;
    bench.expect(&["run", "--full"], 0, &["no row missing"]).await?;
    assert_eq!(client.count("SELECT COUNT() FROM Account", false).await?, 3, "the loser does not come back");
    let output = bench.call(&["conflicts", "list", "--json"]).await?;
    let held: Value = serde_json::from_slice(&output.stdout)?;
    bench.expect(&["conflicts", "resolve", &held["id"].to_string(), "salesforce"], 0, &["decided"]).await?;
    bench.expect(&["run"], 0, &["1 deleted"]).await?;
    assert_eq!(ids(&bench, "customers")?, "C-1,C-3,C-4");
    Ok(())
}

const ALIKE: &str = "
mapping: customers
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: erp, entity: customers, key: id }
fields:
  - { salesforce: Name, external: name }
match:
  - { when_key_missing: 'lower(\"Name\")', external: 'lower(name)', similar: 0.7, ask: 0.4 }
";

#[tokio::test(flavor = "multi_thread")]
async fn similar_records_are_paired_or_asked_about_and_never_doubled() -> Result<(), Failed> {
    let bench = bench("").await?;
    std::fs::write(bench.path("mappings/customers.yaml"), ALIKE.replace("0.7", "7"))?;
    bench.expect(&["check"], 4, &["mappings/customers.yaml:9:", "more than 0, and at most 1"]).await?;
    std::fs::write(bench.path("mappings/customers.yaml"), ALIKE)?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute_batch(
        "INSERT INTO customers (id, name) VALUES ('C-1', 'Northwind Traders'), ('C-2', 'Contoso Limited'), ('C-3', 'Zebra')",
    )?;
    for name in ["Northwind Traders Inc", "Contoso Ltd", "Quagga"] {
        client.create("Account", &json!({"Name": name})).await?;
    }
    // One is near enough, one is a question, one is new. Of the question neither side is doubled.
    bench.expect(&["run"], 3, &["1 conflicts held", "dead letters"]).await?;
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("Northwind Traders Inc"));
    let count = async |soql: &str| client.count(soql, false).await;
    assert_eq!(count("SELECT COUNT() FROM Account").await?, 4, "Zebra was made, Contoso Limited was not");
    assert_eq!(ids(&bench, "customers")?.split(',').count(), 4, "Quagga was made, Contoso Ltd was not");
    bench.expect(&["conflicts", "list"], 0, &["(match)", "contoso ltd", "contoso limited"]).await?;
    let question = async || -> Result<String, Failed> {
        let output = bench.call(&["conflicts", "list", "--json"]).await?;
        Ok(serde_json::from_slice::<Value>(&output.stdout)?["id"].to_string())
    };
    let number = question().await?;
    bench.expect(&["conflicts", "show", &number], 0, &["may be one record", "external` pairs them"]).await?;
    bench.expect(&["run"], 3, &["1 conflicts held"]).await?;
    assert_eq!(question().await?, number, "it is asked once");
    bench.expect(&["conflicts", "resolve", &number, "external"], 0, &["decided"]).await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert_eq!(account(&bench, "C-2", "Name").await?, json!("Contoso Ltd"));
    assert_eq!(count("SELECT COUNT() FROM Account").await?, 4);
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    bench.expect(&["conflicts", "list"], 0, &["No conflict waits"]).await?;
    // Another that is like it, and is another: it stands alone.
    client.create("Account", &json!({"Name": "Contoso Ltd Services"})).await?;
    bench.expect(&["run"], 3, &["1 conflicts held"]).await?;
    bench.expect(&["conflicts", "resolve", &question().await?, "salesforce"], 0, &["decided"]).await?;
    bench.expect(&["run"], 0, &["1 created", "no row missing"]).await?;
    assert_eq!(ids(&bench, "customers")?.split(',').count(), 5);
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_refer_to_each_other_are_written_first_and_given_each_other_then() -> Result<(), Failed> {
    let bench = with_people("").await?;
    let lookup = "<type>Lookup</type><referenceTo>Contact</referenceTo><relationshipName>Primary_Of</relationshipName>";
    add_field(&bench, "Account", "Primary_Contact__c", lookup)?;
    let bench = bench.restarted().await?;
    bench.edit(
        "mappings/customers.yaml",
        "match:",
        "  - { salesforce: Primary_Contact__c, external: contact_id, lookup: contacts }\nmatch:",
    )?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    erp.execute_batch(
        "ALTER TABLE customers ADD COLUMN contact_id TEXT;
         INSERT INTO customers (id, name, contact_id) VALUES ('C-1', 'Acme', 'P-1'); INSERT INTO people VALUES ('P-1', 'One', 'C-1')",
    )?;
    let birch = client.create("Account", &json!({"Name": "Birch"})).await?;
    let two = client.create("Contact", &json!({"LastName": "Two", "AccountId": birch})).await?;
    client.update("Account", &birch, &json!({"Primary_Contact__c": two})).await?;
    bench.expect(&["check"], 0, &["both: good", "people: good"]).await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    let soql = "SELECT Name, Primary_Contact__r.LastName, Primary_Contact__r.Account.Name FROM Account ORDER BY Name";
    let page = client.query(soql, false).await?;
    let contact = &page.records[0]["Primary_Contact__r"];
    assert_eq!([&contact["LastName"], &contact["Account"]["Name"]], ["One", "Acme"]);
    let round: (String, String) = erp.query_row(
        "SELECT p.name, c.name FROM customers c JOIN people p ON p.id = c.contact_id WHERE p.customer_id = c.id AND c.name = 'Birch'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    assert_eq!(round, ("Two".to_owned(), "Birch".to_owned()));
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    for _ in 0..2 {
        let output = bench.call(&["run", "--json"]).await?;
        for line in String::from_utf8(output.stdout)?.lines() {
            let report: Value = serde_json::from_str(line)?;
            let counts = &report["counts"];
            assert_eq!([&counts["created"], &counts["updated"], &counts["deleted"]], [0, 0, 0], "no echo: {report}");
        }
    }
    // One that names a contact which is nowhere is written without it, and waits.
    erp.execute("INSERT INTO customers (id, name, contact_id) VALUES ('C-9', 'Late', 'P-9')", [])?;
    bench.expect(&["run"], 0, &["1 parked"]).await?;
    assert_eq!(account(&bench, "C-9", "Primary_Contact__c").await?, Value::Null);
    bench.expect(&["dead-letters", "list"], 0, &["MISSING_PARENT", "Primary_Contact__c"]).await?;
    erp.execute("INSERT INTO people VALUES ('P-9', 'Nine', 'C-9')", [])?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    assert!(account(&bench, "C-9", "Primary_Contact__c").await?.is_string(), "released when the parent came");
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_later_edit_wins_only_where_clocks_agree() -> Result<(), Failed> {
    let bench = bench(", conflicts: latest").await?;
    bench.edit("mappings/customers.yaml", "key: id }", "key: id, cursor: changed_at }")?;
    let erp = bench.erp()?;
    erp.execute_batch(
        "ALTER TABLE customers ADD COLUMN changed_at DATETIME;
         INSERT INTO customers (id, name, changed_at) VALUES ('C-1', 'Acme', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
    )?;
    bench.expect(&["run"], 0, &["1 created"]).await?;
    // The org's clock goes wrong.
    bench.sandbox.move_clock(300);
    bench.expect(&["run"], 8, &["the clock outside is", "seconds behind that of Salesforce", "--force"]).await?;
    bench.expect(&["run", "--force"], 0, &["no row missing"]).await?;
    bench.sandbox.move_clock(0);
    bench.expect(&["run"], 0, &["no row missing"]).await?;
    // So does that of whoever writes to the table.
    erp.execute_batch(
        "UPDATE customers SET name = 'Acme AG', changed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 hour')",
    )?;
    bench.expect(&["run"], 8, &["C-1 of customers says that it was changed 3", "seconds from now"]).await?;
    assert_eq!(account(&bench, "C-1", "Name").await?, json!("Acme"));
    bench.expect(&["run", "--force"], 0, &["1 updated"]).await?;
    Ok(())
}
