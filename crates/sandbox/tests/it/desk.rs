//! The page, the admin API, believable data, snapshots.

use serde_json::{Value, json};

use crate::{Client, Failed, open};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test]
async fn the_page_shows_objects_calls_and_switches() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    let id = client.create("Account", json!({"Name": "<b>Acme</b>"})).await?;
    let page = async |path: &str| -> Result<String, Failed> {
        let (status, headers, body) = client.raw("GET", path, &[], "").await?;
        assert_eq!(status, 200, "{path}");
        assert!(headers["content-security-policy"].to_str()?.contains("default-src 'none'"));
        Ok(String::from_utf8(body)?)
    };
    let overview = page("/").await?;
    assert!(
        overview.contains("/sandbox/objects/Account") && overview.contains("/services/data/v66.0/sobjects/Account"),
        "{overview}"
    );
    assert!(!overview.contains("sandbox-secret") && !overview.contains(&client.token), "no secrets are shown");
    assert!(page("/sandbox/objects/Account").await?.contains("&lt;b&gt;Acme"), "names are escaped");
    assert!(page(&format!("/sandbox/records/{id}")).await?.contains("CreatedDate"));
    assert!(page("/sandbox/calls/2").await?.contains("<h2>Answer</h2>"));
    let rule = "{\"fault\": {\"kind\": \"throttle\"}, \"count\": 1}";
    assert_eq!(client.raw("POST", "/sandbox/api/chaos", &JSON, rule).await?.0, 201);
    assert!(page("/").await?.contains("throttle"));
    assert_eq!(client.call("GET", "/limits", None).await?.0, 403);
    assert_eq!(client.raw("DELETE", "/sandbox/api/chaos/1", &JSON, "").await?.0, 204);
    let plain = [("content-type", "text/plain")];
    assert_eq!(client.raw("POST", "/sandbox/api/chaos", &plain, rule).await?.0, 415, "no form of another site gets in");
    let host = [("content-type", "application/json"), ("host", "evil.example")];
    assert_eq!(client.raw("POST", "/sandbox/api/chaos", &host, rule).await?.0, 403);
    let wrong = "{\"fault\": {\"kind\": \"throttle\"}, \"probability\": 7}";
    assert_eq!(client.raw("POST", "/sandbox/api/chaos", &JSON, wrong).await?.0, 400);
    let clock = "{\"at\": \"2030-02-03T04:05:06Z\"}";
    assert_eq!(client.raw("POST", "/sandbox/api/clock", &JSON, clock).await?.0, 200);
    assert_eq!(client.call("GET", "/limits", None).await?.0, 401, "the session has long ended");
    let client = Client::sign_in(&sandbox).await?;
    let later = client.create("Account", json!({"Name": "later"})).await?;
    let (_, read) = client.call("GET", &format!("/sobjects/Account/{later}?fields=CreatedDate"), None).await?;
    assert!(read["CreatedDate"].as_str().unwrap_or_default().starts_with("2030-02-03T04:05"), "{read}");
    Ok(())
}

#[tokio::test]
async fn believable_records_hang_together_and_a_seed_repeats_them() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    assert_eq!(sandbox.seed(2000, 7, None)?, 2000);
    let count = async |soql: &str| -> Result<u64, Failed> {
        Ok(client.query(soql).await?["totalSize"].as_u64().unwrap_or_default())
    };
    assert_eq!(count("SELECT COUNT() FROM Account").await?, 400);
    assert_eq!(
        count("SELECT COUNT() FROM Contact WHERE AccountId != null AND Account.Name = null").await?,
        0,
        "no reference is broken"
    );
    assert!(count("SELECT COUNT() FROM Contact WHERE AccountId = null").await? > 0, "some belong to nobody");
    assert!(count("SELECT COUNT() FROM Account WHERE AnnualRevenue = null").await? > 0, "there are gaps");
    let most = client
        .query("SELECT AccountId, COUNT(Id) n FROM Contact GROUP BY AccountId ORDER BY COUNT(Id) DESC LIMIT 1")
        .await?;
    assert!(most["records"][0]["n"].as_u64().unwrap_or_default() > 20, "a few are huge: {most}");
    let names = "SELECT Name FROM Account ORDER BY Id LIMIT 50";
    let first = client.query(names).await?["records"].clone();
    let (other, again) = open(Vec::new()).await?;
    other.seed(2000, 7, None)?;
    let same: Vec<Value> = again.query(names).await?["records"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|record| record["Name"].clone())
        .collect();
    assert_eq!(first.as_array().into_iter().flatten().map(|record| record["Name"].clone()).collect::<Vec<_>>(), same);
    client.create("Account", json!({"Name": "one more"})).await?;
    assert!(sandbox.seed(10, 1, Some("Nope")).is_err());
    Ok(())
}

#[tokio::test]
async fn a_snapshot_brings_the_whole_org_back() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let folder = tempfile::tempdir()?;
    let id = client.create("Account", json!({"Name": "kept"})).await?;
    let body = json!({"path": folder.path().join("org.snapshot")}).to_string();
    assert_eq!(client.raw("POST", "/sandbox/api/snapshot", &JSON, body.clone()).await?.0, 204);
    client.call("DELETE", &format!("/sobjects/Account/{id}"), None).await?;
    client.create("Account", json!({"Name": "new"})).await?;
    assert_eq!(client.raw("POST", "/sandbox/api/restore", &JSON, body.clone()).await?.0, 204);
    let found = client.query("SELECT Name FROM Account").await?;
    assert_eq!((&found["totalSize"], &found["records"][0]["Name"]), (&json!(1), &json!("kept")));
    client.create("Account", json!({"Name": "after"})).await?;
    assert_eq!(client.raw("POST", "/sandbox/api/snapshot", &JSON, body).await?.0, 400, "nothing is overwritten");
    let nowhere = json!({"path": folder.path().join("nope")}).to_string();
    assert_eq!(client.raw("POST", "/sandbox/api/restore", &JSON, nowhere).await?.0, 400);
    Ok(())
}
