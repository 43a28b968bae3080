//! The sandbox over its port, called as any client would.

mod automation;
mod bulk;
mod chaos;
mod clients;
mod desk;
mod events;
mod formulas;
mod metadata;
mod oauth;
mod people;
mod probe;
mod rest;
mod rules;
mod sharing;
mod soql;

use std::path::PathBuf;

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

type Failed = Box<dyn std::error::Error>;

/// A signed-in client.
struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    async fn sign_in(sandbox: &Sandbox) -> Result<Self, Failed> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", sandbox.client_id()),
            ("client_secret", "sandbox-secret"),
        ];
        let granted: Value =
            http.post(format!("{}/services/oauth2/token", sandbox.url())).form(&form).send().await?.json().await?;
        let token = granted["access_token"].as_str().ok_or("no token")?.to_owned();
        Ok(Self { http, base: format!("{}/services/data/v66.0", sandbox.url()), token })
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), Failed> {
        let mut request = self.http.request(method.parse()?, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Calls with headers, any path of the server and any body; returns status, headers and bytes.
    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, reqwest::header::HeaderMap, Vec<u8>), Failed> {
        let url = if path.starts_with("/services/")
            || path == "/"
            || path.starts_with("/sandbox")
            || path.starts_with("/cometd")
            || path.starts_with("/id/")
        {
            format!("{}{path}", self.base.split("/services").next().unwrap_or_default())
        } else {
            format!("{}{path}", self.base)
        };
        let mut request = self.http.request(method.parse()?, url).bearer_auth(&self.token).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok((status, headers, answer.bytes().await?.to_vec()))
    }

    async fn create(&self, object: &str, record: Value) -> Result<String, Failed> {
        let (status, made) = self.call("POST", &format!("/sobjects/{object}"), Some(&record)).await?;
        if status != 201 {
            return Err(format!("{object} {record}: {made}").into());
        }
        Ok(made["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn query(&self, soql: &str) -> Result<Value, Failed> {
        let request = self.http.get(format!("{}/query", self.base)).query(&[("q", soql)]).bearer_auth(&self.token);
        Ok(request.send().await?.json().await?)
    }
}

/// A file of this crate.
fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn project(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name)
}

async fn open(projects: Vec<PathBuf>) -> Result<(Sandbox, Client), Failed> {
    provider();
    let sandbox = Sandbox::start(Config { projects, ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    Ok((sandbox, client))
}

/// Tests share a process; whoever is first installs the crypto provider.
fn provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[tokio::test]
async fn a_record_lives_from_create_to_delete() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let (status, created) = client.call("POST", "/sobjects/Account", Some(&json!({"Name": "Rad & Tat"}))).await?;
    assert_eq!((status, &created["success"]), (201, &json!(true)));
    let path = format!("/sobjects/Account/{}", created["id"].as_str().unwrap_or_default());
    let (status, _) = client.call("PATCH", &path, Some(&json!({"BillingCity": "K\u{f6}ln", "Phone": null}))).await?;
    assert_eq!(status, 204);
    let (_, read) = client.call("GET", &format!("{path}?fields=Name,BillingCity,Phone,BillingAddress"), None).await?;
    assert_eq!(read["BillingCity"], "K\u{f6}ln");
    assert_eq!(read["BillingAddress"]["city"], "K\u{f6}ln");
    assert_eq!(read["Phone"], Value::Null);
    assert_eq!(client.call("DELETE", &path, None).await?.0, 204);
    let (status, gone) = client.call("GET", &path, None).await?;
    assert_eq!((status, &gone[0]["errorCode"]), (404, &json!("ENTITY_IS_DELETED")));
    Ok(())
}

#[tokio::test]
async fn refusals_carry_the_org_s_codes() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let cases = [
        (json!({"LastName": null}), 400, "REQUIRED_FIELD_MISSING"),
        (json!({"LastName": "x".repeat(81)}), 400, "STRING_TOO_LONG"),
        (json!({"LastName": "x", "Email": "nobody"}), 400, "INVALID_EMAIL_ADDRESS"),
        (json!({"LastName": "x", "Nope": 1}), 400, "INVALID_FIELD"),
        (json!({"LastName": "x", "Name": "y"}), 400, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (json!({"LastName": "x", "AccountId": "001000000000001AAA"}), 400, "INVALID_CROSS_REFERENCE_KEY"),
        (json!({"LastName": "x", "Birthdate": "soon"}), 400, "JSON_PARSER_ERROR"),
    ];
    for (body, status, code) in cases {
        let (found, answer) = client.call("POST", "/sobjects/Contact", Some(&body)).await?;
        assert_eq!((found, &answer[0]["errorCode"]), (status, &json!(code)), "{body}");
    }
    let queries = [
        ("select count() from XYZZY", "INVALID_TYPE"),
        ("SELECT Nope FROM Account", "INVALID_FIELD"),
        ("SELECT Id FORM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE Description = 'x'", "INVALID_FIELD"),
        ("SELECT Name FROM Account GROUP BY Type", "MALFORMED_QUERY"),
    ];
    for (soql, code) in queries {
        assert_eq!(client.query(soql).await?[0]["errorCode"], json!(code), "{soql}");
    }
    let caret = client.query("select count() from XYZZY").await?;
    let message = caret[0]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("\nselect count() from XYZZY\n                    ^\nERROR at Row:1:Column:21\n"),
        "{message}"
    );
    Ok(())
}

#[tokio::test]
async fn a_real_project_is_loaded_and_its_data_queried_by_relationship() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![project("dreamhouse-lwc")]).await?;
    let brokers: Value =
        serde_json::from_slice(&std::fs::read(project("dreamhouse-lwc").join("data/brokers-data.json"))?)?;
    let (status, planted) = client.call("POST", "/composite/tree/Broker__c", Some(&brokers)).await?;
    assert_eq!((status, &planted["hasErrors"]), (201, &json!(false)), "{planted}");
    let mut properties = std::fs::read_to_string(project("dreamhouse-lwc").join("data/properties-data.json"))?;
    for result in planted["results"].as_array().into_iter().flatten() {
        let reference = format!("\"@{}\"", result["referenceId"].as_str().unwrap_or_default());
        properties = properties.replace(&reference, &result["id"].to_string());
    }
    let properties: Value = serde_json::from_str(&properties)?;
    let count = properties["records"].as_array().map_or(0, Vec::len);
    let (status, planted) = client.call("POST", "/composite/tree/Property__c", Some(&properties)).await?;
    assert_eq!(status, 201, "{planted}");
    let found = client
        .query("SELECT Name, Price__c, Location__c, Broker__r.Name FROM Property__c WHERE Broker__r.Name != null ORDER BY Price__c")
        .await?;
    assert_eq!(found["totalSize"], json!(count));
    assert!(found["records"][0]["Broker__r"]["Name"].is_string(), "{found}");
    assert!(found["records"][0]["Location__c"]["latitude"].is_number(), "{found}");
    let children =
        client.query("SELECT Name, (SELECT Name FROM Properties__r ORDER BY Name LIMIT 1) FROM Broker__c").await?;
    let with_children =
        children["records"].as_array().into_iter().flatten().filter(|broker| broker["Properties__r"]["totalSize"] == 1);
    assert!(with_children.count() > 1, "{children}");
    let total = client.query("SELECT SUM(Price__c) total, Status__c FROM Property__c GROUP BY Status__c").await?;
    assert_eq!(total["records"][0]["attributes"], json!({"type": "AggregateResult"}));
    Ok(())
}

