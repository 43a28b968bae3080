//! Deploying by REST, what follows from it, and what is no package. Deploying by SOAP is `sf_deploy.mjs`.

use std::io::{Cursor, Write as _};

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, open, provider};

const XMLNS: &str = "xmlns=\"http://soap.sforce.com/2006/04/metadata\"";

/// Packs files.
fn packed(files: &[(&str, String)]) -> Result<Vec<u8>, Failed> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, body) in files {
        writer.start_file(*path, zip::write::SimpleFileOptions::default())?;
        writer.write_all(body.as_bytes())?;
    }
    Ok(writer.finish()?.into_inner())
}

fn manifest(types: &[(&str, &str)]) -> String {
    let types: String = types
        .iter()
        .map(|(of, member)| format!("<types><members>{member}</members><name>{of}</name></types>"))
        .collect();
    format!("<Package {XMLNS}>{types}<version>66.0</version></Package>")
}

fn object(label: &str, rest: &str) -> String {
    format!(
        "<CustomObject {XMLNS}>{rest}<deploymentStatus>Deployed</deploymentStatus><label>{label}</label><nameField>\
         <label>Name</label><type>Text</type></nameField><pluralLabel>{label}s</pluralLabel>\
         <sharingModel>ReadWrite</sharingModel></CustomObject>"
    )
}

fn field(name: &str, kind: &str) -> String {
    format!("<fields><fullName>{name}</fullName><label>{name}</label>{kind}</fields>")
}

/// Deploys a package; returns the result with its details.
async fn deploy(client: &Client, package: &[u8], options: Value) -> Result<Value, Failed> {
    let mut body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"json\"\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\nContent-Type: application/zip\r\n\r\n",
        json!({"deployOptions": options})
    )
    .into_bytes();
    body.extend_from_slice(package);
    body.extend_from_slice(b"\r\n--b--\r\n");
    let kind = [("content-type", "multipart/form-data; boundary=b")];
    let (status, _, answer) = client.raw("POST", "/metadata/deployRequest", &kind, body).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if status != 201 {
        return Err(format!("{status}: {answer}").into());
    }
    let id = answer["id"].as_str().unwrap_or_default();
    let (_, told) = client.call("GET", &format!("/metadata/deployRequest/{id}?includeDetails=true"), None).await?;
    Ok(told["deployResult"].clone())
}

async fn tooling(client: &Client, soql: &str) -> Result<Value, Failed> {
    let soql = soql.replace(' ', "+").replace('\'', "%27").replace('=', "%3D");
    let (status, found) = client.call("GET", &format!("/tooling/query?q={soql}"), None).await?;
    assert_eq!(status, 200, "{found}");
    Ok(found["records"].clone())
}

