//! Bulk API 1.0, and the corners of 2.0.

use serde_json::{Value, json};

use crate::{Client, Failed, finished, open};

const XML: (&str, &str) = ("content-type", "application/xml");

/// Reads an entry of an answer in either form.
fn element(text: &str, tag: &str) -> String {
    if let Ok(Value::Object(entries)) = serde_json::from_str(text) {
        return entries
            .get(tag)
            .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let inner = text.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once("</"));
    inner.map_or_else(String::new, |(inner, _)| inner.to_owned())
}

async fn classic(client: &Client, method: &str, path: &str, kind: &str, body: &str) -> Result<(u16, String), Failed> {
    let headers = [("content-type", kind), ("x-sfdc-session", client.token.as_str())];
    let (status, _, body) =
        client.raw(method, &format!("/services/async/66.0/job{path}"), &headers, body.to_owned()).await?;
    Ok((status, String::from_utf8(body)?))
}

async fn job(client: &Client, operation: &str, kind: &str, more: &str) -> Result<String, Failed> {
    let body = format!(
        "<?xml version=\"1.0\"?><jobInfo xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\"><operation>{operation}</operation>\
         <object>Account</object>{more}<contentType>{kind}</contentType></jobInfo>"
    );
    let (status, info) = classic(client, "POST", "", XML.1, &body).await?;
    assert_eq!(status, 201, "{info}");
    Ok(element(&info, "id"))
}

async fn batch(client: &Client, job: &str, kind: &str, body: &str) -> Result<String, Failed> {
    let (status, info) = classic(client, "POST", &format!("/{job}/batch"), kind, body).await?;
    assert_eq!(status, 201, "{info}");
    Ok(element(&info, "id"))
}

async fn done(client: &Client, job: &str, batch: &str) -> Result<String, Failed> {
    for _ in 0..10_000 {
        let (_, info) = classic(client, "GET", &format!("/{job}/batch/{batch}"), XML.1, "").await?;
        if ["Completed", "Failed", "NotProcessed"].contains(&element(&info, "state").as_str()) {
            return Ok(info);
        }
        tokio::task::yield_now().await;
    }
    Err("the batch did not end".into())
}

#[tokio::test]
async fn uploads_and_batches_have_their_limits() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    sandbox.allow_calls(u64::from(u32::MAX));
    let job = json!({"object": "Account", "operation": "insert", "contentType": "CSV"});
    let (_, job) = client.call("POST", "/jobs/ingest", Some(&job)).await?;
    let path = format!("/jobs/ingest/{}/batches", job["id"].as_str().unwrap_or_default());
    let csv = |bytes: usize| [b"Name\n".to_vec(), vec![b'x'; bytes - 5]].concat();
    let kind = [("content-type", "text/csv")];
    assert_eq!(client.raw("PUT", &path, &kind, csv(150_000_001)).await?.0, 413);
    assert_eq!(client.raw("PUT", &path, &kind, csv(150_000_000)).await?.0, 201);

    let headers = [("content-type", "application/json"), ("x-sfdc-session", client.token.as_str())];
    let job = "{\"object\": \"Account\", \"operation\": \"insert\", \"contentType\": \"CSV\"}";
    let (_, _, bytes) = client.raw("POST", "/services/async/66.0/job", &headers, job).await?;
    let job: Value = serde_json::from_slice(&bytes)?;
    let path = format!("/services/async/66.0/job/{}/batch", job["id"].as_str().unwrap_or_default());
    let headers = [("content-type", "text/csv"), ("x-sfdc-session", client.token.as_str())];
    let (status, _, refused) = client.raw("POST", &path, &headers, csv(10_000_001)).await?;
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&refused));
    for records in [10_000, 10_001] {
        let (status, _, _) = client.raw("POST", &path, &headers, format!("Name\n{}", "x\n".repeat(records))).await?;
        assert_eq!(status, 201);
    }
    let seen = loop {
        let (status, _, bytes) = client.raw("GET", &path, &[headers[1]], "").await?;
        let text = String::from_utf8(bytes)?;
        assert_eq!(status, 200, "{text}");
        if ["Completed", "Failed"].iter().all(|state| text.contains(&format!("<state>{state}</state>"))) {
            break text;
        }
    };
    assert!(seen.contains("Records per batch exceed the limit of 10000"), "{seen}");
    assert_eq!(client.query("SELECT COUNT() FROM Account").await?["totalSize"], 10_000);
    Ok(())
}

