//! RabbitMQ (AMQP 0-9-1): an entity is a queue. Messages are published with confirmation, and acknowledged in the order in
//! which they came.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind};
use model::{Class, RecordError};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Broker, Deliveries, Delivery, Described, Envelope, KEY_HEADER, Message, OP_HEADER, Queues};
use crate::tls::{self, Tls};

/// RabbitMQ, as a kind of connection.
pub const KIND: Kind = Kind::new::<RabbitConfig>("rabbitmq", "Queues of a RabbitMQ server.", |value, setup| {
    configuration::<RabbitConfig>(value)?.open(setup)
});

/// Messages that the server sends ahead of their acknowledgement.
const AHEAD: u16 = 5_000;
/// Delivery mode of messages that survive the server. Source: AMQP 0-9-1, basic properties.
const PERSISTENT: u8 = 2;

/// A RabbitMQ server. An entity is a queue; what is written goes to the exchange with the entity as routing key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitConfig {
    /// Server and virtual host, such as `amqps://mq.example.com/%2f`.
    pub url: String,
    /// The login.
    #[serde(default = "RabbitConfig::default_user")]
    pub user: String,
    /// The password, by reference; without one it is that of a new server, which only lets in this very machine.
    #[serde(default)]
    pub password: Option<String>,
    /// Whether the connection is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// Certificates (PEM) to trust besides the system's.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// The exchange that is written to; the default one leads to the queue of the entity's name.
    #[serde(default)]
    pub exchange: String,
    /// How a message holds its record.
    #[serde(default)]
    pub envelope: Envelope,
    /// What messages hold that are read.
    #[serde(default)]
    pub entities: BTreeMap<String, Described>,
}

impl RabbitConfig {
    fn default_user() -> String {
        "guest".to_owned()
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let wrong = |message: String| Error::new(Class::Mapping, message);
        let password = self.password.map(|text| setup.references.secret(&text)).transpose()?;
        let text = setup.references.resolve(&self.url)?;
        if text.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().unwrap_or_default().contains('@')) {
            return Err(wrong(
                "the url holds a login; give it as `user` and `password`, the latter by reference".to_owned(),
            ));
        }
        let mut uri: AMQPUri = text.parse().map_err(|error: String| {
            wrong(format!("the url is none of RabbitMQ, such as amqps://mq.example.com/%2f: {error}"))
        })?;
        let needed = self.tls.is_needed(tls::is_local(&uri.authority.host));
        if needed && uri.scheme == AMQPScheme::AMQP {
            let message = "the url says that nothing is encrypted: write amqps://, or `tls: off` in a network that nobody else \
                           can listen to";
            return Err(wrong(message.to_owned()));
        }
        let authority = match self.tls_ca {
            Some(path) => {
                let path = setup.folder.join(path);
                let read = std::fs::read_to_string(&path);
                Some(read.map_err(|error| wrong(format!("cannot read {}", path.display())).caused_by(error))?)
            }
            None => None,
        };
        uri.authority.userinfo = AMQPUserInfo { username: self.user, password: String::new() };
        let rabbit = Rabbit {
            place: format!("{}:{}", uri.authority.host, uri.authority.port),
            uri,
            password,
            authority,
            exchange: self.exchange,
            publishing: Mutex::default(),
        };
        Ok(Arc::new(Queues::new(rabbit, setup.name, self.envelope, &self.entities)?))
    }
}

struct Rabbit {
    uri: AMQPUri,
    /// The server, for messages.
    place: String,
    password: Option<SecretString>,
    authority: Option<String>,
    exchange: String,
    /// What is published goes over one channel, one batch at a time.
    publishing: Mutex<Option<(Connection, Channel)>>,
}

impl Rabbit {
    /// Wraps an error with what was being done.
    fn failed(&self, what: &str) -> impl FnOnce(lapin::Error) -> Error + use<> {
        let message = format!("{what} RabbitMQ at {}", self.place);
        move |error| {
            let class = match error.kind() {
                ErrorKind::ProtocolError(refused) => match refused.kind() {
                    AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Class::Transient { after: None },
                    AMQPErrorKind::Soft(_) => Class::Mapping,
                    AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Class::Mapping,
                    AMQPErrorKind::Hard(_) => Class::Transient { after: None },
                },
                _ if tls::is_stranger(&error) => Class::Mapping,
                _ => Class::Transient { after: None },
            };
            // A login that is refused is answered by closing the connection with this code.
            let denied = error.to_string().contains("ACCESS_REFUSED");
            Error::new(if denied { Class::Auth } else { class }, message).caused_by(error)
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let mut uri = self.uri.clone();
        let password = self.password.as_ref().map_or("guest", |password| password.expose_secret());
        uri.authority.userinfo.password = password.to_owned();
        let config = OwnedTLSConfig { identity: None, cert_chain: self.authority.clone() };
        let runtime = lapin::runtime::default_runtime().map_err(self.failed("cannot connect to"))?;
        let properties = ConnectionProperties::default().with_connection_name("bridgehead".into());
        let connected = Connection::connect_uri_with_config(uri, properties, config, runtime).await;
        connected.map_err(self.failed("cannot connect to"))
    }

    /// Opens a channel on a connection of its own, which ends with it.
    async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = self.connect().await?;
        let channel = connection.create_channel().await.map_err(self.failed("cannot open a channel to"))?;
        Ok((connection, channel))
    }

