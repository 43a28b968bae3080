//! A Salesforce org: reads by REST or Bulk query, writes by collections or Bulk ingest, by volume.

mod config;
mod convert;
mod derived;
mod notices;
mod pairs;
mod sink;
mod source;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use ::salesforce::{Client, Error as OrgError, Object};
use async_trait::async_trait;
use endpoint::{Capabilities, Catalog, Error, Journal, Result};
use model::{Class, Entity};

pub use config::{Auth, Events, KIND, SalesforceConfig};

/// From how many rows on a Bulk job costs fewer calls and less time than REST.
pub const DEFAULT_BULK_ROWS: u64 = 2_000;

/// An org.
#[derive(Clone)]
pub struct Org {
    client: Client,
    journal: Arc<dyn Journal>,
    bulk_rows: u64,
    events: Events,
    /// Address of the Pub/Sub API, where it is not the usual one.
    pubsub: Option<String>,
    jobs: Jobs,
}

/// The Bulk jobs that are being written.
#[derive(Clone, Default)]
struct Jobs {
    /// Their ids: they are no work that an earlier run left behind.
    begun: Arc<Mutex<HashSet<String>>>,
    /// Whoever has it lets the org work at a job: two that wait for each other's locks gain nothing.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Org {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Org").field("bulk_rows", &self.bulk_rows).finish_non_exhaustive()
    }
}

impl Org {
    /// Returns an endpoint over a client. Reads and writes of at least `bulk_rows` rows become Bulk jobs,
    /// whose ids `journal` remembers.
    pub fn new(client: Client, journal: Arc<dyn Journal>, bulk_rows: u64) -> Self {
        Self { client, journal, bulk_rows, events: Events::default(), pubsub: None, jobs: Jobs::default() }
    }

    /// The same endpoint, which is told of changes in this way; `pubsub` is the address of the Pub/Sub API, where it is not
    /// the usual one.
    #[must_use]
    pub fn told_by(self, events: Events, pubsub: Option<String>) -> Self {
        Self { events, pubsub, ..self }
    }

    async fn object(&self, name: &str) -> Result<Arc<Object>> {
        let described = self.client.describe(name).await;
        described.map_err(|error| match error.code() {
            Some("NOT_FOUND" | "INVALID_TYPE") => {
                Error::new(Class::Mapping, format!("the org has no object {name} that this login can see"))
            }
            _ => failed(format!("cannot describe {name}"))(error),
        })
    }
}

/// Wraps an error with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(OrgError) -> Error {
    let what = what.into();
    move |error| Error::new(error.class(), what).caused_by(error)
}

#[async_trait]
impl Catalog for Org {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: true,
            group_by_parent: true,
            references_by_external_id: true,
            creates_entities: false,
            write_rows: 50_000,
            two_way: true,
            writes_at_once: 2,
            guards_by_second: true,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        let objects = self.client.objects().await.map_err(failed("cannot list the objects"))?;
        let mut names: Vec<String> =
            objects.iter().filter(|object| object.queryable).map(|object| object.name.clone()).collect();
        names.sort();
        Ok(names)
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        Ok(convert::entity(self.object(entity).await?.as_ref()))
    }

    /// Returns the validation rules that are active.
    async fn rules(&self, entity: &Entity) -> Result<Option<BTreeMap<String, String>>> {
        let what = || format!("cannot read the validation rules of {}", entity.name);
        let listed = match self.client.list_metadata("ValidationRule").await {
            Ok(listed) => listed,
            // A login of few rights sees records, and not what the org is made of.
            Err(error)
                if matches!(error.code(), Some("INSUFFICIENT_ACCESS" | "API_DISABLED_FOR_ORG" | "INVALID_TYPE")) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(what())(error)),
        };
        let of_entity =
            |name: &&str| name.split_once('.').is_some_and(|(object, _)| object.eq_ignore_ascii_case(&entity.name));
        let names: Vec<&str> = listed.iter().map(|rule| rule.name.as_str()).filter(of_entity).collect();
        let read = self.client.read_metadata("ValidationRule", &names).await.map_err(failed(what()))?;
        let active = read.iter().filter(|rule| rule.value("active") == Some("true"));
        let told = active.map(|rule| {
            let text = |name: &str| rule.value(name).unwrap_or_default().trim();
            let name = text("fullName").rsplit('.').next().unwrap_or_default().to_owned();
            (name, format!("{} ({})", text("errorConditionFormula"), text("errorMessage")))
        });
        Ok(Some(told.collect()))
    }

    fn calls(&self) -> u64 {
        self.client.calls()
    }

    fn allowance(&self) -> Option<u64> {
        self.client.usage().map(::salesforce::Usage::left)
    }
}
