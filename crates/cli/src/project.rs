//! A project: a folder with `bridgehead.yaml` and `mappings/*.yaml`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use endpoint::{Endpoint, Journal, References, Setup};
use engine::{Deletes, Sync, TwoWayRules};
use mapping::{Definition, Direction};
use model::Class;
use secrecy::SecretString;
use server::{Missed, Schedule};
use state::Store;

use crate::Failure;
use crate::config::{Config, DeletesConfig, DirectionConfig, ReconcileConfig, SyncConfig, kinds};

/// The file that makes a folder a project.
const FILE: &str = "bridgehead.yaml";

/// An open connection.
type Opened = Arc<dyn Endpoint>;

/// An open project.
pub(crate) struct Project {
    folder: PathBuf,
    config: Config,
    mappings: BTreeMap<String, (PathBuf, Definition)>,
    /// Connections that are open.
    opened: Mutex<HashMap<String, Opened>>,
    pub(crate) store: Store,
}

struct Work(Store);

fn store_failed(error: state::Error) -> endpoint::Error {
    endpoint::Error::new(error.class(), "the state file cannot be used").caused_by(error)
}

impl Journal for Work {
    fn begin(&self, sync: &str, work: &str) -> endpoint::Result<()> {
        self.0.begin_work(sync, work).map_err(store_failed)
    }

    fn unfinished(&self, sync: &str) -> endpoint::Result<Vec<String>> {
        self.0.unfinished_work(sync).map_err(store_failed)
    }

    fn end(&self, sync: &str, work: &str) -> endpoint::Result<()> {
        self.0.end_work(sync, work).map_err(store_failed)
    }
}

/// Follows `${env:NAME}` and `${file:PATH}`.
struct Follow<'f>(&'f Path);

impl References for Follow<'_> {
    fn resolve(&self, text: &str) -> endpoint::Result<String> {
        let Some(reference) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(text.to_owned());
        };
        match reference.split_once(':') {
            Some(("env", name)) => std::env::var(name)
                .map_err(|_| endpoint::Error::new(Class::Auth, format!("{text} is not set in the environment"))),
            Some(("file", path)) => {
                let path = self.0.join(path);
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    endpoint::Error::new(Class::Auth, format!("cannot read {}", path.display())).caused_by(error)
                })?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            _ => {
                let message = format!("{text} is no reference that is known; write ${{env:NAME}} or ${{file:PATH}}");
                Err(endpoint::Error::new(Class::Mapping, message))
            }
        }
    }

    fn secret(&self, text: &str) -> endpoint::Result<SecretString> {
        if !text.starts_with("${") {
            let message = "a secret stands in bridgehead.yaml itself; give it as ${env:NAME} or ${file:PATH}";
            return Err(endpoint::Error::new(Class::Mapping, message));
        }
        self.resolve(text).map(SecretString::from)
    }
}

fn wrong(text: impl Into<String>) -> Failure {
    Failure::new(Class::Mapping, text)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))
}

