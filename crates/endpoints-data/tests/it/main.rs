//! Every database endpoint under the contract.

mod brokers;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use endpoint::{Catalog as _, Read, Sink as _, Source as _, Target};
use endpoints_data::files::{Dialect, Files};
use endpoints_data::sqlite::Sqlite;
use futures::StreamExt as _;
use model::{ChangeBatch, Entity, Field, Outcome, Type, text_of};

#[tokio::test]
async fn sqlite_keeps_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.db");
    rusqlite::Connection::open(&path)?.execute_batch(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE \"wid\"\"gets\" (k VARCHAR(40) PRIMARY KEY NOT NULL, name VARCHAR(80) NOT NULL CHECK (length(name) <= 80),
                              amount DECIMAL(18,2), at DATETIME);",
    )?;
    endpoint::contract::check(&Sqlite::new(path), "wid\"gets", ["k", "name", "amount", "at"]).await;
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES")
        .map_err(|_| "BRIDGEHEAD_TEST_POSTGRES names no PostgreSQL; `cargo xtask test` starts one")?;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let create = "DROP SCHEMA IF EXISTS contract CASCADE; CREATE SCHEMA contract;
                  CREATE TABLE contract.widgets (k varchar(40) PRIMARY KEY, name varchar(80), amount numeric(18,2), at timestamptz)";
    client.batch_execute(create).await?;
    let endpoint = endpoints_data::postgres::Postgres::new(&url, None)?;
    endpoint::contract::check(&endpoint, "contract.widgets", ["k", "name", "amount", "at"]).await;
    Ok(())
}

/// An entity of the contract, for systems that make it themselves.
fn widgets(name: &str) -> Entity {
    let money = Type::Decimal { precision: 18, scale: 2 };
    let fields = [("k", Type::Text), ("name", Type::Text), ("amount", money), ("at", Type::Timestamp)];
    Entity::new(name).with_key(["k"]).with_fields(fields.map(|(name, kind)| Field::new(name, kind)))
}

#[tokio::test]
async fn files_of_every_format_keep_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path())?;
    let dialect = Dialect { delimiter: b';', null: "NULL".to_owned() };
    let files = Files::new(Arc::new(store), folder.path().display().to_string(), dialect);
    for name in ["w.csv", "w.csv.gz", "w.csv.zst", "deep/w.ndjson", "w.jsonl.gz", "w.jsonl.zst", "w.parquet"] {
        if name.contains("json") {
            // Without rows NDJSON tells no fields.
            endpoint::contract::check_described(&files, widgets(name), ["k", "name", "amount", "at"]).await;
            continue;
        }
        files.create(&widgets(name)).await?;
        endpoint::contract::check(&files, name, ["k", "name", "amount", "at"]).await;
    }
    Ok(())
}

