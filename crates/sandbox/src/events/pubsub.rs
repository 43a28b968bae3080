//! The Pub/Sub API: gRPC on the org's own port.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};

use super::bus::{From, Topics, topics};
use super::schemas::EventSchema;
use super::wire::pub_sub_server::{PubSub, PubSubServer};
use super::wire::{
    CommitReplayRequest, CommitReplayResponse, ConsumerEvent, Error, ErrorCode, FetchRequest, FetchResponse,
    ManagedFetchRequest, ManagedFetchResponse, ProducerEvent, PublishRequest, PublishResponse, PublishResult,
    ReplayPreset, SchemaInfo, SchemaRequest, TopicInfo, TopicRequest,
};
use crate::caller::Caller;
use crate::chaos::{Fault, Subject};
use crate::error::{Answered, ApiError};
use crate::org::Org;

/// Where the service is found.
pub(crate) const PATH: &str = "/eventbus.v1.PubSub/{call}";
/// Most events that one request may ask for. Source: Pub/Sub API guide.
const ASKED: i32 = 100;
/// Longest silence of a subscription. Source: the published proto, which says 270 seconds.
const SILENCE: Duration = Duration::from_secs(270);
/// Longest silence of a client that publishes. Source: the published proto.
const PUBLISHER_SILENCE: Duration = Duration::from_secs(70);
/// Largest event, in bytes. Source: Platform Events guide, allocations.
const LARGEST: usize = 1 << 20;
/// Streams at the same time. Source: Pub/Sub API guide, allocations.
const STREAMS: usize = 1_000;
/// What the codes of errors begin with.
const CODES: &str = "sfdc.platform.eventbus.grpc.";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub(crate) struct Service {
    org: Arc<Org>,
    stop: CancellationToken,
    open: Arc<AtomicUsize>,
}

/// Returns the service of an org; its streams end when `stop` is cancelled.
pub(crate) fn service(org: Arc<Org>, stop: CancellationToken) -> PubSubServer<Service> {
    PubSubServer::new(Service { org, stop, open: Arc::default() })
}

/// Who calls, by which token.
#[derive(Clone)]
struct Client {
    token: String,
    caller: Arc<Caller>,
}

/// A subscription, whichever call it came by.
struct Subscription {
    client: Client,
    topic: String,
    topics: Topics,
    /// The last event that was sent, or was passed over.
    behind: i64,
    /// Events that were asked for and not sent.
    asked: i32,
}

/// Counts an open stream until it ends.
struct Opened(Arc<AtomicUsize>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one message of a client asks of its stream.
struct Asked<'m> {
    topic: &'m str,
    number: i32,
    token: &'m str,
}

/// A message of a client that listens.
trait Listen: Send + 'static {
    type Answer: Send + 'static;

    /// What it asks for; one that only commits asks for nothing.
    fn asked(&self) -> Option<Asked<'_>>;

    /// What it commits.
    fn commit(self) -> Option<CommitReplayRequest>;

    fn answer(
        events: Vec<ConsumerEvent>,
        latest: i64,
        rpc_id: String,
        pending_num_requested: i32,
        commit_response: Option<CommitReplayResponse>,
    ) -> Self::Answer;
}

impl Listen for FetchRequest {
    type Answer = FetchResponse;

    fn asked(&self) -> Option<Asked<'_>> {
        Some(Asked { topic: &self.topic_name, number: self.num_requested, token: &self.auth_refresh })
    }

    fn commit(self) -> Option<CommitReplayRequest> {
        None
    }

    fn answer(
        events: Vec<ConsumerEvent>,
        latest: i64,
        rpc_id: String,
        pending_num_requested: i32,
        _: Option<CommitReplayResponse>,
    ) -> FetchResponse {
        FetchResponse { events, latest_replay_id: latest.to_be_bytes().to_vec(), rpc_id, pending_num_requested }
    }
}

impl Listen for ManagedFetchRequest {
    type Answer = ManagedFetchResponse;

