//! Outbound messages: records that the org posts to an address, again and again until they are acknowledged.
//!
//! Source: SOAP API guide, "Outbound Messaging".

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use outbound::{Body, Client, Request, Settings};
use rusqlite::{Connection, params};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::automation::Automation;
use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::Org;
use crate::rest::Call;
use crate::soap;
use crate::store::Store;
use crate::xml;

/// Notifications in a message, at most.
const MOST: i64 = 100;
/// The version of the API that a message speaks of.
const VERSION: &str = "v66.0";
/// The first wait before a message is sent again; each is twice as long as the one before (unverified).
const FIRST_WAIT: i64 = 15_000;
/// The longest wait, in milliseconds (unverified).
const LONGEST_WAIT: i64 = 3_600_000;
/// How long is tried, in milliseconds.
const TRIED: i64 = 24 * 3_600_000;

/// A record that a rule sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The address that it is posted to.
    pub to: String,
    /// The fields that it holds, besides the id.
    #[serde(default)]
    pub fields: Vec<String>,
}

pub(crate) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    // Times are milliseconds of this machine's clock; what failed for good is never due.
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _message (serial INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL,
           record TEXT NOT NULL, made INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, due INTEGER);
         CREATE INDEX IF NOT EXISTS _message_due ON _message (rule, due)",
    )
}

impl Store<'_> {
    /// Puts a record among those that a rule sends.
    pub(crate) fn queue(&self, rule: &str, record: &str) -> Answered<()> {
        let now = Utc::now().timestamp_millis();
        let sql = "INSERT INTO _message (rule, record, made, due) VALUES (?1, ?2, ?3, ?3)";
        self.connection.prepare_cached(sql)?.execute(params![rule, record, now])?;
        Ok(())
    }
}

/// A rule that sends records, by its place in the definition.
#[derive(Clone, Copy)]
pub(crate) struct Sender(usize);

/// A message on its way.
struct Prepared {
    /// The numbers of its notifications.
    serials: Vec<i64>,
    /// Nothing where all of its records are gone.
    text: Option<String>,
}

impl Org {
    /// Returns the rules that send something.
    pub(crate) fn senders(&self) -> Vec<Sender> {
        let rules = self.config.definition.automation.iter().enumerate();
        rules.filter(|(_, rule)| rule.send.is_some()).map(|(place, _)| Sender(place)).collect()
    }

    fn sender(&self, Sender(place): Sender) -> Answered<(&Automation, &Message)> {
        let rule = self.config.definition.automation.get(place).ok_or_else(ApiError::not_found)?;
        Ok((rule, rule.send.as_ref().ok_or_else(ApiError::not_found)?))
    }

    /// Returns the next message of a rule that is due: its records as they are now.
    fn next_message(&self, sender: Sender) -> Answered<Option<Prepared>> {
        let (rule, message) = self.sender(sender)?;
        let due: Vec<(i64, String)> = self.read(|connection| {
            let sql = "SELECT serial, record FROM _message WHERE rule = ? AND due <= ? ORDER BY serial LIMIT ?";
            let mut statement = connection.prepare_cached(sql)?;
            let now = Utc::now().timestamp_millis();
            let rows = statement.query_map(params![rule.name, now, MOST], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        if due.is_empty() {
            return Ok(None);
        }
        let call = Call { caller: self.system(), ..Call::new("GET", "/") };
        let fields =
            message.fields.iter().filter(|name| !name.eq_ignore_ascii_case("Id")).map(|name| format!(",{name}"));
        let ids: Vec<String> = due.iter().map(|(_, id)| format!("'{id}'")).collect();
        let fields: String = fields.collect();
        let soql = format!("SELECT Id{fields} FROM {} WHERE Id IN ({})", rule.object, ids.join(","));
        let found = self.select(&call, VERSION, &soql, false)?;
        let known: HashMap<&str, &Value> = found.iter().filter_map(|row| Some((row["Id"].as_str()?, row))).collect();
        let mut notifications = String::new();
        for (serial, record) in &due {
            let Some(Value::Object(fields)) = known.get(record.as_str()) else { continue };
            let mut fields = fields.clone();
            fields.retain(|_, value| !value.is_null());
            notifications.push_str(&format!("<Notification><Id>{}</Id>", number(*serial)));
            soap::write_record(&mut notifications, "sObject", &fields);
            notifications.push_str("</Notification>");
        }
        let text = (!notifications.is_empty()).then(|| self.envelope(sender, &notifications));
        Ok(Some(Prepared { serials: due.into_iter().map(|(serial, _)| serial).collect(), text }))
    }

    fn envelope(&self, Sender(place): Sender, notifications: &str) -> String {
        let (org, action) = (&self.org_id, id::make("04k", place as u64 + 1));
        let (url, version) = (self.url(), VERSION.trim_start_matches('v'));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <notifications xmlns=\"http://soap.sforce.com/2005/09/outbound\" \
             xmlns:sf=\"urn:sobject.enterprise.soap.sforce.com\"><OrganizationId>{org}</OrganizationId>\
             <ActionId>{action}</ActionId><SessionId xsi:nil=\"true\"/>\
             <EnterpriseUrl>{url}/services/Soap/c/{version}/{org}</EnterpriseUrl>\
             <PartnerUrl>{url}/services/Soap/u/{version}/{org}</PartnerUrl>{notifications}\
             </notifications></soapenv:Body></soapenv:Envelope>"
        )
    }

    /// Forgets a message that was taken, or says when it is tried again.
    fn settle(&self, serials: &[i64], taken: bool) -> Answered<()> {
        let (now, serials) = (Utc::now().timestamp_millis(), json!(serials).to_string());
        self.with_writer(|connection| {
            if taken {
                let sql = "DELETE FROM _message WHERE serial IN (SELECT value FROM json_each(?))";
                connection.prepare_cached(sql)?.execute([serials])?;
            } else {
                let sql = "UPDATE _message SET tries = tries + 1, due = CASE WHEN ?1 - made < ?2
                             THEN ?1 + min(?3 << min(tries, 20), ?4) END
                           WHERE serial IN (SELECT value FROM json_each(?5))";
                connection.prepare_cached(sql)?.execute(params![now, TRIED, FIRST_WAIT, LONGEST_WAIT, serials])?;
            }
            Ok(())
        })
    }

    /// Returns how long it is until a message of a rule is due; none where none waits.
    fn until_due(&self, sender: Sender) -> Answered<Option<Duration>> {
        let (rule, _) = self.sender(sender)?;
        self.read(|connection| {
            let sql = "SELECT min(due) FROM _message WHERE rule = ?";
            let due: Option<i64> = connection.query_row(sql, [&rule.name], |row| row.get(0))?;
            let wait = |due: i64| Duration::from_millis((due - Utc::now().timestamp_millis()).max(0).cast_unsigned());
            Ok(due.map(wait))
        })
    }

    /// Tells of messages that were not taken yet, oldest first.
    pub(crate) fn messages(&self) -> Answered<Value> {
        self.read(|connection| {
            let sql = "SELECT serial, rule, record, tries, due IS NULL FROM _message ORDER BY serial";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                let (rule, record): (String, String) = (row.get(1)?, row.get(2)?);
                let (tries, failed): (i64, bool) = (row.get(3)?, row.get(4)?);
                let id = number(row.get(0)?);
                Ok(json!({"id": id, "rule": rule, "record": record, "tries": tries, "failed": failed}))
            })?;
            Ok(Value::Array(rows.collect::<rusqlite::Result<_>>()?))
        })
    }

