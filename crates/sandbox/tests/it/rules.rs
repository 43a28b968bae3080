//! What the org makes sure of when records are written.

use sandbox::{Config, Definition, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, here, open, provider};

async fn defined(yaml: &str) -> Result<(Sandbox, Client), Failed> {
    provider();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), yaml)?;
    let definition = Definition::load(file.path())?;
    let sandbox =
        Sandbox::start(Config { projects: vec![here("testdata/org")], definition, ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    Ok((sandbox, client))
}

#[tokio::test]
async fn picklists_depend_and_lookups_are_filtered() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![here("testdata/org")]).await?;
    let prospect = client.create("Account", json!({"Name": "P", "Type": "Prospect"})).await?;
    let customer = client.create("Account", json!({"Name": "C", "Type": "Customer - Direct"})).await?;
    let kinds = client
        .query("SELECT Id, DeveloperName FROM RecordType WHERE SobjectType = 'Thing__c' ORDER BY DeveloperName")
        .await?;
    let special = kinds["records"][1]["Id"].clone();
    let cases = [
        (json!({"Size__c": "S", "Use__c": "pocket"}), 201, ""),
        (json!({"Size__c": "L", "Use__c": "pocket"}), 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        (json!({"Use__c": "hall"}), 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        (json!({"Size__c": "XL"}), 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        (json!({"Tags__c": "red;pink"}), 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        (json!({"Buyer__c": customer}), 201, ""),
        (json!({"Buyer__c": prospect}), 400, "FIELD_FILTER_VALIDATION_EXCEPTION"),
        (json!({"RecordTypeId": special}), 201, ""),
        (json!({"RecordTypeId": "012000000000001AAA"}), 400, "INVALID_CROSS_REFERENCE_KEY"),
        (json!({"Code__c": "x"}), 201, ""),
        (json!({"Code__c": "X"}), 201, ""),
        (json!({"Code__c": "x"}), 400, "DUPLICATE_VALUE"),
        (json!({"Alias__c": "twin"}), 201, ""),
        (json!({"Alias__c": "twin"}), 201, ""),
    ];
    for (record, expected, code) in cases {
        let mut record = record;
        record["Name"] = json!("thing");
        let (status, answer) = client.call("POST", "/sobjects/Thing__c", Some(&record)).await?;
        assert_eq!(status, expected, "{record}: {answer}");
        assert!(code.is_empty() || answer[0]["errorCode"] == code, "{record}: {answer}");
    }
    let (status, several) =
        client.call("PATCH", "/sobjects/Thing__c/Alias__c/twin", Some(&json!({"Name": "x"}))).await?;
    assert_eq!((status, several.as_array().map(Vec::len)), (300, Some(2)));
    let (_, described) = client.call("GET", "/sobjects/Thing__c/describe", None).await?;
    let field = described["fields"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|field| field["name"] == "Use__c")
        .cloned()
        .unwrap_or_default();
    assert_eq!((&field["dependentPicklist"], &field["controllerName"]), (&json!(true), &json!("Size__c")));
    // Bits from the left: S, M, L.
    let valid: Vec<&Value> = (0..3).map(|at| &field["picklistValues"][at]["validFor"]).collect();
    assert_eq!(valid, ["gA==", "wA==", "IA=="]);
    assert_eq!(described["recordTypeInfos"].as_array().map(Vec::len), Some(3));
    Ok(())
}

#[tokio::test]
async fn deletes_cascade_are_restricted_and_come_back() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![here("testdata/org")]).await?;
    let buyer = client.create("Account", json!({"Name": "C", "Type": "Customer - Direct"})).await?;
    let thing = client.create("Thing__c", json!({"Name": "T", "Buyer__c": buyer})).await?;
    let child = client.create("Thing__c", json!({"Name": "child", "Parent__c": thing})).await?;
    let part = client.create("Part__c", json!({"Thing__c": thing})).await?;
    let (status, refused) = client.call("DELETE", &format!("/sobjects/Thing__c/{thing}"), None).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (400, &json!("DELETE_FAILED")));
    client.call("DELETE", &format!("/sobjects/Thing__c/{child}"), None).await?;
    client.call("DELETE", &format!("/sobjects/Account/{buyer}"), None).await?;
    let (_, read) = client.call("GET", &format!("/sobjects/Thing__c/{thing}?fields=Buyer__c"), None).await?;
    assert_eq!(read["Buyer__c"], Value::Null, "the lookup was emptied");
    assert_eq!(client.call("DELETE", &format!("/sobjects/Thing__c/{thing}"), None).await?.0, 204);
    assert_eq!(client.query("SELECT COUNT() FROM Part__c").await?["totalSize"], 0, "the part went with it");
    let json = [("content-type", "application/json")];
    let body = json!({"ids": [thing]}).to_string();
    assert_eq!(client.raw("POST", "/sandbox/api/undelete", &json, body.clone()).await?.0, 204);
    assert_eq!(client.query("SELECT Id FROM Part__c").await?["records"][0]["Id"], json!(part), "and came back with it");
    client.call("DELETE", &format!("/sobjects/Thing__c/{thing}"), None).await?;
    assert_eq!(client.raw("POST", "/sandbox/api/purge", &json, body.clone()).await?.0, 204);
    assert_eq!(client.raw("POST", "/sandbox/api/undelete", &json, body).await?.0, 400, "what is purged is gone");
    let orphan = client.call("POST", "/sobjects/Part__c", Some(&json!({}))).await?;
    assert_eq!(orphan.1[0]["errorCode"], "REQUIRED_FIELD_MISSING", "a detail needs its master");
    Ok(())
}

