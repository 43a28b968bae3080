//! A project with its org, made anew for each test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use salesforce::soap::Element;
use sandbox::{Config, Sandbox};
use tempfile::TempDir;

pub(crate) type Failed = Box<dyn std::error::Error>;

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The example project with its org; the ERP has a customer for each order, the org has none.
pub(crate) struct Bench {
    folder: TempDir,
    pub(crate) sandbox: Sandbox,
}

/// An org that tells of changes.
fn config(folder: &Path) -> Config {
    let mut config = Config { projects: vec![folder.join("org")], api_calls: 1_000_000, ..Config::default() };
    config.definition.change_data_capture = vec!["Account".to_owned()];
    config
}

/// A client of an org.
pub(crate) fn client_of(sandbox: &Sandbox) -> Result<salesforce::Client, Failed> {
    let credentials = salesforce::Credentials::ClientCredentials {
        login_url: sandbox.url().to_owned(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: "sandbox-secret".to_owned().into(),
    };
    Ok(salesforce::Client::new(credentials, salesforce::Settings::default())?)
}

impl Bench {
    pub(crate) async fn new() -> Result<Self, Failed> {
        Self::with(|_| {}).await
    }

    /// The same with its org set up otherwise.
    pub(crate) async fn with(set_up: impl FnOnce(&mut Config)) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        copy(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/bicycle"), folder.path())?;
        let mut config = config(folder.path());
        set_up(&mut config);
        let sandbox = Sandbox::start(config).await?;
        let bench = Self { folder, sandbox };
        bench.erp()?.execute_batch(include_str!("../../../../examples/bicycle/erp.sql"))?;
        Ok(bench)
    }

    /// The same project with its org started anew, after a change of the org's metadata.
    pub(crate) async fn restarted(self) -> Result<Self, Failed> {
        let Self { folder, sandbox } = self;
        sandbox.stop().await;
        Ok(Self { sandbox: Sandbox::start(config(folder.path())).await?, folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn erp(&self) -> Result<Connection, Failed> {
        Ok(Connection::open(self.path("erp.db"))?)
    }

    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) -> Result<(), Failed> {
        let text = std::fs::read_to_string(self.path(name))?;
        assert!(text.contains(from), "{name} has {from}");
        Ok(std::fs::write(self.path(name), text.replace(from, to))?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        command.arg("-C").arg(self.folder.path()).args(arguments);
        command.env("BICYCLE_ORG_URL", self.sandbox.url()).env("BICYCLE_ORG_SECRET", "sandbox-secret");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn call(&self, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = self.command(arguments);
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// Runs a command and checks its exit code and that it says all of `parts`.
    pub(crate) async fn expect(&self, arguments: &[&str], code: i32, parts: &[&str]) -> Result<(), Failed> {
        let output = self.call(arguments).await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?} says {part:?}: {text}");
        }
        assert!(!text.contains("sandbox-secret"), "no secret is shown: {text}");
        Ok(())
    }

    pub(crate) fn client(&self) -> Result<salesforce::Client, Failed> {
        client_of(&self.sandbox)
    }

    /// Gives the org a rule that refuses accounts of a place, and returns what a plan says of it.
    pub(crate) async fn refuse_ghosts(&self) -> Result<&'static str, Failed> {
        let client = self.client()?;
        let rule = Element::new("metadata")
            .of_type("ValidationRule")
            .with(Element::text("fullName", "Account.No_Ghosts"))
            .with(Element::text("active", "true"))
            .with(Element::text("errorConditionFormula", "BillingCity = \"Nowhere\""))
            .with(Element::text("errorMessage", "There is nobody there."));
        let call = Element::new("createMetadata").with(rule);
        let answer = client.soap(&client.metadata(), &call).await?;
        assert_eq!(answer.child("result").and_then(|result| result.value("success")), Some("true"), "{answer:?}");
        Ok("drift: Account: the rule No_Ghosts is new: BillingCity = \"Nowhere\" (There is nobody there.)")
    }

    /// Turns the customers' way round and gives the ERP `rows` of them, so that there is something to write in bulk
    /// both ways.
    pub(crate) fn customers_in(&self, rows: usize) -> Result<(), Failed> {
        self.edit(
            "bridgehead.yaml",
            "customers_out, mapping: customers, direction: to_external, deletes: propagate",
            "customers_in, mapping: customers, direction: to_salesforce",
        )?;
        self.edit(
            "mappings/customers.yaml",
            "rules:\n  - { name: revenue_not_negative, check: \"AnnualRevenue >= 0\", on_fail: dead_letter }\n",
            "",
        )?;
        self.edit("bridgehead.yaml", "kind: salesforce", "kind: salesforce\n    bulk_rows: 500")?;
        let erp = self.erp()?;
        let transaction = erp.unchecked_transaction()?;
        {
            let mut insert = transaction.prepare("INSERT INTO customers VALUES (?1, ?2, ?3, 'FRANCE', ?4, NULL)")?;
            for row in 0..rows {
                let name = format!("N\u{e4}me, \"{row}\"");
                insert.execute([format!("C-{row:06}"), name, format!("Town {}", row % 7), row.to_string()])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Turns the customers' way round once more, into a table of their own.
    pub(crate) fn customers_back(&self) -> Result<(), Failed> {
        self.edit(
            "bridgehead.yaml",
            "customers_in, mapping: customers, direction: to_salesforce",
            "customers_back, mapping: customers, direction: to_external",
        )?;
        self.edit("mappings/customers.yaml", "entity: customers, key: id }", "entity: back, key: id, create: true }")
    }

    pub(crate) async fn org_customers(&self) -> Result<Vec<(String, String, String)>, Failed> {
        let client = self.client()?;
        let soql = "SELECT Customer_No__c, Name, BillingCity FROM Account WHERE Customer_No__c != null ORDER BY Customer_No__c";
        let (mut page, mut rows) = (Some(client.query(soql, false).await?), Vec::new());
        while let Some(current) = page {
            let text = |record: &serde_json::Map<String, serde_json::Value>, name: &str| {
                record.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
            };
            rows.extend(
                current
                    .records
                    .iter()
                    .map(|record| (text(record, "Customer_No__c"), text(record, "Name"), text(record, "BillingCity"))),
            );
            page = client.next_page(&current).await?;
        }
        Ok(rows)
    }

    pub(crate) fn erp_customers(&self, table: &str) -> Result<Vec<(String, String, String)>, Failed> {
        let erp = self.erp()?;
        let mut statement = erp.prepare(&format!("SELECT id, name, city FROM {table} ORDER BY id"))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
