//! The REST resources.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbox::{Config, Definition, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, here, open, provider};

#[tokio::test]
async fn a_composite_request_is_all_or_none_if_it_says_so() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let steps = |name: &Value| {
        json!([
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Account", "referenceId": "a", "body": {"Name": "Acme"}},
            {"method": "GET", "url": "/services/data/v66.0/query?q=SELECT Name FROM Account WHERE Id='@{a.id}'", "referenceId": "q"},
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Contact", "referenceId": "c",
             "body": {"LastName": name, "AccountId": "@{q.records[0].attributes.url}"}},
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Contact", "referenceId": "d",
             "body": {"LastName": name, "AccountId": "@{a.id}"}}])
    };
    let body = json!({"allOrNone": true, "compositeRequest": steps(&json!("Ng"))});
    let (status, answer) = client.call("POST", "/composite", Some(&body)).await?;
    let results = &answer["compositeResponse"];
    assert_eq!(status, 200);
    assert_eq!(results[2]["body"][0]["errorCode"], "MALFORMED_ID", "{answer}");
    for at in [0, 1, 3] {
        assert_eq!(results[at]["body"][0]["errorCode"], "PROCESSING_HALTED", "{answer}");
        assert_eq!(results[at]["httpStatusCode"], 400);
    }
    assert_eq!(client.query("SELECT COUNT() FROM Account").await?["totalSize"], 0, "it was rolled back");

    let body = json!({"allOrNone": false, "compositeRequest": steps(&json!("Ng"))});
    let (_, answer) = client.call("POST", "/composite", Some(&body)).await?;
    let codes: Vec<&Value> = (0..4).map(|at| &answer["compositeResponse"][at]["httpStatusCode"]).collect();
    assert_eq!(codes, [201, 200, 400, 201], "{answer}");
    assert_eq!(
        answer["compositeResponse"][1]["body"]["records"][0]["Name"], "Acme",
        "a step sees what the one before wrote"
    );

    let twice = json!({"compositeRequest": [
        {"method": "GET", "url": "/services/data/v66.0/limits", "referenceId": "x"},
        {"method": "GET", "url": "/services/data/v66.0/limits", "referenceId": "x"}]});
    assert_eq!(client.call("POST", "/composite", Some(&twice)).await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn each_graph_succeeds_or_fails_by_itself() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let graph = |id: &str, name: Value| {
        json!({"graphId": id, "compositeRequest": [
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Account", "referenceId": "a", "body": {"Name": id}},
            {"method": "POST", "url": "/services/data/v66.0/sobjects/Contact", "referenceId": "c",
             "body": {"LastName": name, "AccountId": "@{a.id}"}}]})
    };
    let body = json!({"graphs": [graph("good", json!("Ng")), graph("bad", Value::Null)]});
    let (status, answer) = client.call("POST", "/composite/graph", Some(&body)).await?;
    assert_eq!(status, 200);
    assert_eq!(answer["graphs"][0]["isSuccessful"], true, "{answer}");
    assert_eq!(answer["graphs"][1]["isSuccessful"], false);
    let bad = &answer["graphs"][1]["graphResponse"]["compositeResponse"];
    assert_eq!(bad[0]["body"][0]["errorCode"], "PROCESSING_HALTED");
    assert_eq!(bad[1]["body"][0]["errorCode"], "REQUIRED_FIELD_MISSING");
    assert_eq!(client.query("SELECT Name FROM Account").await?["records"][0]["Name"], "good");
    let other = json!({"graphs": [{"graphId": "g", "compositeRequest": [
        {"method": "GET", "url": "/services/data/v66.0/limits", "referenceId": "x"}]}]});
    assert_eq!(client.call("POST", "/composite/graph", Some(&other)).await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn files_are_written_in_two_ways_and_read_raw() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let record = json!({"Title": "Plan", "PathOnClient": "plan.pdf", "VersionData": STANDARD.encode(&bytes)});
    let id = client.create("ContentVersion", record).await?;
    let (status, _, read) = client.raw("GET", &format!("/sobjects/ContentVersion/{id}/VersionData"), &[], "").await?;
    assert_eq!((status, read == bytes), (200, true));
    let fields = "ContentDocumentId,VersionData,ContentSize,FileExtension,IsLatest,VersionNumber,Checksum";
    let (_, version) = client.call("GET", &format!("/sobjects/ContentVersion/{id}?fields={fields}"), None).await?;
    assert_eq!(version["VersionData"], json!(format!("/services/data/v66.0/sobjects/ContentVersion/{id}/VersionData")));
    assert_eq!(
        (&version["ContentSize"], &version["FileExtension"], &version["IsLatest"]),
        (&json!(5000), &json!("pdf"), &json!(true))
    );

    let body =
        b"--b\r\nContent-Disposition: form-data; name=\"entity_content\"\r\nContent-Type: application/json\r\n\r\n\
                 {\"PathOnClient\": \"plan.pdf\", \"ContentDocumentId\": \"DOC\"}\r\n\
                 --b\r\nContent-Disposition: form-data; name=\"VersionData\"; filename=\"plan.pdf\"\r\n\
                 Content-Type: application/pdf\r\n\r\nsecond\r\n--b--\r\n";
    let document = version["ContentDocumentId"].as_str().unwrap_or_default();
    let body = String::from_utf8_lossy(body).replace("DOC", document);
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    let (status, _, made) = client.raw("POST", "/sobjects/ContentVersion", &headers, body).await?;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&made));
    let versions = client
        .query(&format!("SELECT VersionNumber, IsLatest FROM ContentVersion WHERE ContentDocumentId = '{document}' ORDER BY VersionNumber"))
        .await?;
    assert_eq!(
        (&versions["records"][0]["IsLatest"], &versions["records"][1]["VersionNumber"]),
        (&json!(false), &json!("2"))
    );
    let account = client.create("Account", json!({"Name": "Acme"})).await?;
    let attachment = json!({"ParentId": account, "Name": "a.txt", "Body": STANDARD.encode("hello")});
    let attachment = client.create("Attachment", attachment).await?;
    let (_, _, read) = client.raw("GET", &format!("/sobjects/Attachment/{attachment}/Body"), &[], "").await?;
    assert_eq!(read, b"hello");
    client.call("DELETE", &format!("/sobjects/Account/{account}"), None).await?;
    assert_eq!(client.raw("GET", &format!("/sobjects/Attachment/{attachment}/Body"), &[], "").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn conditions_on_a_record_hold() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let id = client.create("Account", json!({"Name": "Acme"})).await?;
    let path = format!("/sobjects/Account/{id}");
    let (_, headers, _) = client.raw("GET", &path, &[], "").await?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (tag, modified) = (header("etag"), header("last-modified"));
    let json = ("content-type", "application/json");
    let old = "Tue, 05 May 2015 10:00:00 GMT";
    let cases = [
        ("GET", "if-none-match", tag.as_str(), 304),
        ("GET", "if-none-match", "\"other\"", 200),
        ("GET", "if-modified-since", modified.as_str(), 304),
        ("GET", "if-modified-since", old, 200),
        ("GET", "if-unmodified-since", old, 412),
        ("PATCH", "if-unmodified-since", old, 412),
        ("PATCH", "if-match", "\"other\"", 412),
        ("PATCH", "if-none-match", tag.as_str(), 412),
        ("PATCH", "if-unmodified-since", modified.as_str(), 204),
        ("DELETE", "if-match", "\"other\"", 412),
    ];
    for (method, name, value, expected) in cases {
        let body = if method == "PATCH" { "{\"Site\": \"x\"}" } else { "" };
        let (status, _, _) = client.raw(method, &path, &[(name, value), json], body).await?;
        assert_eq!(status, expected, "{method} {name}: {value}");
    }
    Ok(())
}

