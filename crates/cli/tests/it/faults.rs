//! What goes wrong outside: each says what and where, exits by its class, and loses nothing.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::{Bench, Failed};

const CSV_MAPPING: &str = "\
mapping: customers
version: 1
salesforce: { connection: crm, object: Account, key: Customer_No__c }
external: { connection: files, entity: customers.csv, key: id }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: Rating, external: rating }
";

impl Bench {
    /// Lets customers come from a CSV file.
    fn customers_from_csv(&self, content: &[u8]) -> Result<(), Failed> {
        self.edit("bridgehead.yaml", "syncs:", "  files: { kind: files, url: files }\nsyncs:")?;
        self.edit(
            "bridgehead.yaml",
            "customers_out, mapping: customers, direction: to_external, deletes: propagate",
            "customers_in, mapping: customers, direction: to_salesforce",
        )?;
        std::fs::write(self.path("mappings/customers.yaml"), CSV_MAPPING)?;
        std::fs::create_dir_all(self.path("files"))?;
        Ok(std::fs::write(self.path("files/customers.csv"), content)?)
    }

    async fn count_org(&self) -> Result<u64, Failed> {
        Ok(self.client()?.count("SELECT COUNT() FROM Account WHERE Customer_No__c != null", false).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_listens_at_is_named() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    drop(listener);
    bench.edit("bridgehead.yaml", "${env:BICYCLE_ORG_URL}", &format!("http://{address}"))?;
    bench.expect(&["run", "customers_out"], 6, &["customers_out", &format!("no answer from {address}")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_mid_run_is_renewed_where_it_can_be() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(2_000)?;
    bench.sandbox.expire_sessions_after(5);
    bench.expect(&["run", "customers_in"], 0, &["2000 created", "no row missing"]).await?;

    // A session that was given to us can't be renewed by us.
    let auth = "{ grant: client_credentials, client_id: sandbox, client_secret: \"${env:BICYCLE_ORG_SECRET}\" }";
    bench.edit("bridgehead.yaml", auth, "{ grant: access_token, access_token: \"${file:token}\" }")?;
    std::fs::write(bench.path("token"), "00D000000000000!expired")?;
    let said = ["refused the sign-in", "Session expired or invalid"];
    bench.expect(&["run", "customers_in", "--full"], 5, &said).await?;
    assert_eq!(bench.count_org().await?, 2_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_of_a_csv_are_named_and_the_rest_goes_on() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let mut content = b"id,name,rating\nC-1,Good,Hot\nC-2,B\xffd,Hot\nC-3,N\0l,Hot\nC-4,Good,Lukewarm\nC-5,".to_vec();
    content.extend_from_slice("x".repeat(200_000).as_bytes());
    content.extend_from_slice(b",Hot\nC-6,First,Hot\nC-6,Second,Hot\nC-7,Short\nC-8,Good,\n");
    bench.customers_from_csv(&content)?;
    bench.expect(&["run", "customers_in"], 3, &["dead letters", "no row missing"]).await?;
    bench
        .expect(
            &["dead-letters", "list", "customers_in"],
            0,
            &[
                "NOT_UTF8",
                "line 3: name is not UTF-8",
                "NUL_BYTE",
                "line 4: name holds a NUL byte",
                "STRING_TOO_LONG: Name: 200000 characters, 255 fit",
                "DUPLICATE_KEY",
                "WRONG_COLUMN_COUNT",
            ],
        )
        .await?;
    let names: Vec<String> =
        bench.org_customers().await?.into_iter().map(|(id, name, _)| format!("{id} {name}")).collect();
    assert_eq!(names, ["C-1 Good", "C-4 Good", "C-6 First", "C-8 Good"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_outside_a_restricted_picklist_is_a_dead_letter() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let insert =
        "INSERT INTO orders VALUES (?1, 'C-1', 'M-1', 1, 10.5, NULL, '2026-01-01', ?2, '2026-01-01T00:00:00Z')";
    for (id, stage) in [("O-1", "P"), ("O-2", "Melted")] {
        bench.erp()?.execute(insert, [id, stage])?;
    }
    bench.edit(
        "mappings/orders.yaml",
        "  - { salesforce: Account__c, external: customer_id, lookup: customers }\n",
        "",
    )?;
    bench.edit(
        "mappings/orders.yaml",
        "  - { salesforce: Product__c, external: product_id, lookup: products }\n",
        "",
    )?;
    bench.expect(&["run", "orders_in"], 3, &["1 created", "1 dead letters"]).await?;
    let said = ["O-2", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "Stage__c: \"Melted\" is not in the picklist"];
    bench.expect(&["dead-letters", "list"], 0, &said).await?;
    // Mended at its source and replayed, it goes.
    bench.erp()?.execute("UPDATE orders SET stage = 'S' WHERE id = 'O-2'", [])?;
    bench.expect(&["run", "orders_in", "--full"], 0, &["1 created"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_that_go_round_in_a_circle_are_shown() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.edit("mappings/products.yaml", "Family, external: family }", "Family, external: family, lookup: orders }")?;
    bench.expect(&["check"], 4, &["lookups go round in a circle", "products -> orders -> products", ".yaml:"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_lost_a_column_stops_its_sync_and_is_named() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.client()?.create("Account", &serde_json::json!({"Name": "A", "Customer_No__c": "C-1"})).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 created"]).await?;
    bench.erp()?.execute_batch("ALTER TABLE customers DROP COLUMN city")?;
    bench.expect(&["run", "customers_out"], 4, &["customers.yaml:7:", "customers has no field \"city\""]).await?;
    bench.erp()?.execute_batch("ALTER TABLE customers ADD COLUMN city VARCHAR(20)")?;
    bench
        .expect(&["plan", "customers_out"], 0, &["drift: customers.city: was: 40 characters, now: 20 characters"])
        .await?;
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_the_org_gained_is_told_before_it_refuses() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(3)?;
    bench.expect(&["run", "customers_in"], 0, &["3 created"]).await?;
    let told = bench.refuse_ghosts().await?;
    bench.expect(&["plan", "customers_in"], 0, &[told]).await?;
    bench.erp()?.execute("UPDATE customers SET city = 'Nowhere' WHERE id = (SELECT min(id) FROM customers)", [])?;
    bench.expect(&["run", "customers_in"], 3, &["1 dead letters"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["There is nobody there."]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_meet_a_lock_are_tried_again_and_then_parked() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(300)?;
    bench.edit("bridgehead.yaml", "bulk_rows: 500", "bulk_rows: 100000")?;
    bench.sandbox.lock_rows(40);
    bench.expect(&["run", "customers_in"], 0, &["300 created", "no row missing"]).await?;
    bench.erp()?.execute("UPDATE customers SET city = 'Elsewhere'", [])?;
    // Locked for longer than a run is patient: the rows wait for the next one.
    bench.sandbox.lock_rows(1_000_000);
    bench.expect(&["run", "customers_in"], 0, &["parked"]).await?;
    bench.expect(&["dead-letters", "list", "--limit", "1"], 0, &["UNABLE_TO_LOCK_ROW", "parked"]).await?;
    bench.sandbox.lock_rows(0);
    bench.expect(&["run", "customers_in"], 0, &["no row missing"]).await?;
    bench.expect(&["dead-letters", "list"], 0, &["no dead letters"]).await?;
    assert!(bench.org_customers().await?.iter().all(|(_, _, city)| city == "Elsewhere"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_org_aborts_stops_the_run_and_the_next_goes_on() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(25_000)?;
    bench.sandbox.abort_jobs(1);
    bench
        .expect(&["run", "customers_in"], 8, &["customers_in", "as Aborted", "somebody in the org stopped it"])
        .await?;
    assert!(bench.count_org().await? < 25_000);
    bench.expect(&["run", "customers_in"], 0, &["no row missing"]).await?;
    assert_eq!(bench.org_customers().await?, bench.erp_customers("customers")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowance_that_runs_out_stops_the_run_at_its_checkpoint() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(120_000)?;
    bench.sandbox.allow_calls(bench.sandbox.api_calls() + 24);
    bench.expect(&["run", "customers_in"], 7, &["customers_in", "REQUEST_LIMIT_EXCEEDED"]).await?;
    let store = state::Store::open(&bench.path(".bridgehead/state.db"))?;
    let done = store.checkpoint("customers_in")?.open.map_or(0, |open| open.rows);
    assert!((1..120_000).contains(&done), "{done} rows are behind the checkpoint");
    drop(store);
    bench.sandbox.allow_calls(1_000_000);
    bench.expect(&["run", "customers_in"], 0, &[&format!("{} read", 120_000 - done), "no row missing"]).await?;
    assert_eq!(bench.count_org().await?, 120_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_state_file_loses_nothing() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.customers_in(40_000)?;
    bench.expect(&["plan", "customers_in"], 0, &["40000 rows"]).await?;
    // No file of this run may grow over 4 MB; a write beyond that fails as on a full disk.
    let inner = bench.command(&["run", "customers_in"]);
    let script = "trap '' XFSZ; ulimit -f 8000; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{text}");
    assert!(text.contains("state.db cannot be used") && text.contains("because: "), "{text}");
    bench.expect(&["run", "customers_in"], 0, &["no row missing"]).await?;
    assert_eq!(bench.org_customers().await?, bench.erp_customers("customers")?);
    Ok(())
}

/// A way to a server that can be closed.
struct Gate {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Gate {
    async fn to(address: String) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let gate = Self { port: listener.local_addr()?.port(), open: Arc::new(true.into()) };
        let open = gate.open.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (open, address) = (open.clone(), address.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(address).await else { return };
                    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                        (near.into_split(), far.into_split());
                    let up = async {
                        let mut part = vec![0; 1 << 16];
                        while let Ok(length @ 1..) = near_in.read(&mut part).await {
                            if !open.load(Ordering::Relaxed) || far_out.write_all(&part[..length]).await.is_err() {
                                return;
                            }
                        }
                    };
                    let down = async {
                        let _ = tokio::io::copy(&mut far_in, &mut near_out).await;
                    };
                    tokio::select! { () = up => {}, () = down => {} }
                });
            }
        });
        Ok(gate)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_down_mid_run_is_gone_on_with_later() -> Result<(), Failed> {
    let server = std::env::var("BRIDGEHEAD_TEST_POSTGRES")
        .map_err(|_| "BRIDGEHEAD_TEST_POSTGRES names no PostgreSQL; `cargo xtask test` starts one")?;
    let config: tokio_postgres::Config = server.parse()?;
    let gate = Gate::to(format!("127.0.0.1:{}", config.get_ports()[0])).await?;
    let (client, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("DROP SCHEMA IF EXISTS gate CASCADE; CREATE SCHEMA gate").await?;

    let bench = Bench::new().await?;
    bench.customers_in(120_000)?;
    bench.expect(&["run", "customers_in"], 0, &["120000 created"]).await?;
    bench.customers_back()?;
    let database = config.get_dbname().unwrap_or("postgres");
    let url = format!("postgres://{}@127.0.0.1:{}/{database}", config.get_user().unwrap_or("postgres"), gate.port);
    bench.edit("bridgehead.yaml", "syncs:", &format!("  db: {{ kind: postgres, url: \"{url}\" }}\nsyncs:"))?;
    bench.edit("mappings/customers.yaml", "connection: erp, entity: back", "connection: db, entity: gate.back")?;
    let (open, (watcher, watching)) =
        (gate.open.clone(), tokio_postgres::connect(&server, tokio_postgres::NoTls).await?);
    tokio::spawn(watching);
    let closer = tokio::spawn(async move {
        // Once the first rows are there, the way is closed.
        let there = "SELECT to_regclass('gate.back') IS NOT NULL";
        while !watcher.query_one(there, &[]).await.is_ok_and(|row| row.get(0)) {}
        let there = "SELECT EXISTS (SELECT FROM gate.back)";
        while !watcher.query_one(there, &[]).await.is_ok_and(|row| row.get(0)) {}
        open.store(false, Ordering::Relaxed);
    });
    bench.expect(&["run", "customers_back"], 6, &["customers_back: cannot", &gate.port.to_string()]).await?;
    closer.await?;
    let count = |client: &tokio_postgres::Client| {
        let count = client.query_one("SELECT count(*) FROM gate.back", &[]);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(count))
            .map(|row| row.get::<_, i64>(0))
    };
    assert!((1..120_000).contains(&count(&client)?), "the way was closed between two writes");
    gate.open.store(true, Ordering::Relaxed);
    bench.expect(&["run", "customers_back"], 0, &["no row missing"]).await?;
    assert_eq!(count(&client)?, 120_000);
    Ok(())
}
