//! Changes from the log of the database, by logical decoding: a publication and a slot for each sync, both made here.
//!
//! A window is a span of the log. What changed in it is read into a temporary table of notes, as triggers would have
//! written it, and everything else goes on as with triggers. The slot moves only to where a stored window ended, so that
//! what a crash interrupted is told again. It is read by the server's own function for that, over the connection that
//! everything else uses: with its encryption, its login, and nothing that a pooler in between does not know.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use endpoint::{CHANGES, Captured, Error, LOG, Notice, Notices, Read, Result, Window};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{Class, Entity};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_stream::wrappers::ReceiverStream;

use super::pgoutput::{Decoder, Told};
use super::{Postgres, failed};
use crate::sql;

/// Keys that are noted by one statement.
const KEYS: usize = 10_000;
/// How often, and after how long, a slot is asked for again that a connection which was cut off still holds.
const ASKS: (u32, Duration) = (150, Duration::from_millis(200));
/// Bytes of log kept for a slot above which it is time to look.
const MUCH: u64 = 8 << 30;

/// How often a log is looked at that is listened to.
const TICK: Duration = Duration::from_millis(5);
/// What takes longer than this to read is read less often.
const LONG: Duration = Duration::from_millis(20);
/// How often it is looked at when it has not grown for a while, and how long that is.
const IDLE_TICK: Duration = Duration::from_millis(25);
const QUIET: Duration = Duration::from_secs(5);
/// The pauses before a connection is made again: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// Notices without an outcome yet; the log is read on only when there are fewer.
const OPEN: usize = 32;
/// Bytes of log without a change of ours after which the slot follows.
const PASSED: i64 = 1 << 20;
/// Keys in one notice.
const MANY: usize = 100_000;

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
fn place(number: &str) -> String {
    let number: u64 = number.parse().unwrap_or_default();
    format!("{:X}/{:X}", number >> 32, number & 0xFFFF_FFFF)
}

struct Listener {
    postgres: Postgres,
    slot: String,
    entity: String,
    key: String,
    /// Up to where the log was told.
    told: String,
    /// Place of the last commit that was told.
    commit: u64,
    /// What was told and has no outcome yet, with where the slot moves when it has.
    open: VecDeque<(String, oneshot::Receiver<()>)>,
    /// False until what there was before is read.
    begun: bool,
}