    fn asked(&self) -> Option<Asked<'_>> {
        let asks = self.num_requested != 0 || self.commit_replay_id_request.is_none();
        asks.then_some(Asked { topic: "", number: self.num_requested, token: &self.auth_refresh })
    }

    fn commit(self) -> Option<CommitReplayRequest> {
        self.commit_replay_id_request
    }

    fn answer(
        events: Vec<ConsumerEvent>,
        latest: i64,
        rpc_id: String,
        pending_num_requested: i32,
        commit_response: Option<CommitReplayResponse>,
    ) -> ManagedFetchResponse {
        let latest_replay_id = latest.to_be_bytes().to_vec();
        ManagedFetchResponse { events, latest_replay_id, rpc_id, pending_num_requested, commit_response }
    }
}

impl Service {
    fn status(&self, code: Code, name: &str, message: impl std::fmt::Display) -> Status {
        let id = self.org.request_id();
        let mut trailers = MetadataMap::new();
        for (key, value) in [("error-code", format!("{CODES}{name}")), ("rpc-id", id.clone())] {
            if let Ok(value) = MetadataValue::try_from(value) {
                trailers.insert(key, value);
            }
        }
        Status::with_metadata(code, format!("{message} rpcId: {id}"), trailers)
    }

    fn refused(&self, error: &ApiError) -> Status {
        self.status(Code::Internal, "service.unavailable", &error.message)
    }

    fn unauthenticated(&self) -> Status {
        let message = "An authentication exception occurred. Provide valid authentication credentials.";
        self.status(Code::Unauthenticated, "service.auth.error", message)
    }

    /// Finds who calls: by the token of a session, and the org that the session is of.
    fn client(&self, metadata: &MetadataMap) -> Result<Client, Status> {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let tenant = text("tenantid");
        let own = crate::id::normal(&tenant).is_some_and(|id| id == self.org.org_id);
        let token = text("accesstoken");
        let session = self.org.session(&token).filter(|_| own && !text("instanceurl").is_empty());
        let caller = session.ok_or_else(|| self.unauthenticated())?.caller;
        Ok(Client { token, caller })
    }

    fn open(&self) -> Result<Opened, Status> {
        let opened = Opened(self.open.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= STREAMS {
            let message = "The org has as many open streams as it may.";
            return Err(self.status(Code::ResourceExhausted, "concurrent.client.limit.exceeded", message));
        }
        Ok(opened)
    }

    fn topics(&self, caller: &Caller, topic: &str) -> Result<Topics, Status> {
        topics(topic, &caller.schema, &self.org.setup().channels).ok_or_else(|| {
            let message = format!("The topic {topic:?} does not exist or you have no access to it.");
            self.status(Code::NotFound, "topic.not.found", message)
        })
    }

    /// Works on the org's records, on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Org) -> Answered<T> + Send + 'static,
    ) -> Result<T, Status> {
        let org = self.org.clone();
        let done = tokio::task::spawn_blocking(move || work(&org)).await;
        let done = done.unwrap_or_else(|error| Err(ApiError::unexpected(&error.to_string())));
        done.map_err(|error| self.refused(&error))
    }

    /// Returns the event behind which a subscription begins.
    async fn start(&self, preset: i32, replay: &[u8]) -> Result<i64, Status> {
        let from = match ReplayPreset::try_from(preset) {
            Ok(ReplayPreset::Latest) => From::Newest,
            Ok(ReplayPreset::Earliest) => From::Oldest,
            Ok(ReplayPreset::Custom) => From::Behind(self.replay(replay)?),
            Err(_) => {
                let message = format!("There is no replay preset {preset}.");
                return Err(self.status(Code::InvalidArgument, "subscription.fetch.replay.preset.invalid", message));
            }
        };
        let start = self.blocking(move |org| org.start(from)).await?;
        start.ok_or_else(|| {
            let message = "The Replay ID validation failed. Ensure that the Replay ID is valid.";
            self.status(Code::InvalidArgument, "subscription.fetch.replayid.validation.failed", message)
        })
    }