#[tokio::test]
async fn xml_is_spoken_as_well_as_json() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let xml = [("content-type", "application/xml"), ("accept", "application/xml")];
    let (status, _, made) =
        client.raw("POST", "/sobjects/Account", &xml, "<Account><Name>A &amp; B</Name></Account>").await?;
    let made = String::from_utf8(made)?;
    assert_eq!(status, 201, "{made}");
    assert!(made.contains("<Result><id>001") && made.contains("<success>true</success>"), "{made}");
    let (_, _, read) = client.raw("GET", "/query?q=SELECT+Name+FROM+Account", &xml[1..], "").await?;
    let read = String::from_utf8(read)?;
    assert!(
        read.contains("<QueryResult>") && read.contains("<Name>A &amp; B</Name>") && read.contains("type=\"Account\""),
        "{read}"
    );
    let (_, _, read) = client.raw("GET", "/limits.xml", &[], "").await?;
    assert!(String::from_utf8(read)?.contains("<LimitsSnapshot>"));
    let (status, _, refused) = client.raw("POST", "/sobjects/Account", &xml, "<Account/>").await?;
    assert_eq!(status, 400);
    assert!(String::from_utf8(refused)?.contains("<Errors><Error>"));
    let (status, _, _) = client.raw("POST", "/sobjects/Account", &[("content-type", "text/plain")], "x").await?;
    assert_eq!(status, 415);
    Ok(())
}

