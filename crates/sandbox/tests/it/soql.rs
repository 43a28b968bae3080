//! SOQL against known records: `testdata/soql.cases` says what each query gives.

use std::collections::HashMap;

use sandbox::{Config, Definition, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, here, provider};

/// The moment at which the clock of the org stands.
const NOW: &str = "2026-05-20T19:30:00Z";

/// An org whose user lives in Los Angeles, with the records that the cases are about; returns their ids by name.
async fn org() -> Result<(Sandbox, Client, HashMap<String, String>), Failed> {
    provider();
    let mut definition = Definition::default();
    "America/Los_Angeles".clone_into(&mut definition.organization.time_zone);
    let config = Config { projects: vec![here("testdata/org")], definition, ..Config::default() };
    let sandbox = Sandbox::start(config).await?;
    let now: chrono::DateTime<chrono::Utc> = NOW.parse()?;
    sandbox.move_clock((now - chrono::Utc::now()).num_seconds());
    let client = Client::sign_in(&sandbox).await?;
    let mut ids: HashMap<String, String> = HashMap::new();
    let records = [
        (
            "Account",
            json!({"Name": "Acme", "Type": "Customer - Direct", "Industry": "Energy", "NumberOfEmployees": 10,
            "AnnualRevenue": 1000, "Rating": "Hot", "Site": "HQ", "BillingLatitude": 50.94, "BillingLongitude": 6.96}),
        ),
        (
            "Account",
            json!({"Name": "Birch", "Type": "Prospect", "Industry": "Energy", "NumberOfEmployees": 20,
            "AnnualRevenue": 2000, "Rating": "Warm", "ParentId": "@Acme", "BillingLatitude": 45.76, "BillingLongitude": 4.84}),
        ),
        (
            "Account",
            json!({"Name": "Cedar", "Type": "Customer - Direct", "Industry": "Retail", "Site": "hq", "ParentId": "@Birch"}),
        ),
        (
            "Account",
            json!({"Name": "delta", "NumberOfEmployees": 5, "AnnualRevenue": 500, "Rating": "Cold", "Site": "50%",
            "BillingLatitude": 55.6, "BillingLongitude": 13.0}),
        ),
        (
            "Account",
            json!({"Name": "\u{c9}mile", "Type": "Prospect", "Industry": "Retail", "NumberOfEmployees": 0,
            "AnnualRevenue": 0, "Rating": "Hot", "Site": "a_b"}),
        ),
        (
            "Contact",
            json!({"LastName": "Ames", "FirstName": "Ann", "AccountId": "@Acme", "Email": "ann@acme.example",
            "Birthdate": "1980-05-20", "DoNotCall": true}),
        ),
        ("Contact", json!({"LastName": "Bloom", "FirstName": "Bob", "AccountId": "@Acme", "Birthdate": "1990-01-01"})),
        ("Contact", json!({"LastName": "Cole", "AccountId": "@Birch", "Email": "cole@birch.example"})),
        (
            "Contact",
            json!({"LastName": "Dunn", "FirstName": "Di", "Email": "di@x.example", "Birthdate": "2000-02-29", "DoNotCall": true}),
        ),
        (
            "Opportunity",
            json!({"Name": "O1", "AccountId": "@Acme", "Amount": 100, "StageName": "Prospecting", "CloseDate": "2026-05-20"}),
        ),
        (
            "Opportunity",
            json!({"Name": "O2", "AccountId": "@Acme", "Amount": 200, "StageName": "Closed Won", "CloseDate": "2026-05-19"}),
        ),
        (
            "Opportunity",
            json!({"Name": "O3", "AccountId": "@Birch", "Amount": 300.5, "StageName": "Prospecting", "CloseDate": "2026-06-01"}),
        ),
        (
            "Opportunity",
            json!({"Name": "O4", "AccountId": "@Birch", "StageName": "Closed Lost", "CloseDate": "2026-04-30"}),
        ),
        ("Opportunity", json!({"Name": "O5", "Amount": 50, "StageName": "Closed Won", "CloseDate": "2025-12-31"})),
        (
            "Opportunity",
            json!({"Name": "O6", "AccountId": "@Cedar", "Amount": 100, "StageName": "Prospecting", "CloseDate": "2026-05-21"}),
        ),
        (
            "Event",
            json!({"Subject": "E1", "WhatId": "@Acme", "WhoId": "@Ames", "StartDateTime": "2026-05-20T06:30:00Z", "DurationInMinutes": 30}),
        ),
        (
            "Event",
            json!({"Subject": "E2", "WhatId": "@O1", "StartDateTime": "2026-05-20T20:00:00Z", "DurationInMinutes": 30}),
        ),
        ("Event", json!({"Subject": "E3", "StartDateTime": "2026-05-21T06:59:00Z", "DurationInMinutes": 30})),
        (
            "Thing__c",
            json!({"Name": "T1", "Tags__c": "green;red", "Place__Latitude__s": 50.94, "Place__Longitude__s": 6.96,
            "At__c": "08:30:00.000Z", "Ok__c": true, "Code__c": "Ab", "Size__c": "S", "Weight__c": 1.25}),
        ),
        ("Thing__c", json!({"Name": "T2", "Tags__c": "blue", "Code__c": "aB", "Size__c": "M", "Weight__c": -2})),
        (
            "Thing__c",
            json!({"Name": "T3", "Place__Latitude__s": 45.76, "Place__Longitude__s": 4.84, "At__c": "23:59:59.000Z",
            "Parent__c": "@T1"}),
        ),
        ("Part__c", json!({"Thing__c": "@T1", "Count__c": 1})),
        ("Part__c", json!({"Thing__c": "@T1", "Count__c": 2})),
        ("Part__c", json!({"Thing__c": "@T2", "Count__c": 3})),
    ];
    for (object, mut record) in records {
        for value in record.as_object_mut().into_iter().flat_map(|record| record.values_mut()) {
            if let Some(id) = value.as_str().and_then(|text| ids.get(text.strip_prefix('@')?)) {
                *value = json!(id);
            }
        }
        let (status, made) = client.call("POST", &format!("/sobjects/{object}"), Some(&record)).await?;
        assert_eq!(status, 201, "{object} {record}: {made}");
        let name = ["Name", "LastName", "Subject"].iter().find_map(|field| record[*field].as_str());
        if let (Some(name), Some(id)) = (name, made["id"].as_str()) {
            ids.insert(name.to_owned(), id.to_owned());
        }
    }
    Ok((sandbox, client, ids))
}

