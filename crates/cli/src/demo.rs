//! The demo: a bicycle maker's org and ERP, and what Bridgehead does between them.

use std::path::Path;
use std::time::{Duration, Instant};

use ::sandbox::Sandbox;
use engine::Options;
use model::Class;
use rusqlite::Connection;
use salesforce::{Client, Credentials, Settings, collections};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::project::{Place, Project};
use crate::{Failure, commands, letters, serve};

/// Shows that an earlier demo made the folder, so that it may be replaced.
const MARK: &str = ".bridgehead-demo";
const CUSTOMERS: usize = 2_000;
const ORDERS: usize = 5_000;

macro_rules! example {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../examples/bicycle/", $path)))),*]
    };
}

/// The example project, as it stands in `examples/bicycle`.
const FILES: &[(&str, &str)] = example![
    "erp.sql",
    "mappings/customers.yaml",
    "mappings/contacts.yaml",
    "mappings/products.yaml",
    "mappings/orders.yaml",
    "org/sfdx-project.json",
    "org/force-app/main/default/objects/Account/fields/Customer_No__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/Bike_Order__c.object-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Account__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Amount__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Engraving__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Order_No__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Ordered_On__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Product__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Quantity__c.field-meta.xml",
    "org/force-app/main/default/objects/Bike_Order__c/fields/Stage__c.field-meta.xml",
    "org/force-app/main/default/objects/Product2/fields/Model_No__c.field-meta.xml",
];
const CONFIG: &str = include_str!("../../../examples/bicycle/bridgehead.yaml");

fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Class::Internal, error)
}

fn lay_out(folder: &Path) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(Class::Internal, format!("cannot write to {}: {error}", folder.display()));
    if folder.exists() {
        let empty = std::fs::read_dir(folder).map_err(cannot)?.next().is_none();
        if !empty && !folder.join(MARK).exists() {
            let text = format!("{} is there and no demo made it; name another folder with --folder", folder.display());
            return Err(Failure::new(Class::Mapping, text));
        }
        std::fs::remove_dir_all(folder).map_err(cannot)?;
    }
    std::fs::create_dir_all(folder).map_err(cannot)?;
    std::fs::write(folder.join(MARK), "").map_err(cannot)?;
    for (path, text) in FILES {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(cannot)?;
        std::fs::write(path, text).map_err(cannot)?;
    }
    Ok(())
}

pub(crate) async fn demo(folder: &Path, keep: bool) -> Result<(), Failure> {
    let begun = Instant::now();
    lay_out(folder)?;
    let config = ::sandbox::Config {
        projects: vec![folder.join("org")],
        file: Some(folder.join("org.db")),
        ..::sandbox::Config::default()
    };
    let org = Sandbox::start(config).await.map_err(|error| broken(&error))?;
    println!("A bicycle maker. Customers live in a Salesforce org, products and orders in the ERP.\n");
    println!("  org   {} (a local sandbox, ready in {:.2} s)", org.url(), begun.elapsed().as_secs_f64());
    println!("  ERP   {}/erp.db (SQLite)", folder.display());
    let cannot =
        |error: std::io::Error| Failure::new(Class::Internal, format!("cannot write to {}: {error}", folder.display()));
    // The project of the demo knows its org by address; its secret is a file beside it.
    let secret = folder.join("sandbox-secret");
    std::fs::write(&secret, "sandbox-secret").map_err(cannot)?;
    let config = CONFIG
        .replace("${env:BICYCLE_ORG_URL}", org.url())
        .replace("${env:BICYCLE_ORG_SECRET}", "${file:sandbox-secret}");
    std::fs::write(folder.join("bridgehead.yaml"), config).map_err(cannot)?;
    let client = client(&org)?;
    let erp = Connection::open(folder.join("erp.db")).map_err(|error| broken(&error))?;
    erp.execute_batch(include_str!("../../../examples/bicycle/erp.sql")).map_err(|error| broken(&error))?;
    let seeding = Instant::now();
    seed_org(&client).await?;
    seed_erp(&erp).map_err(|error| broken(&error))?;
    println!(
        "  seeded with {CUSTOMERS} customers, {CUSTOMERS} contacts, {} products and {ORDERS} orders in {:.1} s\n",
        products().count(),
        seeding.elapsed().as_secs_f64()
    );

    let place = Place { folder: folder.to_owned(), environment: None };
    let project = Project::open(&place)?;
    println!("1. Everything, once: customers and contacts out, products and orders in");
    run(&project).await?;

    println!("\n2. A customer moves, a contact is deleted, two orders go on: the same again, and only that moves");
    change(&client, &erp).await?;
    run(&project).await?;

    println!(
        "\n3. Three bad orders: a customer nobody knows, a stage that is none, an engraving too long for the field"
    );
    let bad = [
        ("O-90001", "C-99999", "For Anna", "P"),
        ("O-90002", "C-00001", "For Bela", "Melted"),
        ("O-90003", "C-00001", &"very ".repeat(30), "P"),
    ];
    for (id, customer, engraving, stage) in bad {
        let sql = "INSERT INTO orders VALUES (?1, ?2, 'M-01', 1, 1999.90, ?3, '2026-11-20', ?4, ?5)";
        erp.execute(sql, [id, customer, engraving, stage, LATER]).map_err(|error| broken(&error))?;
    }
    run(&project).await?;
    println!();
    let desk = Desk::here(Project::open(&place)?, &place, CancellationToken::new());
    letters::list(&desk, None, 50, false).await?;

    let counted = client
        .count("SELECT COUNT() FROM Bike_Order__c WHERE Account__c != null", false)
        .await
        .map_err(|error| broken(&error))?;
    println!(
        "\nThe org now holds {counted} orders, each with its account; nothing was lost and nothing was done twice."
    );
    println!("Done in {:.1} s. The folder is an ordinary project:\n", begun.elapsed().as_secs_f64());
    let port = org.url().rsplit(':').next().unwrap_or_default().to_owned();
    if keep {
        println!("  cd {}     # the org stays up until Ctrl-C", folder.display());
    } else {
        println!("  cd {}", folder.display());
        println!("  bridgehead sandbox --port {port} --project org --file org.db &");
    }
    println!("  bridgehead plan && bridgehead run");
    println!("  bridgehead dead-letters list");
    println!("  bridgehead runs");
    let served = if keep { keep_alive(&place, project, &client, &erp).await } else { Ok(()) };
    org.stop().await;
    served
}

