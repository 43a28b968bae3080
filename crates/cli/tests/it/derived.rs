//! Derived fields outside: they are right within one run of a change of what they are made of, though no time of change tells.

use std::path::PathBuf;

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};

const MAPPING: &str = "
mapping: customers
version: 1
salesforce: { connection: crm, object: Bike_Order__c, key: Order_No__c }
external: { connection: erp, entity: shown, key: id, create: true }
fields:
  - { salesforce: Customer_Label__c, external: label }
  - { salesforce: Total__c, external: total }
  - { salesforce: Age__c, external: age }
  - { salesforce: Quantity__c, external: quantity }
";

/// A row of the table: a name, days and a picture.
type Shown = (String, Option<String>, Option<String>);

fn meta(kind: &str, inner: &str) -> String {
    format!("<?xml version=\"1.0\"?><{kind} xmlns=\"http://soap.sforce.com/2006/04/metadata\">{inner}</{kind}>")
}

/// The example with fields that are made of a parent's, of what hangs on the record, and of the day.
async fn bench() -> Result<Bench, Failed> {
    let bench = Bench::new().await?;
    let objects = bench.path("org/force-app/main/default/objects");
    let line = objects.join("Order_Line__c");
    std::fs::create_dir_all(line.join("fields"))?;
    std::fs::write(line.join("Order_Line__c.object-meta.xml"), meta("CustomObject", "<label>Line</label>"))?;
    let number = "<precision>18</precision><scale>2</scale>";
    let formula = |kind: &str, text: &str| {
        format!(
            "<type>{kind}</type>{number}<formula>{text}</formula><formulaTreatBlanksAs>BlankAsBlank</formulaTreatBlanksAs>"
        )
    };
    for (folder, name, inner) in [
        ("Order_Line__c", "Price", format!("<type>Currency</type>{number}")),
        (
            "Order_Line__c",
            "Order",
            "<type>MasterDetail</type><referenceTo>Bike_Order__c</referenceTo><relationshipName>Lines</relationshipName>".to_owned(),
        ),
        (
            "Bike_Order__c",
            "Total",
            "<type>Summary</type><summaryOperation>sum</summaryOperation><summarizedField>Order_Line__c.Price__c</summarizedField>\
             <summaryForeignKey>Order_Line__c.Order__c</summaryForeignKey>"
                .to_owned(),
        ),
        ("Account", "Label", formula("Text", "UPPER(Name) &amp; \" / \" &amp; Owner.LastName")),
        ("Bike_Order__c", "Customer_Label", formula("Text", "Account__r.Label__c &amp; \"!\"")),
        ("Bike_Order__c", "Age", formula("Number", "TODAY() - Ordered_On__c")),
    ] {
        let body = format!("<fullName>{name}__c</fullName><label>{name}</label>{inner}");
        std::fs::write(objects.join(format!("{folder}/fields/{name}__c.field-meta.xml")), meta("CustomField", &body))?;
    }
    std::fs::write(bench.path("mappings/customers.yaml"), MAPPING)?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let (head, _) = config.split_once("syncs:").ok_or("no syncs")?;
    let syncs = "syncs:\n  - { sync: shown, mapping: customers, direction: to_external, deletes: propagate }\n";
    std::fs::write(bench.path("bridgehead.yaml"), format!("{head}{syncs}"))?;
    bench.restarted().await
}