/// Writes an answer as the cases do.
fn shown(answer: &Value) -> String {
    if let Some(error) = answer.get(0) {
        let code = error["errorCode"].as_str().unwrap_or_default();
        return format!("!{code} {}", error["message"].as_str().unwrap_or_default());
    }
    let records = answer["records"].as_array().cloned().unwrap_or_default();
    if records.is_empty() && answer["totalSize"] != 0 {
        return format!("#{}", answer["totalSize"]);
    }
    rows(&records)
}

fn rows(records: &[Value]) -> String {
    records.iter().map(|record| values(record).join(",")).collect::<Vec<_>>().join(" | ")
}

fn values(record: &Value) -> Vec<String> {
    let fields = record.as_object().into_iter().flatten().filter(|(name, _)| *name != "attributes");
    fields
        .flat_map(|(_, value)| match value {
            Value::Null => vec!["-".to_owned()],
            Value::String(text) => vec![text.clone()],
            Value::Object(inner) => match inner.get("records").and_then(Value::as_array) {
                Some(children) => vec![format!("[{}]", rows(children))],
                None => values(value),
            },
            other => vec![other.to_string()],
        })
        .collect()
}

#[tokio::test]
async fn every_case_gives_its_rows() -> Result<(), Failed> {
    let (_sandbox, client, ids) = org().await?;
    let text = std::fs::read_to_string(here("testdata/soql.cases"))?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (query, expected) = line.split_once(" =>").ok_or_else(|| format!("no `=>` in {line}"))?;
        let filled = |text: &str| {
            let mut text = text.to_owned();
            for (name, id) in &ids {
                text = text.replace(&format!("'@15:{name}'"), &format!("'{}'", &id[..15]));
                text = text.replace(&format!("'@{name}'"), &format!("'{id}'"));
                if let Some(stem) = text.strip_suffix(&format!(",@{name}")) {
                    text = format!("{stem},{id}");
                }
            }
            text
        };
        let (query, expected) = (filled(query), filled(expected.trim()));
        let answer = client.query(&query).await?;
        let found = shown(&answer);
        // An empty answer and a total of nothing look alike.
        let fits = match expected.strip_prefix('!') {
            Some(refusal) => {
                let (code, part) = refusal.split_once(' ').unwrap_or((refusal, ""));
                found.strip_prefix('!').is_some_and(|found| found.starts_with(code) && found.contains(part))
            }
            None => found == expected || expected == "#0" && answer["totalSize"] == 0,
        };
        count += 1;
        if !fits {
            wrong.push(format!("{query}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(count >= 300, "{count} cases");
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn searches_find_words_where_they_are_told_to_look() -> Result<(), Failed> {
    let (_sandbox, client, _) = org().await?;
    let cases = [
        ("FIND {acme} RETURNING Account(Name)", "Acme"),
        ("FIND {acm*} RETURNING Account(Name)", "Acme"),
        ("FIND {acm} RETURNING Account(Name)", ""),
        ("FIND {acme OR birch} RETURNING Account(Name ORDER BY Name)", "Acme | Birch"),
        ("FIND {Prospect} RETURNING Account(Name WHERE Industry = 'Energy')", "Birch"),
        ("FIND {Prospect AND NOT Retail} RETURNING Account(Name)", "Birch"),
        ("FIND {ann@acme.example} IN EMAIL FIELDS RETURNING Contact(LastName)", "Ames"),
        ("FIND {acme} IN NAME FIELDS RETURNING Contact(LastName), Account(Name)", "Acme"),
        ("FIND {acme} IN ALL FIELDS RETURNING Contact(LastName), Account(Name)", "Ames | Acme"),
        ("FIND {émile} RETURNING Account(Name LIMIT 1)", "\u{c9}mile"),
        ("FIND {Prospect} RETURNING Account(Name ORDER BY Name DESC) LIMIT 1", "\u{c9}mile"),
        ("FIND {a} RETURNING Account(Name)", "!MALFORMED_SEARCH search term must be longer than one character"),
        ("FIND acme", "!MALFORMED_SEARCH No search term found. The search term must be enclosed in braces."),
        ("FIND {acme} RETURNING Account(Nope)", "!INVALID_FIELD"),
    ];
    for (search, expected) in cases {
        let request =
            client.http.get(format!("{}/search", client.base)).query(&[("q", search)]).bearer_auth(&client.token);
        let answer: Value = request.send().await?.json().await?;
        let found = match answer["searchRecords"].as_array() {
            Some(records) => rows(records),
            None => shown(&answer),
        };
        let fits = if expected.starts_with('!') { found.starts_with(expected) } else { found == expected };
        assert!(fits, "{search}: {found}, expected {expected}");
    }
    let parameters = "/parameterizedSearch?q=acme&sobject=Account&Account.fields=Name&Account.limit=1";
    assert_eq!(client.call("GET", parameters, None).await?.1["searchRecords"][0]["Name"], "Acme");
    let body =
        json!({"q": "Prospect", "fields": ["Name"], "sobjects": [{"name": "Account", "where": "Industry = 'Retail'"}]});
    let (_, answer) = client.call("POST", "/parameterizedSearch", Some(&body)).await?;
    assert_eq!(rows(answer["searchRecords"].as_array().map_or(&[][..], Vec::as_slice)), "\u{c9}mile");
    Ok(())
}
