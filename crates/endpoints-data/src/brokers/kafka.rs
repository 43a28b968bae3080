//! Kafka and what speaks its protocol: an entity is a topic. Messages have the record's key, and a deletion has no value, so
//! that compaction keeps the newest of each record. A group remembers how far it has come.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use krafka::auth::{AuthConfig, TlsConfig};
use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerRecord, OffsetAndMetadata, TopicPartition};
use krafka::error::{ErrorCode, KrafkaError};
use krafka::producer::Producer;
use krafka::{Kafka, Record};
use model::{Class, Op, RecordError};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{Broker, Deliveries, Delivery, Described, Envelope, KEY_HEADER, Message, OP_HEADER, Queues};
use crate::tls::{self, Tls};

/// Kafka, as a kind of connection.
pub const KIND: Kind =
    Kind::new::<KafkaConfig>("kafka", "Topics of Kafka, or of what speaks its protocol.", |value, setup| {
        configuration::<KafkaConfig>(value)?.open(setup)
    });

/// How long a member of a group waits for its partitions.
const JOINING: Duration = Duration::from_mins(1);
/// How long one look for messages takes, at most.
const POLL: Duration = Duration::from_millis(250);
/// Partitions of a topic that is made here, and the number of its copies: what the cluster says.
const BY_DEFAULT: i16 = -1;

/// A Kafka cluster. An entity is a topic.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Servers to begin with, such as `kafka1.example.com:9092`, with commas in between.
    pub servers: String,
    /// The login, where there is one.
    #[serde(default)]
    pub user: Option<String>,
    /// The password, by reference.
    #[serde(default)]
    pub password: Option<String>,
    /// How the login is told.
    #[serde(default)]
    pub sasl: Sasl,
    /// Whether the connection is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// Certificates (PEM) to trust instead of the system's.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// How a message holds its record.
    #[serde(default)]
    pub envelope: Envelope,
    /// The group that we read in; another one gets every message, too.
    #[serde(default = "KafkaConfig::default_group")]
    pub group: String,
    /// What messages hold that are read.
    #[serde(default)]
    pub entities: BTreeMap<String, Described>,
}

/// How a login is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sasl {
    /// In the clear; only where the connection is encrypted.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    #[default]
    ScramSha512,
}

impl KafkaConfig {
    fn default_group() -> String {
        "bridgehead".to_owned()
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let servers = setup.references.resolve(&self.servers)?;
        let password = self.password.map(|text| setup.references.secret(&text)).transpose()?;
        let host = |server: &str| tls::is_local(server.trim().rsplit_once(':').map_or(server, |(host, _)| host));
        let encrypted = self.tls.is_needed(servers.split(',').all(host));
        let authority = self.tls_ca.map(|path| setup.folder.join(path).display().to_string());
        let login = self.user.zip(password);
        if login.is_some() && self.sasl == Sasl::Plain && !encrypted && self.tls != Tls::Remote {
            let message = "`sasl: plain` tells the password to everybody who listens: encrypt the connection, or use scram_sha512";
            return Err(Error::new(Class::Mapping, message));
        }
        let kafka = Cluster {
            servers,
            login,
            sasl: self.sasl,
            encrypted,
            authority,
            group: self.group,
            opened: OnceCell::new(),
        };
        Ok(Arc::new(Queues::new(kafka, setup.name, self.envelope, &self.entities)?))
    }
}

struct Cluster {
    servers: String,
    login: Option<(String, SecretString)>,
    sasl: Sasl,
    encrypted: bool,
    authority: Option<String>,
    group: String,
    opened: OnceCell<(Kafka, Producer)>,
}

/// Wraps an error with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(KrafkaError) -> Error {
    let what = what.into();
    move |error| {
        let class = match &error {
            KrafkaError::Auth { .. } => Class::Auth,
            error if error.is_retriable() => Class::Transient { after: None },
            KrafkaError::Closed { .. } | KrafkaError::Fenced { .. } | KrafkaError::DeliveryTimeout { .. } => {
                Class::Transient { after: None }
            }
            _ => Class::Mapping,
        };
        Error::new(class, what).caused_by(error)
    }
}

