//! What an org does of its own when records are saved, as its definition says.

use sandbox::{Config, Definition, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed};

const RULES: &str = r#"
change_data_capture: [Account]
locks: { wait_ms: 20 }
automation:
  - { name: City_in_capitals, object: Account, condition: "NOT(ISBLANK(BillingCity))", set: { BillingCity: UPPER(BillingCity) } }
  - { name: No_Enron, object: Account, condition: "Name = \"Enron\"", fail: "We don't." }
  - name: Hot
    object: Account
    when: after
    condition: "AND(NumberOfEmployees > 100, NOT(ISPICKVAL(Rating, \"Hot\")))"
    set: { Rating: "\"Hot\"" }
    create: { object: Contact, fields: { LastName: "\"Buyer of \" & Name", AccountId: Id } }
  - { name: Loop, object: Account, when: after, condition: "Name = \"Loop\"", set: { Site: "Site & \"x\"" } }
  - { name: Cheaper, object: Account, when: before, on: [update], condition: "AnnualRevenue < PRIORVALUE(AnnualRevenue)", set: { Site: "\"was \" & TEXT(PRIORVALUE(AnnualRevenue))" } }
  - { name: Keep, object: Account, on: [delete], condition: "BEGINS(Name, \"Keep\")", fail: "It is kept." }
  - { name: Slow, object: Account, condition: "Name = \"Slow\"", takes_ms: 500 }
"#;

