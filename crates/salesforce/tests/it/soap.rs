//! SOAP against the sandbox, which writes its answers and its WSDLs by code of its own.

use outbound::Request;
use salesforce::soap::{LeadConversion, Wsdl};
use salesforce::{Client, Settings};
use sandbox::{Config, Definition, Sandbox};
use serde_json::{Map, Value, json};

use crate::{Failed, credentials, entries, open};

async fn account(client: &Client, name: &str) -> Result<String, Failed> {
    Ok(client.create("Account", &json!({"Name": name})).await?)
}

#[tokio::test]
async fn records_are_merged_undeleted_and_purged() -> Result<(), Failed> {
    let (sandbox, client) = open().await?;
    let (winner, loser) = (account(&client, "Acme").await?, account(&client, "ACME Inc").await?);
    let contact = client.create("Contact", &json!({"LastName": "Birch", "AccountId": loser})).await?;
    client.limits().await?;
    sandbox.expire_sessions();
    let fields = entries(json!({"Name": "Acme & Co", "Site": null}));
    let merged = client.merge("Account", &winner, &fields, &[&loser]).await?;
    assert_eq!((merged.id.as_deref(), merged.merged), (Some(winner.as_str()), vec![loser.clone()]));
    assert_eq!(merged.updated, std::slice::from_ref(&contact));
    assert_eq!(merged.errors, []);
    let page = client.query("SELECT Name FROM Account", false).await?;
    assert_eq!(page.records[0]["Name"], "Acme & Co", "the session that ended was renewed, and the merge done once");

    let refused = client.merge("Account", &winner, &Map::new(), &[&contact]).await?;
    assert_eq!(refused.id, None);
    assert!(!refused.errors.is_empty(), "{refused:?}");

    client.delete("Contact", &contact).await?;
    let back = client.undelete(&[&contact, &winner]).await?;
    assert!(back[0].success && !back[1].success, "{back:?}");
    assert_eq!(back[1].errors.len(), 1);
    client.delete("Contact", &contact).await?;
    assert!(client.empty_recycle_bin(&[&contact]).await?[0].success);
    assert!(!client.undelete(&[&contact]).await?[0].success);
    Ok(())
}

#[tokio::test]
async fn leads_are_converted_each_for_itself() -> Result<(), Failed> {
    let (_sandbox, client) = open().await?;
    let lead = client.create("Lead", &json!({"LastName": "Cedar", "Company": "Cedar Ltd"})).await?;
    let wanted = LeadConversion {
        lead: lead.clone(),
        status: "Closed - Converted".to_owned(),
        opportunity: Some("Ten bikes".to_owned()),
        ..LeadConversion::default()
    };
    let wrong = LeadConversion { lead: "00QSb0000000009".to_owned(), ..wanted.clone() };
    let converted = client.convert_leads(&[wanted, wrong]).await?;
    assert_eq!(converted[0].errors, []);
    assert!(converted[0].account.is_some() && converted[0].contact.is_some() && converted[0].opportunity.is_some());
    assert!(converted[1].account.is_none() && !converted[1].errors.is_empty());
    let soql = "SELECT IsConverted, ConvertedOpportunity.Name FROM Lead";
    let lead = &client.query(soql, false).await?.records[0];
    assert_eq!((&lead["IsConverted"], &lead["ConvertedOpportunity"]["Name"]), (&json!(true), &json!("Ten bikes")));
    Ok(())
}

#[tokio::test]
async fn faults_say_what_the_org_says() -> Result<(), Failed> {
    let (_sandbox, client) = open().await?;
    let user = client.query("SELECT Id FROM User", false).await?.records[0]["Id"].as_str().map(str::to_owned);
    let user = user.ok_or("no user")?;
    client.set_password(&user, &"Correct-horse-9".to_owned().into()).await?;
    let error = client.set_password(&user, &"a".to_owned().into()).await.expect_err("too plain");
    assert_eq!(error.code(), Some("INVALID_NEW_PASSWORD"), "{error:?}");
    assert!(!format!("{error:?}").contains("Correct-horse"));
    let made = client.reset_password(&user).await?;
    assert!(secrecy::ExposeSecret::expose_secret(&made).len() >= 8);
    Ok(())
}

#[tokio::test]
async fn classes_are_called_by_their_wsdl() -> Result<(), Failed> {
    let definition = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox/tests/clients/zeep_org.yaml");
    let config = Config { definition: Definition::load(&definition)?, ..Config::default() };
    let sandbox = Sandbox::start(config).await?;
    let client = Client::new(credentials(&sandbox), Settings::default())?;
    let text = client.send(&Request::get("/services/wsdl/class/Stock")).await?.bytes().await?;
    let wsdl = Wsdl::parse(std::str::from_utf8(&text)?)?;
    assert_eq!(wsdl.operations().collect::<Vec<_>>(), ["find", "nothing", "open", "put"]);

    let id = client.call_class(&wsdl, "put", &entries(json!({"name": "Röhre <1>", "price": 12}))).await?;
    assert!(id.as_str().is_some_and(|id| id.starts_with("001")), "{id}");
    let shelves = json!([{"label": "A", "places": [1, 2]}, {"label": null, "places": []}]);
    let asked = entries(json!({"name": "Röhre <1>", "shelves": shelves, "asked": "2026-03-01T10:00:00.000Z"}));
    let found = client.call_class(&wsdl, "find", &asked).await?;
    assert_eq!((&found["found"], &found["name"], &found["price"]), (&json!(true), &json!("Röhre <1>"), &json!(12.0)));
    assert_eq!(found["shelves"], shelves);
    let names = client.call_class(&wsdl, "open", &entries(json!({"names": ["a", "b"]}))).await?;
    assert_eq!(names, json!(["a", "b"]));
    assert_eq!(client.call_class(&wsdl, "nothing", &Map::new()).await?, Value::Null);

    for (operation, parameters) in
        [("missing", json!({})), ("put", json!({"nane": "x"})), ("open", json!({"names": {"a": 1}}))]
    {
        let error = client.call_class(&wsdl, operation, &entries(parameters)).await.expect_err(operation);
        assert_eq!(error.class(), model::Class::Mapping, "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn what_an_org_is_made_of_is_listed_and_read() -> Result<(), Failed> {
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/dreamhouse-lwc");
    let sandbox = Sandbox::start(Config { projects: vec![project], ..Config::default() }).await?;
    let client = Client::new(credentials(&sandbox), Settings::default())?;
    let types = client.metadata_types().await?;
    let objects = types.iter().find(|one| one.name == "CustomObject").ok_or("no objects")?;
    assert!(objects.parts.iter().any(|part| part == "ValidationRule"));
    let fields = client.list_metadata("CustomField").await?;
    assert!(fields.iter().any(|field| field.name == "Property__c.Price__c"));
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    assert!(names.len() > 10, "more than one call reads");
    let read = client.read_metadata("CustomField", &names).await?;
    assert_eq!(read.len(), names.len());
    let formula = read.iter().find(|field| field.value("fullName") == Some("Property__c.Days_On_Market__c"));
    assert_eq!(formula.and_then(|field| field.value("formula")), Some("TODAY() - Date_Listed__c"));
    assert!(client.read_metadata("CustomField", &["Property__c.Nope__c"]).await?.is_empty());
    let error = client.list_metadata("Nonsense").await.expect_err("no such type");
    assert_eq!(error.code(), Some("INVALID_TYPE"));
    Ok(())
}