#[tokio::test]
async fn what_is_deployed_is_there_at_once_and_stays() -> Result<(), Failed> {
    provider();
    let folder = tempfile::tempdir()?;
    let config = Config { file: Some(folder.path().join("org.db")), ..Config::default() };
    let sandbox = Sandbox::start(config.clone()).await?;
    let client = Client::sign_in(&sandbox).await?;
    let size = "<precision>4</precision><scale>0</scale><type>Number</type>";
    let double = "<formula>Size__c * 2</formula><formulaTreatBlanksAs>BlankAsBlank</formulaTreatBlanksAs>\
                  <precision>9</precision><scale>0</scale><type>Number</type>";
    let whole = object("Thing", &(field("Size__c", size) + &field("Double__c", double)));
    let package = packed(&[
        ("package.xml", manifest(&[("CustomObject", "Thing__c")])),
        ("objects/Thing__c.object", whole.clone()),
    ])?;
    let done = deploy(&client, &package, json!({"rollbackOnError": true})).await?;
    assert_eq!((&done["status"], &done["numberComponentsDeployed"]), (&json!("Succeeded"), &json!(3)), "{done}");
    let id = client.create("Thing__c", json!({"Name": "One", "Size__c": 21})).await?;
    let found = client.query("SELECT Double__c FROM Thing__c").await?;
    assert_eq!(found["records"][0]["Double__c"], json!(42.0));
    let fields = tooling(&client, "SELECT DeveloperName, EntityDefinition.QualifiedApiName FROM CustomField").await?;
    assert_eq!(fields[0]["EntityDefinition"]["QualifiedApiName"], "Thing__c");
    let types = tooling(
        &client,
        "SELECT DataType FROM FieldDefinition WHERE EntityDefinition.QualifiedApiName = 'Thing__c' AND QualifiedApiName = 'Size__c'",
    )
    .await?;
    assert_eq!(types[0]["DataType"], "Number(4, 0)");
    let (status, _) = client.call("GET", "/query?q=SELECT+Id+FROM+CustomField", None).await?;
    assert_eq!(status, 400, "only the Tooling API has it");

    sandbox.stop().await;
    let sandbox = Sandbox::start(config).await?;
    let client = Client::sign_in(&sandbox).await?;
    let found = client.query("SELECT Id, Double__c FROM Thing__c").await?;
    assert_eq!((&found["records"][0]["Id"], &found["records"][0]["Double__c"]), (&json!(id), &json!(42.0)));

    // What is removed takes its values along.
    let removal =
        [("package.xml", manifest(&[])), ("destructiveChanges.xml", manifest(&[("CustomField", "Thing__c.Size__c")]))];
    let in_use = deploy(&client, &packed(&removal)?, json!({"rollbackOnError": true})).await?;
    assert_eq!(in_use["status"], "Failed");
    let problem = in_use["details"]["componentFailures"][0]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("referenced elsewhere") && problem.contains("Thing__c.Double__c"), "{problem}");
    let both = "<types><members>Thing__c.Size__c</members><members>Thing__c.Double__c</members><name>CustomField</name></types>";
    let both = format!("<Package {XMLNS}>{both}<version>66.0</version></Package>");
    let removal = [("package.xml", manifest(&[])), ("destructiveChanges.xml", both)];
    let gone = deploy(&client, &packed(&removal)?, json!({"rollbackOnError": true})).await?;
    assert_eq!(gone["status"], "Succeeded", "{gone}");
    let again = deploy(&client, &package, json!({"rollbackOnError": true})).await?;
    assert_eq!(again["status"], "Succeeded", "{again}");
    let found = client.query("SELECT Size__c FROM Thing__c").await?;
    assert_eq!(found["records"][0]["Size__c"], Value::Null, "a new field does not have an old one's values");
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_is_told_by_component_and_the_rest_stays_or_goes() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let size = "<precision>4</precision><scale>0</scale><type>Number</type>";
    let lookup = "<referenceTo>Nowhere__c</referenceTo><relationshipName>Things</relationshipName><type>Lookup</type>";
    let files = [
        ("package.xml", manifest(&[("CustomObject", "Thing__c"), ("CustomTab", "Thing__c"), ("Rocket", "X")])),
        ("objects/Thing__c.object", object("Thing", &(field("Size__c", size) + &field("Where__c", lookup)))),
        ("tabs/Other__c.tab", format!("<CustomTab {XMLNS}><customObject>true</customObject></CustomTab>")),
    ];
    let failed = deploy(&client, &packed(&files)?, json!({"rollbackOnError": true})).await?;
    assert_eq!((&failed["status"], &failed["numberComponentsDeployed"]), (&json!("Failed"), &json!(0)));
    let failures = failed["details"]["componentFailures"].as_array().cloned().unwrap_or_default();
    let problem = |name: &str| {
        let found = failures.iter().find(|failure| failure["fullName"] == name);
        found.map(|failure| failure["problem"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    assert_eq!(
        problem("Thing__c.Where__c"),
        "referenceTo value of 'Nowhere__c' does not resolve to a valid sObject type",
        "{failures:?}"
    );
    assert_eq!(problem("Other__c"), "Not in package.xml");
    assert_eq!(problem("X"), "Unknown type name 'Rocket' specified in package.xml");
    assert!(problem("Thing__c").contains("was not found in zipped directory"), "{failures:?}");
    assert!(client.query("SELECT Id FROM Thing__c").await?[0]["errorCode"] == "INVALID_TYPE", "nothing of it is there");

    let partial = deploy(&client, &packed(&files)?, json!({"rollbackOnError": false})).await?;
    assert_eq!(partial["status"], "SucceededPartial", "{partial}");
    client.create("Thing__c", json!({"Name": "One", "Size__c": 1})).await?;
    assert!(client.query("SELECT Where__c FROM Thing__c").await?[0]["errorCode"] == "INVALID_FIELD");
    Ok(())
}

#[tokio::test]
async fn a_permission_set_that_is_deployed_opens_what_it_names() -> Result<(), Failed> {
    provider();
    let definition = serde_json::from_value(json!({
        "profiles": {"Nobody": {"objects": {}}},
        "users": [{"username": "ed@example.com", "profile": "Nobody", "password": "x"}],
        "apps": [{"name": "Ed", "client_id": "ed", "client_secret": "s", "flows": ["client_credentials"], "run_as": "ed@example.com"}],
    }))?;
    let sandbox = Sandbox::start(Config { definition, ..Config::default() }).await?;
    let admin = Client::sign_in(&sandbox).await?;
    let set = format!(
        "<PermissionSet {XMLNS}><fieldPermissions><editable>false</editable><field>Account.Site</field><readable>false</readable>\
         </fieldPermissions><label>Reader</label><objectPermissions><allowCreate>false</allowCreate><allowDelete>false</allowDelete>\
         <allowEdit>false</allowEdit><allowRead>true</allowRead><object>Account</object></objectPermissions></PermissionSet>"
    );
    let files =
        [("package.xml", manifest(&[("PermissionSet", "Reader")])), ("permissionsets/Reader.permissionset", set)];
    assert_eq!(deploy(&admin, &packed(&files)?, json!({})).await?["status"], "Succeeded");
    let found = admin.query("SELECT Id FROM PermissionSet WHERE Name = 'Reader'").await?;
    let user = admin.query("SELECT Id FROM User WHERE Username = 'ed@example.com'").await?;
    let assignment = json!({"PermissionSetId": found["records"][0]["Id"], "AssigneeId": user["records"][0]["Id"]});
    admin.create("PermissionSetAssignment", assignment).await?;
    admin.create("Account", json!({"Name": "Acme", "Site": "HQ"})).await?;
    let form = [("grant_type", "client_credentials"), ("client_id", "ed"), ("client_secret", "s")];
    let granted: Value =
        admin.http.post(format!("{}/services/oauth2/token", sandbox.url())).form(&form).send().await?.json().await?;
    let token = granted["access_token"].as_str().ok_or("no token")?.to_owned();
    let ed = Client { http: admin.http.clone(), base: admin.base.clone(), token };
    assert_eq!(ed.query("SELECT Name FROM Account").await?["records"][0]["Name"], "Acme");
    assert_eq!(ed.query("SELECT Site FROM Account").await?[0]["errorCode"], "INVALID_FIELD");
    let (status, refused) = ed.call("GET", "/metadata/deployRequest/0Af000000000001", None).await?;
    assert_eq!((status, &refused[0]["errorCode"]), (403, &json!("INSUFFICIENT_ACCESS")));
    Ok(())
}

#[tokio::test]
async fn what_is_no_package_changes_nothing() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    // It says of itself that it holds little, and unpacks to a gigabyte.
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("package.xml", zip::write::SimpleFileOptions::default())?;
    writer.write_all(manifest(&[]).as_bytes())?;
    let zeros = vec![0; 1 << 20];
    for part in 0..2 {
        writer.start_file(format!("objects/{part}.object"), zip::write::SimpleFileOptions::default())?;
        for _ in 0..220 {
            writer.write_all(&zeros)?;
        }
    }
    let bomb = writer.finish()?.into_inner();
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());
    let entities = "<!DOCTYPE a [<!ENTITY x 'yyyyyyyyyy'>]><Package>&x;</Package>".to_owned();
    for (package, wanted) in [
        (bomb, "The unpacked files take more than"),
        (b"PK\x03\x04 nonsense".to_vec(), "Invalid zip file"),
        (Vec::new(), "Invalid zip file"),
        (packed(&[("objects/A__c.object", String::new())])?, "No package.xml found"),
        (packed(&[("package.xml", entities)])?, "a document type is not allowed"),
    ] {
        let failed = deploy(&client, &package, json!({})).await?;
        let problem = failed["details"]["componentFailures"][0]["problem"].as_str().unwrap_or_default().to_owned();
        assert!(problem.contains(wanted), "{wanted}: {failed}");
        assert_eq!(failed["status"], "Failed");
    }
    // What can't be read is told with its place.
    let broken = format!("<CustomObject {XMLNS}>\n  <label>A</lable></CustomObject>");
    let files = [("package.xml", manifest(&[("CustomObject", "A__c")])), ("objects/A__c.object", broken)];
    let failed = deploy(&client, &packed(&files)?, json!({})).await?;
    let failure = &failed["details"]["componentFailures"][0];
    assert_eq!((&failure["fileName"], &failure["lineNumber"]), (&json!("objects/A__c.object"), &json!(2)), "{failure}");
    Ok(())
}