/// Runs the sync and returns what it says of itself.
async fn run(bench: &Bench) -> Result<Value, Failed> {
    let output = bench.call(&["run", "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derived_column_is_right_within_one_run_of_a_change_of_its_inputs() -> Result<(), Failed> {
    let bench = bench().await?;
    let (client, erp) = (bench.client()?, bench.erp()?);
    let account = client.create("Account", &json!({"Name": "Acme"})).await?;
    let mut ids = Vec::new();
    for number in 0..3 {
        let order = json!({"Order_No__c": format!("O-{number}"), "Account__c": account, "Ordered_On__c": "2026-01-01", "Quantity__c": 1});
        ids.push(client.create("Bike_Order__c", &order).await?);
    }
    client.create("Bike_Order__c", &json!({"Order_No__c": "O-9", "Ordered_On__c": "2026-01-01"})).await?;
    let shown = |id: &str| -> Result<[Option<String>; 2], Failed> {
        let sql = "SELECT label, CAST(total AS TEXT) FROM shown WHERE id = ?";
        Ok(erp.query_row(sql, [id], |row| Ok([row.get(0)?, row.get(1)?]))?)
    };
    let age = || -> Result<f64, Failed> {
        Ok(erp.query_row("SELECT CAST(age AS REAL) FROM shown WHERE id = 'O-1'", [], |row| row.get(0))?)
    };
    let first = run(&bench).await?;
    assert_eq!((first["full"].as_bool(), first["counts"]["created"].as_u64()), (Some(true), Some(4)), "{first}");
    assert_eq!(shown("O-1")?[0].as_deref(), Some("ACME / Admin!"));
    let before = age()?;
    // Out of the time that windows overlap: what is read again now is read for its inputs alone.
    bench.sandbox.move_clock(1_200);
    run(&bench).await?;
    bench.sandbox.move_clock(2_400);
    let second = run(&bench).await?;
    let counts = &second["counts"];
    assert_eq!((second["full"].as_bool(), counts["read"].as_u64()), (Some(false), Some(0)), "{second}");
    client.update("Account", &account, &json!({"Name": "Birch"})).await?;
    let line = client.create("Order_Line__c", &json!({"Order__c": ids[2], "Price__c": 12.5})).await?;
    bench.sandbox.move_clock(3_600);
    let third = run(&bench).await?;
    assert_eq!((third["full"].as_bool(), third["counts"]["updated"].as_u64()), (Some(false), Some(3)), "{third}");
    assert_eq!(shown("O-1")?, ["BIRCH / Admin!", "0"].map(|text| Some(text.to_owned())));
    assert_eq!(shown("O-2")?[1].as_deref(), Some("12.5"), "what hangs on it");
    // Each derived column says how old it is.
    let derived = &third["derived"];
    for field in ["Customer_Label__c", "Total__c"] {
        assert!(derived[field].as_str() > first["derived"][field].as_str(), "{field}: {derived}");
    }
    assert_eq!(derived["Age__c"], first["derived"]["Age__c"], "not read since");
    // What is deleted is no longer summed up.
    bench.client()?.delete("Order_Line__c", &line).await?;
    bench.sandbox.move_clock(4_800);
    run(&bench).await?;
    assert_eq!(shown("O-2")?[1].as_deref(), Some("0"));
    // The day is another: everything is read for the column that changes by itself, once.
    bench.sandbox.move_clock(90_000);
    bench.expect(&["plan"], 0, &["fields that change as time goes on"]).await?;
    let next = run(&bench).await?;
    assert_eq!(next["full"], true, "{next}");
    assert!((age()? - before - 1.0).abs() < 0.01, "{} and {before}", age()?);
    assert_eq!(run(&bench).await?["full"], false);
    Ok(())
}

/// The formulas of a real project, out to PostgreSQL, by REST and by the Bulk API.
#[tokio::test(flavor = "multi_thread")]
async fn formulas_of_a_real_project_are_right_in_postgres() -> Result<(), Failed> {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/dreamhouse-lwc");
    let sandbox = Sandbox::start(Config { projects: vec![project], ..Config::default() }).await?;
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES").map_err(|_| "BRIDGEHEAD_TEST_POSTGRES is not set")?;
    let (db, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let schema = format!("derived_{}", std::process::id());
    db.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")).await?;
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("mappings"))?;
    let mut connections = String::new();
    for (name, bulk_rows) in [("rest", 2_000), ("bulk", 1)] {
        connections += &format!(
            "  {name}: {{ kind: salesforce, url: {:?}, bulk_rows: {bulk_rows}, auth: {{ grant: client_credentials, client_id: sandbox, \
             client_secret: \"${{env:SECRET}}\" }} }}\n",
            sandbox.url()
        );
        let mapping = format!(
            "mapping: {name}\nversion: 1\nsalesforce: {{ connection: {name}, object: Property__c, key: Id }}\n\
             external: {{ connection: erp, entity: {schema}.{name}, key: id, create: true }}\nfields:\n  \
             - {{ salesforce: Name, external: name }}\n  - {{ salesforce: Days_On_Market__c, external: days }}\n  \
             - {{ salesforce: Picture_IMG__c, external: picture }}\n"
        );
        std::fs::write(folder.path().join(format!("mappings/{name}.yaml")), mapping)?;
    }
    let config = format!(
        "version: 1\nconnections:\n{connections}  erp: {{ kind: postgres, url: {url:?} }}\nsyncs:\n  \
         - {{ sync: rest, mapping: rest, direction: to_external }}\n  - {{ sync: bulk, mapping: bulk, direction: to_external }}\n"
    );
    std::fs::write(folder.path().join("bridgehead.yaml"), config)?;
    let bridgehead = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        command.arg("-C").arg(folder.path()).args(arguments).env("SECRET", "sandbox-secret");
        tokio::task::spawn_blocking(move || command.output())
    };
    let client = crate::bench::client_of(&sandbox)?;
    let listed = (chrono::Utc::now() - chrono::TimeDelta::days(10)).date_naive().to_string();
    client
        .create(
            "Property__c",
            &json!({"Name": "Villa", "Date_Listed__c": listed, "Picture__c": "https://example.com/a.jpg"}),
        )
        .await?;
    client.create("Property__c", &json!({"Name": "Hut"})).await?;
    let days = async |table: &str| -> Result<Vec<Shown>, Failed> {
        let sql = format!("SELECT name, days::numeric::int::text, picture FROM {schema}.{table} ORDER BY name");
        Ok(db.query(&sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    };
    let picture = "<img src=\"https://example.com/a.jpg\" alt=\"Picture\" border=\"0\"/>";
    let villa = |days: &str| ("Villa".to_owned(), Some(days.to_owned()), Some(picture.to_owned()));
    for (clock, expected) in [(0, "10"), (86_400, "11")] {
        sandbox.move_clock(clock);
        let output = bridgehead(&["run"]).await??;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for table in ["rest", "bulk"] {
            assert_eq!(days(table).await?[1], villa(expected), "{table}");
        }
    }
    db.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
    Ok(())
}