impl Listener {
    /// Tells changes until there is an error that time does not mend, which is told last.
    async fn listen(&mut self, client: Client, sender: &mpsc::Sender<Result<Notice>>) {
        let (mut client, mut reconnected) = (Some(client), false);
        let mut pause = PAUSES[0];
        loop {
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => self.postgres.open().await,
            };
            let failed = match connected {
                Ok(client) => match self.read_on(&client, sender, std::mem::take(&mut reconnected)).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !failed.class().is_transient() {
                let _ = sender.send(Err(failed)).await;
                return;
            }
            tracing::debug!(slot = self.slot, error = %failed, "listening again");
            reconnected = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// Reads the log on, over one connection, as long as somebody listens.
    async fn read_on(
        &mut self,
        client: &Client,
        sender: &mpsc::Sender<Result<Notice>>,
        mut reconnected: bool,
    ) -> Result<()> {
        let doing = format!("cannot read changes of {} from the log", self.entity);
        let what = || failed(doing.clone());
        let end = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text,
                          (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::bigint
                   FROM pg_replication_slots WHERE slot_name = $1 AND wal_status IS DISTINCT FROM 'lost'";
        let end = client.prepare(end).await.map_err(what())?;
        let mut grown = tokio::time::Instant::now();
        if !self.begun {
            // What there was before is read by whoever listens, and needs not be told.
            let begin = self.told.clone();
            if !self.tell(sender, Notice::default(), begin).await || !self.settle(client, 0).await? {
                return Ok(());
            }
            self.begun = true;
        }
        loop {
            if !self.settle(client, OPEN).await? {
                // It is told again.
                (self.commit, self.told) = (0, String::new());
                self.open.clear();
            }
            let row = client.query_opt(&end, &[&self.slot]).await.map_err(what())?;
            let Some(row) = row else {
                let missed = Some(format!("its slot {} is gone, or has lost what it was to tell", self.slot));
                let notice = Notice { missed, reconnected: std::mem::take(&mut reconnected), ..Notice::default() };
                if !self.tell(sender, notice, String::new()).await || !self.settle(client, 0).await? {
                    return Ok(());
                }
                continue;
            };
            let (until, behind): (String, Option<i64>) = (row.get(0), row.get(1));
            if until == self.told {
                tokio::time::sleep(if grown.elapsed() < QUIET { TICK } else { IDLE_TICK }).await;
                continue;
            }
            grown = tokio::time::Instant::now();
            let looked = tokio::time::Instant::now();
            let mut notice = self.changes(client, &until).await?;
            // The server decodes from where it keeps the log for the slot, which follows a few times a minute only: what takes
            // long is done less often.
            let rest = looked.elapsed();
            tracing::trace!(slot = self.slot, keys = notice.keys.len(), took = ?rest, "read the log on");
            self.told.clone_from(&until);
            notice.reconnected = std::mem::take(&mut reconnected);
            // What others write is passed over, and the slot follows now and then.
            let nothing = notice.keys.is_empty() && notice.missed.is_none() && !notice.reconnected;
            if !nothing || (behind.unwrap_or_default() >= PASSED && self.open.is_empty()) {
                notice.until = Some(until.clone());
                if !self.tell(sender, notice, until).await {
                    return Ok(());
                }
            }
            tokio::time::sleep(if rest > LONG { rest } else { TICK }).await;
        }
    }

    /// Tells a notice; false when nobody listens any more.
    async fn tell(&mut self, sender: &mpsc::Sender<Result<Notice>>, mut notice: Notice, until: String) -> bool {
        let (settled, waiting) = oneshot::channel();
        notice.settled = Some(settled);
        self.open.push_back((until, waiting));
        sender.send(Ok(notice)).await.is_ok()
    }

    /// Moves the slot behind what has an outcome by now, and waits until no more than so many notices have none; false when
    /// one of them will have none.
    async fn settle(&mut self, client: &Client, most: usize) -> Result<bool> {
        let mut reached = None;
        loop {
            let wait = self.open.len() > most;
            let Some((_, waiting)) = self.open.front_mut() else { break };
            let settled = if wait { waiting.await.map_err(|_| TryRecvError::Closed) } else { waiting.try_recv() };
            match settled {
                Ok(()) => reached = self.open.pop_front().map(|(until, _)| until),
                Err(TryRecvError::Closed) => return Ok(false),
                Err(TryRecvError::Empty) => break,
            }
        }
        if let Some(until) = reached.filter(|until| !until.is_empty()) {
            self.advance(client, &until).await?;
        }
        Ok(true)
    }

    /// Moves the slot to where everything has an outcome.
    async fn advance(&self, client: &Client, until: &str) -> Result<()> {
        let sql = format!(
            "SELECT pg_replication_slot_advance({0}, {1}) FROM pg_replication_slots
             WHERE slot_name = {0} AND confirmed_flush_lsn < {1}",
            sql::literal(&self.slot),
            sql::literal(&place(until))
        );
        match client.batch_execute(&sql).await {
            // Somebody reads a window of it; the slot follows the next time.
            Err(error) if error.code() != Some(&SqlState::OBJECT_IN_USE) => {
                Err(failed(format!("cannot move the slot {}", self.slot))(error))
            }
            _ => Ok(()),
        }
    }

    /// Reads what changed between the slot and a place in the log.
    async fn changes(&mut self, client: &Client, until: &str) -> Result<Notice> {
        let doing = format!("cannot read changes of {} from the log", self.entity);
        let what = || failed(doing.clone());
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes({0}, {1}, NULL, 'proto_version', '1', 'publication_names', {2})",
            sql::literal(&self.slot),
            sql::literal(&place(until)),
            sql::literal(&sql::name(&self.slot))
        );
        let none: [&str; 0] = [];
        let mut asks = 0;
        let messages = loop {
            match client.query_raw(&sql, none).await {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && asks < ASKS.0 => {
                    asks += 1;
                    tokio::time::sleep(ASKS.1).await;
                }
                messages => break messages.map_err(what())?,
            }
        };
        let mut messages = std::pin::pin!(messages);
        let (mut decoder, mut keys, mut notice) = (Decoder::new(&self.key), HashSet::new(), Notice::default());
        decoder.told = self.commit;
        while let Some(message) = messages.try_next().await.map_err(what())? {
            match decoder.read(message.get(0)) {
                // So many are better looked for than told one by one.
                Some(Told::Keys(told)) if keys.len() < MANY => keys.extend(told),
                Some(Told::Keys(_)) => notice.missed = Some(format!("more than {MANY} rows changed at once")),
                Some(Told::Nothing) => {}
                Some(Told::Unknown(why)) => notice.missed = Some(why),
                None => return Err(Error::new(Class::Internal, "the log holds a message that pgoutput does not have")),
            }
        }
        self.commit = decoder.told;
        (notice.keys, notice.committed) = (keys.into_iter().collect(), decoder.committed);
        Ok(notice)
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
        client.query(&sql, &[]).await.map_err(failed(format!("cannot drop the slot {slot}")))?;
        Ok(())
    }

    /// Removes the publication and the slot of an entity.
    pub(super) async fn unfollow(&self, slot: &str) -> Result<()> {
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

    /// Listens to the log: it is read on whenever it has grown, and the slot moves to where everything has an outcome.
    pub(super) async fn notices(&self, entity: &Entity, slot: &str, key: &str) -> Result<Notices> {
        let client = self.open().await?;
        let mut listener = Listener {
            postgres: self.clone(),
            slot: slot.to_owned(),
            entity: entity.name.clone(),
            key: key.to_owned(),
            told: self.log_end().await?,
            commit: 0,
            open: VecDeque::new(),
            begun: false,
        };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = listener.listen(client, &sender) => {}
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(ReceiverStream::new(receiver).boxed())
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
        let mut asks = 0;
        // What lies before the window is settled.
        let sql = format!(
            "SELECT pg_replication_slot_advance({0}, {1}) FROM pg_replication_slots
             WHERE slot_name = {0} AND confirmed_flush_lsn < {1}",
            sql::literal(slot),
            sql::literal(&since)
        );
        while let Err(error) = log.query(&sql, &[]).await {
            if error.code() != Some(&SqlState::OBJECT_IN_USE) || asks >= ASKS.0 {
                return Err(what()(error));
            }
            asks += 1;
            tokio::time::sleep(ASKS.1).await;
        }
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
        let messages = loop {
            match log.query_raw(&sql, none).await {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && asks < ASKS.0 => {
                    asks += 1;
                    tokio::time::sleep(ASKS.1).await;
                }
                messages => break messages.map_err(what())?,
            }
        };
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
                    Some(Told::Nothing) => {}
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
