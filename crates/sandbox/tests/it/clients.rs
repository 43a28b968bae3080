//! Clients that we did not write, at work against the sandbox: their scripts are in `tests/clients/`.

use std::process::Command;

use sandbox::{Config, Sandbox};

use crate::{Failed, here};

fn setting(name: &str) -> Result<String, Failed> {
    Ok(std::env::var(name).map_err(|_| format!("{name} is not set; `cargo xtask test` installs the clients"))?)
}

/// Runs a client's script with the address of an org as its first argument.
async fn judged_by(mut command: Command, script: &str, rest: &[&str]) -> Result<(), Failed> {
    crate::provider();
    let org = here("../../examples/bicycle/org");
    let sandbox = Sandbox::start(Config { projects: vec![org], ..Config::default() }).await?;
    command.arg(here("tests/clients").join(script)).arg(sandbox.url()).args(rest);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("as in an org").count(), 5, "every part ran: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_salesforce_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    judged_by(Command::new(setting("BRIDGEHEAD_TEST_PYTHON")?), "simple_salesforce_client.py", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn jsforce_takes_the_sandbox_for_an_org() -> Result<(), Failed> {
    let modules = setting("BRIDGEHEAD_TEST_NODE_MODULES")?;
    judged_by(Command::new("node"), "jsforce_client.mjs", &[&modules]).await
}
