//! Brokers: queues and logs of messages, each of which says what became of a record; webhooks are as good as they.
//!
//! A message is a CloudEvent with the record for its data; whoever reads the queue needs not know us. What is published
//! counts as written when the broker has it, and what is consumed is given back to the broker when it has an outcome: a
//! crash in between tells it again.

mod event;
pub mod inbox;
pub mod kafka;
mod listen;
pub mod nats;
mod notifications;
pub mod rabbitmq;
mod signature;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use endpoint::{Batches, Capabilities, Catalog, Error, Notices, Read, Result, Sink, Source, Target};
use model::{ChangeBatch, Class, Entity, Field, Op, Outcome, RecordError, Type, text_of};
use schemars::JsonSchema;
use serde::Deserialize;

/// Most rows of a write: so many messages are on their way at once.
const WRITE_ROWS: usize = 1_000;

/// How a message holds its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// As a CloudEvent in JSON; that of a deletion has the key alone for its data.
    #[default]
    Cloudevents,
    /// As the bare record in JSON; a deletion has no body.
    None,
}

/// What the messages of an entity hold.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// The field that identifies a record.
    pub key: String,
    /// The fields with their types: `text`, `integer`, `decimal(18,2)`, `float`, `boolean`, `date`, `time`, `timestamp`, `json`.
    pub fields: BTreeMap<String, String>,
}

/// A message on its way out.
#[derive(Debug, Clone)]
struct Message {
    /// Key of the record: messages with one key stay in order.
    key: String,
    /// Another for each message.
    id: String,
    /// Fingerprint of the record.
    data: u64,
    op: Op,
    content_type: &'static str,
    /// None for a bare deletion.
    body: Option<Bytes>,
    /// What a CloudEvent says besides its data, for brokers that want a deletion without a body.
    attributes: Vec<(&'static str, String)>,
}

/// Names of headers that every message has.
const KEY_HEADER: &str = "bridgehead-key";
const OP_HEADER: &str = "bridgehead-op";

impl Message {
    fn op(&self) -> &'static str {
        if self.op == Op::Delete { "delete" } else { "upsert" }
    }
}

/// A message that came.
#[derive(Debug, Clone, Default)]
struct Delivery {
    key: Option<String>,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// When the broker got it, in microseconds since 1970.
    at: Option<i64>,
    /// Where it stands, for messages about it.
    place: String,
}

/// Messages as they come. Dropping it leaves those without an outcome to whoever consumes next.
#[async_trait]
trait Deliveries: Send {
    /// Returns the next message; nothing is lost when it is dropped before.
    async fn next(&mut self) -> Result<Delivery>;

    /// Gives back so many messages, in the order in which they came: they have an outcome.
    async fn settle(&mut self, count: usize) -> Result<()>;

    /// Says that the others are still worked on.
    async fn alive(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What brokers differ in.
#[async_trait]
trait Broker: Send + Sync + 'static {
    /// Publishes messages in this order, and returns what the broker says of each.
    async fn publish(&self, entity: &str, messages: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>>;

    /// Makes what keeps the messages of an entity; what is there stays as it is.
    async fn create(&self, entity: &str) -> Result<()>;

    /// Returns how many messages wait.
    async fn waiting(&self, entity: &str) -> Result<u64>;

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>>;
}

/// A broker as an endpoint.
#[derive(Clone)]
struct Queues {
    broker: Arc<dyn Broker>,
    /// Name of the connection.
    name: String,
    envelope: Envelope,
    entities: BTreeMap<String, Entity>,
}

impl Queues {
    fn new(
        broker: impl Broker,
        name: &str,
        envelope: Envelope,
        described: &BTreeMap<String, Described>,
    ) -> Result<Self> {
        let entities = described.iter().map(|(name, one)| Ok((name.clone(), entity(name, one)?)));
        let entities = entities.collect::<Result<_>>()?;
        Ok(Self { broker: Arc::new(broker), name: name.to_owned(), envelope, entities })
    }
}

/// Returns an entity as it is described in the configuration.
fn entity(name: &str, described: &Described) -> Result<Entity> {
    let wrong = |message: String| Error::new(Class::Mapping, message);
    let mut fields = Vec::with_capacity(described.fields.len());
    for (field, kind) in &described.fields {
        let kind: Type = kind.parse().map_err(|error| wrong(format!("entities.{name}.fields.{field}: {error}")))?;
        let is_key = *field == described.key;
        fields.push(Field { unique: is_key, external_id: is_key, nillable: !is_key, ..Field::new(field, kind) });
    }
    if !described.fields.contains_key(&described.key) {
        return Err(wrong(format!("entities.{name}: its key {} is none of its fields", described.key)));
    }
    Ok(Entity::new(name).with_key([described.key.as_str()]).with_fields(fields))
}

#[async_trait]
impl Catalog for Queues {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: true,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: true,
            write_rows: WRITE_ROWS,
            two_way: false,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: true,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        Ok(self.entities.keys().cloned().collect())
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        self.entities.get(entity).cloned().ok_or_else(|| {
            let message = format!(
                "{} does not say what the messages of {entity} hold: name their key and fields under `entities`, or let a \
                 mapping out of Salesforce design them with `create: true`",
                self.name
            );
            Error::new(Class::Mapping, message)
        })
    }
}

#[async_trait]
impl Source for Queues {
    async fn now(&self, _: &Entity) -> Result<Option<String>> {
        Ok(None)
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        self.broker.waiting(&read.entity.name).await
    }

    async fn listen(&self, entity: &Entity, _: &str, fields: &[String], _: Option<&str>) -> Result<Notices> {
        self.notices(entity, fields).await
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        Err(Error::new(Class::Internal, format!("messages of {} are told once, and can't be read", read.entity.name)))
    }
}

#[async_trait]
impl Sink for Queues {
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        let key = changes.records.column_by_name(&target.key);
        let key = key.ok_or_else(|| Error::new(Class::Internal, format!("the batch has no column {}", target.key)))?;
        let now = Utc::now();
        let mut messages = Vec::with_capacity(changes.len());
        for (row, op) in changes.ops.iter().enumerate() {
            let key = text_of(key.as_ref(), row).unwrap_or_default().into_owned();
            let record = event::Record { records: &changes.records, row, op: *op, key, now };
            messages.push(event::message(&self.name, &target.entity.name, self.envelope, record)?);
        }
        let answers = self.broker.publish(&target.entity.name, messages).await?;
        // Whether the record was there before, a broker does not know.
        let outcome = |answer| match answer {
            Ok(()) => Outcome::Applied { created: false, id: None },
            Err(error) => Outcome::Refused(error),
        };
        Ok(answers.into_iter().map(outcome).collect())
    }

    async fn create(&self, entity: &Entity) -> Result<()> {
        self.broker.create(&entity.name).await
    }
}
