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
        // What comes again comes at once, and not when a server gives up on somebody.
        let next = tokio::time::timeout(std::time::Duration::from_secs(25), notices.next()).await;
        let Notice { records, settled, .. } = next.map_err(|_| "no message came")?.ok_or("the notices ended")??;
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
    let mut told: Vec<Row> = vec![
        ("C-1".into(), Op::Upsert, Some("12345678901234.05".into()), Some("Köln".into())),
        ("a.b *>%/ c".into(), Op::Upsert, Some("-0.01".into()), None),
        ("\u{e9}t\u{e9}".into(), Op::Upsert, Some("0.00".into()), Some("\"quoted\"\n".into())),
        ("C-1".into(), Op::Delete, None, None),
    ];
    let first = connection(kind, config.clone(), &entity)?;
    let mut notices = first.listen(&orders(&entity), "id", &fields, None).await?;
    assert_eq!(taken(&mut notices, 4, false).await?, (told.clone(), vec![]));
    drop((notices, first));
    // What is newer comes behind it.
    out.write(&target(&entity), &ChangeBatch::upserts(records(&[("C-1", 700, None)])?, None)).await?;
    told.push(("C-1".into(), Op::Upsert, Some("7.00".into()), None));
    let second = connection(kind, config.clone(), &entity)?;
    let mut notices = second.listen(&orders(&entity), "id", &fields, None).await?;
    let (rows, bad) = taken(&mut notices, 5, true).await?;
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
    let error = missing.listen(&orders(&entity), "id", &["id".to_owned()], None).await.err().ok_or("it listens")?;
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