#[tokio::test]
async fn what_was_used_last_and_what_changed_is_told() -> Result<(), Failed> {
    let (sandbox, client) = open(Vec::new()).await?;
    let headers = [("content-type", "application/json"), ("sforce-mru", "updateMru=true")];
    client.raw("POST", "/sobjects/Account", &headers, "{\"Name\": \"Acme\"}").await?;
    let second = client.create("Account", json!({"Name": "Birch"})).await?;
    let (_, recent) = client.call("GET", "/recent", None).await?;
    assert_eq!((recent.as_array().map(Vec::len), &recent[0]["Name"]), (Some(1), &json!("Acme")));
    client.query("SELECT Id FROM Account WHERE Name = 'Birch' FOR VIEW").await?;
    let (_, recent) = client.call("GET", "/recent?limit=1", None).await?;
    assert_eq!(recent[0]["Name"], "Birch");
    let soql = "SELECT Id, Name, Type FROM RecentlyViewed WHERE LastViewedDate != NULL ORDER BY Name DESC";
    let viewed = client.query(soql).await?;
    let names: Vec<&Value> = (0..2).map(|at| &viewed["records"][at]["Name"]).collect();
    assert_eq!(
        (names, &viewed["records"][0]["Type"]),
        (vec![&json!("Birch"), &json!("Acme")], &json!("Account")),
        "{viewed}"
    );
    let used =
        client.query("SELECT Name FROM Account WHERE Id IN (SELECT Id FROM RecentlyViewed WHERE Name='Acme')").await?;
    assert_eq!(used["totalSize"], 1, "{used}");
    client.create("Contact", json!({"LastName": "Still writable"})).await?;
    client.call("DELETE", &format!("/sobjects/Account/{second}"), None).await?;
    let window = "start=2026-01-01T00:00:00%2B00:00&end=2027-06-01T00:00:00%2B00:00";
    let (status, refused) = client.call("GET", &format!("/sobjects/Account/updated?{window}"), None).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (400, &json!("INVALID_REPLICATION_DATE")), "more than 30 days back");
    let now = chrono::Utc::now();
    let (start, end) = (
        (now - chrono::TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ"),
        (now + chrono::TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ"),
    );
    let (_, updated) = client.call("GET", &format!("/sobjects/Account/updated/?start={start}&end={end}"), None).await?;
    assert_eq!(updated["ids"].as_array().map(Vec::len), Some(1), "{updated}");
    let later = (now + chrono::TimeDelta::minutes(30)).format("%Y-%m-%dT%H:%M:%SZ");
    let (_, none) = client.call("GET", &format!("/sobjects/Account/updated/?start={later}&end={end}"), None).await?;
    assert_eq!(none["ids"], json!([]), "a window has a start: {none}");
    let (_, deleted) = client.call("GET", &format!("/sobjects/Account/deleted/?start={start}&end={end}"), None).await?;
    assert_eq!(deleted["deletedRecords"][0]["id"], json!(second));
    drop(sandbox);
    Ok(())
}

#[tokio::test]
async fn relationships_are_paths() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let account = client.create("Account", json!({"Name": "Acme"})).await?;
    let contact = client.create("Contact", json!({"LastName": "Ng", "AccountId": account})).await?;
    let (_, parent) = client.call("GET", &format!("/sobjects/Contact/{contact}/Account?fields=Name"), None).await?;
    assert_eq!(parent["Name"], "Acme");
    let (_, children) = client.call("GET", &format!("/sobjects/Account/{account}/Contacts"), None).await?;
    assert_eq!((&children["totalSize"], &children["records"][0]["LastName"]), (&json!(1), &json!("Ng")));
    let change = json!({"Name": "Acme 2"});
    assert_eq!(client.call("PATCH", &format!("/sobjects/Contact/{contact}/Account"), Some(&change)).await?.0, 204);
    assert_eq!(client.call("GET", &format!("/sobjects/Contact/{contact}/ReportsTo"), None).await?.0, 404);
    assert_eq!(client.call("GET", &format!("/sobjects/Account/{account}/Nope"), None).await?.0, 404);
    assert_eq!(client.call("POST", "/sobjects/Account/Id", Some(&change)).await?.0, 201);
    Ok(())
}