#[tokio::test]
async fn bulk_jobs_load_and_unload_and_results_come_in_pages() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let job = json!({"object": "Account", "operation": "insert", "contentType": "CSV", "lineEnding": "LF"});
    let (_, job) = client.call("POST", "/jobs/ingest", Some(&job)).await?;
    let id = job["id"].as_str().unwrap_or_default().to_owned();
    let mut rows = "Name,NumberOfEmployees\n".to_owned();
    for n in 0..4999 {
        rows.push_str(&format!("\"Wheel \"\"{n}\"\"\nLtd\",{n}\n"));
    }
    rows.push_str("Last,many\n");
    let upload = client.http.put(format!("{}/jobs/ingest/{id}/batches", client.base)).bearer_auth(&client.token);
    assert_eq!(upload.header("content-type", "text/csv").body(rows).send().await?.status(), 201);
    client.call("PATCH", &format!("/jobs/ingest/{id}"), Some(&json!({"state": "UploadComplete"}))).await?;
    let done = finished(&client, &format!("/jobs/ingest/{id}")).await?;
    assert_eq!((&done["numberRecordsProcessed"], &done["numberRecordsFailed"]), (&json!(5000), &json!(1)));
    let (_, failed) = client.call("GET", &format!("/jobs/ingest/{id}/failedResults"), None).await?;
    let failed = failed.as_str().unwrap_or_default().to_owned();
    assert!(
        failed.contains("INVALID_TYPE_ON_FIELD_IN_RECORD:Number Of Employees: value not of required type: many"),
        "{failed}"
    );

    let job = json!({"operation": "query", "query": "SELECT Id, Name FROM Account ORDER BY NumberOfEmployees"});
    let (_, job) = client.call("POST", "/jobs/query", Some(&job)).await?;
    let path = format!("/jobs/query/{}", job["id"].as_str().unwrap_or_default());
    finished(&client, &path).await?;
    let mut locator = String::new();
    let mut read = 0;
    let mut pages = 0;
    loop {
        let url = format!("{}{path}/results?maxRecords=2000{locator}", client.base);
        let answer = client.http.get(url).bearer_auth(&client.token).send().await?;
        let header = |name: &str| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (count, next) = (header("sforce-numberofrecords"), header("sforce-locator"));
        let text = answer.text().await?;
        let mut page = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(page.headers()?.iter().collect::<Vec<_>>(), ["Id", "Name"]);
        let rows = page.records().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(rows.len().to_string(), count);
        read += rows.len();
        pages += 1;
        if next == "null" {
            break;
        }
        locator = format!("&locator={next}");
    }
    assert_eq!((read, pages), (4999, 3));
    Ok(())
}

