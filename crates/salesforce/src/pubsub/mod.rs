//! The Pub/Sub API: events by gRPC, each an Avro datum whose schema is known by its id.

mod change;
mod datum;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "written by a program")]
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apache_avro::Schema;
use futures::FutureExt as _;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use self::wire::pub_sub_client::PubSubClient;
use self::wire::{
    FetchRequest, FetchResponse, ProducerEvent, PublishRequest, ReplayPreset, SchemaRequest, TopicRequest,
};
use crate::auth::Session;
use crate::client::Client;
use crate::error::{ApiError, Error};

pub(crate) use change::in_json as change_in_json;
pub use change::{Change, ChangeKind};

/// Where the service of all orgs is. Source: Pub/Sub API guide.
const GLOBAL: &str = "https://api.pubsub.salesforce.com:7443";
/// Events that are asked for at a time, at most. Source: Pub/Sub API guide.
const ASKED: i32 = 100;
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(10);
/// How often a connection that is silent is tried: one that is dead without a word is noticed so.
const TRIED: Duration = Duration::from_secs(20);
/// Largest answer: a hundred events of the largest size.
const LARGEST: usize = 128 << 20;

/// Where a subscription begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// With what comes next.
    Latest,
    /// With the oldest event that is kept.
    Earliest,
    /// Behind the event with this id, which is opaque.
    After(Vec<u8>),
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Id of the schema that its events have now; empty where there are events of several.
    pub schema: String,
    /// True if this login may publish to it.
    pub can_publish: bool,
    /// True if this login may listen to it.
    pub can_subscribe: bool,
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the topic, opaque.
    pub replay: Vec<u8>,
    /// Its id, given by whoever published it.
    pub id: String,
    /// What it says.
    pub body: Body,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Records were changed.
    Change(Change),
    /// A platform event: its fields.
    Platform(Map<String, Value>),
}

/// What came in one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The events, in the order of the topic; none where the service only says that it is there.
    pub events: Vec<Event>,
    /// The place up to which everything was told.
    pub latest: Vec<u8>,
}

/// A client of the Pub/Sub API; clones share its connection and the schemas that it knows.
#[derive(Clone)]
pub struct PubSub {
    client: Client,
    stub: PubSubClient<Channel>,
    tenant: Arc<str>,
    schemas: Arc<Mutex<HashMap<String, Arc<Schema>>>>,
}

