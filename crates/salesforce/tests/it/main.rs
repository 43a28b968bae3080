//! The client against the sandbox, which shares no code with it.

mod pubsub;
mod soap;
mod streaming;

use std::sync::Arc;

use arrow::array::AsArray as _;
use model::{Class, Type};
use salesforce::bulk::{Kind, NextPage, Operation, Results};
use salesforce::{Client, Credentials, CsvReader, CsvWriter, JsonTable, Settings, TokenFile, collections};
use sandbox::{Config, Sandbox};
use serde_json::{Map, Value, json};

type Failed = Box<dyn std::error::Error>;

fn credentials(sandbox: &Sandbox) -> Credentials {
    Credentials::ClientCredentials {
        login_url: sandbox.url().to_owned(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: "sandbox-secret".to_owned().into(),
    }
}

async fn open() -> Result<(Sandbox, Client), Failed> {
    let sandbox = Sandbox::start(Config::default()).await?;
    let client = Client::new(credentials(&sandbox), Settings::default())?;
    Ok((sandbox, client))
}

fn entries(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[tokio::test]
async fn an_expired_session_is_renewed_once_for_all_callers() -> Result<(), Failed> {
    let (sandbox, client) = open().await?;
    client.limits().await?;
    sandbox.expire_sessions();
    let (a, b, c) = tokio::join!(client.limits(), client.limits(), client.limits());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let usage = client.usage().ok_or("no usage header")?;
    assert!(usage.used > 0 && usage.left() > 0, "{usage:?}");
    Ok(())
}

#[tokio::test]
async fn descriptions_are_read_again_only_when_they_changed() -> Result<(), Failed> {
    let (_sandbox, client) = open().await?;
    let (first, second) = (client.objects().await?, client.objects().await?);
    assert!(std::sync::Arc::ptr_eq(&first, &second), "the org said that nothing changed");
    let (first, second) = (client.describe("Account").await?, client.describe("Account").await?);
    assert!(std::sync::Arc::ptr_eq(&first, &second), "the org said that nothing changed");
    Ok(())
}

#[tokio::test]
async fn wrong_secrets_and_given_tokens_that_expired_are_errors_of_sign_in() -> Result<(), Failed> {
    let sandbox = Sandbox::start(Config { access_token: Some("given".into()), ..Config::default() }).await?;
    let wrong = Credentials::ClientCredentials {
        login_url: sandbox.url().to_owned(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: "no".to_owned().into(),
    };
    let error = Client::new(wrong, Settings::default())?.limits().await.expect_err("a wrong secret");
    assert_eq!((error.class(), error.code()), (Class::Auth, Some("invalid_client")));
    let given =
        Credentials::AccessToken { instance_url: sandbox.url().to_owned(), access_token: "given".to_owned().into() };
    let client = Client::new(given, Settings::default())?;
    client.limits().await?;
    sandbox.expire_sessions();
    assert_eq!(client.limits().await.expect_err("expired").class(), Class::Auth);
    Ok(())
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_for_the_next_process() -> Result<(), Failed> {
    let sandbox = Sandbox::start(Config { refresh_token: Some("first".into()), ..Config::default() }).await?;
    let folder = tempfile::tempdir()?;
    let open = || {
        let credentials = Credentials::RefreshToken {
            login_url: sandbox.url().to_owned(),
            client_id: sandbox.client_id().to_owned(),
            client_secret: Some("sandbox-secret".to_owned().into()),
            refresh_token: "first".to_owned().into(),
            file: TokenFile { path: folder.path().join("token.json") },
        };
        Client::new(credentials, Settings::default())
    };
    let (one, two) = (open()?, open()?);
    // Two owners at once: the second must use what the first was given.
    let (a, b) = tokio::join!(one.limits(), two.limits());
    a?;
    b?;
    sandbox.expire_sessions();
    one.limits().await?;
    open()?.limits().await?;
    std::fs::write(folder.path().join("token.json"), r#"{"version":1,"refresh_token":"first"}"#)?;
    sandbox.expire_sessions();
    let error = open()?.limits().await.expect_err("a stale token");
    assert_eq!(error.class(), Class::Auth);
    assert!(error.to_string().contains("connect the org again"), "{error}");
    Ok(())
}

#[tokio::test]
async fn records_are_written_in_collections_and_read_in_pages() -> Result<(), Failed> {
    let (_sandbox, client) = open().await?;
    let records: Vec<_> =
        (0..200).map(|n| entries(json!({"Name": format!("Account {n:03}"), "NumberOfEmployees": n}))).collect();
    let saved = client.save(&collections::create(&client, "Account", records)).await?;
    assert!(saved.iter().all(|saved| saved.success && saved.id.is_some()));
    let mixed = vec![
        entries(json!({"Id": saved[0].id, "Name": "New"})),
        entries(json!({"Id": saved[1].id, "Name": "x".repeat(300)})),
    ];
    let outcome = client.save(&collections::update(&client, "Account", mixed)).await?;
    assert!(outcome[0].success);
    assert_eq!(outcome[1].errors[0].code, "STRING_TOO_LONG");

    let long = format!("SELECT Id, Name, NumberOfEmployees FROM Account WHERE Name != '{}'", "z".repeat(16_000));
    for soql in ["SELECT Id, Name, NumberOfEmployees FROM Account", &long] {
        let mut page = client.query(soql, false).await?;
        let mut rows = page.records.len();
        while let Some(next) = client.next_page(&page).await? {
            rows += next.records.len();
            page = next;
        }
        assert_eq!(rows, 200);
    }
    let object = client.describe("Account").await?;
    assert!(Arc::ptr_eq(&object, &client.describe("Account").await?), "asked again, not read again");
    let kinds = vec![Type::Text, Type::Integer];
    let fields = [("Name", Type::Text), ("NumberOfEmployees", Type::Integer)];
    let fields: Vec<_> = fields.iter().map(|(n, k)| arrow::datatypes::Field::new(*n, k.arrow(), true)).collect();
    let table = JsonTable::new(Arc::new(arrow::datatypes::Schema::new(fields)), kinds);
    let page = client.query("SELECT Name, NumberOfEmployees FROM Account WHERE NumberOfEmployees = 7", false).await?;
    let batch = table.read(&page.records)?;
    assert_eq!(batch.column(0).as_string::<i32>().value(0), "Account 007");
    Ok(())
}

#[tokio::test]
async fn rows_go_in_and_out_by_bulk_jobs() -> Result<(), Failed> {
    let (_sandbox, client) = open().await?;
    let folder = tempfile::tempdir()?;
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![
        arrow::datatypes::Field::new("Name", Type::Text.arrow(), true),
        arrow::datatypes::Field::new("NumberOfEmployees", Type::Integer.arrow(), true),
    ]));
    let mut rows = String::from("Name,NumberOfEmployees\n");
    for n in 0..3_000 {
        rows.push_str(&format!("\"Ac\u{e9}me, {n}\",{n}\n"));
    }
    rows.push_str(&format!("{},1\n", "x".repeat(300)));
    let kinds = vec![Type::Text, Type::Integer];
    let mut reader = CsvReader::new(rows.as_bytes(), schema.clone(), kinds.clone())?;
    let path = folder.path().join("up.csv");
    let mut writer = CsvWriter::new(std::fs::File::create(&path)?, &["Name", "NumberOfEmployees"])?;
    while let Some(batch) = reader.next_batch(1_000)? {
        writer.write(&batch, 0..batch.num_rows())?;
    }
    writer.finish()?;
    let job = client.create_ingest_job("Account", &Operation::Insert).await?;
    client.upload(&job.id, &path).await?;
    client.close(&job.id).await?;
    let job = client.wait_for(Kind::Ingest, &job.id, 3).await?.completed()?;
    assert_eq!((job.number_records_processed, job.number_records_failed), (3_001, 1));
    client.ingest_results(&job.id, Results::Failed, &path).await?;
    assert!(std::fs::read_to_string(&path)?.contains("STRING_TOO_LONG"));

    let job = client.create_query_job("SELECT Name, NumberOfEmployees FROM Account", false).await?;
    client.wait_for(Kind::Query, &job.id, 0).await?.completed()?;
    let (mut seen, mut locator) = (0, None);
    loop {
        let NextPage(next) = client.query_results(&job.id, locator.as_deref(), 1_000, &path).await?;
        let mut reader = CsvReader::new(std::fs::File::open(&path)?, schema.clone(), kinds.clone())?;
        while let Some(batch) = reader.next_batch(300)? {
            seen += batch.num_rows();
        }
        locator = next;
        if locator.is_none() {
            break;
        }
    }
    assert_eq!(seen, 3_000);
    client.remove_job(Kind::Query, &job.id).await?;
    assert_eq!(client.job(Kind::Query, &job.id).await.expect_err("removed").code(), Some("NOT_FOUND"));
    Ok(())
}
