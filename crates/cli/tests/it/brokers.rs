//! Queues as either end of a sync: what a foreign client publishes reaches Salesforce, and the other way round.

use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt as _;
use sandbox::{Automation, Message};
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::follow::{Followed, until};
use crate::two_way::{account, id_of};

const OUT: &str = "mapping: told
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c, where: \"Customer_No__c != null\" }
external: { connection: bus, entity: OUT, key: number, create: true }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCity, external: city }
  - { salesforce: AnnualRevenue, external: revenue }
";

const IN: &str = "mapping: heard
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: bus, entity: IN, key: number }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCity, external: city }
  - { salesforce: AnnualRevenue, external: revenue }
";

/// A project with a bus, and a client of it that we did not write.
struct Bus {
    bench: Bench,
    context: jetstream::Context,
    out: String,
    into: String,
}

impl Bus {
    async fn new() -> Result<Self, Failed> {
        let missing = "BRIDGEHEAD_TEST_NATS names no server; `cargo xtask test` starts one";
        let url = std::env::var("BRIDGEHEAD_TEST_NATS").map_err(|_| missing)?;
        let context = jetstream::new(async_nats::connect(&url).await?);
        let bench = Bench::new().await?;
        let id = bench.path("").display().to_string().replace(['/', '.'], "_");
        let (out, into) = (format!("crm.customers{id}"), format!("shop.customers{id}"));
        let bus = format!(
            "  bus:
    kind: nats
    url: {url}
    entities:
      {into}: {{ key: number, fields: {{ number: text, name: text, city: text, revenue: \"decimal(18,2)\" }} }}
syncs:
  - {{ sync: told, mapping: told, direction: to_external, deletes: propagate, brake: 1 }}
  - {{ sync: heard, mapping: heard, direction: to_salesforce, deletes: propagate, brake: 1 }}
"
        );
        bench.edit("bridgehead.yaml", "syncs:\n", &bus)?;
        std::fs::write(bench.path("mappings/told.yaml"), OUT.replace("OUT", &out))?;
        std::fs::write(bench.path("mappings/heard.yaml"), IN.replace("IN", &into))?;
        let config = jetstream::stream::Config {
            name: into.replace('.', "_"),
            subjects: vec![format!("{into}.>")],
            ..jetstream::stream::Config::default()
        };
        context.create_stream(config).await?;
        Ok(Self { bench, context, out, into })
    }

    async fn publish(&self, key: &str, body: String) -> Result<(), Failed> {
        self.context.publish(format!("{}.{key}", self.into), body.into()).await?.await?;
        Ok(())
    }

    async fn record(&self, key: &str, city: &str) -> Result<(), Failed> {
        let data = json!({"number": key, "name": format!("Shop {key}"), "city": city, "revenue": 12});
        let event =
            json!({"specversion": "1.0", "id": key, "source": "/shop", "type": "shop.customer.changed", "data": data});
        self.publish(key, event.to_string()).await
    }

    async fn cleared(self) -> Result<(), Failed> {
        for entity in [&self.out, &self.into] {
            // What nothing was written to was never made.
            let _ = self.context.delete_stream(entity.replace('.', "_")).await;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_salesforce_and_bad_ones_wait_for_a_person() -> Result<(), Failed> {
    let bus = Bus::new().await?;
    let bench = &bus.bench;
    bus.record("S-1", "Bonn").await?;
    bus.record("S-2", "Oslo").await?;
    bus.record("S-1", "Ulm").await?;
    bus.publish("S-3", "no json".to_owned()).await?;
    bus.publish(
        "S-2",
        json!({"specversion": "1.0", "id": "x", "source": "/", "type": "y.deleted", "subject": "S-2"}).to_string(),
    )
    .await?;
    bench.expect(&["plan", "heard"], 0, &["5"]).await?;
    bench.expect(&["run", "heard"], 3, &["1 created", "1 dead letters"]).await?;
    assert_eq!(account(bench, "S-1", "BillingCity").await?, json!("Ulm"), "of several messages the last counts");
    bench.expect(&["dead-letters", "list"], 0, &["NOT_READABLE", "is no JSON object"]).await?;
    bench.expect(&["dead-letters", "show", "1"], 0, &["no json"]).await?;
    // Nothing is left, and nothing is done twice.
    bench.expect(&["run", "heard"], 0, &["0 read"]).await?;
    // A followed queue; the process is killed in the middle.
    let followed = Followed::start_of(bench, "heard").await?;
    bus.record("S-4", "Rom").await?;
    until("a new record", async || Ok(account(bench, "S-4", "BillingCity").await.ok() == Some(json!("Rom")))).await?;
    for at in 0..200 {
        bus.record(&format!("S-{}", 100 + at % 20), &format!("City {at}")).await?;
    }
    drop(followed);
    for at in 200..220 {
        bus.record(&format!("S-{}", 100 + at % 20), &format!("City {at}")).await?;
    }
    bus.publish("S-4", String::new()).await?;
    bench.expect(&["run", "heard"], 0, &["1 deleted"]).await?;
    for at in 200..220 {
        let city = account(bench, &format!("S-{}", 100 + at % 20), "BillingCity").await?;
        assert_eq!(city, json!(format!("City {at}")), "the newest message of a record is the last that counts");
    }
    assert!(id_of(bench, "S-4").await.is_err(), "a message without a body deletes");
    bus.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_salesforce_are_published_as_events() -> Result<(), Failed> {
    let bus = Bus::new().await?;
    let (bench, client) = (&bus.bench, bus.bench.client()?);
    let fields = json!({"Name": "Dale", "Customer_No__c": "C-7", "BillingCity": "Köln", "AnnualRevenue": 10.25});
    client.create("Account", &fields).await?;
    bench.expect(&["run", "told"], 0, &["no row missing"]).await?;
    let followed = Followed::start_of(bench, "told").await?;
    let id = id_of(bench, "C-7").await?;
    client.update("Account", &id, &json!({"BillingCity": "Rom"})).await?;
    let stream = bus.context.get_stream(bus.out.replace('.', "_")).await?;
    let mut messages = stream.create_consumer(pull::Config::default()).await?.messages().await?;
    let next = async |messages: &mut pull::Stream| -> Result<(String, Value), Failed> {
        let message = tokio::time::timeout(std::time::Duration::from_mins(1), messages.next()).await?;
        let message = message.ok_or("the messages ended")??;
        message.ack().await.map_err(|error| error.to_string())?;
        let kind = message.headers.as_ref().and_then(|headers| headers.get("Content-Type"));
        assert_eq!(kind.map(async_nats::HeaderValue::as_str), Some("application/cloudevents+json; charset=UTF-8"));
        Ok((message.subject.to_string(), serde_json::from_slice(&message.payload)?))
    };
    let mut cities = Vec::new();
    while cities.last() != Some(&json!("Rom")) {
        let (subject, event) = next(&mut messages).await?;
        if subject.ends_with(".C-7") {
            assert_eq!(event["specversion"], "1.0");
            assert_eq!((&event["source"], &event["subject"]), (&json!("/bridgehead/bus"), &json!("C-7")));
            assert_eq!(event["type"], json!(format!("bridgehead.{}.changed", bus.out)));
            assert_eq!((&event["data"]["number"], &event["data"]["name"]), (&json!("C-7"), &json!("Dale")));
            cities.push(event["data"]["city"].clone());
        }
    }
    assert_eq!(cities, [json!("Köln"), json!("Rom")], "each change once");
    client.delete("Account", &id).await?;
    let (subject, event) = next(&mut messages).await?;
    assert!(
        subject.ends_with(".C-7") && event["type"].as_str().is_some_and(|kind| kind.ends_with(".deleted")),
        "{event}"
    );
    followed.stop().await?;
    bus.cleared().await
}

#[tokio::test(flavor = "multi_thread")]
async fn outbound_messages_are_sent_until_they_are_taken_and_taken_once() -> Result<(), Failed> {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let fields = ["AccountNumber", "Name", "BillingCity", "AnnualRevenue"].map(str::to_owned);
    let bench = Bench::with(|config| {
        config.definition.automation = vec![Automation {
            when: sandbox::When::After,
            send: Some(Message { to: format!("http://{free}/hooks/accounts"), fields: fields.to_vec() }),
            ..crate::automation::rule("Tell", "NOT(ISBLANK(AccountNumber))")
        }];
    })
    .await?;
    let hooks = format!(
        "  hooks:
    kind: inbox
    listen: {free}
    entities:
      accounts:
        key: AccountNumber
        fields: {{ AccountNumber: text, Name: text, BillingCity: text, AnnualRevenue: \"decimal(18,2)\" }}
syncs:
  - {{ sync: heard, mapping: heard, direction: to_salesforce }}
"
    );
    bench.edit("bridgehead.yaml", "syncs:\n", &hooks)?;
    let mapping = IN.replace("bus, entity: IN, key: number", "hooks, entity: accounts, key: AccountNumber");
    let mapping = mapping.replace("name }", "Name }").replace("city }", "BillingCity }");
    std::fs::write(bench.path("mappings/heard.yaml"), mapping.replace("revenue }", "AnnualRevenue }"))?;
    let client = bench.client()?;
    let waiting = async || -> Result<Vec<Value>, Failed> {
        let answer = client.send(&outbound::Request::get("/sandbox/api/messages")).await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    };
    // Nobody listens: the message waits, and holds the record as it is when it goes.
    let told = json!({"Name": "Köln & Söhne", "AccountNumber": "M-1", "AnnualRevenue": 1025});
    let id = client.create("Account", &told).await?;
    until("a try", async || Ok(waiting().await?[0]["tries"] == 1)).await?;
    client.update("Account", &id, &json!({"BillingCity": "Rom"})).await?;
    let followed = Followed::start_of(&bench, "heard").await?;
    let again = async || {
        client.send(&outbound::Request::new("POST", "/sandbox/api/messages").json(&json!({}))).await?;
        Ok(account(&bench, "M-1", "BillingCity").await.ok() == Some(json!("Rom")))
    };
    until("the message is taken", again).await?;
    assert_eq!(account(&bench, "M-1", "Name").await?, json!("Köln & Söhne"));
    assert_eq!(account(&bench, "M-1", "AnnualRevenue").await?, json!(1025.0));
    // What is saved from now on goes at once.
    let shop = |n: u32| {
        let fields = [("Name", format!("Shop {n}")), ("AccountNumber", format!("M-{n}"))];
        fields.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
    };
    let shops = salesforce::collections::create(&client, "Account", (2..=150).map(shop).collect());
    client.save(&shops).await?;
    let made = "SELECT COUNT() FROM Account WHERE Customer_No__c LIKE 'M-%'";
    until("all are there", async || Ok(client.count(made, false).await? == 150)).await?;
    until("nothing waits", async || Ok(waiting().await?.is_empty())).await?;
    followed.stop().await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await
}
