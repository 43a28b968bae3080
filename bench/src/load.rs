//! `bench load [--skewed] [--rows N] [--short]`: rows of a PostgreSQL table into an org that has none of them, by the real program,
//! beside what users would use instead and beside files that are ready and go to the same Bulk jobs.
//!
//! With `--skewed` a fifth of the rows has one and the same parent, in an org whose transactions hold their records: what is counted
//! then is how many rows were refused for a lock.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{Database, Org, Project, Table, peer, said, setting};
use crate::race::{self, FORECAST, Goal, Race, Role, Runner};
use crate::{Failed, Wishes};

/// Customers as they are loaded.
const CUSTOMERS: Table = Table {
    object: "Account",
    name: "bench_customers",
    fields: &[
        ("Customer_No__c", "id", "varchar(40) PRIMARY KEY"),
        ("Name", "name", "varchar(255)"),
        ("Type", "type", "varchar(40)"),
        ("Industry", "industry", "varchar(40)"),
        ("Phone", "phone", "varchar(40)"),
        ("AccountNumber", "account_number", "varchar(40)"),
        ("BillingStreet", "billing_street", "varchar(255)"),
        ("BillingCity", "billing_city", "varchar(40)"),
        ("BillingCountry", "billing_country", "varchar(80)"),
        ("AnnualRevenue", "annual_revenue", "numeric(18,0)"),
    ],
};
/// Orders of these customers, the last column being the customer.
const ORDERS: Table = Table {
    object: "Bike_Order__c",
    name: "bench_orders",
    fields: &[
        ("Order_No__c", "id", "varchar(40) PRIMARY KEY"),
        ("Quantity__c", "quantity", "integer"),
        ("Engraving__c", "engraving", "varchar(80)"),
        ("Account__r.Customer_No__c", "customer_id", "varchar(40)"),
    ],
};
/// Rows of a file, as many as we put into a job.
const FILE_ROWS: u64 = 50_000;
/// Customers of the skewed orders.
const PARENTS: u64 = 2_000;
/// How long a transaction of the skewed org takes, and another waits for its records: long enough that jobs get in each other's way.
const LOCKS: &str = "locks: { hold_ms: 40, wait_ms: 100 }\n";

/// Fills the tables.
fn fill(database: &Database, rows: u64) -> Result<(), Failed> {
    database.sql(&CUSTOMERS.create(false))?;
    database.sql(&ORDERS.create(false))?;
    database.sql(&format!(
        "INSERT INTO bench_customers SELECT 'C-' || lpad(n::text, 9, '0'), 'M\u{fc}ller & S\u{f6}hne ' || n,
            (ARRAY['Customer - Direct', 'Prospect', NULL])[n % 3 + 1], (ARRAY['Banking', 'Energy', 'Media', NULL])[n % 4 + 1],
            '+49 30 ' || n, 'A' || n, n || ' Long Street', (ARRAY['Berlin', 'Lyon', 'Porto'])[n % 3 + 1], 'Germany', n % 1000 * 1000
         FROM generate_series(1, {rows}) n"
    ))?;
    database.sql(&format!(
        "INSERT INTO bench_orders SELECT 'O-' || lpad(n::text, 9, '0'), n % 9 + 1, 'For number ' || n,
            'C-' || lpad((CASE WHEN n % 5 = 0 THEN 1 ELSE n::bigint * 7919 % {PARENTS} + 1 END)::text, 9, '0')
         FROM generate_series(1, {rows}) n"
    ))?;
    Ok(())
}

/// The statement that writes a table, or a part of it, as the org reads CSV.
fn copy(table: &Table, part: Option<u64>) -> String {
    let columns: Vec<String> =
        table.fields.iter().map(|(field, column, _)| format!("{column} AS \"{field}\"")).collect();
    let part = part.map(|part| format!(" OFFSET {} LIMIT {FILE_ROWS}", part * FILE_ROWS)).unwrap_or_default();
    format!(
        "COPY (SELECT {} FROM {} ORDER BY id{part}) TO STDOUT WITH (FORMAT csv, HEADER)",
        columns.join(", "),
        table.name
    )
}