#[tokio::test]
async fn every_resource_of_the_list_answers() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![here("testdata/org")]).await?;
    let paths = [
        "",
        "/sobjects",
        "/limits",
        "/limits/recordCount?sObjects=User",
        "/recent",
        "/search/scopeOrder",
        "/search/layout?q=Account",
        "/search/suggestions?q=A&sobject=User",
        "/tabs",
        "/process/rules",
        "/process/approvals",
        "/sobjects/Account/defaultValues",
        "/theme",
        "/appMenu/AppSwitcher",
        "/quickActions",
        "/compactLayouts?q=Account,Contact",
        "/actions",
        "/actions/standard",
        "/actions/custom",
        "/sobjects/Account/describe",
        "/sobjects/Account/describe/layouts",
        "/sobjects/Thing__c/describe/layouts",
        "/sobjects/Account/describe/compactLayouts",
        "/sobjects/Account/describe/approvalLayouts",
        "/sobjects/Account/listviews",
        "/tooling/executeAnonymous?anonymousBody=System.debug(1);",
        "/sobjects/Account/quickActions",
        "/sobjects/Account",
        "/tooling/sobjects",
        "/tooling/query?q=SELECT+Id+FROM+ApexClass",
        "/composite",
        "/jobs/ingest",
        "/jobs/query",
        "/query?explain=SELECT+Id+FROM+Account",
        "/chatter/users/me",
        "/sobjects/Account/describe/layouts/012000000000000AAA",
    ];
    for path in paths {
        let (status, answer) = client.call("GET", path, None).await?;
        assert_eq!(status, 200, "{path}: {answer}");
        assert_eq!(client.raw("HEAD", path, &[], "").await?.0, 200, "HEAD {path}");
    }
    assert_eq!(client.call("POST", "/limits", None).await?.0, 405);
    assert_eq!(client.call("GET", "/nope", None).await?.0, 404);
    assert_eq!(client.raw("GET", "/services/data/v20.0/limits", &[], "").await?.0, 410);
    assert_eq!(client.raw("GET", "/services/data/v99.0/limits", &[], "").await?.0, 404);
    assert_eq!(client.raw("GET", &format!("/query?q={}", "x".repeat(17_000)), &[], "").await?.0, 414);
    let deep = "[".repeat(5000);
    let (status, _, _) = client.raw("POST", "/sobjects/Account", &[("content-type", "application/json")], deep).await?;
    assert_eq!(status, 400, "nesting is bounded");
    Ok(())
}

#[tokio::test]
async fn a_list_view_shows_its_records() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    for name in ["Birch", "Acme", "Cedar"] {
        client.create("Account", json!({"Name": name})).await?;
    }
    let (_, views) = client.call("GET", "/sobjects/Account/listviews", None).await?;
    let view = &views["listviews"][0];
    let path = |key: &str| view[key].as_str().unwrap_or_default().trim_start_matches("/services/data/v66.0").to_owned();
    assert_eq!((&views["size"], &view["developerName"]), (&json!(1), &json!("AllAccounts")));
    let (_, described) = client.call("GET", &path("describeUrl"), None).await?;
    let rows = client.query(described["query"].as_str().unwrap_or_default()).await?;
    assert_eq!(rows["totalSize"], 3, "{described}");
    let (_, page) = client.call("GET", &format!("{}?limit=2&offset=1", path("resultsUrl")), None).await?;
    let names: Vec<&Value> = (0..2).map(|at| &page["records"][at]["columns"][0]["value"]).collect();
    assert_eq!((names, &page["done"]), (vec![&json!("Birch"), &json!("Cedar")], &json!(true)), "{page}");
    assert_eq!(client.call("GET", "/sobjects/Account/listviews/00B000000000000AAA", None).await?.0, 404);

    let submit = json!({"requests": [{"actionType": "Submit", "contextId": "001000000000001AAA"}]});
    let (status, answer) = client.call("POST", "/process/approvals", Some(&submit)).await?;
    assert_eq!((status, &answer[0]["errors"][0]["statusCode"]), (200, &json!("NO_APPLICABLE_PROCESS")));
    Ok(())
}