    /// Lets every message that waits be sent now, those that failed too.
    pub(crate) fn send_again(&self) -> Answered<()> {
        let now = Utc::now().timestamp_millis();
        self.with_writer(|connection| Ok(connection.execute("UPDATE _message SET due = ?1, made = ?1", [now])?))?;
        self.outbox.send_replace(());
        Ok(())
    }
}

/// Returns the id of a notification.
fn number(serial: i64) -> String {
    id::make("04l", serial.cast_unsigned())
}

/// Sends what a rule has to send, until it is told to stop.
pub(crate) async fn deliver(org: Arc<Org>, sender: Sender, stop: CancellationToken) {
    let settings = Settings { read_timeout: Duration::from_mins(1), retries: 0, ..Settings::default() };
    let client = match Client::new(settings) {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "outbound messages are not sent"),
    };
    let mut queued = org.outbox.subscribe();
    loop {
        queued.borrow_and_update();
        let wait = tokio::select! {
            () = stop.cancelled() => return,
            wait = send_due(&org, sender, &client) => wait,
        };
        let wait = wait.unwrap_or_else(|error| {
            tracing::error!(message = error.message, "outbound messages wait");
            Some(Duration::from_secs(1))
        });
        // What is far off is near enough.
        let wait = wait.unwrap_or(Duration::from_millis(LONGEST_WAIT.cast_unsigned()));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = queued.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sends what is due, and returns how long it is until more is.
async fn send_due(org: &Arc<Org>, sender: Sender, client: &Client) -> Answered<Option<Duration>> {
    while let Some(message) = at_work(org, move |org| org.next_message(sender)).await? {
        let taken = match message.text {
            Some(text) => acknowledged(client, &org.sender(sender)?.1.to, text).await,
            None => true,
        };
        at_work(org, move |org| org.settle(&message.serials, taken)).await?;
    }
    at_work(org, move |org| org.until_due(sender)).await
}

async fn at_work<T: Send + 'static>(
    org: &Arc<Org>,
    work: impl FnOnce(&Org) -> Answered<T> + Send + 'static,
) -> Answered<T> {
    let org = Arc::clone(org);
    let done = tokio::task::spawn_blocking(move || work(&org)).await;
    done.unwrap_or_else(|error| Err(ApiError::unexpected(&error.to_string())))
}

/// Posts a message; true where the other side says that it has it.
async fn acknowledged(client: &Client, address: &str, message: String) -> bool {
    let mut request =
        Request::new("POST", address).header("content-type", "text/xml; charset=UTF-8").header("soapaction", "\"\"");
    request.body = Body::Bytes(message.into());
    let answer = async {
        let answer = client.send(&request).await?;
        let status = answer.status();
        Ok::<_, outbound::Error>((status, answer.bytes().await?))
    };
    let taken = match answer.await {
        Ok((status, body)) => {
            (status == 200 && says_true(&String::from_utf8_lossy(&body))).then_some(()).ok_or(format!("HTTP {status}"))
        }
        Err(error) => Err(error.to_string()),
    };
    taken.inspect_err(|reason| tracing::warn!(address, reason, "an outbound message was not taken")).is_ok()
}

fn says_true(answer: &str) -> bool {
    let Ok(envelope) = xml::tree(answer) else { return false };
    let ack = envelope.child("Body").and_then(|body| body.child("notificationsResponse")?.text("Ack"));
    ack == Some("true")
}