/// Waits until a job has ended, by asking; each question takes a moment.
async fn finished(client: &Client, path: &str) -> Result<Value, Failed> {
    for _ in 0..10_000 {
        let (_, job) = client.call("GET", path, None).await?;
        match job["state"].as_str() {
            Some("JobComplete") => return Ok(job),
            Some("Failed" | "Aborted") => return Err(job.to_string().into()),
            _ => tokio::task::yield_now().await,
        }
    }
    Err("the job did not end".into())
}

#[tokio::test]
async fn pages_of_a_query_add_up() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    for part in 0..3 {
        let records: Vec<Value> =
            (0..150).map(|n| json!({"attributes": {"type": "Account"}, "Name": format!("{part}-{n}")})).collect();
        client.call("POST", "/composite/sobjects", Some(&json!({"records": records}))).await?;
    }
    let request = client.http.get(format!("{}/query", client.base)).query(&[("q", "SELECT Id FROM Account")]);
    let request = request.header("Sforce-Query-Options", "batchSize=200").bearer_auth(&client.token);
    let mut page: Value = request.send().await?.json().await?;
    let mut ids = std::collections::BTreeSet::new();
    loop {
        assert_eq!(page["totalSize"], 450);
        for record in page["records"].as_array().into_iter().flatten() {
            assert!(ids.insert(record["Id"].as_str().unwrap_or_default().to_owned()), "a record came twice");
        }
        if page["done"] == true {
            break;
        }
        let next = page["nextRecordsUrl"].as_str().unwrap_or_default().replace("/services/data/v66.0", "");
        page = client.call("GET", &next, None).await?.1;
    }
    assert_eq!(ids.len(), 450);
    Ok(())
}

#[tokio::test]
async fn upsert_by_id_field_and_all_or_none() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let (status, _) =
        client.call("PATCH", "/sobjects/Product2/StockKeepingUnit/SKU-1", Some(&json!({"Name": "Bell"}))).await?;
    assert_eq!(status, 201);
    let (status, answer) =
        client.call("PATCH", "/sobjects/Product2/StockKeepingUnit/sku-1", Some(&json!({"Name": "Bells"}))).await?;
    assert_eq!((status, &answer["created"]), (200, &json!(false)));
    let records = json!({"allOrNone": true, "records": [
        {"attributes": {"type": "Account"}, "Name": "good"}, {"attributes": {"type": "Account"}}]});
    let (status, answer) = client.call("POST", "/composite/sobjects", Some(&records)).await?;
    assert_eq!(status, 200);
    assert_eq!(answer[0]["errors"][0]["statusCode"], "ALL_OR_NONE_OPERATION_ROLLED_BACK");
    assert_eq!(answer[1]["errors"][0]["statusCode"], "REQUIRED_FIELD_MISSING");
    assert_eq!(client.query("SELECT COUNT() FROM Account").await?["totalSize"], 0);
    Ok(())
}

#[tokio::test]
async fn a_session_ends_and_an_allowance_runs_out() -> Result<(), Failed> {
    provider();
    let sandbox = Sandbox::start(Config { api_calls: 2, ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    assert_eq!(client.call("GET", "/limits", None).await?.0, 200);
    assert_eq!(client.call("GET", "/sobjects", None).await?.0, 200);
    let (status, refused) = client.call("GET", "/limits", None).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (403, &json!("REQUEST_LIMIT_EXCEEDED")));
    sandbox.expire_sessions();
    let (status, refused) = client.call("GET", "/limits", None).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (401, &json!("INVALID_SESSION_ID")));
    Ok(())
}