#[tokio::test]
async fn new_rows_lie_beside_a_file_until_the_run_ends_and_none_is_lost() -> Result<(), Box<dyn std::error::Error>> {
    for name in ["deep/w.csv.gz", "w.parquet"] {
        let folder = tempfile::tempdir()?;
        let open = || {
            let store =
                object_store::local::LocalFileSystem::new_with_prefix(folder.path())?.with_automatic_cleanup(true);
            let dialect = Dialect { delimiter: b',', null: String::new() };
            Ok::<_, object_store::Error>(Files::new(Arc::new(store), "here".to_owned(), dialect))
        };
        let target = Target { entity: widgets(name), key: "k".to_owned(), sync: "s".to_owned() };
        let rows = |rows: &[(&str, &str)]| -> Result<ChangeBatch, arrow::error::ArrowError> {
            let keys: StringArray = rows.iter().map(|(key, _)| Some(*key)).collect();
            let names: StringArray = rows.iter().map(|(_, name)| Some(*name)).collect();
            let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("name", Arc::new(names))];
            Ok(ChangeBatch::upserts(RecordBatch::try_from_iter(columns)?, None))
        };
        let found = async |files: &Files| -> Result<String, Box<dyn std::error::Error>> {
            let (fields, entity) = (vec!["k".to_owned(), "name".to_owned()], widgets(name));
            let read = Read { entity, fields, filter: None, window: None, from: None, deleted: false, batch_rows: 100 };
            let mut batches = files.read(read).await?;
            let mut found = Vec::new();
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                let text = |column: usize, row| {
                    text_of(batch.records.column(column).as_ref(), row).unwrap_or_default().into_owned()
                };
                found.extend((0..batch.len()).map(|row| format!("{}={}", text(0, row), text(1, row))));
            }
            found.sort();
            Ok(found.join(" "))
        };
        let parts = || std::fs::read_dir(folder.path().join(".bridgehead").join(name)).map_or(0, Iterator::count);
        let files = open()?;
        files.create(&target.entity).await?;
        for part in [&[("1", "a"), ("2", "b")][..], &[("3", "c")]] {
            let outcomes = files.write(&target, &rows(part)?).await?;
            assert!(
                outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied { created: true, .. })),
                "{outcomes:?}"
            );
        }
        assert_eq!((found(&files).await?.as_str(), parts()), ("", 2), "the file is not written anew with every part");
        assert_eq!(files.entities().await?, [name], "a part is no file");
        // What is there already, in the file or beside it, is merged.
        let outcomes = files.write(&target, &rows(&[("2", "B"), ("3", "c"), ("4", "d")])?).await?;
        assert!(
            matches!(
                outcomes[..],
                [Outcome::Applied { created: false, .. }, Outcome::Unchanged, Outcome::Applied { created: true, .. }]
            ),
            "{outcomes:?}"
        );
        assert_eq!((found(&files).await?.as_str(), parts()), ("1=a 2=B 3=c 4=d", 0));
        files.write(&target, &rows(&[("5", "e")])?).await?;
        assert_eq!(parts(), 1);
        files.finish(&target).await?;
        assert_eq!((found(&files).await?.as_str(), parts()), ("1=a 2=B 3=c 4=d 5=e", 0));

        // A program that ended too early left two parts; meanwhile somebody else gave the file one of their keys.
        let cut = open()?;
        cut.write(&target, &rows(&[("6", "f"), ("7", "g")])?).await?;
        cut.write(&target, &rows(&[("8", "h")])?).await?;
        let kept = folder.path().join("kept");
        std::fs::rename(folder.path().join(".bridgehead"), &kept)?;
        let other = open()?;
        other.write(&target, &rows(&[("7", "theirs")])?).await?;
        other.finish(&target).await?;
        std::fs::rename(&kept, folder.path().join(".bridgehead"))?;
        let next = open()?;
        next.finish(&target).await?;
        assert_eq!((found(&next).await?.as_str(), parts()), ("1=a 2=B 3=c 4=d 5=e 6=f 7=theirs 8=h", 0));
        // It can end twice, with nothing to do.
        next.finish(&target).await?;
        let outcomes = open()?.write(&target, &ChangeBatch::deletes(rows(&[("6", "")])?.records, None)).await?;
        assert!(matches!(outcomes[..], [Outcome::Applied { .. }]), "{outcomes:?}");
        assert_eq!(found(&next).await?, "1=a 2=B 3=c 4=d 5=e 7=theirs 8=h");
    }
    Ok(())
}

/// References that lead nowhere: these tests have no secrets.
struct Plain;

impl endpoint::References for Plain {
    fn resolve(&self, text: &str) -> endpoint::Result<String> {
        Ok(text.to_owned())
    }

    fn secret(&self, text: &str) -> endpoint::Result<secrecy::SecretString> {
        Ok(text.to_owned().into())
    }
}

impl endpoint::Journal for Plain {
    fn begin(&self, _: &str, _: &str) -> endpoint::Result<()> {
        Ok(())
    }

    fn unfinished(&self, _: &str) -> endpoint::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn end(&self, _: &str, _: &str) -> endpoint::Result<()> {
        Ok(())
    }
}

fn open(kind: endpoint::Kind, config: serde_json::Value) -> endpoint::Result<Arc<dyn endpoint::Endpoint>> {
    open_in(kind, config, std::path::Path::new("."))
}

fn open_in(
    kind: endpoint::Kind,
    config: serde_json::Value,
    state: &std::path::Path,
) -> endpoint::Result<Arc<dyn endpoint::Endpoint>> {
    let here = std::path::Path::new(".");
    let setup = endpoint::Setup { name: "test", folder: here, state, references: &Plain, journal: Arc::new(Plain) };
    (kind.open)(config, &setup)
}

