//! The whole program: the binary, the sandbox, SQLite.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use sandbox::{Config, Sandbox};
use tempfile::TempDir;

type Failed = Box<dyn std::error::Error>;

const ROWS: usize = 6_000;

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
struct Bench {
    folder: TempDir,
    sandbox: Sandbox,
}

impl Bench {
    async fn new() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        copy(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/bicycle"), folder.path())?;
        let config = Config { projects: vec![folder.path().join("org")], api_calls: 1_000_000, ..Config::default() };
        let sandbox = Sandbox::start(config).await?;
        let bench = Self { folder, sandbox };
        bench.erp()?.execute_batch(include_str!("../../../../examples/bicycle/erp.sql"))?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn erp(&self) -> Result<Connection, Failed> {
        Ok(Connection::open(self.path("erp.db"))?)
    }

    fn edit(&self, name: &str, from: &str, to: &str) -> Result<(), Failed> {
        let text = std::fs::read_to_string(self.path(name))?;
        assert!(text.contains(from), "{name} has {from}");
        Ok(std::fs::write(self.path(name), text.replace(from, to))?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        command.arg("-C").arg(self.folder.path()).args(arguments);
        command.env("BICYCLE_ORG_URL", self.sandbox.url()).env("BICYCLE_ORG_SECRET", "sandbox-secret");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn call(&self, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = self.command(arguments);
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// Runs a command and checks its exit code and that it says all of `parts`.
    async fn expect(&self, arguments: &[&str], code: i32, parts: &[&str]) -> Result<(), Failed> {
        let output = self.call(arguments).await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?} says {part:?}: {text}");
        }
        assert!(!text.contains("sandbox-secret"), "no secret is shown: {text}");
        Ok(())
    }

    fn client(&self) -> Result<salesforce::Client, Failed> {
        let credentials = salesforce::Credentials::ClientCredentials {
            login_url: self.sandbox.url().to_owned(),
            client_id: self.sandbox.client_id().to_owned(),
            client_secret: "sandbox-secret".to_owned().into(),
        };
        Ok(salesforce::Client::new(credentials, salesforce::Settings::default())?)
    }

    /// Turns the customers' way round, so that there is something to write in bulk both ways.
    fn customers_in(&self) -> Result<(), Failed> {
        self.edit(
            "bridgehead.yaml",
            "customers_out, mapping: customers, direction: to_external, deletes: propagate",
            "customers_in, mapping: customers, direction: to_salesforce",
        )?;
        self.edit(
            "mappings/customers.yaml",
            "external: { connection: erp, entity: customers, key: id }",
            "external: { connection: erp, entity: customers, key: id }",
        )?;
        self.edit(
            "mappings/customers.yaml",
            "rules:\n  - { name: revenue_not_negative, check: \"AnnualRevenue >= 0\", on_fail: dead_letter }\n",
            "",
        )?;
        self.edit("bridgehead.yaml", "kind: salesforce", "kind: salesforce\n    bulk_rows: 500")?;
        let erp = self.erp()?;
        let transaction = erp.unchecked_transaction()?;
        for row in 0..ROWS {
            let sql = "INSERT INTO customers VALUES (?1, ?2, ?3, 'FRANCE', ?4, NULL)";
            let revenue = row.to_string();
            transaction.execute(
                sql,
                [format!("C-{row:05}"), format!("N\u{e4}me, \"{row}\""), format!("Town {}", row % 7), revenue],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// Kills a run once the org has answered `calls` more calls, or lets it end.
    fn killed_after(&self, calls: u64, arguments: &[&str]) -> Result<bool, Failed> {
        let until = self.sandbox.api_calls() + calls;
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        loop {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            if self.sandbox.api_calls() >= until {
                child.kill()?;
                child.wait()?;
                return Ok(true);
            }
            std::thread::yield_now();
        }
    }

    async fn org_customers(&self) -> Result<Vec<(String, String, String)>, Failed> {
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

    fn erp_customers(&self, table: &str) -> Result<Vec<(String, String, String)>, Failed> {
        let erp = self.erp()?;
        let mut statement = erp.prepare(&format!("SELECT id, name, city FROM {table} ORDER BY id"))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_leaves_a_project() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
    command.arg("demo").arg("--folder").arg(folder.path().join("demo"));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["5000 created", "1 updated", "MISSING_PARENT", "STRING_TOO_LONG", "nothing was lost"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(folder.path().join("demo/bridgehead.yaml").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_at_many_moments_loses_and_doubles_nothing() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in()?;
    let mut killed = 0;
    // Each try gets a little further; together they hit sign-in, describe, upload, polling and results.
    for calls in [1, 3, 5, 6, 7, 8, 9, 10, 12, 14] {
        killed += u32::from(bench.killed_after(calls, &["run", "customers_in", "--full"])?);
    }
    assert!(killed >= 5, "the moments are within the run: {killed}");
    bench.expect(&["run", "customers_in", "--full"], 0, &["no row missing"]).await?;
    let source = bench.erp_customers("customers")?;
    assert_eq!(source.len(), ROWS);
    assert_eq!(bench.org_customers().await?, source, "each row once, with its values");

    // The other way, into a table of its own.
    bench.edit(
        "bridgehead.yaml",
        "customers_in, mapping: customers, direction: to_salesforce",
        "customers_back, mapping: customers, direction: to_external",
    )?;
    bench.edit("mappings/customers.yaml", "entity: customers, key: id }", "entity: back, key: id, create: true }")?;
    let mut killed = 0;
    for calls in [1, 2, 3, 4, 5, 6, 7] {
        killed += u32::from(bench.killed_after(calls, &["run", "customers_back", "--full"])?);
    }
    assert!(killed >= 4, "most moments are within the run: {killed}");
    bench.expect(&["run", "customers_back"], 0, &["no row missing"]).await?;
    assert_eq!(bench.erp_customers("back")?, source, "each row once, with its values");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_travel_and_the_brake_holds() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let client = bench.client()?;
    let mut ids = Vec::new();
    for number in 0..30 {
        let fields = serde_json::json!({"Name": format!("A{number}"), "Customer_No__c": format!("C-{number:02}"), "BillingCity": "X"});
        ids.push(client.create("Account", &fields).await?);
    }
    bench.expect(&["plan", "customers_out"], 0, &["reads everything, 30 rows"]).await?;
    bench.expect(&["run", "customers_out"], 0, &["30 created"]).await?;
    client.delete("Account", &ids[0]).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 deleted"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 29);
    for id in &ids[1..20] {
        client.delete("Account", id).await?;
    }
    bench.expect(&["run", "customers_out"], 8, &["would delete 19 of 29", "brake"]).await?;
    assert_eq!(bench.erp_customers("customers")?.len(), 29, "nothing was deleted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_comes_late_releases_what_waits_for_it() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let insert =
        "INSERT INTO orders VALUES ('O-1', 'C-1', 'Tourer', 1, 10.5, '2026-01-01', 'P', '2026-01-01T00:00:00.000Z')";
    bench.erp()?.execute(insert, [])?;
    bench.expect(&["run", "orders_in"], 0, &["1 parked"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["MISSING_PARENT", "O-1"]).await?;
    bench.client()?.create("Account", &serde_json::json!({"Name": "Late", "Customer_No__c": "C-1"})).await?;
    bench.expect(&["run", "orders_in"], 0, &["no row missing"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    let count = bench
        .client()?
        .count("SELECT COUNT() FROM Bike_Order__c WHERE Account__r.Customer_No__c = 'C-1'", false)
        .await?;
    assert_eq!(count, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_says_what_and_where_and_exits_by_its_class() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.expect(&["run", "nope"], 4, &["there is no sync \"nope\"", "orders_in"]).await?;
    bench.expect(&["discover", "nope"], 4, &["there is no connection \"nope\"", "crm, erp"]).await?;
    bench.expect(&["discover", "crm", "Nope__c"], 4, &["no object Nope__c"]).await?;
    let wrong = tokio::task::spawn_blocking({
        let mut command = bench.command(&["check"]);
        command.env("BICYCLE_ORG_SECRET", "wrong");
        move || command.output()
    })
    .await??;
    assert_eq!(wrong.status.code(), Some(5), "{}", String::from_utf8_lossy(&wrong.stderr));
    bench.edit("mappings/orders.yaml", "external: model", "external: modle")?;
    bench.expect(&["check"], 4, &["orders.yaml:7:", "did you mean model?"]).await?;
    bench.edit("mappings/orders.yaml", "external: modle", "external: model")?;
    bench.edit("mappings/orders.yaml", "salesforce: Quantity__c", "salesforce: Ordered_On__c")?;
    bench.expect(&["check"], 4, &["Ordered_On__c is date, and integer can't become that"]).await?;
    bench.edit("mappings/orders.yaml", "mapping: orders", "mapping: [")?;
    bench.expect(&["check"], 4, &["orders.yaml:"]).await?;
    bench.edit("bridgehead.yaml", "\"${env:BICYCLE_ORG_SECRET}\"", "plain")?;
    bench.edit("mappings/orders.yaml", "mapping: [", "mapping: orders")?;
    bench.expect(&["check"], 4, &["a secret stands in bridgehead.yaml itself"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_of_one_sync_says_so_and_leaves() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let store = state::Store::open(&bench.path(".bridgehead/state.db"))?;
    let lock = store.lock("orders_in")?;
    bench.expect(&["run", "orders_in"], 8, &["another run of orders_in is going on"]).await?;
    drop(lock);
    bench.expect(&["run", "orders_in"], 0, &["0 read"]).await
}