    fn replay(&self, bytes: &[u8]) -> Result<i64, Status> {
        bytes.try_into().map(i64::from_be_bytes).map_err(|_| {
            let message = "The Replay ID is corrupted. Ensure that it is passed on as it was received.";
            self.status(Code::InvalidArgument, "subscription.fetch.replayid.corrupted", message)
        })
    }

    /// Adds what a message asks for.
    fn ask(&self, subscription: &mut Subscription, asked: &Asked<'_>) -> Result<(), Status> {
        if !asked.topic.is_empty() && asked.topic != subscription.topic {
            let message = format!("This stream is of {}; another topic needs a stream of its own.", subscription.topic);
            return Err(self.status(Code::InvalidArgument, "subscription.topic.changed", message));
        }
        if !asked.token.is_empty() {
            let session = self.org.session(asked.token).ok_or_else(|| self.unauthenticated())?;
            subscription.client = Client { token: asked.token.to_owned(), caller: session.caller };
        }
        if asked.number <= 0 {
            let message = "The number of requested events must be above 0.";
            return Err(self.status(Code::InvalidArgument, "subscription.fetch.requested.events.negative", message));
        }
        subscription.asked = subscription.asked.saturating_add(asked.number.min(ASKED));
        Ok(())
    }

    /// Returns events that were asked for, those that there are now; `None` where there are none.
    async fn next(&self, subscription: &mut Subscription) -> Result<Option<Vec<ConsumerEvent>>, Status> {
        if subscription.asked == 0 {
            return Ok(None);
        }
        if self.org.session(&subscription.client.token).is_none() {
            return Err(self.unauthenticated());
        }
        let (topics, behind) = (subscription.topics.clone(), subscription.behind);
        let limit = subscription.asked.min(ASKED) as usize;
        let caller = subscription.client.caller.clone();
        let (events, last) = self
            .blocking(move |org| {
                let (found, last) = org.published(&caller, &topics, behind, limit)?;
                let mut events = Vec::with_capacity(found.len());
                for event in found {
                    let schema = org.event_schema_by_id(&event.schema)?.ok_or_else(ApiError::not_found)?;
                    let payload = schema.encode(&event.payload).map_err(|error| ApiError::unexpected(&error))?;
                    let producer = ProducerEvent { id: event.uuid, schema_id: event.schema, payload, headers: vec![] };
                    let replay_id = event.replay.to_be_bytes().to_vec();
                    events.push(ConsumerEvent { event: Some(producer), replay_id });
                }
                Ok((events, last))
            })
            .await?;
        let Some(last) = last else { return Ok(None) };
        subscription.behind = last;
        // One that chaos doubled is more than was asked for.
        subscription.asked = (subscription.asked - events.len() as i32).max(0);
        Ok(Some(events))
    }

