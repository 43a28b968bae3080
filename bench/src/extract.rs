//! `bench extract [--object Account|Contact] [--into postgres|upsert|sqlite|parquet] [--rows N] [--short]`: records of an org into a
//! table that is new, or has them already, or a file, by the real program, beside what users would use instead and beside what
//! carries the same pages without looking at them.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use crate::place::{Database, Org, Project, Table, peer, said, setting};
use crate::race::{self, FORECAST, Goal, Race, Role, Runner};
use crate::{Failed, Wishes};

/// Accounts as they are raced.
pub(crate) const ACCOUNTS: Table = Table {
    object: "Account",
    name: "bench_accounts",
    fields: &[
        ("Id", "id", "varchar(18) PRIMARY KEY"),
        ("Name", "name", "varchar(255)"),
        ("Type", "type", "varchar(40)"),
        ("Industry", "industry", "varchar(40)"),
        ("Phone", "phone", "varchar(40)"),
        ("Rating", "rating", "varchar(40)"),
        ("AccountNumber", "account_number", "varchar(40)"),
        ("BillingStreet", "billing_street", "varchar(255)"),
        ("BillingCity", "billing_city", "varchar(40)"),
        ("BillingCountry", "billing_country", "varchar(80)"),
        ("AnnualRevenue", "annual_revenue", "numeric(18,0)"),
        ("NumberOfEmployees", "number_of_employees", "integer"),
    ],
};

/// Contacts with 40 fields.
pub(crate) const CONTACTS: Table = Table {
    object: "Contact",
    name: "bench_contacts",
    fields: &[
        ("Id", "id", "varchar(18) PRIMARY KEY"),
        ("AccountId", "account_id", "varchar(18)"),
        ("LastName", "last_name", "varchar(80)"),
        ("FirstName", "first_name", "varchar(40)"),
        ("Salutation", "salutation", "varchar(40)"),
        ("Phone", "phone", "varchar(40)"),
        ("Fax", "fax", "varchar(40)"),
        ("MobilePhone", "mobile_phone", "varchar(40)"),
        ("HomePhone", "home_phone", "varchar(40)"),
        ("OtherPhone", "other_phone", "varchar(40)"),
        ("AssistantPhone", "assistant_phone", "varchar(40)"),
        ("ReportsToId", "reports_to_id", "varchar(18)"),
        ("Email", "email", "varchar(80)"),
        ("Title", "title", "varchar(128)"),
        ("Department", "department", "varchar(80)"),
        ("AssistantName", "assistant_name", "varchar(40)"),
        ("LeadSource", "lead_source", "varchar(255)"),
        ("Birthdate", "birthdate", "date"),
        ("Description", "description", "text"),
        ("OwnerId", "owner_id", "varchar(18)"),
        ("EmailBouncedReason", "email_bounced_reason", "varchar(255)"),
        ("IsEmailBounced", "is_email_bounced", "boolean"),
        ("Jigsaw", "jigsaw", "varchar(20)"),
        ("CleanStatus", "clean_status", "varchar(40)"),
        ("MailingStreet", "mailing_street", "varchar(255)"),
        ("MailingCity", "mailing_city", "varchar(40)"),
        ("MailingState", "mailing_state", "varchar(80)"),
        ("MailingPostalCode", "mailing_postal_code", "varchar(20)"),
        ("MailingCountry", "mailing_country", "varchar(80)"),
        ("OtherStreet", "other_street", "varchar(255)"),
        ("OtherCity", "other_city", "varchar(40)"),
        ("OtherState", "other_state", "varchar(80)"),
        ("OtherPostalCode", "other_postal_code", "varchar(20)"),
        ("OtherCountry", "other_country", "varchar(80)"),
        ("DoNotCall", "do_not_call", "boolean"),
        ("HasOptedOutOfEmail", "opted_out_of_email", "boolean"),
        ("HasOptedOutOfFax", "opted_out_of_fax", "boolean"),
        ("CreatedDate", "created_date", "timestamptz"),
        ("LastModifiedDate", "last_modified_date", "timestamptz"),
        ("SystemModstamp", "system_modstamp", "timestamptz"),
    ],
};