async fn org(rules: &str) -> Result<Result<Sandbox, String>, Failed> {
    crate::provider();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    let definition = Definition::load(file.path())?;
    Ok(Sandbox::start(Config { definition, ..Config::default() }).await.map_err(|error| error.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_rewrite_refuse_and_go_on_from_one_save_to_the_next() -> Result<(), Failed> {
    let sandbox = org(RULES).await??;
    let client = Client::sign_in(&sandbox).await?;
    let row = async |id: &str| {
        client.query(&format!("SELECT BillingCity, Rating, Site FROM Account WHERE Id = '{id}'")).await
    };
    // Before the save.
    let id = client.create("Account", json!({"Name": "Acme", "BillingCity": "Köln", "AnnualRevenue": 5})).await?;
    assert_eq!(row(&id).await?["records"][0]["BillingCity"], "KÖLN");
    let patch =
        async |id: &str, fields: Value| client.call("PATCH", &format!("/sobjects/Account/{id}"), Some(&fields)).await;
    assert_eq!(patch(&id, json!({"AnnualRevenue": 3})).await?.0, 204);
    assert_eq!(row(&id).await?["records"][0]["Site"], "was 5");
    // After it: a save that leads to another, and a record.
    let (status, answer) = patch(&id, json!({"NumberOfEmployees": 200})).await?;
    assert_eq!(status, 204, "{answer}");
    assert_eq!(row(&id).await?["records"][0]["Rating"], "Hot");
    let contacts = client.query("SELECT LastName, AccountId FROM Contact").await?;
    assert_eq!([&contacts["totalSize"], &contacts["records"][0]["LastName"]], [&json!(1), &json!("Buyer of Acme")]);
    // One that fails takes all of it back; one that leads to itself ends.
    for (name, message) in [
        ("Enron", "No_Enron: execution of Account caused by: We don't."),
        ("Loop", "Loop: maximum trigger depth exceeded"),
    ] {
        let (status, answer) = client.call("POST", "/sobjects/Account", Some(&json!({"Name": name}))).await?;
        assert_eq!(
            (status, &answer[0]["errorCode"]),
            (400, &json!("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY")),
            "{answer}"
        );
        assert_eq!(answer[0]["message"], message);
    }
    assert_eq!(client.query("SELECT COUNT() FROM Account").await?["totalSize"], 1);
    let kept = client.create("Account", json!({"Name": "Keep me"})).await?;
    let (status, answer) = client.call("DELETE", &format!("/sobjects/Account/{kept}"), None).await?;
    assert_eq!(
        (status, answer[0]["message"].as_str()),
        (400, Some("Keep: execution of Account caused by: It is kept."))
    );
    assert_eq!(client.call("DELETE", &format!("/sobjects/Account/{id}"), None).await?.0, 204);
    Ok(())
}

const ASSIGNED: &str = r#"
users: [{ username: bonn@example.com }, { username: rest@example.com }]
automation:
  - { name: Bonn, object: Lead, on: [create], condition: "City = \"Bonn\"", assign: bonn@example.com }
  - { name: Rest, object: Lead, on: [create], assign: rest@example.com }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_assignment_rule_that_applies_names_the_owner() -> Result<(), Failed> {
    let sandbox = org(ASSIGNED).await??;
    let client = Client::sign_in(&sandbox).await?;
    let owner = async |id: &Value| -> Result<Value, Failed> {
        let id = id.as_str().unwrap_or_default();
        let answer = client.query(&format!("SELECT Owner.Username FROM Lead WHERE Id = '{id}'")).await?;
        Ok(answer["records"][0]["Owner"]["Username"].clone())
    };
    let lead = |city: &str| json!({"LastName": "Öz", "Company": "Rad AG", "City": city});
    for (city, wanted) in [("Bonn", "bonn@example.com"), ("Köln", "rest@example.com")] {
        let id = client.create("Lead", lead(city)).await?;
        assert_eq!(owner(&json!(id)).await?, wanted);
    }
    let plain = client.http.post(format!("{}/sobjects/Lead", client.base)).bearer_auth(&client.token);
    let made: Value = plain.header("Sforce-Auto-Assign", "FALSE").json(&lead("Bonn")).send().await?.json().await?;
    assert_eq!(owner(&made["id"]).await?, "admin@sandbox.example");
    for (wrong, message) in [
        (ASSIGNED.replace("assign: rest@", "assign: nobody@"), "Rest: there is no user nobody@example.com"),
        (ASSIGNED.replace("name: Rest,", "name: Rest, when: after,"), "Rest: the owner is assigned before a save"),
    ] {
        let error = org(&wrong).await?.err().ok_or("it starts")?;
        assert!(error.contains(message), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_rule_holds_the_record() -> Result<(), Failed> {
    let sandbox = org(RULES).await??;
    let client = Client::sign_in(&sandbox).await?;
    let id = client.create("Account", json!({"Name": "Quick"})).await?;
    let path = format!("/sobjects/Account/{id}");
    let (slow, other) = (json!({"Name": "Slow"}), json!({"Site": "x"}));
    let second = async {
        // The other is refused while the first holds the record, which it does as soon as its save is seen.
        loop {
            let name =
                client.query(&format!("SELECT Name FROM Account WHERE Id = '{id}'")).await?["records"][0]["Name"]
                    .clone();
            if name == "Slow" {
                return client.call("PATCH", &path, Some(&other)).await;
            }
        }
    };
    let (first, second) = tokio::join!(client.call("PATCH", &path, Some(&slow)), second);
    assert_eq!(first?.0, 204);
    let (status, answer) = second?;
    assert_eq!((status, &answer[0]["errorCode"]), (400, &json!("UNABLE_TO_LOCK_ROW")), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_rule_that_can_not_be_is_said_before_the_org_starts() -> Result<(), Failed> {
    for (rule, why) in [
        ("{ name: R, object: Nothing }", "there is no object Nothing"),
        ("{ name: R, object: Account, condition: Nope = 1 }", "Nope = 1: Field Nope does not exist"),
        ("{ name: R, object: Account, set: { Nope: Name } }", "Account has no field Nope"),
        ("{ name: R, object: Account, create: { object: Contact, fields: {} } }", "`when: after`"),
        ("{ name: R, object: Account, sets: {} }", "sets"),
    ] {
        let said = match org(&format!("automation: [{rule}]")).await {
            Ok(started) => started.err().unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(why), "{rule}: {said}");
    }
    Ok(())
}
