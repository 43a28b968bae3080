//! Brokers: what is written to one comes back out of it, and what had no outcome comes again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
use endpoint::{Endpoint, Kind, Notice, Notices, Target};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Field, Op, Outcome, Type, text_of};
use serde_json::{Value, json};

use crate::open;

type Failed = Box<dyn std::error::Error>;

fn unique(what: &str) -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{what}_{:x}", RandomState::new().hash_one(0))
}

fn address(variable: &str) -> Result<String, Failed> {
    Ok(std::env::var(variable).map_err(|_| format!("{variable} names no server; `cargo xtask test` starts one"))?)
}

/// A connection whose entity holds orders.
fn connection(kind: Kind, mut config: Value, entity: &str) -> Result<Arc<dyn Endpoint>, Failed> {
    config["entities"] =
        json!({entity: {"key": "id", "fields": {"id": "text", "total": "decimal(18,2)", "note": "text"}}});
    Ok(open(kind, config)?)
}

fn orders(entity: &str) -> Entity {
    let money = Type::Decimal { precision: 18, scale: 2 };
    let fields = [("id", Type::Text), ("total", money), ("note", Type::Text)];
    Entity::new(entity).with_key(["id"]).with_fields(fields.map(|(name, kind)| Field::new(name, kind)))
}

fn target(entity: &str) -> Target {
    Target { entity: orders(entity), key: "id".to_owned(), sync: "s".to_owned() }
}

fn records(rows: &[(&str, i128, Option<&str>)]) -> Result<RecordBatch, Failed> {
    let totals = rows.iter().map(|row| Some(row.1)).collect::<Decimal128Array>().with_precision_and_scale(18, 2)?;
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>())),
        ("total", Arc::new(totals)),
        ("note", Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>())),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}

type Row = (String, Op, Option<String>, Option<String>);

/// Takes notices until so many messages came, and gives them back or not.
async fn taken(notices: &mut Notices, count: usize, give_back: bool) -> Result<(Vec<Row>, Vec<String>), Failed> {
    let (mut rows, mut bad, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    while rows.len() + bad.len() < count {
        let Notice { records, settled, .. } = notices.next().await.ok_or("the notices ended")??;
        let Some(records) = records else { continue };
        let cell = |column: usize, row: usize| {
            text_of(records.records.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
        };
        for (row, op) in records.ops.iter().enumerate() {
            rows.push((cell(0, row).unwrap_or_default(), *op, cell(1, row), cell(2, row)));
        }
        bad.extend(records.unreadable.into_iter().map(|row| row.error.message));
        match settled {
            Some(settled) if give_back => settled.send(()).map_err(|()| "nobody waits for the outcome")?,
            settled => kept.extend(settled),
        }
    }
    if give_back {
        // What was given back is given back when the queue says that nothing waits.
        while !notices.next().await.ok_or("the notices ended")??.drained {}
    }
    Ok((rows, bad))
}

/// What every broker keeps: `again` opens the connection anew, for another process.
async fn keeps_messages(kind: Kind, config: Value) -> Result<(), Failed> {
    let entity = unique("orders");
    let out = connection(kind, config.clone(), &entity)?;
    out.create(&orders(&entity)).await?;
    out.create(&orders(&entity)).await?;
    let fields: Vec<String> = ["id", "total", "note"].map(str::to_owned).to_vec();
    // Keys that are special anywhere, a value with all its digits, and none.
    let rows = [
        ("C-1", 1_234_567_890_123_405, Some("Köln")),
        ("a.b *>%/ c", -1, None),
        ("\u{e9}t\u{e9}", 0, Some("\"quoted\"\n")),
    ];
    let written = out.write(&target(&entity), &ChangeBatch::upserts(records(&rows)?, None)).await?;
    assert_eq!(written, vec![Outcome::Applied { created: false, id: None }; 3]);
    let gone = ChangeBatch::deletes(records(&[("C-1", 0, None)])?, None);
    out.write(&target(&entity), &gone).await?;
    let read = endpoint::Read {
        entity: orders(&entity),
        fields: fields.clone(),
        filter: None,
        window: None,
        from: None,
        deleted: false,
        batch_rows: 10,
    };
    assert_eq!(out.count(&read).await?, 4);

    // Nobody says what became of them: they come again, in order.
    let told: Vec<Row> = vec![
        ("C-1".into(), Op::Upsert, Some("12345678901234.05".into()), Some("Köln".into())),
        ("a.b *>%/ c".into(), Op::Upsert, Some("-0.01".into()), None),
        ("\u{e9}t\u{e9}".into(), Op::Upsert, Some("0.00".into()), Some("\"quoted\"\n".into())),
        ("C-1".into(), Op::Delete, None, None),
    ];
    let first = connection(kind, config.clone(), &entity)?;
    let mut notices = first.listen(&orders(&entity), "id", &fields).await?;
    assert_eq!(taken(&mut notices, 4, false).await?, (told.clone(), vec![]));
    drop((notices, first));
    let second = connection(kind, config.clone(), &entity)?;
    let mut notices = second.listen(&orders(&entity), "id", &fields).await?;
    let (rows, bad) = taken(&mut notices, 4, true).await?;
    let by_key = |rows: &[Row]| {
        let mut by_key: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            by_key.entry(row.0.clone()).or_default().push(row.clone());
        }
        by_key
    };
    assert_eq!((by_key(&rows), bad), (by_key(&told), vec![]), "in the order of each key");
    assert_eq!(out.count(&read).await?, 0, "what has an outcome waits no more");
    // More than one notice, and many at once.
    let many: Vec<String> = (0..2_500).map(|at| format!("M-{at}")).collect();
    let batch: Vec<(&str, i128, Option<&str>)> = many.iter().map(|key| (key.as_str(), 1, None)).collect();
    for part in batch.chunks(1_000) {
        out.write(&target(&entity), &ChangeBatch::upserts(records(part)?, None)).await?;
    }
    let (rows, _) = taken(&mut notices, 2_500, true).await?;
    let mut keys: Vec<String> = rows.into_iter().map(|row| row.0).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2_500);
    drop(notices);
    assert_eq!(out.count(&read).await?, 0);
    // What is not described says how.
    let error = out.describe("nothing").await.expect_err("not described");
    assert!(error.class() == Class::Mapping && error.to_string().contains("under `entities`"), "{error}");
    Ok(())
}

