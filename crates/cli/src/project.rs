//! A project: a folder with `bridgehead.yaml` and `mappings/*.yaml`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use endpoint::{Endpoint, Journal, References, Setup};
use engine::{Deletes, Drift, History, Sync, TwoWayRules};
use mapping::{Definition, Direction, Owner};
use model::{Class, Side, text_of};
use secrecy::SecretString;
use serde_json::Value;
use serde_saphyr::Spanned;
use server::{Alerts, Connected, FieldPair, Fields, Mapped, Missed, Oidc, Schedule, ScheduleConfig};
use state::{Files, Store};

use crate::Failure;
use crate::config::{Config, DeletesConfig, DirectionConfig, Overlay, ReconcileConfig, SyncConfig, kinds, lay_over};
use crate::lineage::Lineage;

/// The file that makes a folder a project.
const FILE: &str = "bridgehead.yaml";

/// An open connection.
type Opened = Arc<dyn Endpoint>;

/// Where a project is, and in which environment it works.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    /// The environment: what `environments/NAME.yaml` has otherwise counts.
    pub(crate) environment: Option<String>,
}

/// An open project.
pub(crate) struct Project {
    place: Place,
    config: Config,
    /// Connections, each with where it is written.
    connections: BTreeMap<String, (Value, String)>,
    mappings: BTreeMap<String, (String, Definition)>,
    /// The files that it is made of.
    files: Files,
    /// The version that it is, if it is one that was kept.
    version: Option<i64>,
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

/// The folders whose files belong to a project.
pub(crate) const FOLDERS: [&str; 2] = ["mappings", "environments"];

/// Reads the files that a project is made of.
pub(crate) fn files_of(folder: &Path) -> Result<Files, Failure> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(wrong(format!(
            "there is no project in {}: bridgehead.yaml is missing; `bridgehead init` makes one",
            folder.display()
        )));
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))
    };
    let mut files = Files::from([(FILE.to_owned(), read(&path)?)]);
    for part in FOLDERS {
        for entry in std::fs::read_dir(folder.join(part)).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.insert(format!("{part}/{}", entry.file_name().to_string_lossy()), read(&path)?);
            }
        }
    }
    Ok(files)
}

/// Reads a file of YAML; `name` is what messages call it.
fn parsed<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, Failure> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
        wrong(format!("{name}:{line}:{column}: {}", error.without_snippet()))
    })
}

impl Project {
    /// Reads the project in a folder and opens its state.
    pub(crate) fn open(place: &Place) -> Result<Self, Failure> {
        let called = |file: &str| place.folder.join(file).display().to_string();
        Self::of(place, files_of(&place.folder)?, &called, None)
    }

    /// Opens the version that is at work; as the folder has it where none was ever put to work.
    pub(crate) fn at_work(place: &Place) -> Result<Self, Failure> {
        let project = Self::open(place)?;
        let Some(version) = project.store.version_at_work()? else { return Ok(project) };
        Self::kept(place, project.store, version)
    }

    /// Opens a version that was kept.
    pub(crate) fn kept(place: &Place, store: Store, version: i64) -> Result<Self, Failure> {
        let found = store.version(version)?;
        let (_, files) =
            found.ok_or_else(|| wrong(format!("there is no version {version}; `bridgehead versions` lists them")))?;
        Self::of(place, files, &|file| format!("version {version}, {file}"), Some((store, Some(version))))
    }