impl Project {
    /// Reads the project in a folder and opens its state.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(wrong(format!(
                "there is no project in {}: bridgehead.yaml is missing; `bridgehead init` makes one",
                folder.display()
            )));
        }
        let config: Config = serde_saphyr::from_str(&read(&path)?).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
            wrong(format!("{}:{line}:{column}: {}", path.display(), error.without_snippet()))
        })?;
        if config.version != 1 {
            return Err(wrong(format!(
                "{}: version {} is not known; this Bridgehead knows 1",
                path.display(),
                config.version
            )));
        }
        let mut mappings = BTreeMap::new();
        let entries = std::fs::read_dir(folder.join("mappings")).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
        paths.sort();
        for path in paths {
            let definition =
                Definition::parse(&read(&path)?).map_err(|mistake| wrong(format!("{}:{mistake}", path.display())))?;
            let name = definition.mapping.clone();
            if let Some((other, _)) = mappings.insert(name.clone(), (path.clone(), definition)) {
                let other: PathBuf = other;
                return Err(wrong(format!("{} and {} both define {name}", other.display(), path.display())));
            }
        }
        if let Some(name) = config.serve.connections.keys().find(|name| !config.connections.contains_key(*name)) {
            let text = format!("{}: `serve` limits a connection {name:?}, which there is none of", path.display());
            return Err(wrong(text));
        }
        for (at, sync) in config.syncs().iter().enumerate() {
            let same = |other: &&SyncConfig| {
                // Links of a mapping are those of a two-way sync, or of one-way ones.
                let both = [other.direction, sync.direction].contains(&DirectionConfig::TwoWay);
                other.sync == sync.sync
                    || (other.mapping == sync.mapping && (both || other.direction == sync.direction))
            };
            if let Some(other) = config.syncs()[..at].iter().find(same) {
                return Err(wrong(format!(
                    "{}: the syncs {} and {} have one name, or run one mapping the same way; one of them is too many",
                    path.display(),
                    other.sync,
                    sync.sync
                )));
            }
        }
        let store = Store::open(&folder.join(&config.state))?;
        Ok(Self { folder: folder.to_owned(), config, mappings, opened: Mutex::default(), store })
    }

    /// Returns the named syncs, or all of them, parents before their children.
    pub(crate) fn syncs(&self, names: &[String]) -> Result<Vec<Sync>, Failure> {
        let known = || self.config.syncs().iter().map(|sync| sync.sync.as_str()).collect::<Vec<_>>().join(", ");
        for name in names {
            if !self.config.syncs().iter().any(|sync| sync.sync == *name) {
                return Err(wrong(format!("there is no sync {name:?}; there are {}", known())));
            }
        }
        let wanted = |sync: &&SyncConfig| names.is_empty() || names.contains(&sync.sync);
        let both_ways = self.config.syncs().iter().filter(|config| config.direction == DirectionConfig::TwoWay);
        let both_ways: Vec<&Definition> =
            both_ways.filter_map(|config| Some(&self.mappings.get(&config.mapping)?.1)).collect();
        let syncs = self.config.syncs().iter().filter(wanted).map(|config| {
            let (_, definition) = self.mappings.get(&config.mapping).ok_or_else(|| {
                wrong(format!(
                    "the sync {} wants a mapping {:?}, which no file in mappings/ defines",
                    config.sync, config.mapping
                ))
            })?;
            Ok(Sync {
                name: config.sync.clone(),
                definition: definition.clone(),
                direction: match config.direction {
                    DirectionConfig::ToSalesforce => Direction::ToSalesforce,
                    DirectionConfig::ToExternal | DirectionConfig::TwoWay => Direction::ToExternal,
                },
                deletes: match config.deletes {
                    DeletesConfig::Ignore => Deletes::Ignore,
                    DeletesConfig::Propagate => Deletes::Propagate,
                },
                brake: config.brake,
                two_way: two_way(config).map_err(|what| wrong(format!("the sync {}: {what}", config.sync)))?,
                circle: if config.direction == DirectionConfig::TwoWay {
                    engine::circle_of(&config.mapping, &both_ways)
                } else {
                    Vec::new()
                },
            })
        });
        let syncs = syncs.collect::<Result<Vec<_>, Failure>>()?;
        engine::in_order(syncs).map_err(|(mapping, mistake)| wrong(format!("{}:{mistake}", self.file_of(&mapping))))
    }

    /// Returns the same project for somebody else, whose name is noted with what they do.
    pub(crate) fn acting_as(self, actor: &str) -> Self {
        Self { store: self.store.acting_as(actor), ..self }
    }

    /// Returns when a sync runs, what becomes of times that were missed, and its priority.
    pub(crate) fn schedule(&self, sync: &str) -> Result<(Option<Schedule>, Missed, i32), Failure> {
        let Some(config) = self.config.syncs().iter().find(|config| config.sync == sync) else {
            return Ok((None, Missed::default(), 0));
        };
        let Some(schedule) = &config.schedule else { return Ok((None, Missed::default(), config.priority)) };
        let read = schedule.read().map_err(|what| wrong(format!("the sync {sync}: {what}")))?;
        if let Schedule::After(other) = &read {
            let known = self.config.syncs().iter().any(|config| config.sync == *other);
            if !known || other == sync {
                return Err(wrong(format!("the sync {sync} runs after {other:?}, which is no other sync")));
            }
        }
        Ok((Some(read), schedule.missed, config.priority))
    }

    /// Returns how many syncs run at once, in all and by connection.
    pub(crate) fn at_once(&self) -> (usize, BTreeMap<String, usize>) {
        let serve = &self.config.serve;
        let connections = serve.connections.iter().map(|(name, most)| (name.clone(), most.get()));
        (serve.at_once.get(), connections.collect())
    }

    /// Returns how both sides of a sync are to be compared.
    pub(crate) fn reconciling(&self, sync: &str) -> ReconcileConfig {
        let config = self.config.syncs().iter().find(|config| config.sync == sync);
        config.map(|config| config.reconcile.clone()).unwrap_or_default()
    }

    /// Returns the folder of the state file, for what is kept beside it.
    pub(crate) fn state_folder(&self) -> PathBuf {
        let state = self.folder.join(&self.config.state);
        state.parent().unwrap_or(&self.folder).to_owned()
    }

    /// Returns the file of a mapping.
    pub(crate) fn file_of(&self, mapping: &str) -> String {
        self.mappings.get(mapping).map(|(path, _)| path.display().to_string()).unwrap_or_default()
    }

    /// Returns the Salesforce key of a mapping, for lookups.
    pub(crate) fn parent_key(&self, mapping: &str) -> Option<String> {
        self.mappings.get(mapping).map(|(_, definition)| definition.salesforce.key.value.clone())
    }

    /// Returns source and target of a sync, for one sync after the other.
    pub(crate) fn endpoints(&self, sync: &Sync) -> Result<(Opened, Opened), Failure> {
        Self::ends(sync, |name| self.endpoint(name))
    }

    /// Opens source and target of a sync that others run beside: its calls are its own.
    pub(crate) fn endpoints_apart(&self, sync: &Sync) -> Result<(Opened, Opened), Failure> {
        Self::ends(sync, |name| self.open_endpoint(name))
    }

    fn ends(sync: &Sync, end: impl Fn(&str) -> Result<Opened, Failure>) -> Result<(Opened, Opened), Failure> {
        let salesforce = end(&sync.definition.salesforce.connection)?;
        let external = end(&sync.definition.external.connection)?;
        Ok(match sync.direction {
            Direction::ToExternal => (salesforce, external),
            Direction::ToSalesforce => (external, salesforce),
        })
    }

    /// Returns a connection, which is opened once.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Opened, Failure> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(name) {
            return Ok(Arc::clone(known));
        }
        let new = self.open_endpoint(name)?;
        opened.insert(name.to_owned(), Arc::clone(&new));
        Ok(new)
    }

    fn open_endpoint(&self, name: &str) -> Result<Opened, Failure> {
        let known = || self.config.connections.keys().cloned().collect::<Vec<_>>().join(", ");
        let connection = self.config.connections.get(name);
        let connection =
            connection.ok_or_else(|| wrong(format!("there is no connection {name:?}; there are {}", known())))?;
        let place = format!(
            "{}:{}:{}: connection {name}",
            self.folder.join(FILE).display(),
            connection.referenced.line(),
            connection.referenced.column()
        );
        let mut value = connection.value.clone();
        let kinds = kinds();
        let kind = value.as_object_mut().and_then(|fields| fields.remove("kind"));
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        let kind = kinds.iter().find(|known| known.name == kind).ok_or_else(|| {
            let words: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
            wrong(format!("{place}: its kind is {kind:?}; there are {}", words.join(", ")))
        })?;
        let setup = Setup {
            name,
            folder: &self.folder,
            state: &self.state_folder(),
            references: &Follow(&self.folder),
            journal: Arc::new(Work(self.store.clone())),
        };
        (kind.open)(value, &setup).map_err(|error| {
            let mut failure = Failure::from(error);
            failure.text = format!("{place}: {}", failure.text);
            failure
        })
    }
}