    /// Sends events as they come and as they are asked for, until either side ends the stream. Commits are to the
    /// `managed` subscription.
    async fn serve<M: Listen>(
        &self,
        mut subscription: Subscription,
        managed: Option<String>,
        mut messages: Streaming<M>,
        answers: &mpsc::Sender<Result<M::Answer, Status>>,
    ) -> Result<(), Status> {
        let mut news = self.org.bus.listen();
        let answer = |subscription: &Subscription, events, latest, committed| {
            Ok(M::answer(events, latest, self.org.request_id(), subscription.asked, committed))
        };
        loop {
            news.borrow_and_update();
            while let Some(events) = self.next(&mut subscription).await? {
                let answer = answer(&subscription, events, subscription.behind, None);
                if answers.send(answer).await.is_err() {
                    return Ok(());
                }
                self.disturb(&subscription.topic).await?;
            }
            let (latest, events, committed) = tokio::select! {
                () = answers.closed() => return Ok(()),
                () = self.stop.cancelled() => {
                    return Err(self.status(Code::Unavailable, "service.unavailable", "The service is stopping."));
                }
                message = messages.next() => {
                    let Some(message) = message.transpose()? else { return Ok(()) };
                    if let Some(asked) = message.asked() {
                        self.ask(&mut subscription, &asked)?;
                    }
                    let Some((commit, name)) = message.commit().zip(managed.clone()) else { continue };
                    (subscription.behind, Vec::new(), Some(self.commit(name, commit).await?))
                }
                changed = news.changed(), if subscription.asked > 0 => match changed {
                    Ok(()) => continue,
                    Err(_) => return Ok(()),
                },
                () = tokio::time::sleep(SILENCE) => {
                    let newest = self.blocking(|org| org.start(From::Newest)).await?.unwrap_or_default();
                    (if subscription.asked > 0 { newest } else { subscription.behind }, Vec::new(), None)
                }
            };
            if answers.send(answer(&subscription, events, latest, committed)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Notes how far a managed subscription has come.
    async fn commit(&self, name: String, commit: CommitReplayRequest) -> Result<CommitReplayResponse, Status> {
        let error = match self.replay(&commit.replay_id) {
            Ok(replay) => {
                self.blocking(move |org| org.commit_managed(&name, replay)).await?;
                None
            }
            Err(status) => Some(Error { code: ErrorCode::Commit.into(), msg: status.message().to_owned() }),
        };
        Ok(CommitReplayResponse {
            commit_request_id: commit.commit_request_id,
            replay_id: commit.replay_id,
            error,
            process_time: self.org.now().timestamp_millis(),
        })
    }

    /// Begins a subscription with its first message; behind `newest` where that wants what comes now.
    async fn begin(&self, client: Client, first: &FetchRequest, newest: i64) -> Result<Subscription, Status> {
        let topics = self.topics(&client.caller, &first.topic_name)?;
        let latest = ReplayPreset::try_from(first.replay_preset) == Ok(ReplayPreset::Latest);
        let behind = if latest { newest } else { self.start(first.replay_preset, &first.replay_id).await? };
        let mut subscription = Subscription { client, topic: first.topic_name.clone(), topics, behind, asked: 0 };
        self.ask(&mut subscription, &Asked { topic: "", number: first.num_requested, token: "" })?;
        Ok(subscription)
    }

    /// Begins a subscription whose position is kept here; returns it with its name.
    async fn begin_managed(
        &self,
        client: Client,
        first: &ManagedFetchRequest,
    ) -> Result<(Subscription, String), Status> {
        let managed = self.org.managed(&[first.developer_name.clone(), first.subscription_id.clone()]);
        let managed = managed.ok_or_else(|| {
            let message = "There is no such managed event subscription.";
            self.status(Code::NotFound, "subscription.managed.not.found", message)
        })?;
        let topics = self.topics(&client.caller, &managed.topic)?;
        let name = managed.name.clone();
        let behind = self
            .blocking(move |org| {
                let from = if managed.earliest { From::Oldest } else { From::Newest };
                let from = org.managed_position(&managed.name)?.map_or(from, From::Behind);
                // One that is past begins where there is something left.
                Ok(org.start(from)?.or(org.start(From::Oldest)?).unwrap_or_default())
            })
            .await?;
        let mut subscription = Subscription { client, topic: managed.topic, topics, behind, asked: 0 };
        self.ask(&mut subscription, &Asked { topic: "", number: first.num_requested, token: "" })?;
        Ok((subscription, name))
    }

    /// Runs a stream: what it fails with is the last that it sends.
    fn run<A: Send + 'static, F>(
        &self,
        opened: Opened,
        work: impl FnOnce(Self, mpsc::Sender<Result<A, Status>>) -> F,
    ) -> Answers<A>
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (answers, stream) = mpsc::channel(4);
        let work = work(self.clone(), answers.clone());
        tokio::spawn(async move {
            let _opened = opened;
            if let Err(status) = work.await {
                let _ = answers.send(Err(status)).await;
            }
        });
        ReceiverStream::new(stream).boxed()
    }

    /// Cuts the stream or holds it up, where chaos wants it.
    async fn disturb(&self, topic: &str) -> Result<(), Status> {
        let subject = Subject { path: topic, ..Subject::default() };
        match self.org.chaos.strike(subject, |fault| matches!(fault, Fault::StreamCut | Fault::EventLate { .. })) {
            Some(Fault::EventLate { milliseconds }) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
            Some(_) => {
                return Err(self.status(Code::Unavailable, "service.unavailable", "The stream breaks on demand."));
            }
            None => {}
        }
        Ok(())
    }

    /// Publishes events, each by itself, as its schema says.
    async fn publish_all(&self, client: &Client, request: PublishRequest) -> Result<PublishResponse, Status> {
        let topic = request.topic_name;
        let object = topic.strip_prefix("/event/").and_then(|name| client.caller.schema.object(name));
        let Some(object) = object.filter(|object| object.is_event() && object.createable).cloned() else {
            self.topics(&client.caller, &topic)?;
            let message = format!("You may not publish to {topic}.");
            return Err(self.status(Code::PermissionDenied, "topic.permission.denied", message));
        };
        if request.events.is_empty() {
            return Err(self.status(Code::InvalidArgument, "publish.no.events", "There are no events to publish."));
        }
        let caller = client.caller.clone();
        let (results, schema_id) = self
            .blocking(move |org| {
                let current = org.schemas.of(&object)?.id.clone();
                let failed = |key: String, message: String| PublishResult {
                    replay_id: Vec::new(),
                    error: Some(Error { code: ErrorCode::Publish.into(), msg: message }),
                    correlation_key: key,
                };
                let publish = |event: ProducerEvent| {
                    if event.payload.len() > LARGEST {
                        let message = format!("{CODES}publish.limit.exceeded: an event has at most 1 MB");
                        return Ok(failed(event.id, message));
                    }
                    let schema = org.event_schema_by_id(&event.schema_id)?;
                    let fields = match schema.as_deref().map(|schema| publishable(schema, &event.payload, &object)) {
                        None => {
                            let id = &event.schema_id;
                            let message = format!("{CODES}publish.invalid.schema: there is no schema {id:?}");
                            return Ok(failed(event.id, message));
                        }
                        Some(Err(error)) => {
                            let message = format!("{CODES}publish.event.serialization: {error}");
                            return Ok(failed(event.id, message));
                        }
                        Some(Ok(fields)) => fields,
                    };
                    let published = org.write(&caller, |store| store.insert(&object, &fields));
                    Ok(match published {
                        Ok(id) => PublishResult {
                            replay_id: org.replay_of(&object, &id)?.to_be_bytes().to_vec(),
                            error: None,
                            correlation_key: event.id,
                        },
                        Err(error) => failed(event.id, format!("{}: {}", error.code, error.message)),
                    })
                };
                Ok((request.events.into_iter().map(publish).collect::<Answered<Vec<_>>>()?, current))
            })
            .await?;
        Ok(PublishResponse { results, schema_id, rpc_id: self.org.request_id() })
    }
}

/// Returns the fields of an event that a client may set.
fn publishable(
    schema: &EventSchema,
    payload: &[u8],
    object: &crate::schema::Object,
) -> Result<Map<String, Value>, String> {
    let fields = schema.decode(payload, object)?;
    Ok(fields.into_iter().filter(|(name, _)| name != "CreatedDate" && name != "CreatedById").collect())
}

#[tonic::async_trait]
impl PubSub for Service {
    type SubscribeStream = Answers<FetchResponse>;
    type PublishStreamStream = Answers<PublishResponse>;
    type ManagedSubscribeStream = Answers<ManagedFetchResponse>;

