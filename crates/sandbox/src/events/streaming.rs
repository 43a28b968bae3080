//! The Streaming API: CometD 1.0 by long polling. A connect is held until there is something to tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::bus::{From, Topics, topics};
use super::schemas::HEADER;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::org::Org;
use crate::rest::{Answer, Call};

/// How long a connect is held. Source: Streaming API guide, `advice.timeout`.
const HELD: Duration = Duration::from_secs(110);
/// How long a client may stay away between two connects. Source: Streaming API guide.
const AWAY: Duration = Duration::from_secs(40);
/// Clients at the same time. Source: Streaming API guide, allocations of most editions.
const CLIENTS: usize = 1_000;
/// Events of one channel in one answer.
const EVENTS: usize = 200;

/// The clients that listen.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    clients: Mutex<HashMap<String, Client>>,
}

#[derive(Debug)]
struct Client {
    caller: Arc<Caller>,
    seen: Instant,
    /// Connects that are held now.
    held: usize,
    /// False until its first connect, which is answered at once.
    connected: bool,
    /// For each channel what it carries, and the number of the last event that was sent.
    subscriptions: BTreeMap<String, (Topics, i64)>,
    /// Told when there is another subscription: a connect that is held may have something to tell then.
    subscribed: Arc<Notify>,
}

impl Streams {
    /// Returns the clients, without those that stayed away.
    fn clients(&self) -> MutexGuard<'_, HashMap<String, Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, client| client.held > 0 || client.seen.elapsed() < AWAY);
        clients
    }

    /// Returns the users who listen to a channel.
    pub(super) fn listening(&self, channel: &str) -> HashSet<String> {
        let clients = self.clients();
        let listen = clients.values().filter(|client| client.subscriptions.contains_key(channel));
        listen.map(|client| client.caller.user_id.clone()).collect()
    }
}

/// Writes an answer to a message; `rest` is added to it.
fn reply(message: &Value, successful: bool, rest: Value) -> Value {
    let mut reply = Map::new();
    for name in ["channel", "id", "clientId", "subscription"] {
        if let Some(value) = message.get(name).filter(|value| !value.is_null()) {
            reply.insert(name.to_owned(), value.clone());
        }
    }
    reply.insert("successful".to_owned(), json!(successful));
    if let Value::Object(rest) = rest {
        reply.extend(rest);
    }
    Value::Object(reply)
}

fn refusal(message: &Value, error: &str, reconnect: &str) -> Value {
    let advice = json!({"reconnect": reconnect, "interval": 0});
    let ext = json!({"sfdc": {"failureReason": error}, "replay": true, "payload.format": true});
    reply(message, false, json!({"error": error, "advice": advice, "ext": ext}))
}

impl Org {
    /// Answers the messages of a call below `/cometd`.
    pub(crate) async fn cometd(self: &Arc<Self>, call: &Call, signed_in: bool) -> Answer {
        let messages = match serde_json::from_slice(&call.body) {
            Ok(Value::Array(messages)) if !messages.is_empty() => messages,
            Ok(message @ Value::Object(_)) => vec![message],
            _ => return ApiError::new(400, "JSON_PARSER_ERROR", "a call holds an array of Bayeux messages").into(),
        };
        let (mut replies, mut connect) = (Vec::new(), None);
        for message in messages {
            let channel = message["channel"].as_str().unwrap_or_default();
            if !signed_in {
                let error = "401::Authentication invalid";
                replies.push(refusal(&message, error, if channel == "/meta/handshake" { "none" } else { "handshake" }));
                continue;
            }
            match channel {
                "/meta/handshake" => replies.push(self.shake(call, &message)),
                "/meta/connect" => connect = Some(message),
                "/meta/subscribe" | "/meta/unsubscribe" => replies.extend(self.subscribe(call, &message)),
                "/meta/disconnect" => {
                    let gone = self.streams.clients().remove(message["clientId"].as_str().unwrap_or_default());
                    replies.push(match gone {
                        Some(_) => reply(&message, true, json!({})),
                        None => refusal(&message, "403::Unknown client", "handshake"),
                    });
                }
                _ => replies.push(refusal(&message, "403:denied_by_security_policy:create_denied", "retry")),
            }
        }
        if let Some(message) = connect {
            // One that has something to say besides is not kept waiting for the answer.
            let patience = if replies.is_empty() { HELD } else { Duration::ZERO };
            let (events, last) = self.connect(&message, patience).await;
            replies.extend(events);
            replies.push(last);
        }
        let answer = Answer::json(200, &Value::Array(replies));
        if call.header("cookie").is_some_and(|cookies| cookies.contains("BAYEUX_BROWSER=")) {
            return answer;
        }
        answer.with("set-cookie", format!("BAYEUX_BROWSER={}; Path=/cometd/; HttpOnly", self.request_id()))
    }

