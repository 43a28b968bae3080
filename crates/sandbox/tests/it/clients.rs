//! Clients that we did not write, at work against the sandbox: their scripts are in `tests/clients/`.

use std::process::Command;

use sandbox::{Config, ManagedSubscription, Sandbox};

use serde_json::json;

use crate::{Client, Failed, here};

fn setting(name: &str) -> Result<String, Failed> {
    Ok(std::env::var(name).map_err(|_| format!("{name} is not set; `cargo xtask test` installs the clients"))?)
}

/// Runs a client's script with the address of an org as its first argument.
async fn judged_by(command: Command, script: &str, rest: &[&str], parts: usize) -> Result<(), Failed> {
    let sandbox = org().await?;
    judged_at(&sandbox, command, script, rest, parts).await
}

async fn org() -> Result<Sandbox, Failed> {
    crate::provider();
    let org = here("../../examples/bicycle/org");
    let refresh_token = Some("5Aep-for-the-tap".to_owned());
    Ok(Sandbox::start(Config { projects: vec![org], refresh_token, ..Config::default() }).await?)
}

async fn judged_at(
    sandbox: &Sandbox,
    mut command: Command,
    script: &str,
    rest: &[&str],
    parts: usize,
) -> Result<(), Failed> {
    command.arg(here("tests/clients").join(script)).arg(sandbox.url()).args(rest);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("as in an org").count(), parts, "every part ran: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_salesforce_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    judged_by(Command::new(setting("BRIDGEHEAD_TEST_PYTHON")?), "simple_salesforce_client.py", &[], 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn jsforce_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    judged_by(Command::new("node"), "jsforce_client.mjs", &[&modules], 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn jsforce_listens_to_the_sandbox() -> Result<(), Failed> {
    crate::provider();
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    let mut config = Config { projects: vec![here("../../../shared/data/ebikes-lwc")], ..Config::default() };
    config.definition.change_data_capture = vec!["Account".to_owned()];
    let sandbox = Sandbox::start(config).await?;
    judged_at(&sandbox, Command::new("node"), "jsforce_streaming.mjs", &[&modules], 4).await
}

/// An org that publishes changes of accounts and contacts, and keeps a subscription's position.
async fn telling() -> Result<Sandbox, Failed> {
    crate::provider();
    let mut config = Config { projects: vec![here("../../../shared/data/ebikes-lwc")], ..Config::default() };
    config.definition.change_data_capture = vec!["Account".to_owned(), "Contact".to_owned()];
    let (name, topic) = ("Accounts".to_owned(), "/data/AccountChangeEvent".to_owned());
    config.definition.managed_event_subscriptions = vec![ManagedSubscription { name, topic, earliest: true }];
    Ok(Sandbox::start(config).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn python_s_cometd_client_listens_to_the_sandbox() -> Result<(), Failed> {
    crate::provider();
    let mut config = Config { projects: vec![here("../../../shared/data/ebikes-lwc")], ..Config::default() };
    config.definition.change_data_capture = vec!["Account".to_owned()];
    let member = |event: &str, fields: &[&str]| sandbox::EventChannelMember {
        event: event.to_owned(),
        enriched_fields: fields.iter().map(|name| (*name).to_owned()).collect(),
        filter: None,
    };
    config.definition.platform_event_channels = vec![sandbox::EventChannel {
        name: "Sales__chn".to_owned(),
        members: vec![member("AccountChangeEvent", &["AccountNumber"]), member("ContactChangeEvent", &[])],
    }];
    let sandbox = Sandbox::start(config).await?;
    judged_at(&sandbox, Command::new(setting("BRIDGEHEAD_TEST_PYTHON")?), "aiosfstream_client.py", &[], 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn zeep_takes_the_sandbox_for_an_org_by_its_own_wsdls() -> Result<(), Failed> {
    crate::provider();
    let definition = sandbox::Definition::load(&here("tests/clients/zeep_org.yaml"))?;
    let projects = vec![here("../../../shared/data/ebikes-lwc")];
    let sandbox = Sandbox::start(Config { projects, definition, ..Config::default() }).await?;
    judged_at(&sandbox, Command::new(setting("BRIDGEHEAD_TEST_PYTHON")?), "zeep_client.py", &[], 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_s_pubsub_client_listens_to_the_sandbox() -> Result<(), Failed> {
    let sandbox = telling().await?;
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    judged_at(&sandbox, Command::new("node"), "pubsub_node.mjs", &[&modules], 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_s_pubsub_stubs_listen_to_the_sandbox() -> Result<(), Failed> {
    let sandbox = telling().await?;
    judged_at(&sandbox, Command::new(setting("BRIDGEHEAD_TEST_PYTHON")?), "pubsub_python.py", &[], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_singer_tap_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    let sandbox = org().await?;
    let client = Client::sign_in(&sandbox).await?;
    sandbox.seed(2500, 1, Some("Account"))?;
    let account = client.query("SELECT Id FROM Account LIMIT 1").await?["records"][0]["Id"].clone();
    let contact = json!({"attributes": {"type": "Contact"}, "LastName": "\u{d6}z \"x\", y", "AccountId": account});
    let body = json!({"records": vec![contact; 30]});
    client.call("POST", "/composite/sobjects", Some(&body)).await?;
    judged_at(&sandbox, Command::new(setting("BRIDGEHEAD_TEST_TAP_PYTHON")?), "singer_tap.py", &[], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_in_a_browser() -> Result<(), Failed> {
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    let sandbox = org().await?;
    let client = Client::sign_in(&sandbox).await?;
    client.create("Account", json!({"Name": "\u{d6}z <b>bold</b>"})).await?;
    judged_at(&sandbox, Command::new("node"), "page_browser.mjs", &[&modules], 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn salesforce_s_own_command_line_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    judged_by(Command::new("node"), "sf_client.mjs", &[&modules], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn salesforce_s_own_command_line_deploys_to_the_sandbox_and_retrieves_from_it() -> Result<(), Failed> {
    crate::provider();
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    let sandbox = Sandbox::start(Config::default()).await?;
    let projects = here("../../../shared/data").display().to_string();
    judged_at(&sandbox, Command::new("node"), "sf_deploy.mjs", &[&modules, &projects], 7).await
}