#[tokio::test]
async fn platform_events_are_published_and_kept_by_nobody() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![crate::project("ebikes-lwc")]).await?;
    let event = "/sobjects/Manufacturing_Event__e";
    let (status, published) =
        client.call("POST", event, Some(&json!({"Order_Id__c": "801", "Status__c": "Submitted"}))).await?;
    assert_eq!((status, &published["success"]), (201, &json!(true)), "{published}");
    assert_eq!(published["errors"][0]["statusCode"], "OPERATION_ENQUEUED");
    let id = published["id"].as_str().unwrap_or_default();
    assert!(id.starts_with('e') && published["errors"][0]["message"].as_str().map(str::len) == Some(36), "{published}");
    let records = json!({"records": [{"attributes": {"type": "Manufacturing_Event__e"}, "Order_Id__c": "802", "Status__c": "x"},
                                     {"attributes": {"type": "Manufacturing_Event__e"}, "Nope__c": "x"}]});
    let (_, results) = client.call("POST", "/composite/sobjects", Some(&records)).await?;
    assert_eq!(results[0]["errors"][0]["statusCode"], "OPERATION_ENQUEUED", "{results}");
    assert_eq!(
        (&results[1]["success"], &results[1]["errors"][0]["statusCode"]),
        (&json!(false), &json!("INVALID_FIELD"))
    );
    let refused = client.query("SELECT Id FROM Manufacturing_Event__e").await?;
    assert_eq!(refused[0]["errorCode"], "INVALID_TYPE_FOR_OPERATION", "{refused}");
    assert!(client.call("GET", &format!("{event}/{id}"), None).await?.0 >= 400, "nobody keeps it");
    let (status, refused) = client.call("PATCH", &format!("{event}/{id}"), Some(&json!({"Status__c": "y"}))).await?;
    assert!(status >= 400, "{refused}");
    let (_, described) = client.call("GET", &format!("{event}/describe"), None).await?;
    let can = ["createable", "updateable", "deletable", "queryable"].map(|what| described[what] == true);
    assert_eq!(can, [true, false, false, false]);
    let (_, schema) = client.call("GET", &format!("{event}/eventSchema"), None).await?;
    assert_eq!(
        (&schema["name"], &schema["namespace"]),
        (&json!("Manufacturing_Event__e"), &json!("com.sforce.eventbus"))
    );
    let fields: Vec<&Value> = schema["fields"].as_array().into_iter().flatten().map(|field| &field["name"]).collect();
    assert_eq!(fields, ["CreatedDate", "CreatedById", "Order_Id__c", "Status__c"], "{schema}");
    assert_eq!(client.call("GET", "/sobjects/Account/eventSchema", None).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn children_have_pages_of_their_own() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let mut parents = Vec::new();
    for name in ["Few", "Many"] {
        parents.push(client.create("Account", json!({"Name": name})).await?);
    }
    for from in [0, 200, 400] {
        let records: Vec<Value> = (from..from + 150)
            .map(|at| {
                let parent = &parents[usize::from(at > 0)];
                json!({"attributes": {"type": "Contact"}, "LastName": format!("{at:03}"), "AccountId": parent})
            })
            .collect();
        client.call("POST", "/composite/sobjects", Some(&json!({"records": records}))).await?;
    }
    let soql = "SELECT Name, (SELECT LastName FROM Contacts ORDER BY LastName) FROM Account ORDER BY Name";
    let path = format!("/query?q={}", soql.replace(' ', "+"));
    let (_, _, bytes) = client.raw("GET", &path, &[("sforce-query-options", "batchSize=200")], "").await?;
    let answer: Value = serde_json::from_slice(&bytes)?;
    assert_eq!(answer["records"][0]["Contacts"]["done"], true);
    let mut page = answer["records"][1]["Contacts"].clone();
    let mut names = Vec::new();
    loop {
        assert_eq!(page["totalSize"], 449);
        names.extend(page["records"].as_array().into_iter().flatten().map(|record| record["LastName"].clone()));
        let Some(next) = page["nextRecordsUrl"].as_str() else { break };
        let (_, _, bytes) = client.raw("GET", next, &[("sforce-query-options", "batchSize=200")], "").await?;
        page = serde_json::from_slice(&bytes)?;
    }
    let expected: Vec<Value> = (1..150).chain(200..350).chain(400..550).map(|at| json!(format!("{at:03}"))).collect();
    assert_eq!(names, expected, "each child once, in order");
    assert_eq!(page["done"], true);
    Ok(())
}

