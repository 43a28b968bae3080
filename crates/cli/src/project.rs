//! A project: a folder with `bridgehead.yaml` and `mappings/*.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use endpoint::{Endpoint, Journal};
use endpoints_apps::salesforce::{DEFAULT_BULK_ROWS, Org};
use endpoints_data::postgres::Postgres;
use endpoints_data::sqlite::Sqlite;
use engine::{Deletes, Sync};
use mapping::{Definition, Direction};
use model::Class;
use secrecy::SecretString;
use serde::Deserialize;
use state::Store;

use crate::Failure;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    version: u32,
    connections: BTreeMap<String, Connection>,
    #[serde(default)]
    syncs: Vec<SyncConfig>,
    #[serde(default = "default_state")]
    state: PathBuf,
}

fn default_state() -> PathBuf {
    PathBuf::from(".bridgehead/state.db")
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Connection {
    Salesforce { url: String, auth: Auth, version: Option<String>, bulk_rows: Option<u64> },
    Sqlite { path: PathBuf },
    Postgres { url: String, password: Option<String> },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "grant", rename_all = "snake_case", deny_unknown_fields)]
enum Auth {
    ClientCredentials { client_id: String, client_secret: String },
    JwtBearer { client_id: String, username: String, private_key: String, audience: Option<String> },
    RefreshToken { client_id: String, client_secret: Option<String>, refresh_token: String },
    AccessToken { access_token: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncConfig {
    sync: String,
    mapping: String,
    direction: Direction,
    #[serde(default)]
    deletes: DeletesConfig,
    #[serde(default = "default_brake")]
    brake: f64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeletesConfig {
    #[default]
    Ignore,
    Propagate,
}

fn default_brake() -> f64 {
    0.1
}

/// An open connection.
type Opened = Arc<dyn Endpoint>;

/// An open project.
pub(crate) struct Project {
    folder: PathBuf,
    config: Config,
    mappings: BTreeMap<String, (PathBuf, Definition)>,
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

fn wrong(text: impl Into<String>) -> Failure {
    Failure::new(Class::Mapping, text)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))
}

impl Project {
    /// Reads the project in a folder and opens its state.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("bridgehead.yaml");
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
            mappings.insert(definition.mapping.clone(), (path, definition));
        }
        let store = Store::open(&folder.join(&config.state))?;
        Ok(Self { folder: folder.to_owned(), config, mappings, store })
    }

    /// Returns the named syncs, or all of them.
    pub(crate) fn syncs(&self, names: &[String]) -> Result<Vec<Sync>, Failure> {
        let known = || self.config.syncs.iter().map(|sync| sync.sync.as_str()).collect::<Vec<_>>().join(", ");
        for name in names {
            if !self.config.syncs.iter().any(|sync| sync.sync == *name) {
                return Err(wrong(format!("there is no sync {name:?}; there are {}", known())));
            }
        }
        let wanted = |sync: &&SyncConfig| names.is_empty() || names.contains(&sync.sync);
        let syncs = self.config.syncs.iter().filter(wanted).map(|config| {
            let (_, definition) = self.mappings.get(&config.mapping).ok_or_else(|| {
                wrong(format!(
                    "the sync {} wants a mapping {:?}, which no file in mappings/ defines",
                    config.sync, config.mapping
                ))
            })?;
            Ok(Sync {
                name: config.sync.clone(),
                definition: definition.clone(),
                direction: config.direction,
                deletes: match config.deletes {
                    DeletesConfig::Ignore => Deletes::Ignore,
                    DeletesConfig::Propagate => Deletes::Propagate,
                },
                brake: config.brake,
            })
        });
        syncs.collect()
    }

    /// Returns the file of a mapping.
    pub(crate) fn file_of(&self, mapping: &str) -> String {
        self.mappings.get(mapping).map(|(path, _)| path.display().to_string()).unwrap_or_default()
    }

    /// Returns the Salesforce key of a mapping, for lookups.
    pub(crate) fn parent_key(&self, mapping: &str) -> Option<String> {
        self.mappings.get(mapping).map(|(_, definition)| definition.salesforce.key.value.clone())
    }