impl Cluster {
    fn security(&self) -> AuthConfig {
        let tls = self.encrypted.then(|| {
            let config = TlsConfig::new();
            match &self.authority {
                Some(path) => config.with_ca_cert(path.clone()),
                None => config.with_native_roots(),
            }
        });
        let auth = match &self.login {
            None => AuthConfig::plaintext(),
            Some((user, password)) => {
                let password = password.expose_secret();
                match self.sasl {
                    Sasl::Plain => AuthConfig::sasl_plain(user, password),
                    Sasl::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
                    Sasl::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
                }
            }
        };
        match tls {
            Some(tls) => auth.with_tls(tls),
            None => auth,
        }
    }

    async fn opened(&self) -> Result<&(Kafka, Producer)> {
        let open = async || {
            let what = || failed(format!("cannot connect to Kafka at {}", self.servers));
            let kafka = Kafka::builder(self.servers.clone()).client_id("bridgehead").security(self.security());
            let kafka = kafka.connect().await.map_err(what())?;
            let producer = kafka.producer().build().await.map_err(what())?;
            Ok((kafka, producer))
        };
        self.opened.get_or_try_init(open).await
    }

    /// Joins the group, and waits until it has its partitions.
    async fn join(&self, topic: &str) -> Result<(Consumer, Vec<ConsumerRecord>)> {
        let what = || failed(format!("cannot read the topic {topic} of Kafka at {}", self.servers));
        let (kafka, _) = self.opened().await?;
        let consumer = kafka.consumer(self.group.clone()).auto_offset_reset(AutoOffsetReset::Earliest);
        let consumer = consumer.enable_auto_commit(false).build().await.map_err(what())?;
        consumer.subscribe([topic]).await.map_err(what())?;
        let joined = tokio::time::timeout(JOINING, async {
            loop {
                let records = consumer.poll(POLL).await?;
                if !records.is_empty() || !consumer.assignment().await.is_empty() {
                    return Ok(records);
                }
            }
        });
        let Ok(records) = joined.await else {
            let message = format!(
                "the group {} of Kafka at {} gives us no partition of {topic}: is there such a topic, and is nobody else in \
                 the group?",
                self.group, self.servers
            );
            return Err(Error::new(Class::Transient { after: None }, message));
        };
        Ok((consumer, records.map_err(what())?))
    }
}