    async fn get_topic(&self, request: Request<TopicRequest>) -> Result<Response<TopicInfo>, Status> {
        let client = self.client(request.metadata())?;
        let topic = request.into_inner().topic_name;
        let object = match self.topics(&client.caller, &topic)? {
            Topics::Changes | Topics::Several(_) | Topics::Older(_) => None,
            Topics::One(event) => client.caller.schema.objects().find(|object| object.tells(&event)).cloned(),
        };
        let schema_id = match &object {
            None => String::new(),
            Some(object) => self.org.schemas.of(object).map_err(|error| self.refused(&error))?.id.clone(),
        };
        Ok(Response::new(TopicInfo {
            topic_name: topic,
            tenant_guid: format!("core/sandbox/{}", self.org.org_id),
            can_publish: object.is_some_and(|object| object.is_event() && object.createable),
            can_subscribe: true,
            schema_id,
            rpc_id: self.org.request_id(),
        }))
    }

    async fn get_schema(&self, request: Request<SchemaRequest>) -> Result<Response<SchemaInfo>, Status> {
        self.client(request.metadata())?;
        let id = request.into_inner().schema_id;
        let wanted = id.clone();
        let schema = self.blocking(move |org| org.event_schema_by_id(&wanted)).await?;
        let Some(schema) = schema else {
            let message = format!("There is no schema {id:?}.");
            return Err(self.status(Code::NotFound, "schema.not.found", message));
        };
        let rpc_id = self.org.request_id();
        Ok(Response::new(SchemaInfo { schema_json: schema.json.clone(), schema_id: id, rpc_id }))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let client = self.client(request.metadata())?;
        let mut messages = request.into_inner();
        // The answer begins before the first message: clients may wait for it, and what is published behind it is new to them.
        let newest = self.blocking(|org| Ok(org.start(From::Newest)?.unwrap_or_default())).await?;
        let stream = self.run(self.open()?, move |this, answers| async move {
            let Some(first) = messages.next().await.transpose()? else { return Ok(()) };
            let subscription = this.begin(client, &first, newest).await?;
            this.serve(subscription, None, messages, &answers).await
        });
        Ok(Response::new(stream))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let client = self.client(request.metadata())?;
        self.publish_all(&client, request.into_inner()).await.map(Response::new)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let mut client = self.client(request.metadata())?;
        let mut messages = request.into_inner();
        let stream = self.run(self.open()?, |this, answers| async move {
            let mut topic = String::new();
            loop {
                let next = tokio::select! {
                    () = this.stop.cancelled() => return Ok(()),
                    next = tokio::time::timeout(PUBLISHER_SILENCE, messages.next()) => next,
                };
                let next = next.map_err(|_| {
                    let message = "No event was published for 70 seconds.";
                    this.status(Code::Cancelled, "publish.stream.timeout", message)
                })?;
                let Some(mut more) = next.transpose()? else { return Ok(()) };
                if topic.is_empty() {
                    topic.clone_from(&more.topic_name);
                }
                if !more.topic_name.is_empty() && more.topic_name != topic {
                    let message = format!("This stream is of {topic}; another topic needs a stream of its own.");
                    return Err(this.status(Code::InvalidArgument, "publish.topic.changed", message));
                }
                more.topic_name.clone_from(&topic);
                let token = if more.auth_refresh.is_empty() { client.token } else { more.auth_refresh.clone() };
                let session = this.org.session(&token).ok_or_else(|| this.unauthenticated())?;
                client = Client { token, caller: session.caller };
                let response = this.publish_all(&client, more).await?;
                if answers.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
        });
        Ok(Response::new(stream))
    }

    async fn managed_subscribe(
        &self,
        request: Request<Streaming<ManagedFetchRequest>>,
    ) -> Result<Response<Self::ManagedSubscribeStream>, Status> {
        let client = self.client(request.metadata())?;
        let mut messages = request.into_inner();
        let stream = self.run(self.open()?, |this, answers| async move {
            let Some(first) = messages.next().await.transpose()? else { return Ok(()) };
            let (subscription, name) = this.begin_managed(client, &first).await?;
            this.serve(subscription, Some(name), messages, &answers).await
        });
        Ok(Response::new(stream))
    }
}
