//! NATS JetStream: a message's subject is the entity and the key of its record, `orders.4711`; a durable consumer for each
//! entity takes them, each acknowledged on its own.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::stream::{RetentionPolicy, Stream};
use async_nats::jetstream::{self, AckKind};
use async_nats::{ConnectOptions, ServerAddr};
use async_trait::async_trait;
use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use futures::StreamExt as _;
use model::{Class, RecordError};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{Broker, Deliveries, Delivery, Described, Envelope, KEY_HEADER, Message, OP_HEADER, Queues};
use crate::tls::{self, Tls};

/// NATS, as a kind of connection.
pub const KIND: Kind = Kind::new::<NatsConfig>("nats", "Subjects of a NATS server with JetStream.", |value, setup| {
    configuration::<NatsConfig>(value)?.open(setup)
});

/// How long the server waits for an acknowledgement before it sends a message again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages without an acknowledgement, at most.
const UNACKNOWLEDGED: i64 = 10_000;
/// Messages that are asked for at a time.
const ASKED: usize = 500;

/// A NATS server with JetStream. An entity is the beginning of a subject: `orders` is all of `orders.>`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// The server, such as `nats://nats.example.com:4222`; several with commas in between.
    pub url: String,
    /// The login, where it is one with a password.
    #[serde(default)]
    pub user: Option<String>,
    /// The password, by reference.
    #[serde(default)]
    pub password: Option<String>,
    /// A token, by reference.
    #[serde(default)]
    pub token: Option<String>,
    /// The text of a credentials file (`.creds`), by reference, such as `${file:bridge.creds}`.
    #[serde(default)]
    pub credentials: Option<String>,
    /// Whether the connection is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// Certificates (PEM) to trust instead of the system's.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// How a message holds its record.
    #[serde(default)]
    pub envelope: Envelope,
    /// What the names of our consumers begin with; another one gets every message, too. Only one process may use it.
    #[serde(default = "NatsConfig::default_group")]
    pub group: String,
    /// What messages hold that are read.
    #[serde(default)]
    pub entities: BTreeMap<String, Described>,
}

impl NatsConfig {
    fn default_group() -> String {
        "bridgehead".to_owned()
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let references = setup.references;
        let secret = |text: &Option<String>| text.as_deref().map(|text| references.secret(text)).transpose();
        let wrong = |message: &str| Error::new(Class::Mapping, message);
        let servers = references.resolve(&self.url)?;
        let servers = servers.split(',').map(|one| one.trim().parse());
        let servers: Vec<ServerAddr> = servers.collect::<std::result::Result<_, _>>().map_err(|error| {
            wrong("the url is none of a NATS server, such as nats://nats.example.com:4222").caused_by(error)
        })?;
        if servers.iter().any(ServerAddr::has_user_pass) {
            return Err(wrong("the url holds a login; give it as `user` and `password`, the latter by reference"));
        }
        let is_local = servers.iter().all(|server| tls::is_local(server.host()));
        let authority = self.tls_ca.map(|path| setup.folder.join(path));
        let encrypted = self.tls.is_needed(is_local).then(|| tls::client_config(authority.as_deref())).transpose()?;
        let nats = Nats {
            place: servers
                .iter()
                .map(|server| format!("{}:{}", server.host(), server.port()))
                .collect::<Vec<_>>()
                .join(", "),
            servers,
            login: self.user.zip(secret(&self.password)?),
            token: secret(&self.token)?,
            credentials: secret(&self.credentials)?,
            encrypted,
            group: self.group,
            connected: OnceCell::new(),
        };
        Ok(Arc::new(Queues::new(nats, setup.name, self.envelope, &self.entities)?))
    }
}

struct Nats {
    servers: Vec<ServerAddr>,
    /// The servers, for messages.
    place: String,
    login: Option<(String, SecretString)>,
    token: Option<SecretString>,
    credentials: Option<SecretString>,
    encrypted: Option<rustls::ClientConfig>,
    group: String,
    /// The connection, which makes itself anew.
    connected: OnceCell<jetstream::Context>,
}