/// Runs the race; returns whether all goals were reached.
pub(crate) fn run(wishes: &Wishes, folder: &Path) -> Result<bool, Failed> {
    let (rows, rounds) = wishes.size(if wishes.skewed { [100_000, 20_000] } else { [1_000_000, 50_000] });
    let table = if wishes.skewed { ORDERS } else { CUSTOMERS };
    let external = table.fields[0].0;
    let database = Database(setting("BRIDGEHEAD_TEST_POSTGRES")?);
    let (python, modules) = (setting("BRIDGEHEAD_TEST_PYTHON")?, setting("BRIDGEHEAD_TEST_NODE_MODULES")?);
    let work = tempfile::tempdir()?;
    fill(&database, rows)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for part in 0..rows.div_ceil(FILE_ROWS) {
        let file = work.path().join(format!("{part:05}.csv"));
        std::fs::write(
            &file,
            said(Command::new("psql").args(["-Xqc", &copy(&table, Some(part)), &database.0]))? + "\n",
        )?;
        files.push(file);
    }
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bicycle/org");
    let locks = work.path().join("org.yaml");
    std::fs::write(&locks, LOCKS)?;
    let mut arguments = vec!["--project".to_owned(), objects.display().to_string()];
    if wishes.skewed {
        arguments.extend(["--org".to_owned(), locks.display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Each finds an org without a row.
    let org: RefCell<Option<Org>> = RefCell::new(None);
    let asked = Cell::new(0);
    let fresh = || -> Result<String, Failed> {
        *org.borrow_mut() = None;
        let place = work.path().join("org");
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place)?;
        let new = Org::start(&place, &[], &arguments)?;
        if wishes.skewed {
            let parents = work.path().join("parents.csv");
            let columns = "id AS \"Customer_No__c\", name AS \"Name\"";
            let sql = format!(
                "COPY (SELECT {columns} FROM bench_customers ORDER BY id LIMIT {PARENTS}) TO STDOUT WITH (FORMAT csv, HEADER)"
            );
            std::fs::write(&parents, said(Command::new("psql").args(["-Xqc", &sql, &database.0]))? + "\n")?;
            let mut upload = Command::new("bash");
            upload.arg(peer("upload.sh")).args([&new.url, "Account", "upsert", "Customer_No__c"]).arg(&parents);
            said(&mut upload)?;
        }
        let url = new.url.clone();
        asked.set(0);
        *org.borrow_mut() = Some(new);
        database.settle()?;
        Ok(url)
    };
    let with = |wanted: &dyn Fn(&Org) -> Result<u64, Failed>| match org.borrow().as_ref() {
        Some(org) => wanted(org),
        None => Ok(0),
    };
    // Rows that were refused for a lock may be missing; they are counted instead.
    let refused: RefCell<Vec<(&str, u64)>> = RefCell::new(Vec::new());
    let there = |name: &'static str| {
        let skewed = wishes.skewed;
        let (refused, with) = (&refused, &with);
        move || {
            if !skewed {
                return with(&|org| org.count(table.object));
            }
            let failed = with(&|org| {
                let jobs = org.get("/jobs/ingest")?;
                let all = jobs["records"].as_array().into_iter().flatten();
                let ours = all.filter(|job| job["object"] == table.object);
                let mut failed = 0;
                for job in ours {
                    let job = org.get(&format!("/jobs/ingest/{}", job["id"].as_str().unwrap_or_default()))?;
                    failed += job["numberRecordsFailed"].as_u64().unwrap_or_default();
                }
                Ok(failed)
            })?;
            eprintln!("{name}: {failed} rows refused, {} of {rows} there", with(&|org| org.count(table.object))?);
            refused.borrow_mut().push((name, failed));
            Ok(rows)
        }
    };
    let project: RefCell<Option<Project>> = RefCell::new(None);
    let ours = "bridgehead run";
    let limit = "curl of files that are ready";
    let mut runners = vec![
        Runner {
            name: ours,
            role: Role::Ours,
            command: Box::new(|| {
                let url = fresh()?;
                let mapping = mapping(&table);
                let connection = "{ kind: postgres, url: \"${env:BENCH_DATABASE}\" }";
                let folder = work.path().join("project");
                let made = Project::new(&folder, &url, &database.0, connection, "to_salesforce", &mapping)?;
                let parents = CUSTOMERS.fields[0].0;
                let customers = Project::mapping(&CUSTOMERS, parents, "entity: public.bench_customers, key: id");
                let customers = customers.replace("mapping: bench", "mapping: customers");
                std::fs::write(made.folder.join("mappings/customers.yaml"), customers)?;
                let command = made.command(&["run", "bench"])?;
                *project.borrow_mut() = Some(made);
                Ok(command)
            }),
            rows: Box::new(there(ours)),
        },
        Runner {
            name: limit,
            role: Role::Limit,
            command: Box::new(|| {
                let url = fresh()?;
                let mut command = Command::new("bash");
                command.arg(peer("upload.sh")).args([&url, table.object, "upsert", external]).args(&files);
                Ok(command)
            }),
            rows: Box::new(there(limit)),
        },
    ];
    for (name, program, script) in [
        ("COPY, then simple-salesforce", python.as_str(), "simple_salesforce_load.py"),
        ("pg-copy-streams | jsforce", "node", "jsforce_load.mjs"),
        ("COPY, then sf data upsert bulk", "node", "sf_load.mjs"),
    ] {
        if wishes.skewed {
            break;
        }
        let (fresh, database, modules) = (&fresh, &database, &modules);
        runners.push(Runner {
            name,
            role: Role::Peer,
            command: Box::new(move || {
                let url = fresh()?;
                let mut command = Command::new(program);
                command.arg(peer(script)).args([&url, &database.0, &copy(&table, None), table.object, external]);
                command.arg(modules);
                Ok(command)
            }),
            rows: Box::new(there(name)),
        });
    }
    let [above, below] = FORECAST;
    let goals = [
        Goal {
            what: "our throughput as a part of the limit's",
            measure: |ratios| ratios.of_limit,
            wanted: 0.8,
            less_is_better: false,
        },
        Goal {
            what: "wall time of the best peer, of ours",
            measure: |ratios| ratios.of_peer,
            wanted: 4.0,
            less_is_better: false,
        },
        above,
        below,
    ];
    let forecast = || project.borrow().as_ref().ok_or("no project")?.forecast();
    let race = Race {
        title: if wishes.skewed {
            "Orders of which one customer has a fifth, into Salesforce"
        } else {
            "Customers of 10 fields into Salesforce"
        },
        file: &format!("load{}-{rows}", if wishes.skewed { "-skewed" } else { "" }),
        rows,
        rounds,
        goals: if wishes.skewed { &[] } else { &goals },
        folder,
        calls: &|| with(&|org| org.calls(&asked)),
        forecast: Some(&forecast),
    };
    let mut reached = race::run(&race, &runners)?;
    if wishes.skewed {
        let of = |wanted: &str| -> u64 {
            refused.borrow().iter().filter(|(name, _)| *name == wanted).map(|(_, failed)| failed).sum()
        };
        let (ours, plain) = (of(ours), of(limit));
        let good = plain > 0 && ours * 20 <= plain;
        println!(
            "{}: rows refused for a lock, ours {ours}, plain Bulk {plain}, wanted at most a twentieth",
            if good { "reached" } else { "MISSED" }
        );
        reached &= good;
    }
    database.sql("DROP TABLE IF EXISTS bench_customers; DROP TABLE IF EXISTS bench_orders")?;
    Ok(reached)
}

/// The mapping of the customers, or of the orders with the customer they belong to.
fn mapping(table: &Table) -> String {
    let entity = format!("entity: public.{}, key: id", table.name);
    if table.object == "Account" {
        return Project::mapping(table, "Customer_No__c", &entity);
    }
    format!(
        "mapping: bench\nversion: 1\nsalesforce: {{ connection: crm, object: Bike_Order__c, key: Order_No__c }}\n\
         external: {{ connection: db, {entity} }}\nfields:\n  - {{ salesforce: Quantity__c, external: quantity }}\n  \
         - {{ salesforce: Engraving__c, external: engraving }}\n  \
         - {{ salesforce: Account__c, external: customer_id, lookup: customers }}\n"
    )
}
