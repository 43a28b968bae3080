//! Who sees and changes the records of others.

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, provider};

async fn as_user(sandbox: &Sandbox, admin: &Client, app: &str) -> Result<Client, Failed> {
    let form = [("grant_type", "client_credentials"), ("client_id", app), ("client_secret", "s")];
    let granted: Value =
        admin.http.post(format!("{}/services/oauth2/token", sandbox.url())).form(&form).send().await?.json().await?;
    let token = granted["access_token"].as_str().ok_or_else(|| granted.to_string())?.to_owned();
    Ok(Client { http: admin.http.clone(), base: admin.base.clone(), token })
}

#[tokio::test]
async fn records_are_seen_and_changed_by_their_owners_and_those_above() -> Result<(), Failed> {
    provider();
    let all = json!(["create", "read", "edit", "delete"]);
    let user = |name: &str, role: &str, profile: &str| json!({"username": format!("{name}@example.com"), "profile": profile, "role": role});
    let app = |name: &str| {
        json!({"name": name, "client_id": name, "client_secret": "s", "flows": ["client_credentials"],
               "run_as": format!("{name}@example.com")})
    };
    let definition = serde_json::from_value(json!({
        "profiles": {
            "Sales": {"objects": {"Account": all, "Contact": all, "Opportunity": all}},
            "Audit": {"objects": {"Account": all}, "user_permissions": ["ViewAllData"]},
        },
        "roles": {"Board": null, "Director": "Board", "East": "Director", "West": "Director"},
        "sharing": {"Account": "private", "Contact": "controlled_by_parent", "Opportunity": "read"},
        "users": [user("east", "East", "Sales"), user("west", "West", "Sales"), user("boss", "Board", "Sales"),
                  user("audit", "West", "Audit")],
        "apps": [app("east"), app("west"), app("boss"), app("audit")],
    }))?;
    let sandbox = Sandbox::start(Config { definition, ..Config::default() }).await?;
    let admin = Client::sign_in(&sandbox).await?;
    let (east, west) = (as_user(&sandbox, &admin, "east").await?, as_user(&sandbox, &admin, "west").await?);
    let (boss, audit) = (as_user(&sandbox, &admin, "boss").await?, as_user(&sandbox, &admin, "audit").await?);
    let account = east.create("Account", json!({"Name": "Eastern"})).await?;
    east.create("Contact", json!({"LastName": "Birch", "AccountId": account})).await?;
    let deal = east
        .create(
            "Opportunity",
            json!({"Name": "Deal", "StageName": "Prospecting", "CloseDate": "2026-01-01", "AccountId": account}),
        )
        .await?;
    west.create("Account", json!({"Name": "Western"})).await?;

    let names = |found: &Value| -> Vec<String> {
        let records = found["records"].as_array().cloned().unwrap_or_default();
        records.iter().map(|record| record["Name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let soql = "SELECT Name FROM Account ORDER BY Name";
    assert_eq!(names(&east.query(soql).await?), ["Eastern"]);
    assert_eq!(names(&west.query(soql).await?), ["Western"]);
    for client in [&boss, &audit, &admin] {
        assert_eq!(names(&client.query(soql).await?), ["Eastern", "Western"]);
    }
    assert_eq!(west.query("SELECT Id FROM Contact").await?["totalSize"], 0, "as its account");
    assert_eq!(boss.query("SELECT Id FROM Contact").await?["totalSize"], 1);
    assert_eq!(west.query("SELECT count() FROM Account").await?["totalSize"], 1);
    let seen = west.query("SELECT Name, Account.Name FROM Opportunity").await?;
    assert_eq!((&seen["records"][0]["Name"], &seen["records"][0]["Account"]), (&json!("Deal"), &Value::Null), "{seen}");
    assert_eq!(west.query("SELECT Id, (SELECT Id FROM Contacts) FROM Account").await?["totalSize"], 1);
    let (status, _) = west.call("GET", &format!("/sobjects/Account/{account}"), None).await?;
    assert_eq!(status, 404);
    let (status, found) = west.call("GET", "/search?q=FIND+%7BEastern%7D+RETURNING+Account(Name)", None).await?;
    assert_eq!((status, found["searchRecords"].as_array().map(Vec::len)), (200, Some(0)));

    let change = |name: &str| Some(json!({"Name": name}));
    for (client, path, wanted) in [
        (&west, format!("/sobjects/Account/{account}"), 404),
        (&west, format!("/sobjects/Opportunity/{deal}"), 403),
        (&audit, format!("/sobjects/Account/{account}"), 403),
        (&boss, format!("/sobjects/Account/{account}"), 204),
        (&boss, format!("/sobjects/Opportunity/{deal}"), 204),
    ] {
        let (status, answer) = client.call("PATCH", &path, change("Changed").as_ref()).await?;
        assert_eq!(status, wanted, "{path}: {answer}");
    }
    let (status, _) = west.call("DELETE", &format!("/sobjects/Opportunity/{deal}"), None).await?;
    assert_eq!(status, 403);
    // A new owner takes the record along.
    let other =
        admin.query("SELECT Id FROM User WHERE Username = 'west@example.com'").await?["records"][0]["Id"].clone();
    admin.call("PATCH", &format!("/sobjects/Account/{account}"), Some(&json!({"OwnerId": other}))).await?;
    assert_eq!(names(&west.query(soql).await?), ["Changed", "Western"]);
    assert_eq!(names(&east.query(soql).await?), Vec::<String>::new());
    Ok(())
}
