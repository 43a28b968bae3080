//! Webhooks that we send: each record is posted to an address, signed, and sent again until the receiver has it.
//!
//! Source: Standard Webhooks 1.0.0, for ids, times and signatures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::Utc;
use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use futures::StreamExt as _;
use model::{Class, Op, RecordError};
use outbound::{Body, Client, Request, Settings};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

use super::signature::{self, Key};
use super::{Broker, Deliveries, Envelope, KEY_HEADER, Message, OP_HEADER, Queues};
use crate::tls::{self, Tls};

/// An address that is told of records, as a kind of connection.
pub const KIND: Kind =
    Kind::new::<WebhookConfig>("webhook", "An address that records are posted to.", |value, setup| {
        configuration::<WebhookConfig>(value)?.open(setup)
    });

/// An address that records are posted to, one at a time. An entity is a name for them, which stands in each.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The address; `{entity}` in it is the entity.
    pub url: String,
    /// What requests are signed with, by reference, as Standard Webhooks has it: `whsec_` and base64, or any text. While one
    /// takes the place of another, both.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The header `Authorization`, by reference.
    #[serde(default)]
    pub authorization: Option<String>,
    /// Requests at the same time. Those of one record are never.
    #[serde(default = "WebhookConfig::default_at_once")]
    pub at_once: usize,
    /// Whether the connection is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// How a request holds its record.
    #[serde(default)]
    pub envelope: Envelope,
}

impl WebhookConfig {
    fn default_at_once() -> usize {
        8
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let wrong = |message: &str| Error::new(Class::Mapping, message);
        let text = setup.references.resolve(&self.url)?;
        let url = Url::parse(&text.replace("{entity}", "entity"));
        let url = url.map_err(|error| wrong("the url is no address").caused_by(error))?;
        let host = url.host_str().ok_or_else(|| wrong("the url names no host"))?;
        match url.scheme() {
            "https" => {}
            "http" if !self.tls.is_needed(tls::is_local(host)) => {}
            _ => return Err(wrong("write https://, or `tls: off` in a network that nobody else can listen to")),
        }
        if url.password().is_some() {
            return Err(wrong("the url holds a secret; give it as `authorization`, by reference"));
        }
        let secrets: Vec<SecretString> =
            self.secrets.iter().map(|text| setup.references.secret(text)).collect::<Result<_>>()?;
        let keys = secrets.iter().map(signature::standard_key).collect::<Result<_>>()?;
        let authorization = self.authorization.map(|text| setup.references.secret(&text)).transpose()?;
        let client = Client::new(Settings { retries: 2, ..Settings::default() });
        let client =
            client.map_err(|error| Error::new(Class::Internal, "the HTTP client can't be set up").caused_by(error))?;
        let place = host.to_owned();
        let webhook = Webhook {
            url: text,
            place,
            keys,
            authorization,
            at_once: self.at_once.max(1),
            client,
            kept: Mutex::default(),
        };
        Ok(Arc::new(Queues::new(webhook, setup.name, self.envelope, &std::collections::BTreeMap::new())?))
    }
}

/// What of a batch that failed in the middle was taken already: by record and content the id, and whether it was taken.
type Kept = HashMap<(String, Op, u64), (String, bool)>;

struct Webhook {
    url: String,
    /// The host, for messages.
    place: String,
    keys: Vec<Key>,
    authorization: Option<SecretString>,
    at_once: usize,
    client: Client,
    kept: Mutex<Kept>,
}

/// What became of one request.
enum Answer {
    Taken,
    Refused(RecordError),
    /// It may be taken later.
    Failed(Error),
}

impl Webhook {
    fn request(&self, entity: &str, message: &Message, id: &str) -> Request {
        let mut request = Request::new("POST", self.url.replace("{entity}", entity)).idempotent();
        let body = message.body.clone().unwrap_or_default();
        let time = Utc::now().timestamp().to_string();
        if !self.keys.is_empty() {
            let signatures: Vec<String> =
                self.keys.iter().map(|key| signature::standard(key, id, &time, &body)).collect();
            request = request.header("webhook-signature", signatures.join(" "));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.expose_secret());
        }
        request.body = Body::Bytes(body);
        // What a header can't hold stands in the body alone.
        if message.key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            request = request.header(KEY_HEADER, message.key.as_str());
        }
        request
            .header("content-type", message.content_type)
            .header("webhook-id", id)
            .header("webhook-timestamp", time)
            .header(OP_HEADER, message.op())
    }

    async fn post(&self, entity: &str, message: &Message, id: &str) -> Answer {
        let what = |class| Error::new(class, format!("cannot post to {}", self.place));
        let response = match self.client.send(&self.request(entity, message, id)).await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(what(error.class()).caused_by(error)),
        };
        let status = response.status();
        match status {
            200..=299 => Answer::Taken,
            401 | 403 => Answer::Failed(what(Class::Auth).caused_by(format!("it answers {status}"))),
            404 | 410 => {
                let why = format!("it answers {status}: the receiver is gone, or wants no more");
                Answer::Failed(what(Class::Mapping).caused_by(why))
            }
            408 | 425 | 429 | 500..=599 => {
                let after = response.header("retry-after").and_then(|text| text.parse().ok());
                let class = Class::Transient { after: after.map(std::time::Duration::from_secs) };
                Answer::Failed(what(class).caused_by(format!("it answers {status}")))
            }
            _ => Answer::Refused(RecordError::rejected("REFUSED", format!("{} answers {status}", self.place))),
        }
    }
}

#[async_trait]
impl Broker for Webhook {
    async fn publish(&self, entity: &str, messages: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let kept = &kept;
        let answers: Vec<(Message, String, Answer)> = futures::stream::iter(messages)
            .map(async |message| {
                // One that is sent again has the same id, so that the receiver knows it.
                let (id, taken) = kept.get(&message.content()).cloned().unwrap_or_else(|| (message.id.clone(), false));
                let answer = if taken { Answer::Taken } else { self.post(entity, &message, &id).await };
                (message, id, answer)
            })
            .buffered(self.at_once)
            .collect()
            .await;
        let mut outcomes = Vec::with_capacity(answers.len());
        let (mut sent, mut failed) = (Kept::new(), None);
        for (message, id, answer) in answers {
            sent.insert(message.content(), (id, !matches!(answer, Answer::Failed(_))));
            match answer {
                Answer::Taken => outcomes.push(Ok(())),
                Answer::Refused(error) => outcomes.push(Err(error)),
                Answer::Failed(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(failed) = failed else { return Ok(outcomes) };
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = sent;
        Err(failed)
    }

    async fn create(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn waiting(&self, _: &str) -> Result<u64> {
        Ok(0)
    }

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>> {
        let message =
            format!("{} is told of {entity} and tells nothing; receive webhooks with `kind: inbox`", self.place);
        Err(Error::new(Class::Mapping, message))
    }
}

impl Message {
    /// Returns what tells one message from another, though it be made twice.
    fn content(&self) -> (String, Op, u64) {
        (self.key.clone(), self.op, self.data)
    }
}
