//! Real public Salesforce DX projects: their sample data goes into the sandbox by its public API, every object of
//! theirs out to PostgreSQL and to SQLite, is changed there, and comes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use model::{Column, Entity, Field, Type, text_of};
use outbound::Request;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bench::Failed;

/// Records by id, each with the text of its fields.
type Records = BTreeMap<String, BTreeMap<String, Option<String>>>;

fn data(project: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(project);
    assert!(folder.join("sfdx-project.json").exists(), "the test data {} is not there", folder.display());
    folder
}

/// Where the records of a project go.
enum Database {
    Sqlite(PathBuf),
    Postgres { url: String, client: tokio_postgres::Client },
}

impl Database {
    async fn postgres(name: &str) -> Result<Self, Failed> {
        let server = std::env::var("BRIDGEHEAD_TEST_POSTGRES")
            .map_err(|_| "BRIDGEHEAD_TEST_POSTGRES names no PostgreSQL; `cargo xtask test` starts one")?;
        let (client, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let (base, _) = server.rsplit_once('/').ok_or("the address names a database")?;
        let url = format!("{base}/{name}");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(Self::Postgres { url, client })
    }

    fn config(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("{{ kind: sqlite, path: {:?} }}", path.display().to_string()),
            Self::Postgres { url, .. } => format!("{{ kind: postgres, url: {url:?} }}"),
        }
    }

    fn entity(&self, object: &str) -> String {
        match self {
            Self::Sqlite(_) => object.to_lowercase(),
            Self::Postgres { .. } => format!("public.{}", object.to_lowercase()),
        }
    }

    /// Returns all rows of an object's table, the column `id` and one for each field.
    async fn rows(&self, object: &str, fields: &[&Field]) -> Result<Records, Failed> {
        let table = object.to_lowercase();
        let mut records = Records::new();
        let names: Vec<String> = fields.iter().map(|field| field.name.to_lowercase()).collect();
        let mut add = |cells: Vec<Option<String>>| {
            let id = cells[0].clone().unwrap_or_default();
            let values = fields
                .iter()
                .zip(&cells[1..])
                .map(|(field, text)| (field.name.clone(), text.as_deref().map(|text| canonical(field.kind, text))));
            records.insert(id, values.collect());
        };
        match self {
            Self::Sqlite(path) => {
                let columns: Vec<String> = names.iter().map(|name| format!("CAST(\"{name}\" AS TEXT)")).collect();
                let db = rusqlite::Connection::open(path)?;
                let mut statement = db.prepare(&format!("SELECT id, {} FROM \"{table}\"", columns.join(", ")))?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    add((0..=names.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?);
                }
            }
            Self::Postgres { client, .. } => {
                let columns: Vec<String> = names.iter().map(|name| format!("\"{name}\"::text")).collect();
                client.batch_execute("SET TIME ZONE 'UTC'").await?;
                for row in client.query(&format!("SELECT id, {} FROM \"{table}\"", columns.join(", ")), &[]).await? {
                    add((0..=names.len()).map(|at| row.get(at)).collect());
                }
            }
        }
        Ok(records)
    }

    async fn execute(&self, sql: &str) -> Result<(), Failed> {
        match self {
            Self::Sqlite(path) => Ok(rusqlite::Connection::open(path)?.execute_batch(sql)?),
            Self::Postgres { client, .. } => Ok(client.batch_execute(sql).await?),
        }
    }
}

/// Returns the one text that we have for a value.
fn canonical(kind: Type, text: &str) -> String {
    let mut column = Column::new(kind);
    assert!(column.push(text), "{text:?} is {kind}");
    text_of(&column.finish(), 0).expect("a value").into_owned()
}

const KEY_FIELD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CustomField xmlns="http://soap.sforce.com/2006/04/metadata">
    <fullName>Ext__c</fullName><label>Key outside</label><type>Text</type><length>40</length>
    <externalId>true</externalId><unique>true</unique><required>false</required>
</CustomField>"#;