#[tokio::test]
async fn postgres_is_spoken_to_encrypted_and_a_stranger_s_certificate_is_refused()
-> Result<(), Box<dyn std::error::Error>> {
    let missing = "BRIDGEHEAD_TEST_CA names no certificate; `cargo xtask test` makes one";
    let (server, authority) =
        (std::env::var("BRIDGEHEAD_TEST_POSTGRES"), std::env::var("BRIDGEHEAD_TEST_CA").map_err(|_| missing)?);
    let url = server?.replace("127.0.0.1", "localhost");
    let kind = endpoints_data::postgres::KIND;
    let trusted = open(kind, serde_json::json!({"url": url, "tls": "require", "tls_ca": authority}))?;
    trusted.entities().await?;
    let stranger = open(kind, serde_json::json!({"url": url, "tls": "require"}))?;
    let refused = stranger.entities().await.expect_err("the system does not trust this certificate");
    let mut causes = String::new();
    let mut cause = std::error::Error::source(&refused);
    while let Some(inner) = cause {
        causes.push_str(&inner.to_string());
        cause = inner.source();
    }
    assert!(causes.contains("certificate"), "{causes}");
    assert_eq!(refused.class(), model::Class::Mapping, "time does not mend that");
    streamed(&url, &authority).await
}

/// The log is streamed over an encrypted connection, by somebody who knows the password.
async fn streamed(url: &str, authority: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let sql = "DROP SCHEMA IF EXISTS streamed CASCADE; DROP ROLE IF EXISTS with_password;
               CREATE ROLE with_password LOGIN SUPERUSER PASSWORD 'scram-secret';
               CREATE SCHEMA streamed; CREATE TABLE streamed.widgets (k text PRIMARY KEY)";
    client.batch_execute(sql).await?;
    let url = url.replace("postgres@", "with_password@");
    let login = |password: &str| {
        let config = serde_json::json!({"url": url, "tls": "require", "tls_ca": authority, "password": password});
        open(endpoints_data::postgres::KIND, config)
    };
    let database = login("scram-secret")?;
    let mut entity = database.describe("streamed.widgets").await?;
    entity.cursor = Some(format!("{}streamed", endpoint::LOG));
    database.capture(&entity, "k").await?;
    let mut notices = database.listen(&entity, "k", &[], None).await?;
    // What there was before is settled first.
    let first = notices.next().await.ok_or("a notice")??;
    first.settled.ok_or("somebody waits")?.send(()).map_err(|()| "nobody waits")?;
    client.batch_execute("INSERT INTO streamed.widgets VALUES ('k-1'), ('k-\u{e9}')").await?;
    let mut told = notices.next().await.ok_or("a notice")??;
    told.keys.sort();
    assert_eq!(told.keys, ["k-1", "k-\u{e9}"]);
    assert_eq!(told.committed.iter().flatten().count(), 2, "{told:?}");
    assert!(told.until.is_some() && told.missed.is_none(), "{told:?}");
    drop(notices);
    database.release(&entity).await?;
    let refused = login("wrong")?.entities().await.expect_err("a wrong password");
    assert_eq!(refused.class(), model::Class::Auth, "{refused}");
    Ok(client.batch_execute("DROP SCHEMA streamed CASCADE; DROP ROLE with_password").await?)
}

#[tokio::test]
async fn files_are_reached_by_an_address_and_a_secret_in_it_is_refused() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let url = format!("file://{}", folder.path().display());
    let files = open(endpoints_data::files::KIND, serde_json::json!({"url": url}))?;
    files.create(&widgets("w.csv")).await?;
    assert_eq!(files.entities().await?, ["w.csv"]);
    for (config, said) in [
        (serde_json::json!({"url": "s3://key:secret@bucket/x"}), "holds a secret"),
        (serde_json::json!({"url": "nowhere://x"}), "nowhere://x can't be used"),
        (serde_json::json!({"url": "x", "delimiter": "\n"}), "can't separate columns"),
    ] {
        let error = open(endpoints_data::files::KIND, config).err().ok_or("it opens")?;
        assert!(error.to_string().contains(said) && !error.to_string().contains("secret@"), "{error}");
    }
    Ok(())
}