#[tokio::test]
async fn apex_rest_and_actions_are_what_the_definition_says() -> Result<(), Failed> {
    provider();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        "apex_rest:\n\
         - {path: '/stock/{sku}', query: 'SELECT Name, StockKeepingUnit FROM Product2 WHERE StockKeepingUnit = :sku', answer: {found: '{size}', name: '{first.Name}'}}\n\
         - {path: /stock, method: POST, write: {object: Product2, key: StockKeepingUnit, values: {StockKeepingUnit: '{sku}', Name: '{name}'}}, status: 201, answer: {id: '{id}', new: '{created}'}}\n\
         actions:\n\
         - {kind: flow, name: Greet, inputs: [who], outputs: {text: 'Hello {who}'}}\n",
    )?;
    let definition = Definition::load(file.path())?;
    let sandbox = Sandbox::start(Config { definition, ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    let json = [("content-type", "application/json")];
    let post = async |body: &'static str| client.raw("POST", "/services/apexrest/stock", &json, body).await;
    let (status, _, made) = post("{\"sku\": \"B-1\", \"name\": \"Bell\"}").await?;
    assert_eq!((status, serde_json::from_slice::<Value>(&made)?["new"].clone()), (201, json!(true)));
    let (_, _, again) = post("{\"sku\": \"b-1\", \"name\": \"Bells\"}").await?;
    assert_eq!(serde_json::from_slice::<Value>(&again)?["new"], false);
    let (_, _, read) = client.raw("GET", "/services/apexrest/stock/B-1", &[], "").await?;
    assert_eq!(serde_json::from_slice::<Value>(&read)?, json!({"found": 1, "name": "Bells"}));
    let (status, _, failed) = post("{\"sku\": \"B-2\"}").await?;
    assert_eq!((status, serde_json::from_slice::<Value>(&failed)?[0]["errorCode"].clone()), (500, json!("APEX_ERROR")));
    assert_eq!(client.raw("DELETE", "/services/apexrest/stock", &[], "").await?.0, 405);
    assert_eq!(client.raw("GET", "/services/apexrest/nope", &[], "").await?.0, 404);
    let inputs = json!({"inputs": [{"who": "Ada"}]});
    let (status, answer) = client.call("POST", "/actions/custom/flow/Greet", Some(&inputs)).await?;
    assert_eq!((status, &answer[0]["outputValues"]["text"]), (200, &json!("Hello Ada")));
    let (status, answer) = client.call("POST", "/actions/custom/flow/Greet", Some(&json!({"inputs": [{}]}))).await?;
    assert_eq!((status, &answer[0]["isSuccess"]), (400, &json!(false)));
    Ok(())
}

#[tokio::test]
async fn bodies_are_compressed_both_ways_and_methods_can_be_overridden() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    // `{"Name": "Zip"}` by gzip.
    let zipped = STANDARD.decode("H4sIAAAAAAACA6tW8kvMTVWyUlCKyixQqgUAlF7Krw8AAAA=")?;
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let (status, _, made) = client.raw("POST", "/sobjects/Account", &headers, zipped).await?;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&made));
    let plain = reqwest::Client::builder().no_proxy().no_gzip().build()?;
    let answer = plain
        .get(format!("{}/sobjects/Account/describe", client.base))
        .bearer_auth(&client.token)
        .header("accept-encoding", "gzip");
    let answer = answer.send().await?;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(answer.headers()["sforce-limit-info"].to_str()?.starts_with("api-usage="));
    let id = client.query("SELECT Id FROM Account").await?["records"][0]["Id"].as_str().unwrap_or_default().to_owned();
    let json = [("content-type", "application/json")];
    let path = format!("/sobjects/Account/{id}?_HttpMethod=PATCH");
    assert_eq!(client.raw("POST", &path, &json, "{\"Site\": \"x\"}").await?.0, 204);
    let (_, _, pretty) =
        client.raw("GET", "/limits/recordCount?sObjects=Account,Contact", &[("x-prettyprint", "1")], "").await?;
    assert_eq!(
        String::from_utf8(pretty)?,
        "{\n  \"sObjects\": [\n    {\n      \"count\": 1,\n      \"name\": \"Account\"\n    }\n  ]\n}"
    );
    Ok(())
}