struct Org {
    sandbox: Sandbox,
    client: salesforce::Client,
    folder: TempDir,
}

impl Org {
    /// The org of a project; with `keys` its objects have a field `Ext__c` besides, for the key of an external record.
    async fn of(project: &str, keys: &[String]) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let added = folder.path().join("keys/force-app/main/default/objects");
        for object in keys {
            let fields = added.join(object).join("fields");
            std::fs::create_dir_all(&fields)?;
            std::fs::write(fields.join("Ext__c.field-meta.xml"), KEY_FIELD)?;
        }
        std::fs::create_dir_all(&added)?;
        let about = "{\"packageDirectories\": [{\"path\": \"force-app\", \"default\": true}]}";
        std::fs::write(folder.path().join("keys/sfdx-project.json"), about)?;
        let projects = vec![data(project), folder.path().join("keys")];
        let config = Config { projects, ..Config::default() };
        let sandbox = Sandbox::start(config).await?;
        let credentials = salesforce::Credentials::ClientCredentials {
            login_url: sandbox.url().to_owned(),
            client_id: sandbox.client_id().to_owned(),
            client_secret: "sandbox-secret".to_owned().into(),
        };
        let client = salesforce::Client::new(credentials, salesforce::Settings::default())?;
        Ok(Self { sandbox, client, folder })
    }

    /// Loads the sample data as its plan says, by `composite/tree`.
    async fn load(&self, project: &str) -> Result<u64, Failed> {
        let folder = data(project).join("data");
        let plan: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("sample-data-plan.json"))?)?;
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        let mut loaded = 0;
        for step in plan {
            let object = step["sobject"].as_str().ok_or("the plan names an object")?;
            for file in step["files"].as_array().into_iter().flatten() {
                let path = folder.join(file.as_str().unwrap_or_default());
                let mut body: Value = serde_json::from_slice(&std::fs::read(path)?)?;
                for record in body["records"].as_array_mut().into_iter().flatten() {
                    for value in record.as_object_mut().ok_or("a record")?.values_mut() {
                        if let Some(id) = value.as_str().and_then(|text| ids.get(text.strip_prefix('@')?)) {
                            *value = json!(id);
                        }
                    }
                }
                let path = self.client.path(&format!("composite/tree/{object}"));
                let answer: Value = self.client.json(&Request::new("POST", path).json(&body)).await?;
                assert_eq!(answer["hasErrors"], false, "{answer}");
                for result in answer["results"].as_array().into_iter().flatten() {
                    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
                    ids.insert(text("referenceId"), text("id"));
                    loaded += 1;
                }
            }
        }
        Ok(loaded)
    }

    /// Makes the records that a project's sample data lacks.
    async fn complete(&self, project: &str) -> Result<(), Failed> {
        if project == "ebikes-lwc" {
            // The project has no sample orders and cases.
            let first = async |object: &str| -> Result<String, Failed> {
                let page = self.client.query(&format!("SELECT Id FROM {object} ORDER BY Id LIMIT 1"), false).await?;
                Ok(page.records[0]["Id"].as_str().unwrap_or_default().to_owned())
            };
            let (account, product) = (first("Account").await?, first("Product__c").await?);
            for number in 1..4 {
                let order = json!({"Account__c": account, "Status__c": "Draft"});
                let order = self.client.create("Order__c", &order).await?;
                let item = json!({"Order__c": order, "Product__c": product, "Price__c": 99.5, "Qty_S__c": number});
                self.client.create("Order_Item__c", &item).await?;
                let case =
                    json!({"Subject": format!("Squeak {number}"), "Product__c": product, "Description": "two\nlines"});
                self.client.create("Case", &case).await?;
            }
        }
        Ok(())
    }

    fn bridgehead(&self, arguments: &[&str]) -> Result<String, Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridgehead"));
        command.arg("-C").arg(self.folder.path()).args(arguments).env("ORG_SECRET", "sandbox-secret");
        let output = tokio::task::block_in_place(|| command.stdin(Stdio::null()).output())?;
        let text = String::from_utf8(output.stdout)?;
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// Writes a project file without syncs, and returns it.
    fn configure(&self, database: &Database) -> Result<String, Failed> {
        let folder = self.folder.path();
        std::fs::create_dir_all(folder.join("mappings"))?;
        let config = format!(
            "version: 1\nconnections:\n  crm:\n    kind: salesforce\n    url: {}\n    auth: {{ grant: client_credentials, \
             client_id: sandbox, client_secret: \"${{env:ORG_SECRET}}\" }}\n  db: {}\nsyncs:\n",
            self.sandbox.url(),
            database.config()
        );
        std::fs::write(folder.join("bridgehead.yaml"), &config)?;
        Ok(config)
    }

    /// Writes a project that maps every field of the objects both ways, as far as the org lets it.
    fn project(&self, database: &Database, objects: &[String]) -> Result<Vec<Entity>, Failed> {
        let folder = self.folder.path();
        let mut config = self.configure(database)?;
        let mut entities = Vec::new();
        for object in objects {
            let entity: Entity = serde_json::from_str(&self.bridgehead(&["discover", "crm", object, "--json"])?)?;
            let name = object.to_lowercase();
            let mut mapping = format!(
                "mapping: {name}\nversion: 1\nsalesforce: {{ connection: crm, object: {object}, key: Id }}\n\
                 external: {{ connection: db, entity: {}, key: id, create: true }}\nfields:\n",
                database.entity(object)
            );
            for field in fields(&entity) {
                let column = field.name.to_lowercase();
                mapping.push_str(&if field.updateable {
                    format!("  - {{ salesforce: {}, external: {column} }}\n", field.name)
                } else {
                    format!("  - {{ external: {column}, to_external: '\"{}\"' }}\n", field.name)
                });
            }
            std::fs::write(folder.join(format!("mappings/{name}.yaml")), mapping)?;
            config.push_str(&format!("  - {{ sync: {name}_out, mapping: {name}, direction: to_external }}\n"));
            config.push_str(&format!("  - {{ sync: {name}_back, mapping: {name}, direction: to_salesforce }}\n"));
            entities.push(entity);
        }
        std::fs::write(folder.join("bridgehead.yaml"), config)?;
        Ok(entities)
    }

    /// Writes a project of two-way syncs of the objects, and makes their tables.
    async fn two_way(&self, database: &Database, objects: &[String]) -> Result<Vec<Entity>, Failed> {
        let folder = self.folder.path();
        let mut config = self.configure(database)?;
        let mut entities = Vec::new();
        for object in objects {
            let entity: Entity = serde_json::from_str(&self.bridgehead(&["discover", "crm", object, "--json"])?)?;
            let name = object.to_lowercase();
            let capture = if matches!(database, Database::Sqlite(_)) { "triggers" } else { "log" };
            let mut mapping = format!(
                "mapping: {name}\nversion: 1\nsalesforce: {{ connection: crm, object: {object}, key: Ext__c }}\n\
                 external: {{ connection: db, entity: {}, key: id, capture: {capture} }}\nfields:\n",
                database.entity(object)
            );
            let mut columns = vec!["id varchar(40) PRIMARY KEY NOT NULL".to_owned()];
            for field in both_ways(&entity, objects) {
                let column = field.name.to_lowercase();
                let parent = field.references.first().map(|parent| format!(", lookup: {}", parent.to_lowercase()));
                mapping.push_str(&format!(
                    "  - {{ salesforce: {}, external: {column}{} }}\n",
                    field.name,
                    parent.unwrap_or_default()
                ));
                let native = match field.kind {
                    Type::Boolean => "boolean".to_owned(),
                    Type::Integer => "bigint".to_owned(),
                    Type::Float => "double precision".to_owned(),
                    Type::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
                    Type::Date => "date".to_owned(),
                    Type::Timestamp => "timestamp".to_owned(),
                    _ => "text".to_owned(),
                };
                columns.push(format!("\"{column}\" {native}"));
            }
            database.execute(&format!("CREATE TABLE \"{name}\" ({})", columns.join(", "))).await?;
            std::fs::write(folder.join(format!("mappings/{name}.yaml")), mapping)?;
            config.push_str(&format!(
                "  - {{ sync: {name}, mapping: {name}, direction: two_way, deletes: propagate, brake: 1, change_brake: 1 }}\n"
            ));
            entities.push(entity);
        }
        std::fs::write(folder.join("bridgehead.yaml"), config)?;
        Ok(entities)
    }

    async fn records(&self, entity: &Entity) -> Result<Records, Failed> {
        let fields = fields(entity);
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let soql = format!("SELECT Id, {} FROM {}", names.join(", "), entity.name);
        let (mut page, mut records) = (Some(self.client.query(&soql, false).await?), Records::new());
        while let Some(current) = page {
            for record in &current.records {
                let values = fields.iter().map(|field| {
                    let text = match &record[&field.name] {
                        Value::Null => None,
                        Value::String(text) => Some(canonical(field.kind, text)),
                        other => Some(canonical(field.kind, &other.to_string())),
                    };
                    (field.name.clone(), text)
                });
                records.insert(record["Id"].as_str().unwrap_or_default().to_owned(), values.collect());
            }
            page = self.client.next_page(&current).await?;
        }
        Ok(records)
    }
}