/// Most rows that Singer takes part with.
const SINGER_ROWS: u64 = 1_000_000;

/// Where records go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Into {
    /// A table that is new.
    Postgres,
    /// A table that has them all, with a primary key.
    Upsert,
    Sqlite,
    Parquet,
}

/// What a race of extracts stands on.
struct Place<'p> {
    table: Table,
    into: Into,
    folder: &'p Path,
    org: &'p Org,
    database: &'p Database,
}

impl Place<'_> {
    /// Makes the table as a runner is to find it: of texts alone where nobody looks at them.
    fn ready(&self, texts: bool) -> Result<(), Failed> {
        self.database.sql(&self.table.create(texts))?;
        if self.into == Into::Upsert && !texts {
            let (name, columns) = (self.table.name, self.table.columns());
            self.database.sql(&format!("INSERT INTO {name} ({columns}) SELECT {columns} FROM bench_kept"))?;
            self.database.sql(&format!("VACUUM ANALYZE {name}"))?;
        }
        self.database.settle()
    }

    /// A shell script of `peers/`, which knows how to sign in.
    fn script(&self, part: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(peer("pages.sh")).args([part, &self.org.url, &self.database.0, &self.table.soql()]);
        command.arg(self.folder.join("pages")).arg(self.table.name);
        command
    }

    /// What a peer does with the pages: COPY into the table, or into another and from there over what is there.
    fn peer(&self, program: &str, script: &str, modules: &str) -> Command {
        let Table { name, fields, .. } = self.table;
        let columns = self.table.columns();
        let (before, copy, after) = match self.into {
            Into::Upsert => {
                let set: Vec<String> =
                    fields.iter().skip(1).map(|(_, column, _)| format!("{column} = excluded.{column}")).collect();
                (
                    format!("CREATE TEMP TABLE pages (LIKE {name})"),
                    self.table.copy("pages"),
                    format!(
                        "INSERT INTO {name} ({columns}) SELECT {columns} FROM pages ON CONFLICT (id) DO UPDATE SET {}",
                        set.join(", ")
                    ),
                )
            }
            _ => ("SELECT 1".to_owned(), self.table.copy(name), "SELECT 1".to_owned()),
        };
        let mut command = Command::new(program);
        command.arg(peer(script)).args([&self.org.url, &self.database.0, &self.table.soql()]);
        command.args([&copy, &before, &after]).arg(modules);
        command
    }

    /// Singer's tap piped into its target, which makes a table of its own. What the org has is asked for before, as users do once.
    fn singer(&self) -> Result<Command, Failed> {
        self.database.sql("DROP SCHEMA IF EXISTS bench_singer CASCADE")?;
        let (python, target) = (setting("BRIDGEHEAD_TEST_TAP_PYTHON")?, setting("BRIDGEHEAD_TEST_TARGET_PYTHON")?);
        let (script, folder) = (peer("singer_copy.py"), self.folder.join("singer"));
        let fields: Vec<&str> = self.table.fields.iter().map(|(field, _, _)| *field).collect();
        let mut ready = Command::new(&python);
        ready.arg(&script).args(["catalog", &self.org.url]).arg(&folder).args([self.table.object, &fields.join(",")]);
        said(&mut ready)?;
        self.database.settle()?;
        let mut command = Command::new(python);
        command.arg(script).arg(&self.org.url).arg(folder).arg(&self.database.0);
        command.arg(Path::new(&target).with_file_name("target-postgres"));
        Ok(command)
    }

    fn ours(&self) -> Result<Project, Failed> {
        let (connection, entity) = match self.into {
            Into::Postgres | Into::Upsert => (
                "{ kind: postgres, url: \"${env:BENCH_DATABASE}\" }",
                format!("entity: public.{}, key: id", self.table.name),
            ),
            Into::Sqlite => {
                ("{ kind: sqlite, path: out.db }", format!("entity: {}, key: id, create: true", self.table.name))
            }
            Into::Parquet => {
                ("{ kind: files, url: out }", format!("entity: {}.parquet, key: id, create: true", self.table.name))
            }
        };
        let mapping = Project::mapping(&self.table, "Id", &entity);
        let folder = self.folder.join("project");
        let project = Project::new(&folder, &self.org.url, &self.database.0, connection, "to_external", &mapping)?;
        if self.into == Into::Sqlite {
            rusqlite::Connection::open(folder.join("out.db"))?.execute_batch("PRAGMA journal_mode=WAL")?;
        }
        Ok(project)
    }
}

