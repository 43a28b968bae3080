//! Changes as the org tells them: Change Data Capture by the Pub/Sub API, or by the Streaming API where that is wanted.
//!
//! Events say which records changed; what they are now is read when it is needed. A stream that breaks is opened again
//! behind the last event that was told. Where the org does not keep that any more, or told only that much happened, what
//! was missed is to be looked for.

use std::time::Duration;

use ::salesforce::JsonTable;
use ::salesforce::pubsub::{self, Body, Change, ChangeKind, PubSub, Replay, Told};
use ::salesforce::{Client, streaming};
use chrono::{DateTime, SecondsFormat};
use endpoint::{Notice, Notices, Result, Values};
use futures::StreamExt as _;
use model::{Class, Entity, Type};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{Events, Org, failed};

/// Notices that wait for whoever takes them; behind them the org is not asked for more.
const WAITING: usize = 4;
/// The pauses before a stream is opened again: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_mins(1)];
/// From which pause on it is told that it does not go well.
const TELLING: Duration = Duration::from_secs(1);
/// A stream that lived so long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(30);

/// Returns the topic of an object's changes.
fn topic(object: &str) -> String {
    match object.strip_suffix("__c") {
        Some(stem) => format!("/data/{stem}__ChangeEvent"),
        None => format!("/data/{object}ChangeEvent"),
    }
}

/// Why what was told last is not gone on from. Source: Pub/Sub API guide, event retention.
const PAST: &str = "the org keeps its events for three days, and what was told last is older";