/// Every field but the key.
fn fields(entity: &Entity) -> Vec<&Field> {
    entity.fields.iter().filter(|field| field.name != "Id").collect()
}

/// Objects of the project's metadata and of its sample data; platform events hold no records.
fn objects(project: &str) -> Result<Vec<String>, Failed> {
    let folder = data(project);
    let plan: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("data/sample-data-plan.json"))?)?;
    let mut names: Vec<String> = plan.iter().filter_map(|step| Some(step["sobject"].as_str()?.to_owned())).collect();
    for entry in std::fs::read_dir(folder.join("force-app/main/default/objects"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !name.ends_with("__e"));
    names.sort();
    names.dedup();
    Ok(names)
}

/// The value that a field is set to in the database, as SQL.
fn change(field: &Field, null: bool) -> Option<String> {
    let plain = field.references.is_empty() && !field.unique && !field.external_id;
    let long = field.length.is_none_or(|length| length >= 20);
    let choice = field.picklist.as_ref().filter(|_| field.native == "picklist").and_then(|list| list.values.last());
    let value = match (field.native.as_str(), field.kind) {
        ("picklist", _) => format!("'{}'", choice?),
        ("string" | "textarea", _) if long => "'\u{dc}n\u{ef} \u{1f6b2} \"q\" ''a'''".to_owned(),
        (_, Type::Decimal { .. } | Type::Integer) => "7".to_owned(),
        (_, Type::Date) => "'2026-02-28'".to_owned(),
        _ => return None,
    };
    let name = field.name.to_lowercase();
    let keeps = !field.nillable || field.name == "Name" || field.name == "LastName" || field.kind == Type::Boolean;
    (plain && field.updateable).then(|| format!("\"{name}\" = {}", if null && !keeps { "NULL" } else { &value }))
}

