//! Misbehaviour on demand.

use std::time::Duration;

use sandbox::{Fault, Rule};
use serde_json::json;

use crate::{Failed, finished, open};

#[tokio::test]
async fn calls_go_wrong_as_the_rules_say() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    let once = |fault| Rule { count: Some(1), ..Rule::new(fault) };
    sandbox.misbehave(once(Fault::Throttle { concurrent: true }));
    let (status, answer) = client.call("GET", "/limits", None).await?;
    assert_eq!(
        (status, &answer[0]["message"]),
        (403, &json!("ConcurrentRequests (Concurrent API Requests) Limit exceeded."))
    );
    sandbox.misbehave(once(Fault::Status { status: 503, retry_after: Some(7) }));
    let (status, headers, _) = client.raw("GET", "/limits", &[], "").await?;
    assert_eq!((status, headers["retry-after"].to_str()?), (503, "7"));
    sandbox.misbehave(once(Fault::Lock));
    let (status, answer) = client.call("POST", "/sobjects/Account", Some(&json!({"Name": "x"}))).await?;
    assert_eq!((status, &answer[0]["errorCode"]), (400, &json!("UNABLE_TO_LOCK_ROW")));
    sandbox.misbehave(once(Fault::Truncate));
    assert!(client.raw("GET", "/sobjects/Account/describe", &[], "").await.is_err(), "the body breaks off");
    sandbox.misbehave(once(Fault::Drop));
    assert!(client.raw("GET", "/limits", &[], "").await.is_err(), "the connection breaks");
    let path = Some("/query".to_owned());
    sandbox.misbehave(Rule { path, ..once(Fault::Throttle { concurrent: false }) });
    assert_eq!(client.call("GET", "/limits", None).await?.0, 200, "another path is spared");
    assert_eq!(client.query("SELECT Id FROM Account").await?[0]["errorCode"], "REQUEST_LIMIT_EXCEEDED");
    let user = Some("somebody@else.example".to_owned());
    sandbox.misbehave(Rule { user, ..Rule::new(Fault::ExpireSession) });
    assert_eq!(client.call("GET", "/limits", None).await?.0, 200, "another user is spared");
    let started = std::time::Instant::now();
    sandbox.misbehave(once(Fault::Latency { milliseconds: 80, jitter: 0 }));
    client.call("GET", "/limits", None).await?;
    assert!(started.elapsed() >= Duration::from_millis(80));
    sandbox.misbehave(Rule::new(Fault::PartialFailure { code: "UNKNOWN_EXCEPTION".to_owned() }));
    let records = json!({"records": [{"attributes": {"type": "Account"}, "Name": "x"}]});
    let (_, answer) = client.call("POST", "/composite/sobjects", Some(&records)).await?;
    assert_eq!(answer[0]["errors"][0]["statusCode"], "UNKNOWN_EXCEPTION");
    sandbox.behave();
    assert_eq!(client.call("POST", "/sobjects/Account", Some(&json!({"Name": "x"}))).await?.0, 201);
    sandbox.misbehave(once(Fault::ExpireSession));
    assert_eq!(client.call("GET", "/limits", None).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn jobs_hang_and_fail() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    let query = json!({"operation": "query", "query": "SELECT Id FROM User"});
    sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::FailedJob) });
    let (_, job) = client.call("POST", "/jobs/query", Some(&query)).await?;
    let failed = finished(&client, &format!("/jobs/query/{}", job["id"].as_str().unwrap_or_default())).await;
    assert!(failed.is_err_and(|error| error.to_string().contains("fails on demand")));
    sandbox.misbehave(Rule { count: Some(1), ..Rule::new(Fault::StuckJob) });
    let (_, job) = client.call("POST", "/jobs/query", Some(&query)).await?;
    let path = format!("/jobs/query/{}", job["id"].as_str().unwrap_or_default());
    for _ in 0..50 {
        let state = client.call("GET", &path, None).await?.1["state"].clone();
        assert!(state == "UploadComplete" || state == "InProgress", "{state}");
    }
    assert_eq!(client.call("PATCH", &path, Some(&json!({"state": "Aborted"}))).await?.0, 200, "it can be aborted");
    Ok(())
}