#[async_trait]
impl Broker for Cluster {
    async fn publish(&self, entity: &str, messages: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let (_, producer) = self.opened().await?;
        let what = || failed(format!("cannot write to the topic {entity} of Kafka at {}", self.servers));
        let refused = |error: KrafkaError| match &error {
            KrafkaError::Broker { code: ErrorCode::MessageTooLarge | ErrorCode::InvalidRecord, .. } => {
                Ok(RecordError::rejected("NOT_TAKEN", format!("Kafka does not take the message: {error}")))
            }
            _ => Err(what()(error)),
        };
        let mut acknowledged = Vec::with_capacity(messages.len());
        for message in messages {
            let key = Bytes::from(message.key.clone().into_bytes());
            let mut record = match message.body.clone().filter(|_| message.op == Op::Upsert) {
                Some(body) => Record::new(entity, body).key(key).header("content-type", message.content_type),
                // What the event would say stands in headers.
                None => message.attributes.iter().fold(Record::tombstone(entity, key), |record, (name, value)| {
                    record.header(format!("ce_{name}"), value.clone())
                }),
            };
            record = record.header(KEY_HEADER, message.key.clone()).header(OP_HEADER, message.op());
            acknowledged.push(producer.enqueue(record).await.map_err(refused));
        }
        let mut outcomes = Vec::with_capacity(acknowledged.len());
        for acknowledged in acknowledged {
            outcomes.push(match acknowledged {
                Ok(handle) => match handle.await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(refused(error)?),
                },
                Err(refused) => Err(refused?),
            });
        }
        Ok(outcomes)
    }

    async fn create(&self, entity: &str) -> Result<()> {
        let (kafka, _) = self.opened().await?;
        let what = || failed(format!("cannot make the topic {entity} of Kafka at {}", self.servers));
        let topic = krafka::admin::NewTopic::new(entity, i32::from(BY_DEFAULT), BY_DEFAULT).map_err(what())?;
        let made = kafka.admin().create_topics([topic], krafka::admin::CreateTopicsOptions::default()).await;
        for (_, result) in made.map_err(what())? {
            match result {
                Err(KrafkaError::Broker { code: ErrorCode::TopicAlreadyExists, .. }) => {}
                other => other.map_err(what())?,
            }
        }
        Ok(())
    }

    async fn waiting(&self, entity: &str) -> Result<u64> {
        let what = || failed(format!("cannot look at the topic {entity} of Kafka at {}", self.servers));
        let (kafka, _) = self.opened().await?;
        let consumer = kafka.consumer(self.group.clone()).enable_auto_commit(false).build().await.map_err(what())?;
        let known = consumer.fetch_metadata(Some(entity)).await.map_err(what())?;
        let partitions: Vec<i32> = known
            .topics
            .iter()
            .filter(|topic| topic.name == entity)
            .flat_map(|topic| topic.partitions.keys().copied())
            .collect();
        let places: Vec<(&str, i32)> = partitions.iter().map(|partition| (entity, *partition)).collect();
        let committed = consumer.committed(&places).await.map_err(what())?;
        let mut waiting = 0;
        for partition in partitions {
            let (first, end) = consumer.fetch_watermarks(entity, partition).await.map_err(what())?;
            let reached = committed.get(&(entity.to_owned(), partition)).map_or(first, |place| place.offset.max(first));
            waiting += end.saturating_sub(reached).max(0).cast_unsigned();
        }
        consumer.close().await.map_err(what())?;
        Ok(waiting)
    }

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>> {
        let (consumer, records) = self.join(entity).await?;
        let place = format!("the topic {entity} of Kafka at {}", self.servers);
        Ok(Box::new(Consumed { consumer, place, ready: records.into(), pending: VecDeque::new() }))
    }
}

struct Consumed {
    consumer: Consumer,
    place: String,
    ready: VecDeque<ConsumerRecord>,
    /// Partitions and offsets of messages without an outcome, in the order in which they came.
    pending: VecDeque<(String, i32, i64)>,
}

#[async_trait]
impl Deliveries for Consumed {
    async fn next(&mut self) -> Result<Delivery> {
        let record = loop {
            if let Some(record) = self.ready.pop_front() {
                break record;
            }
            let polled = self.consumer.poll(POLL).await.map_err(failed(format!("cannot read {}", self.place)))?;
            self.ready.extend(polled);
        };
        self.pending.push_back((record.topic.to_string(), record.partition, record.offset));
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let headers = record.headers.iter();
        let headers = headers.filter_map(|(name, value)| Some((name.clone(), text(value.as_ref()?)))).collect();
        Ok(Delivery {
            key: record.key.as_ref().map(text),
            headers,
            body: record.value.clone().unwrap_or_default(),
            at: record.timestamp.checked_mul(1_000).filter(|at| *at > 0),
            place: format!("message {} of {}, partition {}", record.offset, record.topic, record.partition),
        })
    }

    async fn settle(&mut self, count: usize) -> Result<()> {
        let mut reached: HashMap<(String, i32), i64> = HashMap::new();
        for (topic, partition, offset) in self.pending.drain(..count.min(self.pending.len())) {
            // What is committed is the next to be read.
            reached.insert((topic, partition), offset + 1);
        }
        let offsets = reached
            .into_iter()
            .map(|((topic, partition), next)| (TopicPartition::new(topic, partition), OffsetAndMetadata::new(next)));
        let committed = self.consumer.commit_offsets(offsets).await;
        committed.map_err(failed(format!("cannot say how far {} was read", self.place)))
    }
}