/// How often something happens in the demo while it is kept.
const BEAT: Duration = Duration::from_secs(20);

/// Serves the demo's project while customers move and orders go on, until Ctrl-C.
async fn keep_alive(place: &Place, project: Project, client: &Client, erp: &Connection) -> Result<(), Failure> {
    println!("\nA customer moves and an order goes on every {} seconds.", BEAT.as_secs());
    drop(project);
    let cannot = |error: std::io::Error| Failure::from_error(Class::Internal, &error);
    let file = place.folder.join("bridgehead.yaml");
    let config = std::fs::read_to_string(&file).map_err(cannot)?;
    let line = |line: &str| match line.strip_suffix(" }").filter(|line| line.contains("sync: ")) {
        Some(sync) => format!("{sync}, schedule: {{ every: 15s }} }}\n"),
        None => format!("{line}\n"),
    };
    std::fs::write(&file, config.lines().map(line).collect::<String>()).map_err(cannot)?;
    let life = async {
        for beat in 0_usize.. {
            tokio::time::sleep(BEAT).await;
            let number = beat % CUSTOMERS + 1;
            let town = TOWNS[beat % TOWNS.len()].0;
            let customer =
                find(client, &format!("SELECT Id FROM Account WHERE Customer_No__c = 'C-{number:05}'")).await?;
            let moved = json!({"BillingCity": town});
            client.update("Account", &customer, &moved).await.map_err(|error| broken(&error))?;
            let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            let sql =
                "UPDATE orders SET stage = CASE stage WHEN 'P' THEN 'S' ELSE 'P' END, changed_at = ?1 WHERE id = ?2";
            erp.execute(sql, [now, format!("O-{:05}", beat % ORDERS + 1)]).map_err(|error| broken(&error))?;
        }
        Ok(())
    };
    tokio::select! {
        served = serve::serve(place, ([127, 0, 0, 1], 0).into()) => served,
        lived = life => lived,
    }
}

/// When the changes of the demo happen, by the ERP's clock.
const LATER: &str = "2026-11-20T12:00:00.000Z";

/// Changes a few things on each side.
async fn change(client: &Client, erp: &Connection) -> Result<(), Failure> {
    let moved = find(client, "SELECT Id FROM Account WHERE Customer_No__c = 'C-00042'").await?;
    let renamed = json!({"Name": "Radhaus Zum Wei\u{df}en Ross", "BillingCity": "K\u{f6}ln"});
    client.update("Account", &moved, &renamed).await.map_err(|error| broken(&error))?;
    let gone = find(client, "SELECT Id FROM Contact WHERE Account.Customer_No__c = 'C-00007'").await?;
    client.delete("Contact", &gone).await.map_err(|error| broken(&error))?;
    let sql = "UPDATE orders SET stage = 'S', changed_at = ?1 WHERE id IN ('O-00007', 'O-00010')";
    erp.execute(sql, [LATER]).map(drop).map_err(|error| broken(&error))
}

/// Returns the id of the first record of a query.
async fn find(client: &Client, soql: &str) -> Result<String, Failure> {
    let answer = client.query(soql, false).await.map_err(|error| broken(&error))?;
    let id = answer.records.first().and_then(|record| record.get("Id")?.as_str());
    id.map(str::to_owned).ok_or_else(|| Failure::new(Class::Internal, "the demo's org has lost a record"))
}

async fn run(project: &Project) -> Result<(), Failure> {
    for sync in project.syncs(&[])? {
        let started = Instant::now();
        let report = commands::run_one(project, &sync, &Options::default(), false).await?;
        println!("   {}", commands::line(&report, started.elapsed().as_secs_f64()));
        if !report.green() {
            return Err(Failure::new(Class::Internal, format!("{}: rows are missing", sync.name)));
        }
    }
    Ok(())
}