impl std::fmt::Debug for PubSub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PubSub").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// A subscription; dropping it ends it.
pub struct Subscription {
    pubsub: PubSub,
    topic: String,
    demand: mpsc::Sender<FetchRequest>,
    answers: Streaming<FetchResponse>,
    /// How the stream ended, where that came with events.
    last: Option<Result<Option<FetchResponse>, Status>>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl PubSub {
    /// Connects as the user of a client. `address` is where the service is, with scheme and port; if not given, it is the
    /// one of all orgs, or, for an org that speaks in the clear, the org itself.
    ///
    /// # Errors
    ///
    /// No session, or an address that is none.
    pub async fn connect(client: &Client, address: Option<&str>) -> Result<Self, Error> {
        let session = client.session().await?;
        let in_clear = session.instance_url.starts_with("http:");
        let address = address.unwrap_or(if in_clear { &session.instance_url } else { GLOBAL }).to_owned();
        let unusable =
            |source: tonic::transport::Error| Error::BadAddress { address: address.clone(), source: source.into() };
        let mut to = Endpoint::from_shared(address.clone())
            .map_err(unusable)?
            .connect_timeout(CONNECTING)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(TRIED)
            .keep_alive_while_idle(true);
        if address.starts_with("https:") {
            to = to.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(unusable)?;
        }
        let organization = client.query("SELECT Id FROM Organization", false).await?;
        let tenant = organization.records.first().and_then(|record| record.get("Id")?.as_str());
        let tenant = tenant.ok_or_else(|| Error::BadAnswer {
            what: "the query for the organization".to_owned(),
            source: "it has no id".into(),
        })?;
        Ok(Self {
            client: client.clone(),
            stub: PubSubClient::new(to.connect_lazy()).max_decoding_message_size(LARGEST),
            tenant: tenant.into(),
            schemas: Arc::default(),
        })
    }

    /// Adds to a request who sends it.
    fn signed<T>(&self, session: &Session, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let parts = [
            ("accesstoken", session.token.expose_secret()),
            ("instanceurl", session.instance_url.as_str()),
            ("tenantid", &self.tenant),
        ];
        for (name, value) in parts {
            let mut value: tonic::metadata::MetadataValue<_> = value
                .parse()
                .map_err(|_| Error::BadCredential { what: "access token", source: "it is no header".into() })?;
            value.set_sensitive(name == "accesstoken");
            request.metadata_mut().insert(name, value);
        }
        Ok(request)
    }

    /// Makes a call; a session that has expired is renewed once.
    async fn call<T: Clone, A>(
        &self,
        what: &str,
        message: T,
        call: impl AsyncFn(PubSubClient<Channel>, Request<T>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, Error> {
        let session = self.client.session().await?;
        match call(self.stub.clone(), self.signed(&session, message.clone())?).await {
            Err(status) if status.code() == Code::Unauthenticated => {
                let session = self.client.renewed(&session).await?;
                call(self.stub.clone(), self.signed(&session, message)?).await
            }
            other => other,
        }
        .map(tonic::Response::into_inner)
        .map_err(|status| refused(what, &status))
    }

    /// Returns what is known of a topic, such as `/data/AccountChangeEvent`.
    pub async fn topic(&self, name: &str) -> Result<Topic, Error> {
        let request = TopicRequest { topic_name: name.to_owned() };
        let call = async |mut stub: PubSubClient<Channel>, request| stub.get_topic(request).await;
        let info = self.call(&format!("GetTopic {name}"), request, call).await?;
        Ok(Topic { schema: info.schema_id, can_publish: info.can_publish, can_subscribe: info.can_subscribe })
    }

    /// Returns the schema of an id; each is asked for once, since none ever changes.
    async fn schema(&self, id: &str) -> Result<Arc<Schema>, Error> {
        if let Some(known) = self.schemas.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(known.clone());
        }
        let request = SchemaRequest { schema_id: id.to_owned() };
        let call = async |mut stub: PubSubClient<Channel>, request| stub.get_schema(request).await;
        let what = format!("GetSchema {id}");
        let info = self.call(&what, request, call).await?;
        let parsed = Schema::parse_str(&info.schema_json);
        let parsed = Arc::new(parsed.map_err(|error| Error::BadAnswer { what, source: error.into() })?);
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), parsed.clone());
        Ok(parsed)
    }

    /// Subscribes to a topic.
    ///
    /// # Errors
    ///
    /// No such topic, no session. A place that is past comes as an error of the first [`Subscription::next`], see
    /// [`Error::is_past_replay`].
    pub async fn subscribe(&self, topic: &str, from: Replay) -> Result<Subscription, Error> {
        let (preset, replay_id) = match from {
            Replay::Latest => (ReplayPreset::Latest, Vec::new()),
            Replay::Earliest => (ReplayPreset::Earliest, Vec::new()),
            Replay::After(id) => (ReplayPreset::Custom, id),
        };
        let first = FetchRequest {
            topic_name: topic.to_owned(),
            replay_preset: preset.into(),
            replay_id,
            num_requested: ASKED,
            auth_refresh: String::new(),
        };
        let call = async |mut stub: PubSubClient<Channel>, request: Request<FetchRequest>| {
            let (demand, messages) = mpsc::channel(4);
            let (metadata, extensions, first) = request.into_parts();
            // There is room for it: the channel is new.
            let _ = demand.try_send(first);
            let request = Request::from_parts(metadata, extensions, ReceiverStream::new(messages));
            let answers = stub.subscribe(request).await?;
            Ok(tonic::Response::new((demand, answers.into_inner())))
        };
        let (demand, answers) = self.call(&format!("Subscribe {topic}"), first, call).await?;
        Ok(Subscription { pubsub: self.clone(), topic: topic.to_owned(), demand, answers, last: None })
    }