/// Encrypted, with a login: what is written comes back, and neither a wrong password nor a certificate that nobody vouches for
/// gets anywhere.
async fn keeps_secrets(kind: Kind, address: &str, user: &str, password: &str) -> Result<(), Failed> {
    let authority = std::env::var("BRIDGEHEAD_TEST_CA")
        .map_err(|_| "BRIDGEHEAD_TEST_CA names no certificate; `cargo xtask test` makes one")?;
    let config = json!({"url": address, "user": user, "password": password, "tls": "require", "tls_ca": authority});
    keeps_messages(kind, config.clone()).await?;
    for (field, value, class) in [("password", json!("wrong"), Class::Auth), ("tls_ca", Value::Null, Class::Mapping)] {
        let mut stranger = config.clone();
        stranger[field] = value;
        let stranger = connection(kind, stranger, "orders")?;
        let error = stranger.create(&orders("orders")).await.expect_err(field);
        let mut said = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            said = format!("{said}: {inner}");
            cause = inner.source();
        }
        assert_eq!(error.class(), class, "{field}: {said}");
        assert!(!said.contains(password), "{said}");
        assert!(field == "password" || said.to_lowercase().contains("certificate"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn nats_is_spoken_to_encrypted_and_with_a_login() -> Result<(), Failed> {
    let address = address("BRIDGEHEAD_TEST_NATS_TLS")?;
    keeps_secrets(endpoints_data::brokers::nats::KIND, &address, "bridgehead", "a secret").await
}

#[tokio::test]
async fn rabbitmq_is_spoken_to_encrypted_and_with_a_login() -> Result<(), Failed> {
    let address = address("BRIDGEHEAD_TEST_RABBITMQ_TLS")?;
    keeps_secrets(endpoints_data::brokers::rabbitmq::KIND, &address, "guest", "guest").await
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

/// The headers and the body of a request.
type Got = (Vec<(String, String)>, Vec<u8>);

/// A receiver of webhooks that answers as it is told, and notes what it got.
struct Receiver {
    address: std::net::SocketAddr,
    got: Arc<std::sync::Mutex<Vec<Got>>>,
    answers: Arc<std::sync::Mutex<Vec<u16>>>,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.served.abort();
    }
}

impl Receiver {
    /// Starts one; the last of its answers is taken first, and without any it takes everything.
    async fn start(answers: &[u16]) -> Result<Self, Failed> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let got = Arc::new(std::sync::Mutex::new(Vec::new()));
        let answers = Arc::new(std::sync::Mutex::new(answers.to_vec()));
        let (noted, next) = (Arc::clone(&got), Arc::clone(&answers));
        let receive = async move |headers: axum::http::HeaderMap, body: axum::body::Bytes| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
            noted.lock().expect("a lock").push((headers.collect(), body.to_vec()));
            let status = next.lock().expect("a lock").pop().unwrap_or(204);
            axum::http::StatusCode::from_u16(status).expect("a status")
        };
        let routes = axum::Router::new().route("/in/{entity}", axum::routing::post(receive));
        let served = tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        Ok(Self { address, got, answers, served })
    }

    fn got(&self, name: &str) -> Vec<String> {
        let got = self.got.lock().expect("a lock");
        let header = |headers: &[(String, String)]| {
            headers.iter().find(|(known, _)| known == name).map_or(String::new(), |(_, value)| value.clone())
        };
        got.iter().map(|(headers, _)| header(headers)).collect()
    }
}

#[tokio::test]
async fn webhooks_are_signed_sent_again_with_the_same_id_and_given_up_for_good_reasons() -> Result<(), Failed> {
    let receiver = Receiver::start(&[]).await?;
    let url = format!("http://{}/in/{{entity}}", receiver.address);
    let config = json!({"url": url, "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "at_once": 1, "authorization": "Bearer t"});
    let webhook = open(endpoints_data::brokers::webhook::KIND, config)?;
    let rows = [("C-1", 1, None), ("C-2", 2, Some("Köln")), ("C-3", 3, None)];
    let changes = ChangeBatch::upserts(records(&rows)?, None);
    // The second is put off: it alone is sent again, and known by its id.
    *receiver.answers.lock().expect("a lock") = vec![200, 429, 200];
    let error = webhook.write(&target("orders"), &changes).await.expect_err("put off");
    assert!(error.class().is_transient(), "{error}");
    let written = webhook.write(&target("orders"), &changes).await?;
    assert_eq!(written, vec![Outcome::Applied { created: false, id: None }; 3]);
    let (keys, ids) = (receiver.got("bridgehead-key"), receiver.got("webhook-id"));
    assert_eq!(keys, ["C-1", "C-2", "C-3", "C-2"]);
    assert_eq!(ids[1], ids[3]);
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    assert_eq!(receiver.got("authorization"), vec!["Bearer t"; 4]);
    assert!(receiver.got("webhook-signature").iter().all(|signature| signature.starts_with("v1,")));
    let body: Value = serde_json::from_slice(&receiver.got.lock().expect("a lock")[1].1)?;
    assert_eq!((&body["type"], &body["data"]["note"]), (&json!("bridgehead.orders.changed"), &json!("Köln")));
    // The same change later is another message.
    webhook.write(&target("orders"), &changes).await?;
    assert!(!ids.contains(&receiver.got("webhook-id")[4]));
    // What is refused is a dead letter; a receiver that is gone ends the sync.
    *receiver.answers.lock().expect("a lock") = vec![200, 422, 200];
    let written = webhook.write(&target("orders"), &changes).await?;
    assert!(matches!(&written[1], Outcome::Refused(error) if error.message.contains("422")), "{written:?}");
    *receiver.answers.lock().expect("a lock") = vec![200, 200, 410];
    assert_eq!(webhook.write(&target("orders"), &changes).await.expect_err("gone").class(), Class::Mapping);
    Ok(())
}

#[tokio::test]
async fn webhooks_of_others_are_kept_before_they_are_answered() -> Result<(), Failed> {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let (state, entity) = (tempfile::tempdir()?, "orders");
    let config = json!({"listen": free, "secrets": ["a secret"], "signature": "hub", "entities": {
        "orders": {"key": "id", "fields": {"id": "text", "total": "decimal(18,2)", "note": "text"}}}});
    let fields: Vec<String> = ["id", "total", "note"].map(str::to_owned).to_vec();
    let open = || crate::open_in(endpoints_data::brokers::inbox::KIND, config.clone(), state.path());
    let client = outbound::Client::new(outbound::Settings::default())?;
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"a secret");
    let send = async |path: &str, id: &str, body: &str, signed: &str| -> Result<u16, Failed> {
        let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut request = outbound::Request::new("POST", format!("http://{free}/hooks/{path}"));
        request.body = outbound::Body::Bytes(body.to_owned().into());
        let request = request.header("x-hub-signature-256", format!("sha256={hex}")).header("x-github-delivery", id);
        Ok(client.send(&request).await?.status())
    };
    let inbox = open()?;
    let mut notices = inbox.listen(&orders(entity), "id", &fields, None).await?;
    let one = r#"{"id":"C-1","total":1.05,"note":"Köln"}"#;
    assert_eq!(send("orders", "1", one, one).await?, 202);
    assert_eq!(send("orders", "1", one, one).await?, 202, "sent twice, and taken once");
    assert_eq!(send("orders", "2", one, "another body").await?, 401);
    assert_eq!(send("others", "3", one, one).await?, 404);
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(send("orders", "4", &large, &large).await?, 413);
    let list = r#"[{"id":"C-2"},{"id":"C-3"},17]"#;
    assert_eq!(send("orders", "5", list, list).await?, 202);
    let (rows, bad) = taken(&mut notices, 4, false).await?;
    let keys: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    assert_eq!((keys, bad.len()), (vec!["C-1", "C-2", "C-3"], 1));
    // The process ends before anything has an outcome: all of it is there in the next.
    drop((notices, inbox));
    let inbox = open()?;
    let mut notices = inbox.listen(&orders(entity), "id", &fields, None).await?;
    // Another sync of the same connection shares the server.
    let other = open()?;
    drop(other.listen(&orders(entity), "id", &fields, None).await?);
    assert_eq!(send("orders", "5", list, list).await?, 202, "known from before");
    let (rows, _) = taken(&mut notices, 4, true).await?;
    assert_eq!(rows[0], ("C-1".to_owned(), Op::Upsert, Some("1.05".to_owned()), Some("Köln".to_owned())));
    drop((notices, inbox, other));
    let read = endpoint::Read {
        entity: orders(entity),
        fields,
        filter: None,
        window: None,
        from: None,
        deleted: false,
        batch_rows: 10,
    };
    assert_eq!(open()?.count(&read).await?, 0, "what has an outcome is forgotten");
    let wide = json!({"listen": "0.0.0.0:1", "entities": {}});
    let error = crate::open(endpoints_data::brokers::inbox::KIND, wide).err().ok_or("it opens")?;
    assert!(error.to_string().contains("name the `secrets`"), "{error}");
    Ok(())
}

#[tokio::test]
async fn outbound_messages_are_known_by_their_ids_and_their_org() -> Result<(), Failed> {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let state = tempfile::tempdir()?;
    let config = json!({"listen": free, "organization": "00Dxx0000001gYhEAI", "entities": {
        "orders": {"key": "id", "fields": {"id": "text", "total": "decimal(18,2)", "note": "text"}}}});
    let fields: Vec<String> = ["id", "total", "note"].map(str::to_owned).to_vec();
    let inbox = crate::open_in(endpoints_data::brokers::inbox::KIND, config, state.path())?;
    let mut notices = inbox.listen(&orders("orders"), "id", &fields, None).await?;
    let client = outbound::Client::new(outbound::Settings::default())?;
    let message = |org: &str, ids: &[u32]| -> String {
        let one = |id: &u32| {
            format!(
                "<Notification><Id>04l{id}</Id><sObject xsi:type=\"sf:Order\"><sf:id>C-{id}</sf:id>\
                 <sf:total>1.05</sf:total></sObject></Notification>"
            )
        };
        let all: String = ids.iter().map(one).collect();
        format!(
            "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <notifications xmlns=\"http://soap.sforce.com/2005/09/outbound\" xmlns:sf=\"urn:sobject.enterprise.soap.sforce.com\">\
             <OrganizationId>{org}</OrganizationId><ActionId>04k1</ActionId>{all}</notifications></soapenv:Body></soapenv:Envelope>"
        )
    };
    let send = async |body: String| -> Result<(u16, String), Failed> {
        let mut request = outbound::Request::new("POST", format!("http://{free}/hooks/orders"));
        request.body = outbound::Body::Bytes(body.into());
        let answer = client.send(&request.header("content-type", "text/xml; charset=UTF-8")).await?;
        Ok((answer.status(), String::from_utf8(answer.bytes().await?.to_vec())?))
    };
    for ids in [&[1, 2][..], &[1, 2], &[2, 3]] {
        let (status, answer) = send(message("00Dxx0000001gYhEAI", ids)).await?;
        assert!(status == 200 && answer.contains("<Ack>true</Ack>"), "{answer}");
    }
    assert_eq!(send(message("00Dxx0000009zzzEAA", &[4])).await?.0, 401);
    assert_eq!(send("<x/>".to_owned()).await?.0, 400);
    let (rows, bad) = taken(&mut notices, 3, true).await?;
    let keys: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    assert_eq!((keys, bad.len()), (vec!["C-1", "C-2", "C-3"], 0));
    assert_eq!((rows[0].2.as_deref(), rows[0].3.as_deref()), (Some("1.05"), None));
    Ok(())
}