#[tokio::test]
async fn merged_records_leave_what_hung_on_them_to_the_winner() -> Result<(), Failed> {
    let (_sandbox, client) = open(vec![here("testdata/org")]).await?;
    let winner = client.create("Account", json!({"Name": "W"})).await?;
    let loser = client.create("Account", json!({"Name": "L"})).await?;
    let contact = client.create("Contact", json!({"LastName": "C", "AccountId": loser})).await?;
    let json = [("content-type", "application/json")];
    let merge = async |winner: &str, losers: &[&str]| -> Result<u16, Failed> {
        let body = json!({"winner": winner, "losers": losers}).to_string();
        Ok(client.raw("POST", "/sandbox/api/merge", &json, body).await?.0)
    };
    for (to, losers) in [(&winner, vec![winner.as_str()]), (&winner, vec![contact.as_str()]), (&winner, vec![])] {
        assert_eq!(merge(to, &losers).await?, 400, "{losers:?}");
    }
    assert_eq!(merge(&winner, &[&loser]).await?, 204);
    let (_, read) = client.call("GET", &format!("/sobjects/Contact/{contact}?fields=AccountId"), None).await?;
    assert_eq!(read["AccountId"], json!(winner));
    let soql = format!("SELECT IsDeleted, MasterRecordId FROM Account WHERE Id = '{loser}'");
    let (_, found) = client.call("GET", &format!("/queryAll?q={}", soql.replace(' ', "+")), None).await?;
    assert_eq!(
        [&found["records"][0]["IsDeleted"], &found["records"][0]["MasterRecordId"]],
        [&json!(true), &json!(winner)]
    );
    assert_eq!(merge(&winner, &[&loser]).await?, 404, "it is gone");
    Ok(())
}

#[tokio::test]
async fn duplicates_are_told_blocked_or_allowed() -> Result<(), Failed> {
    let yaml = "duplicate_rules:\n- {name: Same_Account, object: Account, fields: [Name]}\n\
                - {name: Same_Lead, object: Lead, fields: [LastName, Company], action: block, alert: No twins.}\n";
    let (_sandbox, client) = defined(yaml).await?;
    let first = client.create("Account", json!({"Name": "Acme Ltd"})).await?;
    let (status, refused) = client.call("POST", "/sobjects/Account", Some(&json!({"Name": "ACME, Ltd."}))).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (400, &json!("DUPLICATES_DETECTED")));
    let found = &refused[0]["duplicateResut"];
    assert_eq!(found["allowSave"], true);
    assert_eq!(found["matchResults"][0]["matchRecords"][0]["record"]["Id"], json!(first));
    let headers = [("content-type", "application/json"), ("sforce-duplicate-rule-header", "allowSave=true")];
    assert_eq!(client.raw("POST", "/sobjects/Account", &headers, "{\"Name\": \"Acme Ltd\"}").await?.0, 201);
    client.create("Lead", json!({"LastName": "Ng", "Company": "X"})).await?;
    let lead = "{\"LastName\": \"NG\", \"Company\": \"x\"}";
    assert_eq!(
        client.raw("POST", "/sobjects/Lead", &headers, lead).await?.0,
        400,
        "a block holds in spite of the header"
    );
    assert_eq!(client.call("PATCH", &format!("/sobjects/Account/{first}"), Some(&json!({"Site": "x"}))).await?.0, 204);
    let records = json!({"records": [{"attributes": {"type": "Account"}, "Name": "acme ltd"}]});
    let (_, answer) = client.call("POST", "/composite/sobjects", Some(&records)).await?;
    assert_eq!(answer[0]["errors"][0]["statusCode"], "DUPLICATES_DETECTED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_writes_to_one_parent_meet_locks() -> Result<(), Failed> {
    // A transaction takes a second, and nobody waits that long.
    let (_sandbox, client) = defined("locks: {hold_ms: 1000, wait_ms: 50}\n").await?;
    let parents =
        [client.create("Account", json!({"Name": "a"})).await?, client.create("Account", json!({"Name": "b"})).await?];
    let write = async |parent: &String| {
        client.call("POST", "/sobjects/Contact", Some(&json!({"LastName": "x", "AccountId": parent}))).await
    };
    let (one, two, other) = tokio::join!(write(&parents[0]), write(&parents[0]), write(&parents[1]));
    let mut statuses = [one?.0, two?.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400], "the second meets the lock of the first");
    assert_eq!(other?.0, 201, "another parent is free");
    let (_sandbox, client) = defined("locks: {hold_ms: 50, wait_ms: 10000}\n").await?;
    let parent = client.create("Account", json!({"Name": "a"})).await?;
    let body = json!({"LastName": "x", "AccountId": parent});
    let write = async || client.call("POST", "/sobjects/Contact", Some(&body)).await;
    let (one, two, three) = tokio::join!(write(), write(), write());
    assert_eq!([one?.0, two?.0, three?.0], [201; 3], "who waits long enough gets through");
    Ok(())
}