#[tokio::test]
async fn classic_jobs_speak_csv_json_and_xml_and_keep_the_order() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let bodies = [
        ("CSV", "text/csv", "Name,NumberOfEmployees\nA,1\n,2\nC,many\nD,4\n".to_owned()),
        ("JSON", "application/json", json!([{"Name": "A"}, {"Site": "x"}, {"Name": "C", "NumberOfEmployees": "many"}, {"Name": "D"}]).to_string()),
        ("XML", "application/xml", "<sObjects xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\"><sObject><Name>A</Name></sObject><sObject><Site>x</Site></sObject>\
            <sObject><Name>C</Name><NumberOfEmployees>many</NumberOfEmployees></sObject><sObject><Name>D</Name></sObject></sObjects>".to_owned()),
    ];
    for (kind, content_type, body) in bodies {
        let job = job(&client, "insert", kind, "").await?;
        let batch = batch(&client, &job, content_type, &body).await?;
        let info = done(&client, &job, &batch).await?;
        assert_eq!(
            (element(&info, "numberRecordsProcessed"), element(&info, "numberRecordsFailed")),
            ("4".to_owned(), "2".to_owned()),
            "{info}"
        );
        let (_, result) = classic(&client, "GET", &format!("/{job}/batch/{batch}/result"), XML.1, "").await?;
        let places = ["REQUIRED_FIELD_MISSING", "INVALID_TYPE_ON_FIELD_IN_RECORD"].map(|code| result.find(code));
        assert!(places[0].is_some() && places[0] < places[1], "{kind}: {result}");
        assert_eq!(result.matches("001Sb").count(), 2, "{kind}: {result}");
        let (_, request) = classic(&client, "GET", &format!("/{job}/batch/{batch}/request"), XML.1, "").await?;
        assert_eq!(request, body);
        let (_, closed) =
            classic(&client, "POST", &format!("/{job}"), XML.1, "<jobInfo><state>Closed</state></jobInfo>").await?;
        assert_eq!(element(&closed, "state"), "Closed");
        let (status, refused) = classic(&client, "POST", &format!("/{job}/batch"), content_type, &body).await?;
        assert_eq!((status, element(&refused, "exceptionCode").as_str()), (400, "InvalidJobState"), "{refused}");
    }
    let (status, refused) = classic(&client, "GET", "/750000000000001AAA", XML.1, "").await?;
    assert_eq!((status, element(&refused, "exceptionCode").as_str()), (400, "InvalidJob"));
    let stale = [("x-sfdc-session", "00D!stale"), XML];
    let (_, _, refused) = client.raw("GET", "/services/async/66.0/job/750000000000001AAA", &stale, "").await?;
    assert!(String::from_utf8(refused)?.contains("<exceptionCode>InvalidSessionId</exceptionCode>"));
    Ok(())
}

#[tokio::test]
async fn classic_queries_are_split_by_id() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    sandbox.seed(250, 1, Some("Account"))?;
    let body = "{\"operation\": \"query\", \"object\": \"Account\", \"contentType\": \"CSV\"}";
    let headers = [("content-type", "application/json"), ("sforce-enable-pkchunking", "chunkSize=100")];
    let (_, _, info) = client.raw("POST", "/services/async/66.0/job", &headers, body).await?;
    let job = serde_json::from_slice::<Value>(&info)?["id"].as_str().unwrap_or_default().to_owned();
    let whole = batch(&client, &job, "text/csv", "SELECT Id, Name FROM Account").await?;
    let (_, list) = classic(&client, "GET", &format!("/{job}/batch"), XML.1, "").await?;
    let ids: Vec<String> =
        list.split("<id>").skip(1).filter_map(|part| Some(part.split('<').next()?.to_owned())).collect();
    assert_eq!(ids.len(), 4, "one for the whole and three chunks: {list}");
    let mut rows = 0;
    for id in &ids {
        let info = done(&client, &job, id).await?;
        if *id == whole {
            assert_eq!(element(&info, "state"), "NotProcessed");
            continue;
        }
        let (_, results) = classic(&client, "GET", &format!("/{job}/batch/{id}/result"), XML.1, "").await?;
        let (_, csv) =
            classic(&client, "GET", &format!("/{job}/batch/{id}/result/{}", element(&results, "result")), XML.1, "")
                .await?;
        rows += csv::Reader::from_reader(csv.as_bytes()).records().count();
    }
    assert_eq!(rows, 250);
    let query = job_json(&client, "SELECT Id, CreatedDate FROM Account LIMIT 1").await?;
    assert!(query[0]["CreatedDate"].is_i64() && query[0]["attributes"]["type"] == "Account", "{query}");
    Ok(())
}

async fn job_json(client: &Client, soql: &str) -> Result<Value, Failed> {
    let job = job(client, "query", "JSON", "").await?;
    let batch = batch(client, &job, "application/json", soql).await?;
    done(client, &job, &batch).await?;
    let (_, results) = classic(client, "GET", &format!("/{job}/batch/{batch}/result"), "application/json", "").await?;
    let result = serde_json::from_str::<Value>(&results)?[0].as_str().unwrap_or_default().to_owned();
    let (_, rows) =
        classic(client, "GET", &format!("/{job}/batch/{batch}/result/{result}"), "application/json", "").await?;
    Ok(serde_json::from_str(&rows)?)
}