    /// Publishes platform events to a topic; each has fields by name, times as milliseconds or RFC 3339. Returns for each
    /// its place in the topic, or why it was not published.
    pub async fn publish(
        &self,
        topic: &str,
        events: &[Map<String, Value>],
    ) -> Result<Vec<Result<Vec<u8>, ApiError>>, Error> {
        let known = self.topic(topic).await?;
        let schema = self.schema(&known.schema).await?;
        let what = format!("Publish {topic}");
        let mut encoded = Vec::with_capacity(events.len());
        for (at, event) in events.iter().enumerate() {
            let payload = datum::encode(&schema, event).map_err(|why| Error::BadEvent {
                topic: topic.to_owned(),
                row: at + 1,
                why,
            })?;
            let (id, schema_id) = (format!("{at}"), known.schema.clone());
            encoded.push(ProducerEvent { id, schema_id, payload, headers: Vec::new() });
        }
        let request = PublishRequest { topic_name: topic.to_owned(), events: encoded, auth_refresh: String::new() };
        let call = async |mut stub: PubSubClient<Channel>, request| stub.publish(request).await;
        let response = self.call(&what, request, call).await?;
        let results = response.results.into_iter().map(|result| match result.error {
            None => Ok(result.replay_id),
            Some(error) => {
                let (code, message) = error.msg.split_once(": ").unwrap_or(("PUBLISH", &error.msg));
                Err(ApiError { code: code.to_owned(), message: message.to_owned(), fields: Vec::new() })
            }
        });
        Ok(results.collect())
    }
}

impl Subscription {
    /// Returns what came since the last call, or else what comes next; `None` when the service ended the stream. Events are
    /// asked for as they are taken: whoever takes none gets none.
    ///
    /// # Errors
    ///
    /// The stream broke, was refused, or holds what no service would send.
    pub async fn next(&mut self) -> Result<Option<Told>, Error> {
        let what = || format!("Subscribe {}", self.topic);
        let answer = match self.last.take() {
            Some(last) => last,
            None => self.answers.message().await,
        };
        let Some(mut answer) = answer.map_err(|status| refused(&what(), &status))? else { return Ok(None) };
        // A service sends each event in an answer of its own, as it happens: those that have come are taken together.
        while answer.events.len() < ASKED as usize
            && self.last.is_none()
            && let Some(more) = self.answers.message().now_or_never()
        {
            match more {
                Ok(Some(more)) => {
                    answer.events.extend(more.events);
                    answer.latest_replay_id = more.latest_replay_id;
                    answer.pending_num_requested = more.pending_num_requested;
                }
                last => self.last = Some(last),
            }
        }
        if answer.pending_num_requested <= ASKED / 2 {
            let more = FetchRequest {
                topic_name: self.topic.clone(),
                num_requested: ASKED - answer.pending_num_requested.max(0),
                ..FetchRequest::default()
            };
            // A stream that has ended says so with its next message.
            let _ = self.demand.send(more).await;
        }
        let mut events = Vec::with_capacity(answer.events.len());
        for event in answer.events {
            let Some(producer) = event.event else { continue };
            let schema = self.pubsub.schema(&producer.schema_id).await?;
            let body = change::read(&schema, &producer.payload)
                .map_err(|why| Error::BadAnswer { what: what(), source: why.into() })?;
            events.push(Event { replay: event.replay_id, id: producer.id, body });
        }
        Ok(Some(Told { events, latest: answer.latest_replay_id }))
    }
}

/// Reads a refusal: its code stands in the trailers.
fn refused(what: &str, status: &Status) -> Error {
    let code = status.metadata().get("error-code").and_then(|code| code.to_str().ok());
    let code = code.map_or_else(|| format!("GRPC_{:?}", status.code()).to_uppercase(), str::to_owned);
    // As HTTP would say it, so that one place decides what can be done.
    let http = match status.code() {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::ResourceExhausted => 429,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => 400,
        _ => 503,
    };
    let source = ApiError { code, message: status.message().to_owned(), fields: Vec::new() };
    Error::Refused { what: what.to_owned(), status: http, source }
}