    /// Returns source and target of a sync.
    pub(crate) fn endpoints(&self, sync: &Sync) -> Result<(Opened, Opened), Failure> {
        let salesforce = self.endpoint(&sync.definition.salesforce.connection)?;
        let external = self.endpoint(&sync.definition.external.connection)?;
        Ok(match sync.direction {
            Direction::ToExternal => (salesforce, external),
            Direction::ToSalesforce => (external, salesforce),
        })
    }

    /// Opens a connection.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Opened, Failure> {
        let known = || self.config.connections.keys().cloned().collect::<Vec<_>>().join(", ");
        let connection = self.config.connections.get(name);
        match connection.ok_or_else(|| wrong(format!("there is no connection {name:?}; there are {}", known())))? {
            Connection::Sqlite { path } => Ok(Arc::new(Sqlite::new(self.folder.join(path)))),
            Connection::Postgres { url, password } => {
                let password = password.as_deref().map(|text| self.secret(text)).transpose()?;
                let password = password.as_ref().map(secrecy::ExposeSecret::expose_secret);
                Ok(Arc::new(Postgres::new(&self.resolve(url)?, password)?))
            }
            Connection::Salesforce { url, auth, version, bulk_rows } => {
                let mut settings = salesforce::Settings::default();
                settings.version = version.clone().unwrap_or(settings.version);
                let credentials = self.credentials(name, &self.resolve(url)?, auth)?;
                let client = salesforce::Client::new(credentials, settings)
                    .map_err(|error| Failure::from_error(error.class(), &error))?;
                let journal = Arc::new(Work(self.store.clone()));
                Ok(Arc::new(Org::new(client, journal, bulk_rows.unwrap_or(DEFAULT_BULK_ROWS))))
            }
        }
    }

    fn credentials(&self, name: &str, url: &str, auth: &Auth) -> Result<salesforce::Credentials, Failure> {
        let login_url = url.to_owned();
        Ok(match auth {
            Auth::ClientCredentials { client_id, client_secret } => salesforce::Credentials::ClientCredentials {
                login_url,
                client_id: self.resolve(client_id)?,
                client_secret: self.secret(client_secret)?,
            },
            Auth::JwtBearer { client_id, username, private_key, audience } => salesforce::Credentials::JwtBearer {
                login_url,
                client_id: self.resolve(client_id)?,
                username: self.resolve(username)?,
                private_key: self.secret(private_key)?,
                audience: audience.clone(),
            },
            Auth::RefreshToken { client_id, client_secret, refresh_token } => salesforce::Credentials::RefreshToken {
                login_url,
                client_id: self.resolve(client_id)?,
                client_secret: client_secret.as_deref().map(|secret| self.secret(secret)).transpose()?,
                refresh_token: self.secret(refresh_token)?,
                file: salesforce::TokenFile {
                    path: self.folder.join(&self.config.state).with_file_name(format!("{name}.token")),
                },
            },
            Auth::AccessToken { access_token } => salesforce::Credentials::AccessToken {
                instance_url: login_url,
                access_token: self.secret(access_token)?,
            },
        })
    }

    /// Follows a reference such as `${env:NAME}` or `${file:PATH}`; any other text is itself.
    fn resolve(&self, text: &str) -> Result<String, Failure> {
        let Some(reference) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(text.to_owned());
        };
        match reference.split_once(':') {
            Some(("env", name)) => std::env::var(name)
                .map_err(|_| Failure::new(Class::Auth, format!("{text} is not set in the environment"))),
            Some(("file", path)) => {
                let path = self.folder.join(path);
                let text = std::fs::read_to_string(&path);
                let text = text
                    .map_err(|error| Failure::new(Class::Auth, format!("cannot read {}: {error}", path.display())))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            _ => Err(wrong(format!("{text} is no reference that is known; write ${{env:NAME}} or ${{file:PATH}}"))),
        }
    }

    fn secret(&self, text: &str) -> Result<SecretString, Failure> {
        if !text.starts_with("${") {
            return Err(wrong("a secret stands in bridgehead.yaml itself; give it as ${env:NAME} or ${file:PATH}"));
        }
        self.resolve(text).map(SecretString::from)
    }
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
    if folder.join("bridgehead.yaml").exists() {
        return Err(wrong(format!("{} has a project already", folder.display())));
    }
    std::fs::create_dir_all(folder.join("mappings")).map_err(cannot)?;
    std::fs::write(folder.join("bridgehead.yaml"), STARTER).map_err(cannot)?;
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