#[tokio::test]
async fn uploads_are_checked_and_results_come_in_pages() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    let load = async |body: Value, data: &'static str| -> Result<Result<Value, String>, Failed> {
        let (_, job) = client.call("POST", "/jobs/ingest", Some(&body)).await?;
        let id = job["id"].as_str().ok_or_else(|| job.to_string())?.to_owned();
        let url = job["contentUrl"].as_str().unwrap_or_default();
        assert_eq!(url, format!("services/data/v66.0/jobs/ingest/{id}/batches"));
        client.raw("PUT", &format!("/{url}"), &[("content-type", "text/csv")], data).await?;
        client.call("PATCH", &format!("/jobs/ingest/{id}"), Some(&json!({"state": "UploadComplete"}))).await?;
        Ok(finished(&client, &format!("/jobs/ingest/{id}")).await.map_err(|error| error.to_string()))
    };
    let insert = json!({"object": "Account", "operation": "insert"});
    let done = load(
        json!({"object": "Account", "operation": "insert", "columnDelimiter": "SEMICOLON", "lineEnding": "CRLF"}),
        "Name;Site\r\n\"A;1\";x\r\n",
    )
    .await?;
    assert_eq!(done.map(|job| job["numberRecordsProcessed"].clone()), Ok(json!(1)));
    let cases = [
        ("Name,Nope\nA,1\n", "InvalidBatch : Field name not found : Nope"),
        ("Name\r\nA\r\n", "LineEnding is invalid"),
    ];
    for (data, message) in cases {
        let failed = load(insert.clone(), data).await?;
        assert!(failed.as_ref().is_err_and(|error| error.contains(message)), "{failed:?}");
    }
    let (_, first) = client.call("GET", "/query?q=SELECT+Id+FROM+Account", None).await?;
    let id = first["records"][0]["Id"].as_str().unwrap_or_default();
    let change: &'static str = Box::leak(format!("Id,Site,Phone\n{id},#N/A,\n").into_boxed_str());
    load(json!({"object": "Account", "operation": "update"}), change).await??;
    assert_eq!(client.query("SELECT Site FROM Account").await?["records"][0]["Site"], Value::Null, "#N/A clears");
    let contact = json!({"object": "Contact", "operation": "insert"});
    load(contact, "LastName,Account.Name\nNg,Acme\n").await??;
    sandbox.seed(120_000, 3, Some("Account"))?;
    let query = json!({"operation": "query", "query": "SELECT Id FROM Account", "columnDelimiter": "PIPE", "lineEnding": "CRLF"});
    let (_, job) = client.call("POST", "/jobs/query", Some(&query)).await?;
    let path = format!("/jobs/query/{}", job["id"].as_str().unwrap_or_default());
    finished(&client, &path).await?;
    let (_, pages) = client.call("GET", &format!("{path}/resultPages"), None).await?;
    assert_eq!((&pages["done"], pages["resultPages"].as_array().map(Vec::len)), (&json!(true), Some(3)));
    let mut ids = std::collections::BTreeSet::new();
    for page in pages["resultPages"].as_array().into_iter().flatten() {
        // Each stands for itself, so that they can be read in any order and at the same time.
        let url = page["resultUrl"].as_str().unwrap_or_default();
        let (_, headers, body) = client.raw("GET", url, &[], "").await?;
        let text = String::from_utf8(body)?;
        let rows: Vec<&str> = text.trim_end().split("\r\n").skip(1).collect();
        assert_eq!(headers["sforce-numberofrecords"].to_str()?, rows.len().to_string());
        ids.extend(rows.into_iter().map(str::to_owned));
    }
    assert_eq!(ids.len(), 120_001, "every row is on one page");
    let stray = format!("{path}/results?locator=nonsense");
    assert_eq!(client.call("GET", &stray, None).await?.0, 400);
    let other = format!("/services/data/v60.0{path}/results");
    assert_eq!(client.raw("GET", &other, &[], "").await?.0, 409, "results are read with the version of the job");
    let hard = json!({"object": "Account", "operation": "hardDelete"});
    let gone: &'static str = Box::leak(format!("Id\n{id}\n").into_boxed_str());
    load(hard, gone).await??;
    let all = client.call("GET", &format!("/queryAll?q=SELECT+Id+FROM+Account+WHERE+Id='{id}'"), None).await?.1;
    assert_eq!(all["totalSize"], 0, "it is in no recycle bin");
    let body = "--b\r\nContent-Disposition: form-data; name=\"job\"\r\nContent-Type: application/json\r\n\r\n{\"object\": \"Account\", \"operation\": \"insert\"}\r\n\
                --b\r\nContent-Disposition: form-data; name=\"content\"; filename=\"content\"\r\nContent-Type: text/csv\r\n\r\nName\nM\n\r\n--b--\r\n";
    let (_, _, made) =
        client.raw("POST", "/jobs/ingest", &[("content-type", "multipart/form-data; boundary=b")], body).await?;
    let made: Value = serde_json::from_slice(&made)?;
    assert_eq!(made["state"], "UploadComplete", "{made}");
    finished(&client, &format!("/jobs/ingest/{}", made["id"].as_str().unwrap_or_default())).await?;
    Ok(())
}