/// Writes a key as one word of a subject: whatever else a subject means something by is written as `%` and its code.
fn word(key: &str) -> String {
    let mut word = String::with_capacity(key.len());
    for c in key.chars() {
        if c.is_ascii_alphanumeric() || "-_~@+=:/".contains(c) || !(c.is_ascii() || c.is_whitespace()) {
            word.push(c);
        } else {
            let mut bytes = [0; 4];
            word.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    word
}

/// Returns a name that streams and consumers may have.
fn name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

fn transient(message: impl Into<String>) -> Error {
    Error::new(Class::Transient { after: None }, message)
}

impl Nats {
    async fn jetstream(&self) -> Result<&jetstream::Context> {
        self.connected.get_or_try_init(async || self.connect().await).await
    }

    async fn connect(&self) -> Result<jetstream::Context> {
        let mut options = ConnectOptions::new().name("bridgehead");
        if let Some((user, password)) = &self.login {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        if let Some(token) = &self.token {
            options = options.token(token.expose_secret().to_owned());
        }
        if let Some(credentials) = &self.credentials {
            options = options
                .credentials(credentials.expose_secret())
                .map_err(|_| Error::new(Class::Auth, "the credentials are no text of a .creds file"))?;
        }
        if let Some(config) = self.encrypted.clone() {
            options = options.require_tls(true).tls_client_config(config);
        }
        let client = options.connect(self.servers.as_slice()).await.map_err(|error| {
            let denied = matches!(
                error.kind(),
                async_nats::ConnectErrorKind::Authentication | async_nats::ConnectErrorKind::AuthorizationViolation
            );
            let class = match denied {
                true => Class::Auth,
                false if tls::is_stranger(&error) => Class::Mapping,
                false => Class::Transient { after: None },
            };
            Error::new(class, format!("cannot connect to NATS at {}", self.place)).caused_by(error)
        })?;
        Ok(jetstream::new(client))
    }

    /// Finds the stream that keeps an entity.
    async fn stream(&self, entity: &str) -> Result<Stream> {
        let context = self.jetstream().await?;
        let found = context.stream_by_subject(format!("{entity}.>")).await;
        let stream = found.map_err(|error| self.no_stream(entity).caused_by(error))?;
        let what = || transient(format!("cannot look at the stream {stream} of NATS at {}", self.place));
        context.get_stream(&stream).await.map_err(|error| what().caused_by(error))
    }

    fn no_stream(&self, entity: &str) -> Error {
        let message = format!(
            "no stream of NATS at {} keeps {entity}.>: make one, or let a mapping out of Salesforce do that with \
             `create: true`",
            self.place
        );
        Error::new(Class::Mapping, message)
    }

    fn durable(&self, entity: &str) -> String {
        format!("{}_{}", name(&self.group), name(entity))
    }

    /// Finds our consumer of an entity, or makes it: it begins where `deliver` says.
    async fn consumer(&self, stream: &Stream, entity: &str, deliver: DeliverPolicy) -> Result<PullConsumer> {
        let durable = self.durable(entity);
        let config = pull::Config {
            durable_name: Some(durable.clone()),
            filter_subject: format!("{entity}.>"),
            deliver_policy: deliver,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: UNACKNOWLEDGED,
            ..pull::Config::default()
        };
        let what = || transient(format!("cannot make the consumer {durable} of NATS at {}", self.place));
        stream.get_or_create_consumer(&durable, config).await.map_err(|error| what().caused_by(error))
    }

    /// Finds our consumer so that everything without an outcome comes again, at once and before what is newer: left to
    /// itself, the server would send it again when its time is over, behind newer messages of the same record.
    async fn rewound(&self, entity: &str) -> Result<PullConsumer> {
        let what = || transient(format!("cannot look at the consumer of {entity} of NATS at {}", self.place));
        let stream = self.stream(entity).await?;
        let mut consumer = self.consumer(&stream, entity, DeliverPolicy::All).await?;
        let info = consumer.info().await.map_err(|error| what().caused_by(error))?;
        if info.num_ack_pending == 0 {
            return Ok(consumer);
        }
        // A stream that is a work queue has nothing but what has no outcome.
        let deliver = match stream.cached_info().config.retention {
            RetentionPolicy::WorkQueue => DeliverPolicy::All,
            _ => DeliverPolicy::ByStartSequence { start_sequence: info.ack_floor.stream_sequence + 1 },
        };
        let dropped = stream.delete_consumer(&self.durable(entity)).await;
        dropped.map_err(|error| what().caused_by(error))?;
        self.consumer(&stream, entity, deliver).await
    }
}

#[async_trait]
impl Broker for Nats {
    async fn publish(&self, entity: &str, messages: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let context = self.jetstream().await?;
        let failed = |error: jetstream::context::PublishError| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Ok(RecordError::rejected("TOO_LARGE", format!("NATS takes no message of this size: {error}")))
            }
            PublishErrorKind::StreamNotFound => Err(self.no_stream(entity)),
            _ => Err(transient(format!("cannot publish to NATS at {}", self.place)).caused_by(error)),
        };
        let mut acknowledged = Vec::with_capacity(messages.len());
        for message in messages {
            let publish = PublishMessage::build()
                .message_id(&message.id)
                .header("Content-Type", message.content_type)
                .header(KEY_HEADER, message.key.as_str())
                .header(OP_HEADER, message.op())
                .payload(message.body.unwrap_or_default());
            let sent = context.send_publish(format!("{entity}.{}", word(&message.key)), publish).await;
            acknowledged.push(sent.map_err(failed));
        }
        let mut outcomes = Vec::with_capacity(acknowledged.len());
        for acknowledged in acknowledged {
            outcomes.push(match acknowledged {
                Ok(acknowledged) => match acknowledged.await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(failed(error)?),
                },
                Err(refused) => Err(refused?),
            });
        }
        Ok(outcomes)
    }

    async fn create(&self, entity: &str) -> Result<()> {
        let context = self.jetstream().await?;
        if context.stream_by_subject(format!("{entity}.>")).await.is_ok() {
            return Ok(());
        }
        let config = jetstream::stream::Config {
            name: name(entity),
            subjects: vec![format!("{entity}.>")],
            ..jetstream::stream::Config::default()
        };
        let what =
            || Error::new(Class::Mapping, format!("cannot make a stream for {entity} of NATS at {}", self.place));
        context.create_stream(config).await.map(drop).map_err(|error| what().caused_by(error))
    }

    async fn waiting(&self, entity: &str) -> Result<u64> {
        let mut consumer = self.consumer(&self.stream(entity).await?, entity, DeliverPolicy::All).await?;
        let what = || transient(format!("cannot look at the consumer of {entity} of NATS at {}", self.place));
        let info = consumer.info().await.map_err(|error| what().caused_by(error))?;
        Ok(info.num_pending + info.num_ack_pending as u64)
    }

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>> {
        let messages = self.rewound(entity).await?.stream().max_messages_per_batch(ASKED).messages().await;
        let what = || transient(format!("cannot consume {entity} of NATS at {}", self.place));
        let messages = messages.map_err(|error| what().caused_by(error))?;
        Ok(Box::new(Consumed { messages, entity: entity.to_owned(), seen: 0, pending: VecDeque::new() }))
    }
}