/// What is not there says so.
async fn says_what_is_missing(kind: Kind, config: Value) -> Result<(), Failed> {
    let entity = unique("missing");
    let missing = connection(kind, config, &entity)?;
    let refused = missing.write(&target(&entity), &ChangeBatch::upserts(records(&[("C-1", 1, None)])?, None)).await;
    let error = refused.expect_err("nothing keeps it");
    assert!(error.class() == Class::Mapping && error.to_string().contains("create: true"), "{error}");
    let error = missing.listen(&orders(&entity), "id", &["id".to_owned()]).await.err().ok_or("it listens")?;
    assert_eq!(error.class(), Class::Mapping, "{error}");
    Ok(())
}

#[tokio::test]
async fn nats_keeps_messages() -> Result<(), Failed> {
    let config = json!({"url": address("BRIDGEHEAD_TEST_NATS")?});
    keeps_messages(endpoints_data::brokers::nats::KIND, config.clone()).await?;
    says_what_is_missing(endpoints_data::brokers::nats::KIND, config).await
}

#[tokio::test]
async fn rabbitmq_keeps_messages() -> Result<(), Failed> {
    let config = json!({"url": address("BRIDGEHEAD_TEST_RABBITMQ")?});
    keeps_messages(endpoints_data::brokers::rabbitmq::KIND, config.clone()).await?;
    let mut bare = config.clone();
    bare["envelope"] = json!("none");
    keeps_messages(endpoints_data::brokers::rabbitmq::KIND, bare).await?;
    says_what_is_missing(endpoints_data::brokers::rabbitmq::KIND, config.clone()).await?;
    let mut stranger = config;
    (stranger["user"], stranger["password"]) = (json!("nobody"), json!("wrong"));
    let stranger = connection(endpoints_data::brokers::rabbitmq::KIND, stranger, "orders")?;
    let error = stranger.create(&orders("orders")).await.expect_err("a wrong login");
    assert_eq!(error.class(), Class::Auth, "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_messages() -> Result<(), Failed> {
    let broker = krafka::testing::FakeBroker::start().await?;
    let config = json!({"servers": broker.bootstrap_servers()});
    keeps_messages(endpoints_data::brokers::kafka::KIND, config).await
}

#[test]
fn a_broker_that_is_set_up_wrong_says_where() {
    let nats = endpoints_data::brokers::nats::KIND;
    let rabbit = endpoints_data::brokers::rabbitmq::KIND;
    let kafka = endpoints_data::brokers::kafka::KIND;
    let typed = |kind: &str| json!({"o": {"key": "id", "fields": {"id": kind}}});
    for (kind, config, said) in [
        (nats, json!({"url": "nats://u:p@h"}), "holds a login"),
        (nats, json!({"url": "nats://127.0.0.1", "entities": typed("decimal(99,2)")}), "entities.o.fields.id"),
        (
            nats,
            json!({"url": "nats://127.0.0.1", "entities": {"o": {"key": "k", "fields": {"id": "text"}}}}),
            "its key k",
        ),
        (rabbit, json!({"url": "amqp://u:p@h/"}), "holds a login"),
        (rabbit, json!({"url": "amqp://mq.example.com/"}), "write amqps://"),
        (rabbit, json!({"url": "http://h/"}), "none of RabbitMQ"),
        (
            kafka,
            json!({"servers": "k:1", "user": "u", "password": "p", "sasl": "plain", "tls": "off"}),
            "tells the password",
        ),
    ] {
        let error = open(kind, config).err().expect(said);
        assert!(error.to_string().contains(said) && !error.to_string().contains("u:p"), "{error}");
    }
}
