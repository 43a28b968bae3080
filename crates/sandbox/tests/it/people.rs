//! Accounts that are persons.

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, project, provider};

async fn org() -> Result<(Sandbox, Client), Failed> {
    provider();
    let definition = serde_json::from_value(json!({"organization": {"person_accounts": true}}))?;
    let projects = vec![project("dreamhouse-lwc")];
    let sandbox = Sandbox::start(Config { definition, projects, ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    Ok((sandbox, client))
}

#[tokio::test]
async fn a_person_is_an_account_and_a_contact_that_go_together() -> Result<(), Failed> {
    let (_sandbox, client) = org().await?;
    let ada = json!({"FirstName": "Ada", "LastName": "Birch", "PersonEmail": "ada@example.com", "PersonMailingCity": "Bonn", "Phone": "1"});
    let account = client.create("Account", ada).await?;
    let soql =
        "SELECT Name, IsPersonAccount, RecordType.DeveloperName, PersonContactId, PersonContact.Email FROM Account";
    let found = &client.query(soql).await?["records"][0];
    assert_eq!(
        (&found["Name"], &found["IsPersonAccount"], &found["RecordType"]["DeveloperName"]),
        (&json!("Ada Birch"), &json!(true), &json!("PersonAccount"))
    );
    assert_eq!(found["PersonContact"]["Email"], "ada@example.com");
    let contact = found["PersonContactId"].as_str().ok_or("no contact")?.to_owned();
    let contacts = "SELECT Id, Name, MailingCity, AccountId, IsPersonAccount FROM Contact";
    let found = client.query(contacts).await?;
    let half = &found["records"][0];
    assert_eq!((&found["totalSize"], &half["Id"], &half["AccountId"]), (&json!(1), &json!(contact), &json!(account)));
    assert_eq!((&half["Name"], &half["MailingCity"]), (&json!("Ada Birch"), &json!("Bonn")));

    // Each half follows the other.
    let (status, answer) = client
        .call(
            "PATCH",
            &format!("/sobjects/Account/{account}"),
            Some(&json!({"LastName": "Cedar", "PersonEmail": null})),
        )
        .await?;
    assert_eq!(status, 204, "{answer}");
    let half = &client.query("SELECT Name, Email FROM Contact").await?["records"][0];
    assert_eq!((&half["Name"], &half["Email"]), (&json!("Ada Cedar"), &Value::Null));
    let (status, answer) = client
        .call(
            "PATCH",
            &format!("/sobjects/Contact/{contact}"),
            Some(&json!({"FirstName": "Eve", "MailingCity": "Ulm"})),
        )
        .await?;
    assert_eq!(status, 204, "{answer}");
    let whole = &client.query("SELECT Name, PersonMailingCity, Phone FROM Account").await?["records"][0];
    assert_eq!(
        (&whole["Name"], &whole["PersonMailingCity"], &whole["Phone"]),
        (&json!("Eve Cedar"), &json!("Ulm"), &json!("1"))
    );

    let (status, _) = client.call("DELETE", &format!("/sobjects/Contact/{contact}"), None).await?;
    assert_eq!(status, 403, "half a person can't go");
    assert_eq!(client.call("DELETE", &format!("/sobjects/Account/{account}"), None).await?.0, 204);
    assert_eq!(client.query(contacts).await?["totalSize"], 0);
    Ok(())
}

#[tokio::test]
async fn a_business_has_no_fields_of_a_person() -> Result<(), Failed> {
    let (_sandbox, client) = org().await?;
    let business = client.create("Account", json!({"Name": "Acme", "Site": "HQ"})).await?;
    let found = &client.query("SELECT Name, IsPersonAccount, PersonContactId FROM Account").await?["records"][0];
    assert_eq!(
        (&found["Name"], &found["IsPersonAccount"], &found["PersonContactId"]),
        (&json!("Acme"), &json!(false), &Value::Null)
    );
    let kind =
        client.query("SELECT Id FROM RecordType WHERE DeveloperName = 'PersonAccount'").await?["records"][0]["Id"]
            .clone();
    for (record, code) in [
        (json!({"Name": "Acme", "LastName": "Birch"}), "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (json!({"Name": "Acme", "PersonEmail": "a@example.com"}), "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (json!({"RecordTypeId": kind, "FirstName": "Ada"}), "REQUIRED_FIELD_MISSING"),
        (json!({"Site": "HQ"}), "REQUIRED_FIELD_MISSING"),
    ] {
        let (status, refused) = client.call("POST", "/sobjects/Account", Some(&record)).await?;
        assert_eq!((status, &refused[0]["errorCode"]), (400, &json!(code)), "{record}: {refused}");
    }
    for (change, code) in [
        (json!({"PersonEmail": "a@example.com"}), "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (json!({"LastName": "Birch"}), "INVALID_FIELD_FOR_INSERT_UPDATE"),
    ] {
        let (_, refused) = client.call("PATCH", &format!("/sobjects/Account/{business}"), Some(&change)).await?;
        assert_eq!(refused[0]["errorCode"], code, "{change}: {refused}");
    }
    let employee = client.create("Contact", json!({"LastName": "Dogwood", "AccountId": business})).await?;
    let (status, _) = client
        .call("PATCH", &format!("/sobjects/Contact/{employee}"), Some(&json!({"Email": "d@example.com"})))
        .await?;
    assert_eq!(status, 204);
    Ok(())
}