/// Returns a replay id as a place.
fn place_of(replay: &[u8]) -> String {
    replay.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Returns the replay id of a place.
fn replay_of(place: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(place.get(at..at + 2)?, 16).ok();
    (0..place.len()).step_by(2).map(byte).collect()
}

/// Where changes come from.
enum Feed {
    PubSub(PubSub),
    Streaming(Client),
}

enum Subscription {
    PubSub(Box<pubsub::Subscription>),
    Streaming(Box<streaming::Subscription>),
}

impl Feed {
    async fn subscribe(&self, topic: &str, from: Replay) -> std::result::Result<Subscription, ::salesforce::Error> {
        Ok(match self {
            Self::PubSub(pubsub) => Subscription::PubSub(Box::new(pubsub.subscribe(topic, from).await?)),
            Self::Streaming(client) => Subscription::Streaming(Box::new(client.stream(topic, from).await?)),
        })
    }
}

impl Subscription {
    async fn next(&mut self) -> std::result::Result<Option<Told>, ::salesforce::Error> {
        match self {
            Self::PubSub(subscription) => subscription.next().await,
            Self::Streaming(subscription) => subscription.next().await.map(Some),
        }
    }
}

struct Listener {
    feed: Feed,
    topic: String,
    /// The last event that was told; before there is one, what comes next.
    replay: Replay,
    /// The fields that are wanted, with their types.
    names: Vec<String>,
    kinds: Vec<Type>,
    table: JsonTable,
}

impl Org {
    pub(super) async fn notices(&self, entity: &Entity, fields: &[String], place: Option<&str>) -> Result<Notices> {
        let (schema, kinds) = self.columns(entity, fields).await?;
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        let table = JsonTable::new(schema, kinds.clone());
        let topic = topic(&entity.name);
        let what = || failed(format!("cannot listen to {topic}"));
        let feed = match self.events {
            Events::Pubsub => {
                Feed::PubSub(PubSub::connect(&self.client, self.pubsub.as_deref()).await.map_err(what())?)
            }
            Events::Streaming => Feed::Streaming(self.client.clone()),
        };
        let mut replay = place.and_then(replay_of).map_or(Replay::Latest, Replay::After);
        let mut missed = None;
        let mut subscription = match feed.subscribe(&topic, replay.clone()).await {
            Err(error) if error.is_past_replay() => {
                (replay, missed) = (Replay::Latest, Some(PAST.to_owned()));
                feed.subscribe(&topic, Replay::Latest).await
            }
            other => other,
        }
        .map_err(what())?;
        let mut listener = Listener { feed, topic: topic.clone(), replay, names, kinds, table };
        let (sender, receiver) = mpsc::channel(WAITING);
        if missed.is_some() {
            // There is room: nothing was told yet.
            let _ = sender.try_send(Ok(Notice { missed, ..Notice::default() }));
        }
        tokio::spawn(async move {
            tokio::select! {
                () = listener.listen(&mut subscription, &sender) => {}
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

impl Listener {
    /// Tells changes until there is an error that time does not mend, which is told last.
    async fn listen(&mut self, subscription: &mut Subscription, sender: &mpsc::Sender<Result<Notice>>) {
        let mut pause = PAUSES[0];
        let mut since = tokio::time::Instant::now();
        loop {
            let mut broken = match subscription.next().await {
                Ok(Some(told)) => {
                    if sender.send(Ok(self.notice(told))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => None,
                // A session that ended is renewed when the stream is opened again.
                Err(error) if error.class() == Class::Auth => None,
                Err(error) => Some(error),
            };
            if since.elapsed() > GOOD {
                pause = PAUSES[0];
            }
            let mut missed = None;
            loop {
                if let Some(error) = broken.take() {
                    if error.is_past_replay() {
                        missed = Some(PAST.to_owned());
                        self.replay = Replay::Latest;
                    } else if !error.class().is_transient() {
                        let _ = sender.send(Err(failed(format!("cannot listen to {}", self.topic))(error))).await;
                        return;
                    } else if pause >= TELLING {
                        // Once is nothing; what goes on is for somebody to see.
                        tracing::warn!(topic = self.topic, %error, "events can't be had; trying again");
                    }
                }
                // Not all at once, where many lost it together.
                tokio::time::sleep(pause.mul_f64(0.5 + random())).await;
                pause = (pause * 2).min(PAUSES[1]);
                match self.feed.subscribe(&self.topic, self.replay.clone()).await {
                    Ok(again) => {
                        tracing::debug!(topic = self.topic, "listening again");
                        *subscription = again;
                        break;
                    }
                    Err(error) => broken = Some(error),
                }
            }
            since = tokio::time::Instant::now();
            let notice = Notice { missed, reconnected: true, ..Notice::default() };
            if sender.send(Ok(notice)).await.is_err() {
                return;
            }
        }
    }

    fn notice(&mut self, told: Told) -> Notice {
        let mut notice = Notice::default();
        let (mut records, mut told_columns) = (Vec::new(), Vec::new());
        for event in told.events {
            let Body::Change(change) = event.body else { continue };
            if change.kind == ChangeKind::Overflow {
                notice.missed =
                    Some(format!("more of {} changed at once than the org tells one by one", change.object));
            }
            let (record, columns) = self.values(&change);
            records.extend(std::iter::repeat_n(record, change.ids.len()));
            told_columns.extend(std::iter::repeat_n(columns, change.ids.len()));
            notice.committed.extend(std::iter::repeat_n(Some(change.committed * 1_000), change.ids.len()));
            notice.keys.extend(change.ids);
        }
        notice.place = Some(place_of(&told.latest));
        self.replay = Replay::After(told.latest);
        // What can't be read is fetched.
        notice.values = self.table.read(&records).ok().map(|rows| Values { rows, told: told_columns });
        notice
    }

    /// Returns the wanted fields of a change as REST would answer them, and which of them are told.
    fn values(&self, change: &Change) -> (Map<String, Value>, Option<Vec<usize>>) {
        let whole = matches!(change.kind, ChangeKind::Create | ChangeKind::Undelete);
        let mut record = Map::new();
        if !(whole || change.kind == ChangeKind::Update) || !change.unread.is_empty() {
            return (record, None);
        }
        let mut columns = Vec::new();
        for (at, (name, kind)) in self.names.iter().zip(&self.kinds).enumerate() {
            let told = change.fields.get(name);
            // The id stands in the header.
            if name != "Id" && (whole || told.is_some()) {
                columns.push(at);
            }
            let moment = told.and_then(Value::as_i64).and_then(DateTime::from_timestamp_millis);
            let value = match (kind, moment) {
                (Type::Date, Some(moment)) => Value::String(moment.date_naive().to_string()),
                (Type::Timestamp, Some(moment)) => Value::String(moment.to_rfc3339_opts(SecondsFormat::Millis, true)),
                _ => told.cloned().unwrap_or_default(),
            };
            record.insert(name.clone(), value);
        }
        (record, Some(columns))
    }
}

/// Returns a number from 0 to 1 that is another each time.
fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}