    fn shake(&self, call: &Call, message: &Value) -> Value {
        let polls =
            message["supportedConnectionTypes"].as_array().into_iter().flatten().any(|kind| kind == "long-polling");
        if !polls {
            return refusal(message, "400::long-polling is the only connection type", "none");
        }
        let mut clients = self.streams.clients();
        if clients.len() >= CLIENTS {
            return refusal(message, "403::Organization concurrent user limit exceeded", "none");
        }
        let id = self.request_id();
        clients.insert(
            id.clone(),
            Client {
                caller: call.caller.clone(),
                seen: Instant::now(),
                held: 0,
                connected: false,
                subscriptions: BTreeMap::new(),
                subscribed: Arc::default(),
            },
        );
        reply(
            message,
            true,
            json!({"clientId": id, "version": "1.0", "minimumVersion": "1.0", "supportedConnectionTypes": ["long-polling"],
                   "ext": {"replay": true, "payload.format": true}}),
        )
    }

    /// Answers a subscription to one channel or several, or its end.
    fn subscribe(&self, call: &Call, message: &Value) -> Vec<Value> {
        let channels: Vec<&str> = match &message["subscription"] {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let client = message["clientId"].as_str().unwrap_or_default();
        let answer = |channel: &str| {
            let one = json!({"channel": message["channel"], "id": message["id"], "clientId": message["clientId"],
                             "subscription": channel});
            let begin = message["ext"]["replay"][channel].as_i64().unwrap_or(-1);
            let begins = if message["channel"] == "/meta/subscribe" {
                let older = channel.starts_with("/topic/") || channel.starts_with("/u/");
                let known = if older {
                    self.has_older(channel).then(|| Topics::Older(channel.to_owned()))
                } else {
                    topics(channel, &call.caller.schema, &self.setup().channels)
                };
                let Some(topics) = known else {
                    let error = "404::The channel you requested to subscribe to does not exist";
                    return refusal(&one, error, "none");
                };
                let from = match begin {
                    -1 => From::Newest,
                    -2 => From::Oldest,
                    number => From::Behind(number),
                };
                match self.start(from) {
                    Ok(Some(start)) => Some((topics, start)),
                    Ok(None) => {
                        let error = format!(
                            "400::The replayId {{{begin}}} you provided was invalid. Please provide a valid ID, -2 to replay all \
                             events, or -1 to replay only new events."
                        );
                        return refusal(&one, &error, "none");
                    }
                    Err(error) => return refusal(&one, &format!("500::{}", error.message), "retry"),
                }
            } else {
                None
            };
            let mut clients = self.streams.clients();
            let Some(known) = clients.get_mut(client).filter(|known| known.caller.user_id == call.caller.user_id)
            else {
                return refusal(&one, "403::Unknown client", "handshake");
            };
            known.seen = Instant::now();
            match begins {
                Some(begins) => {
                    known.subscriptions.insert(channel.to_owned(), begins);
                    known.subscribed.notify_one();
                }
                None => drop(known.subscriptions.remove(channel)),
            }
            reply(&one, true, json!({}))
        };
        if channels.is_empty() {
            return vec![refusal(message, "403:subscription_missing:", "none")];
        }
        channels.into_iter().map(answer).collect()
    }

    /// Waits for events of a client's channels, as long as its patience lasts; returns them and the answer.
    async fn connect(self: &Arc<Self>, message: &Value, patience: Duration) -> (Vec<Value>, Value) {
        let id = message["clientId"].as_str().unwrap_or_default().to_owned();
        let mut news = self.bus.listen();
        let (first, subscribed) = {
            let mut clients = self.streams.clients();
            let Some(client) = clients.get_mut(&id) else {
                return (Vec::new(), refusal(message, "403::Unknown client", "handshake"));
            };
            client.held += 1;
            (!std::mem::replace(&mut client.connected, true), Arc::clone(&client.subscribed))
        };
        // However the wait ends, also when the caller goes away.
        let _held = Held { org: self.clone(), id: id.clone() };
        let wait = if first || message["advice"]["timeout"] == 0 { Duration::ZERO } else { patience };
        let end = tokio::time::Instant::now() + wait;
        let events = loop {
            news.borrow_and_update();
            let (worker, who) = (self.clone(), id.clone());
            let found = tokio::task::spawn_blocking(move || worker.collect(&who)).await.unwrap_or_default();
            if !found.is_empty() {
                break found;
            }
            tokio::select! {
                _ = news.changed() => {}
                () = subscribed.notified() => {}
                () = tokio::time::sleep_until(end) => break Vec::new(),
            }
        };
        let advice = json!({"reconnect": "retry", "interval": 0, "timeout": HELD.as_millis() as u64});
        (events, reply(message, true, if first { json!({"advice": advice}) } else { json!({}) }))
    }

    /// Returns the events that a client has not had, in the order of their numbers, as messages.
    fn collect(&self, id: &str) -> Vec<Value> {
        let known = self.streams.clients().get(id).map(|client| (client.caller.clone(), client.subscriptions.clone()));
        let Some((caller, subscriptions)) = known else { return Vec::new() };
        let mut found: Vec<(i64, Value)> = Vec::new();
        let mut reached: Vec<(String, i64)> = Vec::new();
        for (channel, (topics, behind)) in subscriptions {
            let Ok((events, last)) = self.published(&caller, &topics, behind, EVENTS) else { continue };
            reached.extend(last.map(|last| (channel.clone(), last)));
            found.extend(events.into_iter().map(|mut event| {
                // What is told as differences stands one deeper here than in Avro.
                let different = event.payload[HEADER]["diffFields"].as_array().cloned().unwrap_or_default();
                for name in different.iter().filter_map(Value::as_str) {
                    if let Some(told) = event.payload.get_mut(name) {
                        *told = json!({"diff": told.take()});
                    }
                }
                let mut data = json!({"schema": event.schema, "payload": event.payload,
                                      "event": {"replayId": event.replay, "EventUuid": event.uuid}});
                if matches!(topics, Topics::Older(_)) {
                    data = event.payload;
                    data["event"]["replayId"] = json!(event.replay);
                }
                (event.replay, json!({"channel": channel, "clientId": id, "data": data}))
            }));
        }
        if let Some(client) = self.streams.clients().get_mut(id) {
            for (channel, last) in reached {
                if let Some((_, behind)) = client.subscriptions.get_mut(&channel) {
                    *behind = last.max(*behind);
                }
            }
        }
        found.sort_by_key(|(replay, _)| *replay);
        found.into_iter().map(|(_, message)| message).collect()
    }
}

/// A connect that is held.
struct Held {
    org: Arc<Org>,
    id: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(client) = self.org.streams.clients().get_mut(&self.id) {
            (client.held, client.seen) = (client.held.saturating_sub(1), Instant::now());
        }
    }
}
