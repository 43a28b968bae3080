//! Changes from the log of the database, by logical decoding: a publication and a slot for each sync, both made here.
//!
//! A window is a span of the log. What changed in it is read into a temporary table of notes, as triggers would have
//! written it, and everything else goes on as with triggers. The slot moves only to where a stored window ended, so that
//! what a crash interrupted is told again. It is read by the server's own function for that, over a connection as any
//! other, which a pooler may stand in front of. Who listens reads the log as a stream instead, and lets go of the slot
//! while a window is read.

use std::collections::HashSet;
use std::time::Duration;

use endpoint::{CHANGES, Captured, Error, LOG, Read, Result, Window};
use futures::TryStreamExt as _;
use model::{Class, Entity};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::pgoutput::{Decoder, Told};
use super::{Postgres, failed};
use crate::sql;

/// Keys that are noted by one statement.
const KEYS: usize = 10_000;
/// How often, and after how long, a slot is asked for again that a connection which was cut off still holds.
const ASKS: (u32, Duration) = (150, Duration::from_millis(200));
/// Bytes of log kept for a slot above which it is time to look.
const MUCH: u64 = 8 << 30;

/// A connection that has the notes of a window.
pub(super) struct Noted {
    slot: String,
    window: Window,
    client: Client,
}

/// Returns the slot of an entity that is captured by log.
pub(super) fn slot(entity: &Entity) -> Option<&str> {
    entity.cursor.as_deref().filter(|cursor| cursor.starts_with(LOG))
}

/// Writes a place in the log as PostgreSQL does; windows hold it as a number.
pub(super) fn place(number: &str) -> String {
    let number: u64 = number.parse().unwrap_or_default();
    format!("{:X}/{:X}", number >> 32, number & 0xFFFF_FFFF)
}

/// Asks for a slot until whoever has it lets go, or too long.
async fn once_free<T, F>(ask: impl Fn() -> F) -> std::result::Result<T, tokio_postgres::Error>
where
    F: Future<Output = std::result::Result<T, tokio_postgres::Error>>,
{
    let mut asks = 0;
    loop {
        match ask().await {
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && asks < ASKS.0 => {
                asks += 1;
                tokio::time::sleep(ASKS.1).await;
            }
            other => return other,
        }
    }
}

impl Postgres {
    /// Makes the publication and the slot of an entity; those that are there and good stay as they are.
    pub(super) async fn follow(&self, entity: &Entity, slot: &str, key: &str) -> Result<()> {
        let what = || failed(format!("cannot read changes of {} from the log", entity.name));
        let client = self.open().await?;
        let level: String = client.query_one("SHOW wal_level", &[]).await.map_err(what())?.get(0);
        if level != "logical" {
            let message = format!(
                "{} keeps no log that changes can be read from (wal_level is {level}); set wal_level to logical and \
                 restart it, or use `capture: triggers`",
                self.place
            );
            return Err(Error::new(Class::Mapping, message));
        }
        self.identified(&client, entity, key).await?;
        let table = sql::table(&entity.name);
        let (name, quoted) = (sql::name(slot), sql::literal(slot));
        // What was decoded under another publication is of other tables.
        let published = format!(
            "SELECT (SELECT count(*) FROM pg_publication WHERE pubname = {quoted}),
                    (SELECT count(*) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                     WHERE p.pubname = {quoted} AND r.prrelid = {}::regclass)",
            sql::literal(&table)
        );
        let row = client.query_one(&published, &[]).await.map_err(what())?;
        let (made, good): (i64, i64) = (row.get(0), row.get(1));
        if good == 0 {
            self.drop_slot(&client, slot, false).await?;
            let sql = if made > 0 {
                format!("ALTER PUBLICATION {name} SET TABLE {table}")
            } else {
                format!("CREATE PUBLICATION {name} FOR TABLE {table} WITH (publish_via_partition_root = true)")
            };
            client.batch_execute(&sql).await.map_err(what())?;
        }
        self.drop_slot(&client, slot, true).await?;
        let known = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = {quoted}");
        if client.query(&known, &[]).await.map_err(what())?.is_empty() {
            // It waits for transactions that go on.
            let make = format!("SELECT pg_create_logical_replication_slot({quoted}, 'pgoutput')");
            client.batch_execute("SET statement_timeout = '60s'").await.map_err(what())?;
            if let Err(error) = client.query(&make, &[]).await {
                if good == 0 {
                    // Nothing is published that nobody reads; why there is no slot matters more than that this fails.
                    let _ = client.batch_execute(&format!("DROP PUBLICATION {name}")).await;
                }
                return Err(self.no_slot(error, what()));
            }
        }
        Ok(())
    }