async fn there_and_back(project: &str, database: &Database) -> Result<(), Failed> {
    let org = Org::of(project, &[]).await?;
    let loaded = org.load(project).await?;
    assert!(loaded > 20, "{loaded} records of sample data");
    org.complete(project).await?;
    let objects = objects(project)?;
    let entities = org.project(database, &objects)?;
    let outs: Vec<String> = objects.iter().map(|object| format!("{}_out", object.to_lowercase())).collect();
    let backs: Vec<String> = objects.iter().map(|object| format!("{}_back", object.to_lowercase())).collect();
    let run = |syncs: &[String]| {
        let arguments: Vec<&str> = std::iter::once("run").chain(syncs.iter().map(String::as_str)).collect();
        org.bridgehead(&arguments)
    };
    run(&outs)?;
    for entity in &entities {
        let fields = fields(entity);
        let there = org.records(entity).await?;
        assert!(!there.is_empty(), "{} has records", entity.name);
        assert_eq!(database.rows(&entity.name, &fields).await?, there, "{} went out whole", entity.name);
    }
    // Changes in the database, of values and to null, come back field by field.
    for entity in &entities {
        let ids: Vec<String> = org.records(entity).await?.into_keys().take(2).collect();
        for (id, null) in ids.iter().zip([false, true]) {
            let sets: Vec<String> = fields(entity).iter().filter_map(|field| change(field, null)).collect();
            assert!(!sets.is_empty(), "{} has a field to change", entity.name);
            let table = entity.name.to_lowercase();
            database.execute(&format!("UPDATE \"{table}\" SET {} WHERE id = '{id}'", sets.join(", "))).await?;
        }
    }
    run(&backs)?;
    for entity in &entities {
        let writable: Vec<&Field> = fields(entity).into_iter().filter(|field| field.updateable).collect();
        let mut there = org.records(entity).await?;
        for values in there.values_mut() {
            values.retain(|name, _| writable.iter().any(|field| field.name == *name));
        }
        assert_eq!(database.rows(&entity.name, &writable).await?, there, "{} came back whole", entity.name);
        let changed = there.values().filter(|values| values.values().flatten().any(|text| text.contains('\u{1f6b2}')));
        let texts = writable.iter().any(|field| change(field, false).is_some_and(|sql| sql.contains('\u{1f6b2}')));
        assert!(!texts || changed.count() > 0, "{} holds the change", entity.name);
    }
    // What the org itself changed by that, such as dates of change, follows with the next run.
    run(&outs)?;
    for entity in &entities {
        let fields = fields(entity);
        assert_eq!(database.rows(&entity.name, &fields).await?, org.records(entity).await?, "{}", entity.name);
    }
    Ok(())
}

