//! Events as they come, against the sandbox.

use salesforce::pubsub::{Body, Change, ChangeKind, PubSub, Replay, Subscription};
use salesforce::{Client, Settings};
use sandbox::{Config, Fault, Rule, Sandbox};
use serde_json::json;

use crate::{Failed, credentials, entries};

const ACCOUNTS: &str = "/data/AccountChangeEvent";

pub(crate) async fn open() -> Result<(Sandbox, Client, PubSub), Failed> {
    let mut config = Config {
        projects: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/ebikes-lwc").into()],
        ..Config::default()
    };
    config.definition.change_data_capture = vec!["*".to_owned()];
    let sandbox = Sandbox::start(config).await?;
    let client = Client::new(credentials(&sandbox), Settings::default())?;
    let pubsub = PubSub::connect(&client, None).await?;
    Ok((sandbox, client, pubsub))
}

/// Takes so many changes.
async fn changes(subscription: &mut Subscription, count: usize) -> Result<Vec<Change>, Failed> {
    let mut found = Vec::new();
    while found.len() < count {
        let told = subscription.next().await?.ok_or("the stream ended")?;
        found.extend(told.events.into_iter().filter_map(|event| match event.body {
            Body::Change(change) => Some(change),
            Body::Platform(_) => None,
        }));
    }
    Ok(found)
}

#[tokio::test]
async fn changes_are_told_with_the_fields_that_changed() -> Result<(), Failed> {
    let (sandbox, client, pubsub) = open().await?;
    let mut accounts = pubsub.subscribe(ACCOUNTS, Replay::Earliest).await?;
    let id = client.create("Account", &json!({"Name": "Vélo", "BillingCity": "Köln", "NumberOfEmployees": 5})).await?;
    client
        .update("Account", &id, &json!({"BillingCity": null, "ShippingStreet": "Ring 1", "AnnualRevenue": 8}))
        .await?;
    client.delete("Account", &id).await?;
    let [created, updated, deleted] = changes(&mut accounts, 3).await?.try_into().map_err(|_| "three changes")?;
    assert_eq!((created.kind, created.ids.as_slice()), (ChangeKind::Create, &[id.clone()][..]));
    assert_eq!((&created.fields["Name"], &created.fields["NumberOfEmployees"]), (&json!("Vélo"), &json!(5)));
    assert_eq!(created.fields["BillingCity"], "Köln");
    assert!(created.origin.starts_with("com/salesforce/api/rest/") && created.sequence == 1);
    let mut fields = updated.fields.clone();
    assert!(fields.remove("LastModifiedDate").is_some_and(|time| time.is_i64()));
    assert_eq!(fields, entries(json!({"BillingCity": null, "ShippingStreet": "Ring 1", "AnnualRevenue": 8.0})));
    assert_eq!((deleted.kind, deleted.fields.len(), deleted.object.as_str()), (ChangeKind::Delete, 0, "Account"));
    assert!(updated.commit_number > created.commit_number && updated.transaction != created.transaction);
    // What is not told one by one.
    sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventGap) });
    let other = client.create("Account", &json!({"Name": "Gap"})).await?;
    sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::EventOverflow) });
    client.create("Account", &json!({"Name": "Overflow"})).await?;
    let [gap, overflow] = changes(&mut accounts, 2).await?.try_into().map_err(|_| "two changes")?;
    assert_eq!((gap.kind, gap.ids, gap.fields.len()), (ChangeKind::Gap, vec![other], 0));
    assert_eq!((overflow.kind, overflow.ids.len()), (ChangeKind::Overflow, 0));
    Ok(())
}

#[tokio::test]
async fn who_takes_nothing_gets_nothing_and_misses_nothing() -> Result<(), Failed> {
    let (_sandbox, client, pubsub) = open().await?;
    let mut accounts = pubsub.subscribe(ACCOUNTS, Replay::Latest).await?;
    // The subscription has begun when it answers.
    client.create("Account", &json!({"Name": "0"})).await?;
    let records: Vec<_> = (1..1000).map(|at| entries(json!({"Name": at.to_string()}))).collect();
    for records in records.chunks(200) {
        let request = salesforce::collections::create(&client, "Account", records.to_vec());
        client.json::<Vec<salesforce::collections::Saved>>(&request).await?;
    }
    let told = accounts.next().await?.ok_or("events")?;
    assert!(told.events.len() <= 100, "no more than was asked for");
    let mut names: Vec<String> = Vec::new();
    let mut add = |change: &Change| names.push(change.fields["Name"].as_str().unwrap_or_default().to_owned());
    for event in &told.events {
        if let Body::Change(change) = &event.body {
            add(change);
        }
    }
    let left = 1000 - told.events.len();
    changes(&mut accounts, left).await?.iter().for_each(add);
    assert_eq!(names, (0..1000).map(|at| at.to_string()).collect::<Vec<_>>());
    // From any place on the rest is told again.
    let mut again = pubsub.subscribe(ACCOUNTS, Replay::After(told.latest)).await?;
    assert_eq!(changes(&mut again, left).await?.len(), left);
    Ok(())
}