/// Returns how a sync decides, if it goes both ways.
fn two_way(config: &SyncConfig) -> Result<Option<TwoWayRules>, &'static str> {
    let given = config.conflicts.is_some() || config.contested.is_some() || config.change_brake.is_some();
    if config.direction != DirectionConfig::TwoWay {
        let message = "`conflicts`, `contested` and `change_brake` are for syncs with direction: two_way";
        return if given { Err(message) } else { Ok(None) };
    }
    let rules = TwoWayRules::default();
    Ok(Some(TwoWayRules {
        conflicts: config.conflicts.unwrap_or(rules.conflicts),
        contested: config.contested.unwrap_or(rules.contested),
        change_brake: config.change_brake.unwrap_or(rules.change_brake),
    }))
}

const STARTER: &str = "\
version: 1
connections:
  crm:
    kind: salesforce
    url: ${env:SALESFORCE_URL}
    auth: { grant: client_credentials, client_id: \"${env:SALESFORCE_CLIENT_ID}\", client_secret: \"${env:SALESFORCE_CLIENT_SECRET}\" }
  local:
    kind: sqlite
    path: local.db
syncs:
  - { sync: accounts_out, mapping: accounts, direction: to_external }
";

const STARTER_MAPPING: &str = "\
mapping: accounts
version: 1
salesforce: { connection: crm, object: Account, key: Id }
external: { connection: local, entity: accounts, key: id, create: true }
fields:
  - { salesforce: Name, external: name }
  - { salesforce: BillingCountry, external: country, to_external: \"upper(value)\" }
";

/// Makes a project in a folder that has none.
pub(crate) fn init(folder: &Path) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(Class::Internal, format!("cannot write to {}: {error}", folder.display()));
    if folder.join(FILE).exists() {
        return Err(wrong(format!("{} has a project already", folder.display())));
    }
    std::fs::create_dir_all(folder.join("mappings")).map_err(cannot)?;
    std::fs::write(folder.join(FILE), STARTER).map_err(cannot)?;
    std::fs::write(folder.join("mappings/accounts.yaml"), STARTER_MAPPING).map_err(cannot)?;
    std::fs::write(folder.join(".gitignore"), ".bridgehead/\n*.db*\n").map_err(cannot)?;
    // SQLite makes the file only for who asks for it: here we do.
    rusqlite::Connection::open(folder.join("local.db"))
        .and_then(|db| db.execute_batch("PRAGMA journal_mode=WAL"))
        .map_err(|error| Failure::from_error(Class::Internal, &error))?;
    println!("Made bridgehead.yaml, mappings/accounts.yaml and local.db.");
    println!(
        "Set SALESFORCE_URL, SALESFORCE_CLIENT_ID and SALESFORCE_CLIENT_SECRET, then: bridgehead check && bridgehead run"
    );
    Ok(())
}