/// The fields that a two-way sync carries: what can be written, and of references those to other objects of the project.
fn both_ways<'e>(entity: &'e Entity, objects: &[String]) -> Vec<&'e Field> {
    let known = |field: &Field| match &field.references[..] {
        [] => true,
        [only] => objects.contains(only),
        _ => false,
    };
    // A detail's master is given when it is made.
    let written = |field: &&Field| field.createable && (field.updateable || !field.nillable) && !field.unique;
    let fields = entity.fields.iter().filter(written);
    fields.filter(|field| field.name != "Ext__c" && known(field)).collect()
}

/// Records by their key outside, with references as keys outside.
fn by_key(records: Records, keys: &BTreeMap<String, String>, fields: &[&Field]) -> Records {
    let outside = |(id, mut values): (String, BTreeMap<String, Option<String>>)| {
        let key = values.get("Ext__c").cloned().flatten().unwrap_or(id);
        values.retain(|name, _| fields.iter().any(|field| field.name == *name));
        for field in fields.iter().filter(|field| !field.references.is_empty()) {
            if let Some(Some(id)) = values.get_mut(&field.name) {
                *id = keys.get(id).cloned().unwrap_or_else(|| format!("{id} has no key"));
            }
        }
        (key, values)
    };
    records.into_iter().map(outside).collect()
}

