//! Events by the protocol itself: what is published with a transaction, how long it is kept, who may listen.

use sandbox::{Config, EventChannel, EventChannelMember, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, here};

async fn org(selected: &[&str]) -> Result<Sandbox, Failed> {
    crate::provider();
    let mut config = Config { projects: vec![here("../../../shared/data/ebikes-lwc")], ..Config::default() };
    config.definition.change_data_capture = selected.iter().map(|name| (*name).to_owned()).collect();
    Ok(Sandbox::start(config).await?)
}

/// A client of the Streaming API, as bare as it can be.
struct Listener<'c> {
    client: &'c Client,
    id: String,
}

impl<'c> Listener<'c> {
    async fn send(client: &Client, message: Value) -> Result<Vec<Value>, Failed> {
        let headers = [("content-type", "application/json")];
        let (status, _, body) = client.raw("POST", "/cometd/66.0", &headers, json!([message]).to_string()).await?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    async fn new(client: &'c Client) -> Result<Self, Failed> {
        let shake =
            json!({"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]});
        let answer = Self::send(client, shake).await?;
        let id = answer[0]["clientId"].as_str().ok_or_else(|| format!("{answer:?}"))?.to_owned();
        let this = Self { client, id };
        // The first connect is answered at once.
        let answer = this.connect().await?;
        assert_eq!(answer.last().ok_or("an answer")?["advice"]["reconnect"], "retry");
        Ok(this)
    }

    async fn subscribe(&self, channel: &str, replay: i64) -> Result<Value, Failed> {
        let message = json!({"channel": "/meta/subscribe", "clientId": self.id, "subscription": channel,
                             "ext": {"replay": {channel: replay}}});
        Ok(Self::send(self.client, message).await?.remove(0))
    }

    async fn connect(&self) -> Result<Vec<Value>, Failed> {
        let connect = json!({"channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling"});
        Self::send(self.client, connect).await
    }

    /// Waits for the next answer and returns the events in it.
    async fn events(&self) -> Result<Vec<Value>, Failed> {
        let mut answer = self.connect().await?;
        let last = answer.pop().ok_or("an answer")?;
        assert_eq!(last["successful"], true, "{last}");
        Ok(answer.into_iter().map(|message| message["data"].clone()).collect())
    }
}

fn header<'e>(event: &'e Value, name: &str) -> &'e Value {
    &event["payload"]["ChangeEventHeader"][name]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_published_whole_in_order_or_not_at_all() -> Result<(), Failed> {
    let sandbox = org(&["Account", "Contact"]).await?;
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener::new(&client).await?;
    assert_eq!(listener.subscribe("/data/ChangeEvents", -1).await?["successful"], true);
    // All or none: nothing of a transaction that is taken back is told.
    let requests = |last: Value| {
        json!({"allOrNone": true, "compositeRequest": [
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Account", "referenceId": "a", "body": {"Name": "Acme"}},
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Contact", "referenceId": "c", "body": last}]})
    };
    let (_, answer) = client.call("POST", "/composite", Some(&requests(json!({"AccountId": "@{a.id}"})))).await?;
    assert_eq!(answer["compositeResponse"][1]["httpStatusCode"], 400, "{answer}");
    let body = requests(json!({"AccountId": "@{a.id}", "FirstName": "Ann", "LastName": "One"}));
    client.call("POST", "/composite", Some(&body)).await?;
    let events = listener.events().await?;
    let told: Vec<[&Value; 3]> = events
        .iter()
        .map(|event| [header(event, "entityName"), header(event, "changeType"), header(event, "sequenceNumber")])
        .collect();
    let expected = [json!("Account"), json!("CREATE"), json!(1), json!("Contact"), json!("CREATE"), json!(2)];
    assert_eq!(told.concat(), expected.iter().collect::<Vec<_>>());
    assert_eq!(header(&events[0], "transactionKey"), header(&events[1], "transactionKey"));
    assert_eq!(header(&events[0], "commitNumber"), header(&events[1], "commitNumber"));
    assert_eq!(events[1]["payload"]["Name"], json!({"FirstName": "Ann", "LastName": "One"}));
    // What is done alike to many is one event; what is not selected is none.
    client.create("Opportunity", json!({"Name": "No", "StageName": "Prospecting", "CloseDate": "2026-12-31"})).await?;
    let many: Vec<Value> = (0..3).map(|_| json!({"attributes": {"type": "Account"}, "Name": "Alike"})).collect();
    client.call("POST", "/composite/sobjects", Some(&json!({"allOrNone": true, "records": many}))).await?;
    let events = listener.events().await?;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(header(&events[0], "recordIds").as_array().map(Vec::len), Some(3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_for_three_days_and_one_that_is_past_is_refused() -> Result<(), Failed> {
    let sandbox = org(&["*"]).await?;
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener::new(&client).await?;
    client.create("Account", json!({"Name": "Old"})).await?;
    listener.subscribe("/data/AccountChangeEvent", -2).await?;
    let old = listener.events().await?.remove(0);
    let number = old["event"]["replayId"].as_i64().ok_or("a number")?;
    sandbox.move_clock(71 * 3600);
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener { client: &client, id: listener.id };
    client.create("Account", json!({"Name": "Younger"})).await?;
    assert_eq!(listener.subscribe("/data/AccountChangeEvent", number).await?["successful"], true);
    assert_eq!(listener.events().await?[0]["payload"]["Name"], "Younger");
    sandbox.move_clock(73 * 3600);
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener { client: &client, id: listener.id };
    // The one before the oldest is where the oldest begins.
    assert_eq!(listener.subscribe("/data/AccountChangeEvent", number).await?["successful"], true);
    assert_eq!(listener.events().await?.len(), 1, "the old one is gone");
    let refused = listener.subscribe("/data/AccountChangeEvent", number - 1).await?;
    assert!(refused["error"].as_str().unwrap_or_default().starts_with("400::The replayId"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_without_a_session_or_to_what_is_hidden() -> Result<(), Failed> {
    let sandbox = org(&["Account"]).await?;
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener::new(&client).await?;
    let refused = listener.subscribe("/data/UserChangeEvent", -1).await?;
    assert_eq!(refused["error"], "404::The channel you requested to subscribe to does not exist");
    let stranger = Listener { client: &client, id: "nobody".to_owned() };
    let answer = stranger.connect().await?;
    assert_eq!([&answer[0]["error"], &answer[0]["advice"]["reconnect"]], ["403::Unknown client", "handshake"]);
    sandbox.expire_sessions();
    let answer = listener.connect().await?;
    assert_eq!(answer[0]["error"], "401::Authentication invalid", "{answer:?}");
    let broken = client.raw("POST", "/cometd/66.0", &[], "no JSON").await?;
    assert_eq!(broken.0, 400);
    Ok(())
}

/// A project of two platform events: one is published at once, one with its transaction.
fn two_events() -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    let project = json!({"packageDirectories": [{"path": "app", "default": true}]});
    std::fs::write(folder.path().join("sfdx-project.json"), project.to_string())?;
    for (name, behavior) in [("Now__e", "PublishImmediately"), ("Later__e", "PublishAfterCommit")] {
        let object = folder.path().join("app/main/objects").join(name);
        std::fs::create_dir_all(object.join("fields"))?;
        let meta = |kind: &str, inner: &str| {
            format!("<?xml version=\"1.0\"?><{kind} xmlns=\"http://soap.sforce.com/2006/04/metadata\">{inner}</{kind}>")
        };
        let event = format!(
            "<eventType>HighVolume</eventType><label>{name}</label><publishBehavior>{behavior}</publishBehavior>"
        );
        std::fs::write(object.join(format!("{name}.object-meta.xml")), meta("CustomObject", &event))?;
        let field = "<fullName>What__c</fullName><label>What</label><type>Text</type><length>80</length>";
        std::fs::write(object.join("fields/What__c.field-meta.xml"), meta("CustomField", field))?;
    }
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_published_at_once_are_told_though_their_transaction_comes_to_nothing() -> Result<(), Failed> {
    crate::provider();
    let project = two_events()?;
    let config = Config { projects: vec![project.path().to_owned()], ..Config::default() };
    let sandbox = Sandbox::start(config).await?;
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener::new(&client).await?;
    for channel in ["/event/Now__e", "/event/Later__e"] {
        assert_eq!(listener.subscribe(channel, -1).await?["successful"], true);
    }
    let events = |last: Value| {
        let post = |id: &str, object: &str, body: Value| json!({"method": "POST", "url": format!("/services/data/v66.0/sobjects/{object}"), "referenceId": id, "body": body});
        json!({"allOrNone": true, "compositeRequest": [
            post("a", "Now__e", json!({"What__c": "first"})), post("b", "Later__e", json!({"What__c": "second"})),
            post("c", "Account", last)]})
    };
    client.call("POST", "/composite", Some(&events(json!({})))).await?;
    let told: Vec<Value> =
        listener.events().await?.into_iter().map(|event| event["payload"]["What__c"].clone()).collect();
    assert_eq!(told, ["first"], "the account has no name: all else is taken back");
    client.call("POST", "/composite", Some(&events(json!({"Name": "Acme"})))).await?;
    let told: Vec<Value> =
        listener.events().await?.into_iter().map(|event| event["payload"]["What__c"].clone()).collect();
    assert_eq!(told, ["first", "second"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_carries_what_its_filter_lets_pass_and_large_texts_are_told_by_their_differences()
-> Result<(), Failed> {
    crate::provider();
    let channel = |name: &str, event: &str, filter: &str| {
        let member = EventChannelMember {
            event: event.to_owned(),
            enriched_fields: Vec::new(),
            filter: Some(filter.to_owned()),
        };
        EventChannel { name: name.to_owned(), members: vec![member] }
    };
    let with = |channels: Vec<EventChannel>| {
        let mut config = Config { projects: vec![here("../../../shared/data/ebikes-lwc")], ..Config::default() };
        config.definition.platform_event_channels = channels;
        config
    };
    let filter = "(Industry = 'banking' OR BillingCity LIKE 'K_ln') AND ChangeEventHeader.changeType IN ('UPDATE')";
    let sandbox = Sandbox::start(with(vec![
        channel("Some__chn", "AccountChangeEvent", filter),
        channel("Built__chn", "Manufacturing_Event__e", "Status__c != 'Sold' AND NOT (Order_Id__c IN ('O-3'))"),
    ]))
    .await?;
    let client = Client::sign_in(&sandbox).await?;
    let listener = Listener::new(&client).await?;
    for channel in ["/data/Some__chn", "/event/Built__chn"] {
        assert_eq!(listener.subscribe(channel, -1).await?["successful"], true);
    }
    let lines: Vec<String> = (0..60).map(|line| format!("{line}: a line of a text that is long enough")).collect();
    let text = lines.join("\n");
    let made = client.create("Account", json!({"Name": "No", "Industry": "Apparel", "Description": text})).await?;
    client.create("Account", json!({"Name": "Made", "Industry": "Banking"})).await?;
    client.call("PATCH", &format!("/sobjects/Account/{made}"), Some(&json!({"Name": "Still not"}))).await?;
    client.call("PATCH", &format!("/sobjects/Account/{made}"), Some(&json!({"BillingCity": "K\u{f6}ln"}))).await?;
    let events = listener.events().await?;
    assert_eq!(events.len(), 1, "{events:?}");
    // What the filter names is told though it did not change.
    assert_eq!(events[0]["payload"]["Industry"], "Apparel");
    assert_eq!(events[0]["payload"]["BillingAddress"]["City"], "K\u{f6}ln");
    let text = text.replace("7: a line", "7: another line");
    client.call("PATCH", &format!("/sobjects/Account/{made}"), Some(&json!({"Description": text}))).await?;
    let event = listener.events().await?.remove(0);
    assert_eq!(header(&event, "diffFields"), &json!(["Description"]));
    assert_eq!(header(&event, "changedFields"), &json!(["LastModifiedDate", "Description"]));
    let told = event["payload"]["Description"]["diff"].as_str().ok_or("a difference")?;
    assert!(told.starts_with("--- \n+++ ") && told.contains("\n@@ -8,1 +8,1 @@\n-7: a line"), "{told}");
    client.create("Manufacturing_Event__e", json!({"Order_Id__c": "O-1", "Status__c": "Sold"})).await?;
    client.create("Manufacturing_Event__e", json!({"Order_Id__c": "O-2", "Status__c": "Built"})).await?;
    let events = listener.events().await?;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["payload"]["Order_Id__c"], "O-2");
    // A filter that can't be is said before the org starts.
    for (filter, why) in [
        ("Nothing__c = 1", "Account has no field Nothing__c"),
        ("ChangeEventHeader.recordIds = '001'", "is a list"),
        ("Industry = 'x' LIMIT 1", "and nothing else"),
        ("Industry ~ 'x'", "line 1:"),
    ] {
        let refused = Sandbox::start(with(vec![channel("Some__chn", "AccountChangeEvent", filter)])).await;
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.starts_with("platform_event_channels: Some__chn: ") && said.contains(why), "{filter}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_is_held_tells_what_a_later_subscription_replays() -> Result<(), Failed> {
    let sandbox = org(&["Account"]).await?;
    let client = Client::sign_in(&sandbox).await?;
    client.create("Account", json!({"Name": "Before"})).await?;
    for _ in 0..10 {
        let listener = Listener::new(&client).await?;
        // The connect has a head start; nothing is published any more.
        let subscribe = async {
            tokio::task::yield_now().await;
            listener.subscribe("/data/AccountChangeEvent", -2).await
        };
        let (events, subscribed) = tokio::join!(listener.events(), subscribe);
        assert_eq!(subscribed?["successful"], true);
        assert_eq!(events?[0]["payload"]["Name"], "Before");
    }
    Ok(())
}
