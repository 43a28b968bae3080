//! The Streaming API: events by CometD long polling, for orgs and networks where the Pub/Sub API is not to be had.
//!
//! What comes is the same as by [`pubsub`](crate::pubsub): a place in a channel is the number of its event, written in eight
//! bytes. Source: Streaming API guide.

use outbound::Request;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{ApiError, Error};
use crate::pubsub::{Body, Event, Replay, Told, change_in_json};

/// A subscription to a channel, such as `/data/AccountChangeEvent` or `/event/Order_Placed__e`; dropping it ends it, as soon
/// as the org notices.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    channel: String,
    /// The number of the last event, or where it begins.
    replay: i64,
    /// Who we are to the org, until it forgets us.
    id: Option<String>,
    cookies: Vec<String>,
}

impl Client {
    /// Subscribes to a channel by the Streaming API.
    ///
    /// # Errors
    ///
    /// No such channel, no session, or a place that is past, see [`Error::is_past_replay`].
    pub async fn stream(&self, channel: &str, from: Replay) -> Result<Subscription, Error> {
        let replay = match from {
            Replay::Latest => -1,
            Replay::Earliest => -2,
            Replay::After(place) => {
                let number = place.try_into().map(i64::from_be_bytes);
                number.map_err(|_| refused(channel, "400::The replayId is none of the Streaming API"))?
            }
        };
        let mut subscription =
            Subscription { client: self.clone(), channel: channel.to_owned(), replay, id: None, cookies: Vec::new() };
        subscription.begin().await?;
        Ok(subscription)
    }
}

/// Reads a refusal: its number, and what it says.
fn refused(channel: &str, error: &str) -> Error {
    let (number, message) = error.split_once(':').unwrap_or(("", error));
    let status = number.parse().unwrap_or(503);
    let message = message.trim_start_matches(':').to_owned();
    let source = ApiError { code: format!("COMETD_{status}"), message, fields: Vec::new() };
    Error::Refused { what: format!("the subscription to {channel}"), status, source }
}

impl Subscription {
    /// Sends a message and returns what is answered.
    async fn call(&mut self, message: Value) -> Result<Vec<Value>, Error> {
        let path = format!("/cometd/{}", self.client.settings().version);
        let mut request = Request::new("POST", path).json(&json!([message]));
        if !self.cookies.is_empty() {
            request = request.header("cookie", self.cookies.join("; "));
        }
        let response = self.client.send(&request).await?;
        if let Some(cookie) = response.header("set-cookie").and_then(|cookie| cookie.split(';').next()) {
            let name = cookie.split('=').next().unwrap_or_default();
            self.cookies.retain(|known| known.split('=').next() != Some(name));
            self.cookies.push(cookie.to_owned());
        }
        let bad = |source: serde_json::Error| Error::BadAnswer {
            what: format!("the subscription to {}", self.channel),
            source: source.into(),
        };
        serde_json::from_slice(&response.bytes().await?).map_err(bad)
    }

    /// Returns the answer to a message, if it is one of success.
    fn good(&self, answers: Vec<Value>, channel: &str) -> Result<Value, Error> {
        let answer = answers.into_iter().find(|answer| answer["channel"] == channel).unwrap_or_default();
        if answer["successful"] == true {
            return Ok(answer);
        }
        Err(refused(&self.channel, answer["error"].as_str().unwrap_or("503::The org did not answer as it should")))
    }

    /// Introduces us, and subscribes behind the last event.
    async fn begin(&mut self) -> Result<(), Error> {
        let shake = "/meta/handshake";
        let message = json!({"channel": shake, "version": "1.0", "minimumVersion": "1.0",
                             "supportedConnectionTypes": ["long-polling"], "ext": {"replay": true}});
        let answers = self.call(message).await?;
        let answer = self.good(answers, shake)?;
        let id = answer["clientId"].as_str().unwrap_or_default().to_owned();
        let subscribe = "/meta/subscribe";
        let message = json!({"channel": subscribe, "clientId": id, "subscription": self.channel,
                             "ext": {"replay": {self.channel.as_str(): self.replay}}});
        let answers = self.call(message).await?;
        self.good(answers, subscribe)?;
        self.id = Some(id);
        Ok(())
    }

    /// Returns what comes next; it may take as long as nothing happens. A client that the org has forgotten introduces itself
    /// again, behind the last event.
    ///
    /// # Errors
    ///
    /// No answer, no session, a place that is past, or an answer that no org would give.
    pub async fn next(&mut self) -> Result<Told, Error> {
        loop {
            let Some(id) = self.id.clone() else {
                self.begin().await?;
                continue;
            };
            let connect = json!({"channel": "/meta/connect", "clientId": id, "connectionType": "long-polling"});
            let mut events = Vec::new();
            for message in self.call(connect).await? {
                if message["channel"] == self.channel.as_str() {
                    events.push(self.event(message)?);
                } else if message["channel"] == "/meta/connect" && message["successful"] != true {
                    let error = message["error"].as_str().unwrap_or_default();
                    match message["advice"]["reconnect"].as_str() {
                        Some("handshake") if error.starts_with("403") => self.id = None,
                        _ => return Err(refused(&self.channel, error)),
                    }
                }
            }
            if !events.is_empty() {
                return Ok(Told { events, latest: self.replay.to_be_bytes().to_vec() });
            }
        }
    }

    fn event(&mut self, mut message: Value) -> Result<Event, Error> {
        let number = message["data"]["event"]["replayId"].as_i64();
        self.replay = number.ok_or_else(|| Error::BadAnswer {
            what: format!("the subscription to {}", self.channel),
            source: "an event has no number".into(),
        })?;
        let id = message["data"]["event"]["EventUuid"].as_str().unwrap_or_default().to_owned();
        let body = match message["data"]["payload"].take() {
            Value::Object(payload) => change_in_json(payload),
            // A generic event, or one of a PushTopic.
            payload => {
                let sobject = message["data"]["sobject"].take();
                let fields = if sobject.is_object() { sobject } else { json!({"payload": payload}) };
                Body::Platform(fields.as_object().cloned().unwrap_or_default())
            }
        };
        Ok(Event { replay: self.replay.to_be_bytes().to_vec(), id, body })
    }
}
