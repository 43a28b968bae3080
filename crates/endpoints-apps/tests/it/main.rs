//! The Salesforce endpoint under the contract, against the sandbox: by REST and by Bulk API 2.0.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use endpoint::{Journal, Result};
use endpoints_apps::salesforce::Org;
use salesforce::{Client, Credentials, Settings};
use sandbox::{Config, Sandbox};

/// A journal in memory.
#[derive(Default)]
struct Memory(Mutex<Vec<String>>);

impl Journal for Memory {
    fn begin(&self, _: &str, work: &str) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(work.to_owned());
        Ok(())
    }

    fn unfinished(&self, _: &str) -> Result<Vec<String>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn end(&self, _: &str, work: &str) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != work);
        Ok(())
    }
}

async fn check(bulk_rows: u64) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/contract-org");
    let sandbox = Sandbox::start(Config { projects: vec![project], ..Config::default() }).await?;
    let credentials = Credentials::ClientCredentials {
        login_url: sandbox.url().to_owned(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: "sandbox-secret".to_owned().into(),
    };
    let journal = Arc::new(Memory::default());
    let org = Org::new(Client::new(credentials, Settings::default())?, journal.clone(), bulk_rows);
    endpoint::contract::check(&org, "Widget__c", ["Key__c", "Name", "Amount__c", "At__c"]).await;
    assert!(journal.unfinished("contract")?.is_empty(), "no job is left behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_keeps_the_contract() -> std::result::Result<(), Box<dyn std::error::Error>> {
    check(u64::MAX).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_keeps_the_contract() -> std::result::Result<(), Box<dyn std::error::Error>> {
    check(1).await
}