    async fn publish_all(
        &self,
        channel: &Channel,
        entity: &str,
        messages: &[Message],
    ) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let mut headers = FieldTable::default();
            headers.insert(KEY_HEADER.into(), AMQPValue::LongString(message.key.as_str().into()));
            headers.insert(OP_HEADER.into(), AMQPValue::LongString(message.op().into()));
            let properties = BasicProperties::default()
                .with_content_type(message.content_type.into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(message.id.as_str().into())
                .with_timestamp(chrono::Utc::now().timestamp().cast_unsigned())
                .with_headers(headers);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let body = message.body.clone().unwrap_or_default();
            let sent =
                channel.basic_publish(self.exchange.as_str().into(), entity.into(), options, &body, properties).await;
            confirms.push(sent.map_err(self.failed("cannot publish to"))?);
        }
        let mut outcomes = Vec::with_capacity(confirms.len());
        for confirm in confirms {
            match confirm.await.map_err(self.failed("cannot publish to"))? {
                Confirmation::Ack(None) => outcomes.push(Ok(())),
                Confirmation::Ack(Some(_)) => {
                    let message = format!(
                        "no queue of RabbitMQ at {} takes what is sent to {entity}: make one, or let the mapping do that with \
                         `create: true`",
                        self.place
                    );
                    return Err(Error::new(Class::Mapping, message));
                }
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    let message = format!("RabbitMQ at {} did not keep a message", self.place);
                    return Err(Error::new(Class::Transient { after: None }, message));
                }
            }
        }
        Ok(outcomes)
    }

    async fn declare(&self, entity: &str, passive: bool) -> Result<u64> {
        let (_connection, channel) = self.channel().await?;
        let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
        let what = format!("cannot {} the queue {entity} of", if passive { "find" } else { "make" });
        let queue = channel.queue_declare(entity.into(), options, FieldTable::default()).await;
        Ok(u64::from(queue.map_err(self.failed(&what))?.message_count()))
    }
}

#[async_trait]
impl Broker for Rabbit {
    async fn publish(&self, entity: &str, messages: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let mut publishing = self.publishing.lock().await;
        let kept = publishing
            .take()
            .filter(|(connection, channel)| connection.status().connected() && channel.status().connected());
        let opened = if let Some(opened) = kept {
            opened
        } else {
            let opened = self.channel().await?;
            let confirm = opened.1.confirm_select(ConfirmSelectOptions::default()).await;
            confirm.map_err(self.failed("cannot publish to"))?;
            opened
        };
        let outcomes = self.publish_all(&opened.1, entity, &messages).await?;
        // One that failed in the middle is not used again.
        *publishing = Some(opened);
        Ok(outcomes)
    }

    async fn create(&self, entity: &str) -> Result<()> {
        // One that is there, whatever it is like, stays.
        match self.declare(entity, true).await {
            Err(error) if error.class() == Class::Mapping => self.declare(entity, false).await.map(drop),
            other => other.map(drop),
        }
    }

    async fn waiting(&self, entity: &str) -> Result<u64> {
        self.declare(entity, true).await
    }

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>> {
        let what = format!("cannot consume the queue {entity} of");
        let (connection, channel) = self.channel().await?;
        channel.basic_qos(AHEAD, BasicQosOptions::default()).await.map_err(self.failed(&what))?;
        let consumer = channel
            .basic_consume(entity.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(self.failed(&what))?;
        let place = format!("{entity} of RabbitMQ at {}", self.place);
        Ok(Box::new(Consumed { _connection: connection, channel, consumer, place, pending: VecDeque::new() }))
    }
}

struct Consumed {
    _connection: Connection,
    channel: Channel,
    consumer: Consumer,
    place: String,
    /// Numbers of messages without an outcome, in the order in which they came.
    pending: VecDeque<u64>,
}

#[async_trait]
impl Deliveries for Consumed {
    async fn next(&mut self) -> Result<Delivery> {
        let what = || Error::new(Class::Transient { after: None }, format!("cannot consume {}", self.place));
        let message = self.consumer.next().await.ok_or_else(what)?.map_err(|error| what().caused_by(error))?;
        self.pending.push_back(message.delivery_tag);
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        };
        let headers = message.properties.headers().iter().flat_map(|headers| headers.inner().iter());
        let headers = headers.filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
        let at = message.properties.timestamp().and_then(|at| i64::try_from(at).ok()?.checked_mul(1_000_000));
        let id = message.properties.message_id().as_ref().map(ToString::to_string);
        let place =
            format!("message {} of {}", id.unwrap_or_else(|| message.delivery_tag.to_string()), message.routing_key);
        Ok(Delivery { key: None, headers, body: message.data.into(), at, place })
    }

    async fn settle(&mut self, count: usize) -> Result<()> {
        let Some(last) = self.pending.drain(..count.min(self.pending.len())).next_back() else { return Ok(()) };
        let acknowledged = self.channel.basic_ack(last, BasicAckOptions { multiple: true }).await;
        let what =
            || Error::new(Class::Transient { after: None }, format!("cannot acknowledge messages of {}", self.place));
        acknowledged.map_err(|error| what().caused_by(error))
    }
}