/// Both sides are edited at once, again and again; in the end they are equal, field by field.
async fn kept_in_step(project: &str, database: &Database) -> Result<(), Failed> {
    let objects = objects(project)?;
    let org = Org::of(project, &objects).await?;
    org.load(project).await?;
    org.complete(project).await?;
    let entities = org.two_way(database, &objects).await?;
    org.bridgehead(&["check"])?;
    org.bridgehead(&["run"])?;
    let equal = async |when: &str| -> Result<Vec<Records>, Failed> {
        let mut keys = BTreeMap::new();
        let mut of_org = Vec::new();
        for entity in &entities {
            let records = org.records(entity).await?;
            keys.extend(records.iter().filter_map(|(id, values)| Some((id.clone(), values["Ext__c"].clone()?))));
            of_org.push(records);
        }
        let mut found = Vec::new();
        for (entity, records) in entities.iter().zip(of_org) {
            let fields = both_ways(entity, &objects);
            let there = by_key(records, &keys, &fields);
            assert!(!there.is_empty(), "{} has records", entity.name);
            assert_eq!(database.rows(&entity.name, &fields).await?, there, "{} {when}", entity.name);
            found.push(there);
        }
        Ok(found)
    };
    let first = equal("after the first run").await?;
    // Both sides change: some records here, some there, and some on both sides at once.
    for (entity, records) in entities.iter().zip(&first) {
        let ids: BTreeMap<String, String> = org
            .records(entity)
            .await?
            .into_iter()
            .filter_map(|(id, values)| Some((values["Ext__c"].clone()?, id)))
            .collect();
        let table = entity.name.to_lowercase();
        for (at, key) in records.keys().enumerate().take(9) {
            let fields = both_ways(entity, &objects);
            let changes: Vec<String> = fields.iter().filter_map(|field| change(field, at % 2 == 0)).collect();
            if at % 3 != 1 && !changes.is_empty() {
                let half = &changes[..changes.len().div_ceil(1 + at % 2)];
                database.execute(&format!("UPDATE \"{table}\" SET {} WHERE id = '{key}'", half.join(", "))).await?;
            }
            let texts = fields.iter().filter(|field| {
                let long = field.length.is_none_or(|length| length >= 20);
                matches!(field.native.as_str(), "string" | "textarea") && long && field.references.is_empty()
            });
            let body: serde_json::Map<String, Value> =
                texts.map(|field| (field.name.clone(), json!(format!("edit {at}")))).collect();
            if at % 3 != 0 && !body.is_empty() {
                org.client.update(&entity.name, &ids[key], &Value::Object(body)).await?;
            }
        }
    }
    org.bridgehead(&["run"])?;
    org.bridgehead(&["run"])?;
    let second = equal("after edits on both sides").await?;
    assert_ne!(first, second, "edits were made");
    let told = org.bridgehead(&["conflicts", "list", "--all", "--limit", "1000"])?;
    assert!(told.contains("decided: salesforce"), "fields were changed on both sides: {told}");
    // Nothing goes round in circles.
    for line in org.bridgehead(&["run", "--json"])?.lines() {
        let report: Value = serde_json::from_str(line)?;
        let counts = &report["counts"];
        assert_eq!([&counts["created"], &counts["updated"], &counts["deleted"]], [0, 0, 0], "{report}");
    }
    for object in &objects {
        org.bridgehead(&["capture", "drop", &object.to_lowercase()])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ebikes_are_kept_in_step_with_postgres() -> Result<(), Failed> {
    kept_in_step("ebikes-lwc", &Database::postgres("ebikes_both").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dreamhouse_is_kept_in_step_with_postgres() -> Result<(), Failed> {
    kept_in_step("dreamhouse-lwc", &Database::postgres("dreamhouse_both").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dreamhouse_is_kept_in_step_with_sqlite() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    kept_in_step("dreamhouse-lwc", &sqlite(folder.path())?).await
}

fn sqlite(folder: &Path) -> Result<Database, Failed> {
    let path = folder.join("out.db");
    rusqlite::Connection::open(&path)?.execute_batch("PRAGMA journal_mode=WAL")?;
    Ok(Database::Sqlite(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn ebikes_to_sqlite_and_back() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    there_and_back("ebikes-lwc", &sqlite(folder.path())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dreamhouse_to_sqlite_and_back() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    there_and_back("dreamhouse-lwc", &sqlite(folder.path())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ebikes_to_postgres_and_back() -> Result<(), Failed> {
    there_and_back("ebikes-lwc", &Database::postgres("ebikes").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dreamhouse_to_postgres_and_back() -> Result<(), Failed> {
    there_and_back("dreamhouse-lwc", &Database::postgres("dreamhouse").await?).await
}