/// Runs the race; returns whether all goals were reached.
pub(crate) fn run(wishes: &Wishes, folder: &Path) -> Result<bool, Failed> {
    let (rows, rounds) = wishes.size([1_000_000, 100_000]);
    let table = match wishes.object.as_deref() {
        None | Some("Account") => ACCOUNTS,
        Some("Contact") => CONTACTS,
        Some(other) => return Err(format!("there is no race of {other}; there are Account and Contact").into()),
    };
    let (into, title) = match wishes.into.as_deref() {
        None | Some("postgres") => (Into::Postgres, "into a new PostgreSQL table"),
        Some("upsert") => (Into::Upsert, "over a PostgreSQL table that has them"),
        Some("sqlite") => (Into::Sqlite, "into a new SQLite table"),
        Some("parquet") => (Into::Parquet, "into a Parquet file"),
        Some(other) => {
            return Err(format!("nothing goes into {other}; there are postgres, upsert, sqlite and parquet").into());
        }
    };
    let title = format!("{}s of {} fields {title}", table.object, table.fields.len());
    let database = Database(setting("BRIDGEHEAD_TEST_POSTGRES")?);
    let (python, modules) = (setting("BRIDGEHEAD_TEST_PYTHON")?, setting("BRIDGEHEAD_TEST_NODE_MODULES")?);
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), &[(table.object, rows)], &[])?;
    let place = Place { table, into, folder: work.path(), org: &org, database: &database };
    let in_database = matches!(into, Into::Postgres | Into::Upsert);
    // In memory, where there is a place for that.
    let shared = Path::new("/dev/shm");
    let prepared = tempfile::NamedTempFile::new_in(if shared.is_dir() { shared } else { work.path() })?;
    if in_database {
        database.sql(&table.create(false))?;
        said(&mut place.ours()?.command(&["run", "bench"])?)?;
        let file = prepared.path().display();
        database.sql(&format!("\\copy {} TO '{file}' WITH (FORMAT binary)", table.name))?;
    }
    if into == Into::Upsert {
        database.sql(&format!("DROP TABLE IF EXISTS bench_kept; ALTER TABLE {} RENAME TO bench_kept", table.name))?;
    }
    let fresh = |texts: bool, command: Command| {
        place.ready(texts)?;
        Ok::<Command, Failed>(command)
    };
    let there = || database.rows(table.name);
    let project = std::cell::RefCell::new(None);
    let created = || {
        let project = project.borrow();
        let project: &Project = project.as_ref().ok_or("no project")?;
        let report = project.last()?;
        Ok::<u64, Failed>(report["counts"]["created"].as_u64().unwrap_or_default())
    };
    let mut runners = vec![
        Runner {
            name: "bridgehead run",
            role: Role::Ours,
            command: Box::new(|| {
                let made = place.ours()?;
                let command = made.command(&["run", "bench"])?;
                *project.borrow_mut() = Some(made);
                fresh(false, command)
            }),
            rows: if in_database { Box::new(there) } else { Box::new(created) },
        },
        Runner {
            name: "curl of the pages alone",
            role: Role::Limit,
            command: Box::new(|| Ok(place.script("fetch"))),
            rows: Box::new(|| pages(&place.folder.join("pages"))),
        },
    ];
    if in_database {
        // The whole job comes first: it is what we are measured by.
        runners.insert(
            1,
            Runner {
                name: "curl | psql COPY, as texts",
                role: Role::Limit,
                command: Box::new(|| fresh(true, place.script("pipe"))),
                rows: Box::new(there),
            },
        );
        runners.push(Runner {
            name: "psql COPY of these pages alone",
            role: Role::Limit,
            command: Box::new(|| fresh(true, place.script("copy"))),
            rows: Box::new(there),
        });
        let (file, base) = (prepared.path().display().to_string(), &database);
        runners.push(Runner {
            name: "psql COPY of rows ready as binary",
            role: Role::Limit,
            command: Box::new(move || {
                base.sql(&table.create(false))?;
                base.settle()?;
                let mut command = Command::new("psql");
                command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", &base.0, "-c"]);
                command.arg(format!("\\copy {} FROM '{file}' WITH (FORMAT binary)", table.name));
                Ok(command)
            }),
            rows: Box::new(there),
        });
        for (name, program, script) in [
            ("simple-salesforce, then COPY", python.as_str(), "simple_salesforce_copy.py"),
            ("jsforce | pg-copy-streams", "node", "jsforce_copy.mjs"),
            ("sf data export bulk, then COPY", "node", "sf_copy.mjs"),
        ] {
            let (place, modules, fresh) = (&place, &modules, &fresh);
            runners.push(Runner {
                name,
                role: Role::Peer,
                command: Box::new(move || fresh(false, place.peer(program, script, modules))),
                rows: Box::new(there),
            });
        }
    }
    // It takes minutes: one race with it says how it compares.
    if into == Into::Postgres && table.object == ACCOUNTS.object && rows <= SINGER_ROWS {
        runners.push(Runner {
            name: "tap-salesforce | target-postgres",
            role: Role::Peer,
            command: Box::new(|| place.singer()),
            rows: Box::new(|| database.rows(&format!("bench_singer.{}", table.object))),
        });
    }
    let [above, below] = FORECAST;
    let mut goals = vec![
        Goal {
            what: "memory at most, in MB",
            measure: |ratios| Some(ratios.memory),
            wanted: 200.0,
            less_is_better: true,
        },
        above,
        below,
    ];
    if in_database {
        goals.push(Goal {
            what: "our throughput as a part of the limit's",
            measure: |ratios| ratios.of_limit,
            wanted: 0.7,
            less_is_better: false,
        });
        goals.push(Goal {
            what: "wall time of the best peer, of ours",
            measure: |ratios| ratios.of_peer,
            wanted: 5.0,
            less_is_better: false,
        });
        goals.push(Goal {
            what: "CPU seconds of the best peer, of ours",
            measure: |ratios| ratios.of_peer_processor,
            wanted: 8.0,
            less_is_better: false,
        });
    }
    let asked = Cell::new(0);
    let word = wishes.into.as_deref().unwrap_or("postgres");
    let forecast = || project.borrow().as_ref().ok_or("no project")?.forecast();
    let race = Race {
        title: &title,
        file: &format!("extract-{}-{word}-{rows}", table.object.to_lowercase()),
        rows,
        rounds,
        goals: &goals,
        folder,
        calls: &|| org.calls(&asked),
        forecast: Some(&forecast),
    };
    let done = race::run(&race, &runners);
    database.sql(&format!("DROP TABLE IF EXISTS {}; DROP TABLE IF EXISTS bench_kept", table.name))?;
    database.sql("DROP SCHEMA IF EXISTS bench_singer CASCADE")?;
    done
}

/// Returns how many rows the pages of a folder have, as the org told.
fn pages(folder: &Path) -> Result<u64, Failed> {
    Ok(std::fs::read_to_string(folder.join("rows"))?.trim().parse()?)
}
