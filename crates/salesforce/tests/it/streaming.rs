//! The Streaming API, against the sandbox: what the Pub/Sub API tells, too.

use salesforce::pubsub::{Body, ChangeKind, Replay, Told};
use salesforce::streaming::Subscription;
use serde_json::json;

use crate::pubsub::open;
use crate::{Failed, entries};

const ACCOUNTS: &str = "/data/AccountChangeEvent";

async fn next(subscription: &mut Subscription, count: usize) -> Result<Told, Failed> {
    let mut told = subscription.next().await?;
    while told.events.len() < count {
        let more = subscription.next().await?;
        told.events.extend(more.events);
        told.latest = more.latest;
    }
    Ok(told)
}

#[tokio::test]
async fn changes_are_told_as_by_the_pubsub_api() -> Result<(), Failed> {
    let (sandbox, client, pubsub) = open().await?;
    let mut accounts = client.stream(ACCOUNTS, Replay::Latest).await?;
    let mut others = pubsub.subscribe(ACCOUNTS, Replay::Latest).await?;
    let id = client.create("Account", &json!({"Name": "Vélo", "BillingCity": "Köln", "NumberOfEmployees": 5})).await?;
    client
        .update("Account", &id, &json!({"BillingCity": null, "ShippingStreet": "Ring 1", "AnnualRevenue": 8}))
        .await?;
    client.delete("Account", &id).await?;
    let told = next(&mut accounts, 3).await?;
    let mut same = Vec::new();
    while same.len() < 3 {
        same.extend(others.next().await?.ok_or("the stream ended")?.events);
    }
    for (one, other) in told.events.iter().zip(&same) {
        let (Body::Change(change), Body::Change(known)) = (&one.body, &other.body) else {
            return Err("changes".into());
        };
        assert_eq!((change.kind, &change.ids, change.committed), (known.kind, &known.ids, known.committed));
        assert_eq!((&change.transaction, change.commit_number), (&known.transaction, known.commit_number));
        assert_eq!((&one.replay, &one.id), (&other.replay, &other.id), "a place is the same for both");
    }
    let Body::Change(updated) = &told.events[1].body else { return Err("a change".into()) };
    let mut fields = updated.fields.clone();
    assert!(fields.remove("LastModifiedDate").is_some());
    assert_eq!(updated.kind, ChangeKind::Update);
    assert_eq!(fields.remove("AnnualRevenue").and_then(|number| number.as_f64()), Some(8.0));
    assert_eq!(fields, entries(json!({"BillingCity": null, "ShippingStreet": "Ring 1"})));

    // From any place on; and where the session, or all that the org knows of us, is gone meanwhile.
    let mut again = client.stream(ACCOUNTS, Replay::After(told.events[0].replay.clone())).await?;
    assert_eq!(next(&mut again, 2).await?.events.len(), 2);
    sandbox.expire_sessions();
    client.create("Account", &json!({"Name": "Later"})).await?;
    let later = next(&mut again, 1).await?;
    let Body::Change(change) = &later.events[0].body else { return Err("a change".into()) };
    assert_eq!(change.fields["Name"], "Later");
    // What is past says so.
    sandbox.move_clock(80 * 3600);
    client.create("Account", &json!({"Name": "New"})).await?;
    client.create("Account", &json!({"Name": "Newer"})).await?;
    let error = client.stream(ACCOUNTS, Replay::After(told.latest)).await.err().ok_or("a refusal")?;
    assert!(error.is_past_replay(), "{error:?}");
    let error = client.stream("/data/NoSuchChangeEvent", Replay::Latest).await.err().ok_or("a refusal")?;
    assert!(!error.is_past_replay() && error.to_string().contains("NoSuchChangeEvent"), "{error:?}");
    Ok(())
}