#[tokio::test]
async fn a_quick_action_that_is_deployed_does_what_it_says() -> Result<(), Failed> {
    let (_sandbox, client) = open(Vec::new()).await?;
    let action = |rest: &str| format!("<QuickAction {XMLNS}><label>New Deal</label>{rest}</QuickAction>");
    let make = "<fieldOverrides><field>StageName</field><literalValue>Prospecting</literalValue></fieldOverrides>\
                <successMessage>Made.</successMessage><targetObject>Opportunity</targetObject>\
                <targetParentField>Account</targetParentField><type>Create</type>";
    let page = "<page>Some_Page</page><type>VisualforcePage</type>";
    let package = packed(&[
        (
            "package.xml",
            manifest(&[
                ("QuickAction", "Account.New_Deal"),
                ("QuickAction", "Account.Rename"),
                ("QuickAction", "Show"),
            ]),
        ),
        ("quickActions/Account.New_Deal.quickAction", action(make)),
        ("quickActions/Account.Rename.quickAction", action("<type>Update</type>")),
        ("quickActions/Show.quickAction", action(page)),
    ])?;
    let done = deploy(&client, &package, json!({})).await?;
    assert_eq!(done["success"], true, "{done}");
    let account = client.create("Account", json!({"Name": "Rad AG"})).await?;
    let listed = client.call("GET", "/sobjects/Account/quickActions", None).await?.1;
    let names: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    assert!(["NewTask", "LogACall", "Account.New_Deal", "Show"].iter().all(|name| names.contains(name)), "{names:?}");
    let global = client.call("GET", "/quickActions", None).await?.1;
    assert!(!global.to_string().contains("Account.New_Deal"), "{global}");
    let path = "/sobjects/Account/quickActions/New_Deal";
    assert_eq!(client.call("GET", &format!("{path}/defaultValues"), None).await?.1["StageName"], "Prospecting");
    let body = json!({"contextId": account, "record": {"Name": "Deal", "CloseDate": "2026-12-01"}});
    let (status, made) = client.call("POST", path, Some(&body)).await?;
    assert_eq!((status, &made["success"], &made["successMessage"]), (201, &json!(true), &json!("Made.")), "{made}");
    let id = made["id"].as_str().unwrap_or_default();
    let deal = client.call("GET", &format!("/sobjects/Opportunity/{id}"), None).await?.1;
    assert_eq!((&deal["AccountId"], &deal["StageName"]), (&json!(account), &json!("Prospecting")), "{deal}");
    // A change of the record itself.
    let body = json!({"contextId": account, "record": {"Name": "Rad SE"}});
    let (status, changed) = client.call("POST", "/quickActions/Account.Rename", Some(&body)).await?;
    assert_eq!((status, &changed["created"], &changed["id"]), (201, &json!(false), &json!(account)), "{changed}");
    assert_eq!(client.call("GET", &format!("/sobjects/Account/{account}"), None).await?.1["Name"], "Rad SE");
    // What is missing, what only a page does, what is not there.
    let (status, refused) = client.call("POST", path, Some(&json!({"contextId": account, "record": {}}))).await?;
    assert_eq!((status, &refused["errors"][0]["statusCode"]), (400, &json!("REQUIRED_FIELD_MISSING")), "{refused}");
    let (status, shown) = client.call("POST", "/quickActions/Show", Some(&json!({"record": {}}))).await?;
    assert_eq!((status, &shown["errors"][0]["statusCode"]), (400, &json!("INVALID_OPERATION")), "{shown}");
    assert_eq!(client.call("POST", "/quickActions/Nothing", Some(&json!({}))).await?.0, 404);
    Ok(())
}