/// A program that ends with its test.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an object store that speaks S3 and makes a bucket in it; returns its port.
async fn object_store() -> Result<(Stopped, u16), Box<dyn std::error::Error>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let python = std::env::var("BRIDGEHEAD_TEST_PYTHON")
        .map_err(|_| "BRIDGEHEAD_TEST_PYTHON names no Python with moto; `cargo xtask test` installs it")?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = free.local_addr()?.port();
    drop(free);
    let mut command = std::process::Command::new(python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut server = Stopped(command.spawn()?);
    let begun = std::time::Instant::now();
    let mut stream = loop {
        if let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            break stream;
        }
        assert!(server.0.try_wait()?.is_none(), "the object store ended early");
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "the object store does not listen");
        tokio::task::yield_now().await;
    };
    let request = "PUT /bucket HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok((server, port))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_an_object_store_keep_the_contract() -> Result<(), Box<dyn std::error::Error>> {
    let (_server, port) = object_store().await?;
    let config = serde_json::json!({
        "url": "s3://bucket/deep/folder",
        "options": {"endpoint": format!("http://127.0.0.1:{port}"), "region": "us-east-1", "access_key_id": "k", "allow_http": "true"},
        "secrets": {"secret_access_key": "s"},
    });
    let files = open(endpoints_data::files::KIND, config)?;
    for name in ["w.csv.gz", "w.parquet"] {
        files.create(&widgets(name)).await?;
        endpoint::contract::check(&*files, name, ["k", "name", "amount", "at"]).await;
    }
    Ok(())
}

#[tokio::test]
async fn postgres_copies_what_is_new_and_merges_the_rest() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES")?;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute(
            "DROP SCHEMA IF EXISTS copied CASCADE; CREATE SCHEMA copied;
             CREATE TABLE copied.notes (k text PRIMARY KEY, note varchar(12));
             CREATE TABLE copied.parts (k text, note varchar(12), PRIMARY KEY (k, note))",
        )
        .await?;
    let database = endpoints_data::postgres::Postgres::new(&url, None)?;
    let entity = database.describe("copied.notes").await?;
    let target = Target { entity, key: "k".to_owned(), sync: "notes".to_owned() };
    let batch = |rows: &[(&str, Option<&str>)]| -> Result<ChangeBatch, arrow::error::ArrowError> {
        let keys: StringArray = rows.iter().map(|(key, _)| Some(*key)).collect();
        let notes: StringArray = rows.iter().map(|(_, note)| *note).collect();
        let columns: [(&str, ArrayRef, bool); 2] = [("k", Arc::new(keys), true), ("note", Arc::new(notes), true)];
        Ok(ChangeBatch::upserts(RecordBatch::try_from_iter_with_nullable(columns)?, None))
    };
    // What means something to COPY is a text like any other.
    let odd = ["a\\b", "\\N", "tab\tx", "line\nnext", "\r\n", "\\.", "\u{fc}\\", ""];
    let mut rows: Vec<(&str, Option<&str>)> =
        ["1", "2", "3", "4", "5", "6", "7", "8"].into_iter().zip(odd.map(Some)).collect();
    rows.push(("none", None));
    let outcomes = database.write(&target, &batch(&rows)?).await?;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied { created: true, .. })), "{outcomes:?}");
    let found = client.query("SELECT k, note FROM copied.notes ORDER BY k", &[]).await?;
    assert_eq!(found.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(&str, Option<&str>)>>(), rows);
    // One that is there, one that is refused, and one that is new.
    let rows =
        [("none", Some("one")), ("long", Some("far too long a note")), ("new", Some("two")), ("1", Some("a\\b"))];
    let outcomes = database.write(&target, &batch(&rows)?).await?;
    assert!(matches!(outcomes[0], Outcome::Applied { created: false, .. }), "{outcomes:?}");
    assert!(matches!(&outcomes[1], Outcome::Refused(error) if error.code == "22001"), "{outcomes:?}");
    assert!(matches!(outcomes[2], Outcome::Applied { created: true, .. }), "{outcomes:?}");
    assert!(matches!(outcomes[3], Outcome::Unchanged), "{outcomes:?}");
    let one = client.query_one("SELECT note FROM copied.notes WHERE k = 'none'", &[]).await?;
    assert_eq!(one.get::<_, &str>(0), "one");
    // A part of a key lets a row come twice: nothing is copied.
    let entity = database.describe("copied.parts").await?;
    let parts = Target { entity, ..target };
    let refused = database.write(&parts, &batch(&[("1", Some("a"))])?).await.expect_err("a part of a key is none");
    assert_eq!(refused.class(), model::Class::Mapping, "{refused}");
    let count: i64 = client.query_one("SELECT count(*) FROM copied.parts", &[]).await?.get(0);
    assert_eq!(count, 0);
    Ok(client.batch_execute("DROP SCHEMA copied CASCADE").await?)
}