#[tokio::test]
async fn what_came_one_by_one_is_taken_together() -> Result<(), Failed> {
    let (_sandbox, client, pubsub) = open().await?;
    let mut accounts = pubsub.subscribe(ACCOUNTS, Replay::Latest).await?;
    for at in 0..30 {
        client.create("Account", &json!({"Name": format!("N{at}")})).await?;
    }
    let told = accounts.next().await?.ok_or("the stream ended")?;
    assert!(told.events.len() > 5, "{} of 30 events", told.events.len());
    // One more, so that there is something to wait for where all had come.
    client.create("Account", &json!({"Name": "N30"})).await?;
    let rest = changes(&mut accounts, 31 - told.events.len()).await?;
    assert_eq!(rest.last().map(|change| &change.fields["Name"]), Some(&json!("N30")));
    Ok(())
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() -> Result<(), Failed> {
    let (sandbox, client, pubsub) = open().await?;
    let refused = async |topic: &str, from| match pubsub.subscribe(topic, from).await {
        Ok(mut subscription) => subscription.next().await.err(),
        Err(error) => Some(error),
    };
    let error = refused("/data/NoSuchChangeEvent", Replay::Latest).await.ok_or("a refusal")?;
    assert_eq!(error.code(), Some("sfdc.platform.eventbus.grpc.topic.not.found"));
    let error = refused(ACCOUNTS, Replay::After(999_999_i64.to_be_bytes().to_vec())).await.ok_or("a refusal")?;
    assert!(error.is_past_replay(), "{error:?}");
    client.create("Account", &json!({"Name": "Old"})).await?;
    let mut accounts = pubsub.subscribe(ACCOUNTS, Replay::Earliest).await?;
    let old = accounts.next().await?.ok_or("an event")?.latest;
    sandbox.move_clock(80 * 3600);
    client.create("Account", &json!({"Name": "New"})).await?;
    sandbox.move_clock(200 * 3600);
    client.create("Account", &json!({"Name": "Newer"})).await?;
    assert!(refused(ACCOUNTS, Replay::After(old)).await.is_some_and(|error| error.is_past_replay()));
    // A session that ended is renewed; a stream that is cut is an error of the moment.
    sandbox.expire_sessions();
    let mut accounts = pubsub.subscribe(ACCOUNTS, Replay::Earliest).await?;
    assert_eq!(changes(&mut accounts, 1).await?[0].fields["Name"], "Newer");
    sandbox.misbehave(Rule::new(Fault::StreamCut));
    client.create("Account", &json!({"Name": "Cut"})).await?;
    let cut = async {
        loop {
            match accounts.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    };
    assert!(cut.await.is_some_and(|error| error.class().is_transient()));
    Ok(())
}

#[tokio::test]
async fn platform_events_are_published_and_told() -> Result<(), Failed> {
    let (_sandbox, _client, pubsub) = open().await?;
    let topic = "/event/Manufacturing_Event__e";
    let mut events = pubsub.subscribe(topic, Replay::Earliest).await?;
    let event = |order: &str| entries(json!({"Order_Id__c": order, "Status__c": "Built"}));
    let published = pubsub.publish(topic, &[event("O-1"), event("O-2")]).await?;
    let told = events.next().await?.ok_or("events")?;
    assert_eq!(told.events[0].replay, *published[0].as_ref().map_err(ToString::to_string)?);
    let Body::Platform(fields) = &told.events[0].body else { return Err("a platform event".into()) };
    assert_eq!(fields["Order_Id__c"], "O-1");
    let error = pubsub.publish(topic, &[entries(json!({"Order_Id__c": "O-3", "Colour__c": "red"}))]).await;
    assert!(error.is_err_and(|error| error.to_string().contains("there is no field Colour__c")));
    Ok(())
}