    /// Makes a project of its files, which messages call as `called` does.
    fn of(
        place: &Place,
        files: Files,
        called: &dyn Fn(&str) -> String,
        kept: Option<(Store, Option<i64>)>,
    ) -> Result<Self, Failure> {
        let path = called(FILE);
        let mut config: Config = parsed(&path, files.get(FILE).map(String::as_str).unwrap_or_default())?;
        if config.version != 1 {
            return Err(wrong(format!("{path}: version {} is not known; this Bridgehead knows 1", config.version)));
        }
        let mut connections = BTreeMap::new();
        let at = |path: &str, name: &str, value: &Spanned<Value>| {
            let line = value.referenced;
            format!("{path}:{}:{}: connection {name}", line.line(), line.column())
        };
        for (name, value) in std::mem::take(&mut config.connections) {
            let place = at(&path, &name, &value);
            connections.insert(name, (value.value, place));
        }
        if let Some(environment) = &place.environment {
            let file = format!("environments/{environment}.yaml");
            let text = files.get(&file).ok_or_else(|| {
                let known: Vec<&str> = files.keys().filter_map(|file| environment_of(file)).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                wrong(format!(
                    "there is no environment {environment:?} ({} is missing); there are {known}",
                    called(&file)
                ))
            })?;
            let mut overlay: Overlay = parsed(&called(&file), text)?;
            for (name, patch) in std::mem::take(&mut overlay.connections) {
                let place = at(&called(&file), &name, &patch);
                let connection = connections.entry(name).or_insert_with(|| (Value::Null, String::new()));
                lay_over(&mut connection.0, patch.value);
                connection.1 = place;
            }
            config.overlay(overlay).map_err(|sync| wrong(format!("{}: there is no sync {sync:?}", called(&file))))?;
        }
        let mut mappings = BTreeMap::new();
        for (file, text) in files.iter().filter(|(file, _)| file.starts_with("mappings/")) {
            let file = called(file);
            let definition = Definition::parse(text).map_err(|mistake| wrong(format!("{file}:{mistake}")))?;
            let name = definition.mapping.clone();
            if let Some((other, _)) = mappings.insert(name.clone(), (file.clone(), definition)) {
                return Err(wrong(format!("{other} and {file} both define {name}")));
            }
        }
        if let Some(name) = config.serve.connections.keys().find(|name| !connections.contains_key(*name)) {
            let text = format!("{path}: `serve` limits a connection {name:?}, which there is none of");
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
                    "{path}: the syncs {} and {} have one name, or run one mapping the same way; one of them is too many",
                    other.sync, sync.sync
                )));
            }
        }
        let state = place.folder.join(state_of(&config, place));
        let (store, version) = match kept {
            Some((store, version)) => (store, version),
            None => (Store::open(&state)?, None),
        };
        let place = place.clone();
        Ok(Self { place, config, connections, mappings, files, version, opened: Mutex::default(), store })
    }

    /// Returns the name of the file that defines a mapping, with its text.
    pub(crate) fn mapping_file(&self, mapping: &str) -> Option<(&String, &String)> {
        let mut files = self.files.iter().filter(|(file, _)| file.starts_with("mappings/"));
        files.find(|(_, text)| Definition::parse(text).is_ok_and(|definition| definition.mapping == mapping))
    }

    /// Opens the same project once more, for somebody whose name is noted with what they do.
    pub(crate) fn again(&self, actor: &str) -> Result<Self, Failure> {
        Ok(self.apart()?.acting_as(actor))
    }

    /// Opens the same project once more, with connections of its own.
    pub(crate) fn apart(&self) -> Result<Self, Failure> {
        let kept = (self.store.clone(), self.version);
        Self::of(&self.place, self.files.clone(), &str::to_owned, Some(kept))
    }

    /// Makes a project of files that are not in the folder.
    pub(crate) fn of_files(place: &Place, files: Files, store: Store) -> Result<Self, Failure> {
        Self::of(place, files, &str::to_owned, Some((store, None)))
    }

    /// Returns the same project with another text of a mapping.
    pub(crate) fn with_mapping(&self, mapping: &str, text: &str) -> Result<Self, Failure> {
        let found = self.mapping_file(mapping);
        let (file, _) = found.ok_or_else(|| wrong(format!("there is no mapping {mapping:?}")))?;
        let mut files = self.files.clone();
        files.insert(file.clone(), text.to_owned());
        Self::of(&self.place, files, &str::to_owned, Some((self.store.clone(), None)))
    }

    /// Returns the names of the syncs that put a mapping to work.
    pub(crate) fn syncs_of(&self, mapping: &str) -> Vec<String> {
        self.syncs_that(|sync| sync.mapping == mapping)
    }

    /// Returns how it is set up, for people to read: names and values, nothing secret.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let version = self.version.map_or_else(|| "what the folder has".to_owned(), |id| format!("version {id}"));
        let environment = self.place.environment.clone().unwrap_or_else(|| "none".to_owned());
        let (all, connections) = self.at_once();
        let limits = connections.iter().map(|(name, most)| format!(", of {name} {most}"));
        let alerts = self.alerts().map(|alerts| alerts.channels().join(", ")).unwrap_or_default();
        let none = |text: String| if text.is_empty() { "nowhere".to_owned() } else { text };
        let lineage = if self.config.lineage.is_some() { "to a catalog, by OpenLineage" } else { "to nobody" };
        let settings = [
            ("Configuration", version),
            ("Environment", environment),
            ("Syncs", self.config.syncs().len().to_string()),
            ("Runs at once", format!("{all}{}", limits.collect::<String>())),
            ("Alerts go to", none(alerts)),
            ("Lineage is told", lineage.to_owned()),
            ("What writes replaced is kept", format!("{} days", state::IMAGE_DAYS)),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Returns the files that it is made of.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Returns what tells its files from others.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.files.hash(&mut hasher);
        hasher.finish()
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
                history: history(config).map_err(|what| wrong(format!("the sync {}: {what}", config.sync)))?,
                version: self.version,
                drift: drift(config).map_err(|what| wrong(format!("the sync {}: {what}", config.sync)))?,
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
        let read = self.read_schedule(sync, schedule)?;
        if matches!(&read, Schedule::After(other) if other == sync) {
            return Err(wrong(format!("the sync {sync} runs after itself; name another one")));
        }
        Ok((Some(read), schedule.missed, config.priority))
    }

    /// Returns when both sides of a sync are compared, and what becomes of times that were missed, where that is scheduled.
    pub(crate) fn compare_schedule(&self, sync: &str) -> Result<Option<(Schedule, Missed)>, Failure> {
        let Some(schedule) = self.reconciling(sync).schedule else { return Ok(None) };
        Ok(Some((self.read_schedule(sync, &schedule)?, schedule.missed)))
    }

    fn read_schedule(&self, sync: &str, schedule: &ScheduleConfig) -> Result<Schedule, Failure> {
        let read = schedule.read().map_err(|what| wrong(format!("the sync {sync}: {what}")))?;
        if let Schedule::After(other) = &read
            && !self.config.syncs().iter().any(|config| config.sync == *other)
        {
            return Err(wrong(format!("the sync {sync} has `after: {other:?}`, which is no sync")));
        }
        Ok(read)
    }

    /// Returns what people are told of, with where alerts go opened.
    pub(crate) fn alerts(&self) -> Result<Alerts, Failure> {
        let known: Vec<String> = self.config.syncs().iter().map(|sync| sync.sync.clone()).collect();
        let follow = Follow(&self.place.folder);
        let resolve = |text: &str| follow.secret(text).map_err(|error| error.to_string());
        self.config.alerts.read(&known, &resolve).map_err(wrong)
    }

    /// Returns who vouches for people at the console, where somebody does.
    pub(crate) fn oidc(&self) -> Result<Option<Oidc>, Failure> {
        let follow = Follow(&self.place.folder);
        let resolve = |text: &str| follow.secret(text).map_err(|error| error.to_string());
        let opened = self.config.oidc.as_ref().map(|oidc| oidc.open(&resolve)).transpose();
        opened.map_err(|what| wrong(format!("`oidc`: {what}")))
    }

    /// Returns the catalog that is told which columns went where, if there is one.
    pub(crate) fn lineage(&self) -> Result<Option<Lineage>, Failure> {
        let follow = Follow(&self.place.folder);
        let resolve = |text: &str| follow.secret(text).map_err(|error| error.to_string());
        let opened = self.config.lineage.as_ref().map(|lineage| lineage.open(resolve)).transpose();
        opened.map_err(|what| wrong(format!("`lineage`: {what}")))
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
        let state = self.place.folder.join(state_of(&self.config, &self.place));
        state.parent().unwrap_or(&self.place.folder).to_owned()
    }

    /// Returns the file of a mapping.
    pub(crate) fn file_of(&self, mapping: &str) -> String {
        self.mappings.get(mapping).map(|(file, _)| file.clone()).unwrap_or_default()
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

    /// Opens a connection for itself.
    pub(crate) fn endpoint_apart(&self, name: &str) -> Result<Opened, Failure> {
        self.open_endpoint(name)
    }

    /// Returns what is mapped onto what, and by which syncs.
    pub(crate) fn mapped(&self) -> Vec<Mapped> {
        let text = |value: &Option<serde_saphyr::Spanned<String>>| value.as_ref().map(|value| value.value.clone());
        let mapped = self.mappings.iter().map(|(name, (file, definition))| {
            let (salesforce, external) = (&definition.salesforce, &definition.external);
            Mapped {
                mapping: name.clone(),
                file: file.clone(),
                salesforce: [
                    salesforce.connection.clone(),
                    salesforce.object.value.clone(),
                    salesforce.key.value.clone(),
                ],
                external: [external.connection.clone(), external.entity.value.clone(), external.key.value.clone()],
                fields: definition
                    .fields
                    .iter()
                    .map(|pair| FieldPair {
                        salesforce: text(&pair.salesforce),
                        external: text(&pair.external),
                        to_external: text(&pair.to_external),
                        to_salesforce: text(&pair.to_salesforce),
                        lookup: text(&pair.lookup),
                        owner: pair.owner.map(|owner| match owner {
                            Owner::Salesforce => Side::Salesforce,
                            Owner::External => Side::External,
                        }),
                    })
                    .collect(),
                syncs: self.syncs_of(name),
                two_way: !self
                    .syncs_that(|sync| sync.mapping == *name && sync.direction == DirectionConfig::TwoWay)
                    .is_empty(),
            }
        });
        mapped.collect()
    }

    fn syncs_that(&self, wanted: impl Fn(&SyncConfig) -> bool) -> Vec<String> {
        self.config.syncs().iter().filter(|sync| wanted(sync)).map(|sync| sync.sync.clone()).collect()
    }

    /// Returns the connections, each with the syncs that use it.
    pub(crate) fn connected(&self) -> Vec<Connected> {
        let connected = self.connections.iter().map(|(name, (value, _))| Connected {
            name: name.clone(),
            kind: value["kind"].as_str().unwrap_or_default().to_owned(),
            syncs: self.syncs_that(|sync| {
                let definition = self.mappings.get(&sync.mapping).map(|(_, definition)| definition);
                definition.is_some_and(|definition| {
                    [&definition.salesforce.connection, &definition.external.connection].contains(&name)
                })
            }),
        });
        connected.collect()
    }

    /// Returns a record of one side of a mapping as it is now, with the fields that the mapping knows: in Salesforce by its id,
    /// outside by its key.
    pub(crate) async fn record(&self, mapping: &str, side: Side, key: &str) -> Result<Fields, Failure> {
        let unknown = || wrong(format!("there is no mapping {mapping:?}"));
        let (_, definition) = self.mappings.get(mapping).ok_or_else(unknown)?;
        let (connection, entity) = match side {
            Side::Salesforce => (&definition.salesforce.connection, &definition.salesforce.object.value),
            Side::External => (&definition.external.connection, &definition.external.entity.value),
        };
        let endpoint = self.endpoint_apart(connection)?;
        let entity = endpoint.describe(entity).await?;
        let by = match side {
            Side::Salesforce => entity.key.first().cloned().unwrap_or_else(|| "Id".to_owned()),
            Side::External => definition.external.key.value.clone(),
        };
        let own = definition.fields.iter().filter_map(|pair| match side {
            Side::Salesforce => pair.salesforce.as_ref(),
            Side::External => pair.external.as_ref(),
        });
        let mut fields = vec![by.clone()];
        for field in own.map(|field| &field.value).chain([&definition.salesforce.key.value]) {
            if !fields.contains(field) && entity.field(field).is_some() {
                fields.push(field.clone());
            }
        }
        let found = endpoint.fetch_now(&entity, &fields, &by, &[key.to_owned()]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let named = found.records.schema_ref().fields().iter().zip(found.records.columns());
        let shown =
            named.map(|(field, column)| (field.name().clone(), text_of(column.as_ref(), 0).map(Cow::into_owned)));
        Ok(Some(shown.collect()))
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
        let known = || self.connections.keys().cloned().collect::<Vec<_>>().join(", ");
        let connection = self.connections.get(name);
        let (value, place) =
            connection.ok_or_else(|| wrong(format!("there is no connection {name:?}; there are {}", known())))?;
        let mut value = value.clone();
        let kinds = kinds();
        let kind = value.as_object_mut().and_then(|fields| fields.remove("kind"));
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        let kind = kinds.iter().find(|known| known.name == kind).ok_or_else(|| {
            let words: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
            wrong(format!("{place}: its kind is {kind:?}; there are {}", words.join(", ")))
        })?;
        let setup = Setup {
            name,
            folder: &self.place.folder,
            state: &self.state_folder(),
            references: &Follow(&self.place.folder),
            journal: Arc::new(Work(self.store.clone())),
        };
        (kind.open)(value, &setup).map_err(|error| {
            let mut failure = Failure::from(error);
            failure.text = format!("{place}: {}", failure.text);
            failure
        })
    }
}

/// Returns the state file of a project, relative to it.
fn state_of(config: &Config, place: &Place) -> PathBuf {
    let own = || Path::new(".bridgehead").join(place.environment.as_deref().unwrap_or_default()).join("state.db");
    config.state.clone().unwrap_or_else(own)
}

/// Returns the name of the environment whose file this is.
fn environment_of(file: &str) -> Option<&str> {
    file.strip_prefix("environments/")?.strip_suffix(".yaml")
}

/// Returns what becomes of a run where an entity is another than before.
fn drift(config: &SyncConfig) -> Result<Drift, &'static str> {
    if config.drift == Drift::AddColumns && config.direction != DirectionConfig::ToExternal {
        return Err("`drift: add_columns` is for syncs with direction: to_external");
    }
    Ok(config.drift)
}

/// Returns what is kept of each write.
fn history(config: &SyncConfig) -> Result<History, &'static str> {
    if config.history != History::None && config.direction == DirectionConfig::TwoWay {
        return Err("`history` is for syncs that go one way: two-way syncs keep values for 30 days, to be undone");
    }
    Ok(config.history)
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