fn client(org: &Sandbox) -> Result<Client, Failure> {
    let credentials = Credentials::ClientCredentials {
        login_url: org.url().to_owned(),
        client_id: org.client_id().to_owned(),
        client_secret: "sandbox-secret".to_owned().into(),
    };
    Client::new(credentials, Settings::default()).map_err(|error| broken(&error))
}

const TOWNS: [(&str, &str); 8] = [
    ("Utrecht", "Netherlands"),
    ("Freiburg", "Germany"),
    ("Lyon", "France"),
    ("Ghent", "Belgium"),
    ("Odense", "Denmark"),
    ("Malm\u{f6}", "Sweden"),
    ("Bologna", "Italy"),
    ("Bristol", "United Kingdom"),
];
const TRADES: [&str; 6] = ["Cycles", "Bikes", "Velo", "Two Wheels", "Fietsen", "Rad & Tat"];
const NAMES: [&str; 10] = [
    "Jansen",
    "Keller",
    "Moreau",
    "Peeters",
    "Holm",
    "Lindqvist",
    "Rossi",
    "Clarke",
    "Nguy\u{1ec5}n",
    "\u{d6}zt\u{fc}rk",
];
const FIRST_NAMES: [&str; 5] = ["Ana", "Bo", "Chi", "Dirk", "Eva"];
const FAMILIES: [(&str, &str); 5] =
    [("Tourer", "Touring"), ("Courier", "City"), ("Gravel", "Gravel"), ("Cargo Long", "Cargo"), ("Folder", "City")];
const FRAMES: [&str; 8] = ["XS", "S", "M", "L", "XL", "Step-through", "Tandem", "Children's"];

/// Returns number, name and family of each product.
fn products() -> impl Iterator<Item = (String, String, &'static str)> {
    let models = FAMILIES.iter().flat_map(|(model, family)| FRAMES.iter().map(move |frame| (model, family, frame)));
    models.enumerate().map(|(at, (model, family, frame))| (format!("M-{at:02}"), format!("{model} {frame}"), *family))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

async fn seed_org(client: &Client) -> Result<(), Failure> {
    let numbers: Vec<usize> = (0..CUSTOMERS).collect();
    for part in numbers.chunks(collections::MAX_RECORDS) {
        let accounts = part.iter().map(|number| {
            let (city, country) = TOWNS[number % TOWNS.len()];
            object(json!({
                "Name": format!("{} {} {number}", NAMES[number % NAMES.len()], TRADES[number % TRADES.len()]),
                "Customer_No__c": format!("C-{number:05}"), "BillingStreet": format!("Dock Road {}", number % 90 + 1),
                "BillingCity": city, "BillingCountry": country, "AnnualRevenue": number * 1_250,
            }))
        });
        save(client, collections::create(client, "Account", accounts.collect())).await?;
        let contacts = part.iter().map(|number| {
            let last = NAMES[(number * 7) % NAMES.len()];
            object(json!({
                "FirstName": FIRST_NAMES[number % FIRST_NAMES.len()], "LastName": last,
                "Email": format!("Contact{number}@Example.com"), "Account": {"Customer_No__c": format!("C-{number:05}")},
            }))
        });
        save(client, collections::create(client, "Contact", contacts.collect())).await?;
    }
    Ok(())
}

async fn save(client: &Client, request: outbound::Request) -> Result<(), Failure> {
    let saved = client.save(&request).await.map_err(|error| broken(&error))?;
    match saved.into_iter().flat_map(|saved| saved.errors).next() {
        Some(error) => Err(broken(&error)),
        None => Ok(()),
    }
}

fn seed_erp(erp: &Connection) -> rusqlite::Result<()> {
    let transaction = erp.unchecked_transaction()?;
    {
        let mut insert =
            transaction.prepare("INSERT INTO products VALUES (?1, ?2, ?3, 1, '2026-01-02T08:00:00.000Z')")?;
        for (id, name, family) in products() {
            insert.execute([&id, &name, family])?;
        }
        let models = products().count();
        let mut insert = transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
        for number in 0..ORDERS {
            let quantity = number % 4 + 1;
            let engraving = (number % 3 == 0).then(|| format!("For {}", FIRST_NAMES[number % FIRST_NAMES.len()]));
            insert.execute(rusqlite::params![
                format!("O-{number:05}"),
                format!("C-{:05}", (number * 13) % CUSTOMERS),
                format!("M-{:02}", (number * 7) % models),
                quantity as i64,
                format!("{}.90", quantity * 1_499),
                engraving,
                format!("2026-{:02}-{:02}", number % 10 + 1, number % 28 + 1),
                ["P", "B", "S"][number % 3],
                format!("2026-11-0{}T08:00:00.000Z", number % 9 + 1),
            ])?;
        }
    }
    transaction.commit()
}