    /// Says why a slot can't be made.
    fn no_slot(&self, error: tokio_postgres::Error, otherwise: impl FnOnce(tokio_postgres::Error) -> Error) -> Error {
        match error.code() {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                let message = format!(
                    "the login may not read the log of {}; give it the attribute REPLICATION, or use `capture: triggers`",
                    self.place
                );
                Error::new(Class::Mapping, message).caused_by(error)
            }
            Some(code) if *code == SqlState::QUERY_CANCELED => {
                let message =
                    "no slot can be made while a transaction goes on that began before; the next run tries again";
                Error::new(Class::Transient { after: None }, message).caused_by(error)
            }
            _ => otherwise(error),
        }
    }

    /// Checks that the log tells the key of a row that is changed or deleted. Publishing a table without an identity would
    /// make updates of it fail, whoever makes them.
    async fn identified(&self, client: &Client, entity: &Entity, key: &str) -> Result<()> {
        let sql = "SELECT c.relreplident::text, EXISTS (
                       SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
                       WHERE i.indrelid = c.oid AND a.attname = $2
                         AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
                   FROM pg_class c WHERE c.oid = to_regclass($1)";
        let row = client.query_one(sql, &[&sql::table(&entity.name), &key]).await;
        let row = row.map_err(failed(format!("cannot describe {}", entity.name)))?;
        let (identity, told): (String, bool) = (row.get(0), row.get(1));
        if identity == "f" || told {
            return Ok(());
        }
        let message = format!(
            "the log does not tell {key} of rows of {} that are deleted: make it the primary key, or run ALTER TABLE {} \
             REPLICA IDENTITY FULL",
            entity.name,
            sql::table(&entity.name)
        );
        Err(Error::new(Class::Mapping, message))
    }

    /// Drops a slot; with `lost_only` only one that has lost what it was to tell.
    async fn drop_slot(&self, client: &Client, slot: &str, lost_only: bool) -> Result<()> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}{}",
            sql::literal(slot),
            if lost_only { " AND (wal_status = 'lost' OR plugin <> 'pgoutput')" } else { "" }
        );
        let dropped = once_free(|| client.query(&sql, &[])).await;
        dropped.map(drop).map_err(failed(format!("cannot drop the slot {slot}")))
    }

    /// Removes the publication and the slot of an entity.
    pub(super) async fn unfollow(&self, slot: &str) -> Result<()> {
        let turn = self.turn(slot);
        let _turn = turn.take().await;
        let client = self.open().await?;
        self.drop_slot(&client, slot, false).await?;
        let sql = format!("DROP PUBLICATION IF EXISTS {}", sql::name(slot));
        client.batch_execute(&sql).await.map_err(failed(format!("cannot drop the publication {slot}")))
    }

    /// Says how much of its log the database keeps for a slot.
    pub(super) async fn behind(&self, slot: &str) -> Result<Option<Captured>> {
        let sql = "SELECT (pg_current_wal_flush_lsn() - restart_lsn)::bigint, wal_status FROM pg_replication_slots
                   WHERE slot_name = $1";
        let client = self.open().await?;
        let row = client.query_opt(sql, &[&slot]).await.map_err(failed(format!("cannot look at the slot {slot}")))?;
        let Some(row) = row else { return Ok(None) };
        let kept = row.get::<_, Option<i64>>(0).map(|bytes| bytes.max(0).cast_unsigned());
        let status: Option<String> = row.get(1);
        let trouble = match status.as_deref() {
            Some("lost") => {
                Some("the database has thrown away what it was to tell; the next run reads everything".to_owned())
            }
            Some("unreserved") => {
                Some("the database is about to throw away what it is to tell; run the sync now".to_owned())
            }
            _ if kept.is_some_and(|kept| kept > MUCH) => {
                Some("the database keeps much of its log for it; run the sync more often".to_owned())
            }
            _ => None,
        };
        Ok(Some(Captured { name: slot.to_owned(), kept_bytes: kept, trouble }))
    }

    /// Returns where the log is now.
    pub(super) async fn log_end(&self) -> Result<String> {
        let sql = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text";
        let mut client = self.borrow().await?;
        let row = client.client()?.query_one(sql, &[]).await.map_err(failed("cannot read where the log is"))?;
        Ok(row.get(0))
    }

    /// Returns a connection for a read: one that has the notes of its window, where it is one of the log.
    pub(super) async fn open_for(&self, read: &Read) -> Result<Client> {
        let (Some(slot), Some(window)) = (slot(&read.entity), &read.window) else { return self.open().await };
        let kept = self.noted.lock().await.take();
        if let Some(kept) = kept.filter(|kept| kept.slot == slot && kept.window == *window && !kept.client.is_closed())
        {
            return Ok(kept.client);
        }
        match self.note(read, slot, window).await? {
            Ok(client) => Ok(client),
            Err(why) => {
                Err(Error::new(Class::Mapping, format!("not all changes of {} are known: {why}", read.entity.name)))
            }
        }
    }

    /// Keeps a connection with its notes for the next read of the same window.
    pub(super) async fn keep(&self, read: &Read, client: Client) {
        if let (Some(slot), Some(window)) = (slot(&read.entity), &read.window) {
            *self.noted.lock().await = Some(Noted { slot: slot.to_owned(), window: window.clone(), client });
        }
    }

    /// True when the log still tells all that changed in the window of a read.
    pub(super) async fn still_told(&self, read: &Read) -> Result<bool> {
        let (Some(slot), Some(window)) = (slot(&read.entity), &read.window) else { return Ok(true) };
        match self.note(read, slot, window).await? {
            Ok(client) => {
                self.keep(read, client).await;
                Ok(true)
            }
            Err(why) => {
                tracing::info!(slot, why, "the log does not tell all that changed; reading everything");
                Ok(false)
            }
        }
    }

    /// Reads the log of a window into the notes of a new connection; the inner error says why it does not tell all.
    async fn note(&self, read: &Read, slot: &str, window: &Window) -> Result<std::result::Result<Client, String>> {
        let what = || failed(format!("cannot read changes of {} from the log", read.entity.name));
        let (client, log) = (self.open().await?, self.open().await?);
        let turn = self.turn(slot);
        let _turn = turn.take().await;
        let since = place(window.since.as_deref().unwrap_or_default());
        let until = place(&window.until);
        let sql = "SELECT confirmed_flush_lsn <= $2::text::pg_lsn AND $2::text::pg_lsn <= pg_current_wal_flush_lsn()
                   FROM pg_replication_slots
                   WHERE slot_name = $1 AND database = current_database() AND wal_status IS DISTINCT FROM 'lost'";
        let row = log.query_opt(sql, &[&slot, &since]).await.map_err(what())?;
        if row.is_none_or(|row| row.get::<_, Option<bool>>(0) != Some(true)) {
            return Ok(Err("its slot does not go back to where the last run ended".to_owned()));
        }
        let make = format!("CREATE TEMP TABLE {CHANGES} (seq bigint, entity text, key text)");
        client.batch_execute(&make).await.map_err(what())?;
        let unread = |error: tokio_postgres::Error| match error.code() {
            Some(code) if *code == SqlState::OBJECT_IN_USE => {
                let message = format!(
                    "changes of {} are read from the log by somebody else now; is the sync followed, or does a run go on?",
                    read.entity.name
                );
                Error::new(Class::Transient { after: None }, message).caused_by(error)
            }
            _ => what()(error),
        };
        // What lies before the window is settled.
        let sql = format!(
            "SELECT pg_replication_slot_advance({0}, {1}) FROM pg_replication_slots
             WHERE slot_name = {0} AND confirmed_flush_lsn < {1}",
            sql::literal(slot),
            sql::literal(&since)
        );
        once_free(|| log.query(&sql, &[])).await.map_err(unread)?;
        let streaming = log.query_one("SELECT current_setting('server_version_num')::int >= 140000", &[]).await;
        let streaming: bool = streaming.map_err(what())?.get(0);
        let version = if streaming { "'proto_version', '2', 'streaming', 'on'" } else { "'proto_version', '1'" };
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes({0}, {1}, NULL, {version}, 'publication_names', {2})",
            sql::literal(slot),
            sql::literal(&until),
            sql::literal(&sql::name(slot))
        );
        let none: [&str; 0] = [];
        let messages = once_free(|| log.query_raw(&sql, none)).await.map_err(unread)?;
        let mut messages = std::pin::pin!(messages);
        let key = read.fields.first().map(String::as_str).unwrap_or_default();
        let mut decoder = Decoder::new(key);
        let mut keys = HashSet::new();
        let seq: i64 = window.since.as_deref().and_then(|since| since.parse().ok()).unwrap_or_default();
        let insert = format!("INSERT INTO {CHANGES} SELECT $1, $2, unnest($3::text[])");
        let insert = client.prepare(&insert).await.map_err(what())?;
        loop {
            let message = messages.try_next().await.map_err(what())?;
            let done = message.is_none();
            if let Some(message) = message {
                match decoder.read(message.get(0)) {
                    Some(Told::Nothing | Told::End(_)) => {}
                    Some(Told::Keys(told)) => keys.extend(told),
                    Some(Told::Unknown(why)) => return Ok(Err(why)),
                    None => {
                        return Err(Error::new(Class::Internal, "the log holds a message that pgoutput does not have"));
                    }
                }
            }
            if !keys.is_empty() && (done || keys.len() >= KEYS) {
                let keys: Vec<String> = keys.drain().collect();
                client.execute(&insert, &[&seq, &read.entity.name, &keys]).await.map_err(what())?;
            }
            if done {
                break;
            }
        }
        let index = format!("CREATE INDEX ON {CHANGES} (key); ANALYZE {CHANGES}");
        client.batch_execute(&index).await.map_err(what())?;
        Ok(Ok(client))
    }
}