struct Consumed {
    messages: pull::Stream,
    entity: String,
    /// Number of the newest message.
    seen: u64,
    /// Messages without an outcome, in the order in which they came.
    pending: VecDeque<Acker>,
}

#[async_trait]
impl Deliveries for Consumed {
    async fn next(&mut self) -> Result<Delivery> {
        let what = || transient(format!("cannot consume {} of NATS", self.entity));
        let (message, at) = loop {
            let message = self.messages.next().await.ok_or_else(what)?.map_err(|error| what().caused_by(error))?;
            let info = message.info().map_err(|error| what().caused_by(error))?;
            let at = i64::try_from(info.published.unix_timestamp_nanos() / 1_000).ok();
            // One that comes again is being worked on already.
            if info.stream_sequence > self.seen {
                self.seen = info.stream_sequence;
                break (message, at);
            }
        };
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let headers = headers.flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        let headers: Vec<(String, String)> =
            headers.map(|(name, value)| (name.to_string(), value.as_str().to_owned())).collect();
        let key = message.subject.strip_prefix(&format!("{}.", self.entity)).map(str::to_owned);
        let (body, place) = (message.payload.clone(), format!("message {} of {}", self.seen, message.subject));
        self.pending.push_back(message.split().1);
        Ok(Delivery { key, headers, body, at, place })
    }

    async fn settle(&mut self, count: usize) -> Result<()> {
        let count = count.min(self.pending.len());
        let failed = |error: async_nats::Error| transient("cannot acknowledge messages of NATS").caused_by(error);
        let mut settled: Vec<Acker> = self.pending.drain(..count).collect();
        let last = settled.pop();
        for acker in settled {
            acker.ack().await.map_err(failed)?;
        }
        // What the server has of the last it has of those before.
        match last {
            Some(acker) => acker.double_ack().await.map_err(failed),
            None => Ok(()),
        }
    }

    async fn alive(&mut self) -> Result<()> {
        for acker in &self.pending {
            let said = acker.ack_with(AckKind::Progress).await;
            said.map_err(|error| transient("cannot speak to NATS").caused_by(error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_word_of_a_subject() {
        assert_eq!(word("C-1"), "C-1");
        assert_eq!(word("a.b *>% c"), "a%2Eb%20%2A%3E%25%20c");
        assert_eq!(word("K\u{f6}ln\u{2003}\u{1f6b2}"), "K\u{f6}ln%E2%80%83\u{1f6b2}");
        assert_eq!(name("crm.account ü"), "crm_account__");
    }
}
