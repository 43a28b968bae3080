//! Listening to a queue: messages are told a few at a time, and given back when they have an outcome.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use endpoint::{Error, Notice, Notices, Result};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Op, Type};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;

use super::{Broker, Deliveries, Queues, event};
use crate::rows::Rows;

/// Messages in one notice, at most.
const MANY: usize = 500;
/// Messages without an outcome yet; more are taken only when there are fewer.
const OPEN: usize = 5_000;
/// When nothing came for so long, nothing waits.
const QUIET: Duration = Duration::from_millis(500);
/// How often the broker is told that messages are still worked on.
const TICK: Duration = Duration::from_secs(10);
/// The pauses before messages are consumed again: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// From which pause on it is told that it does not go well.
const TELLING: Duration = Duration::from_secs(1);
/// What lived so long was good: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(30);

struct Listener {
    broker: Arc<dyn Broker>,
    entity: String,
    names: Vec<String>,
    kinds: Vec<Type>,
    schema: SchemaRef,
    /// The place of the key among the fields.
    key: usize,
}

/// Messages that were taken and not told yet.
struct Next {
    rows: Rows,
    ops: Vec<Op>,
    count: usize,
    /// When each of them was published, where the broker says so.
    at: Vec<Option<i64>>,
}

/// Notices that have no outcome yet, with the number of their messages.
type Open = VecDeque<(usize, oneshot::Receiver<()>)>;

/// Waits for the outcome of what was told first; false when there will be none.
async fn settled(open: &mut Open) -> bool {
    match open.front_mut() {
        Some((_, outcome)) => outcome.await.is_ok(),
        None => std::future::pending().await,
    }
}

impl Queues {
    pub(super) async fn notices(&self, entity: &Entity, fields: &[String]) -> Result<Notices> {
        let wrong = |name: String| Error::new(Class::Mapping, format!("messages of {} have no {name}", entity.name));
        let schema = entity.schema(fields.iter().map(String::as_str)).map_err(wrong)?;
        let kinds = fields.iter().filter_map(|name| entity.field(name)).map(|field| field.kind).collect();
        let key = entity.key.first().and_then(|key| fields.iter().position(|field| field == key));
        let key = key.ok_or_else(|| {
            let key = entity.key.first().map(String::as_str).unwrap_or_default();
            Error::new(Class::Mapping, format!("a mapping of {} has to read its key {key}", entity.name))
        })?;
        let listener = Listener {
            broker: Arc::clone(&self.broker),
            entity: entity.name.clone(),
            names: fields.to_vec(),
            kinds,
            schema,
            key,
        };
        let deliveries = listener.broker.consume(&listener.entity).await?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = listener.listen(deliveries, &sender) => {}
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

impl Listener {
    /// Tells messages until there is an error that time does not mend, which is told last.
    async fn listen(&self, deliveries: Box<dyn Deliveries>, sender: &mpsc::Sender<Result<Notice>>) {
        let (mut consuming, mut pause, mut reconnected) = (Some(deliveries), PAUSES[0], false);
        loop {
            let since = Instant::now();
            let consumed = match consuming.take() {
                Some(deliveries) => Ok(deliveries),
                None => self.broker.consume(&self.entity).await,
            };
            let failed = match consumed {
                Ok(deliveries) => match self.consume(deliveries, sender, std::mem::take(&mut reconnected)).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !failed.class().is_transient() {
                let _ = sender.send(Err(failed)).await;
                return;
            }
            let cause = std::error::Error::source(&failed).map(ToString::to_string);
            // Once is nothing; what goes on is for somebody to see.
            if pause >= TELLING {
                tracing::warn!(entity = self.entity, error = %failed, ?cause, "messages can't be had; trying again");
            } else {
                tracing::debug!(entity = self.entity, error = %failed, ?cause, "consuming again");
            }
            reconnected = true;
            if since.elapsed() > GOOD {
                pause = PAUSES[0];
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    fn next(&self) -> Next {
        Next { rows: Rows::new(self.schema.clone(), &self.kinds), ops: Vec::new(), count: 0, at: Vec::new() }
    }

    /// Consumes until nobody listens any more, or the broker fails. What has no outcome then comes again.
    async fn consume(
        &self,
        mut deliveries: Box<dyn Deliveries>,
        sender: &mpsc::Sender<Result<Notice>>,
        mut reconnected: bool,
    ) -> Result<()> {
        let (mut next, mut open, mut waiting) = (self.next(), Open::new(), 0);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whether it was said already that nothing waits.
        let (mut drained, mut quiet) = (false, Instant::now() + QUIET);
        loop {
            let idle = next.count == 0 && open.is_empty();
            tokio::select! {
                biased;
                settled = settled(&mut open) => {
                    if !settled {
                        return Ok(());
                    }
                    let count = open.pop_front().map_or(0, |(count, _)| count);
                    waiting -= count;
                    deliveries.settle(count).await?;
                    quiet = Instant::now() + QUIET;
                }
                _ = tick.tick() => deliveries.alive().await?,
                delivery = deliveries.next(), if next.count < MANY && waiting < OPEN => {
                    let delivery = delivery?;
                    event::read(&delivery, &self.names, self.key, &mut next.rows, &mut next.ops);
                    next.at.push(delivery.at);
                    next.count += 1;
                    waiting += 1;
                    drained = false;
                }
                permit = sender.reserve(), if next.count > 0 || reconnected => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let (settled, outcome) = oneshot::channel();
                    let told = std::mem::replace(&mut next, self.next());
                    open.push_back((told.count, outcome));
                    permit.send(notice(told, settled).map(|notice| {
                        Notice { reconnected: std::mem::take(&mut reconnected), ..notice }
                    }));
                }
                () = tokio::time::sleep_until(quiet), if idle && !drained => {
                    drained = true;
                    if sender.send(Ok(Notice { drained: true, ..Notice::default() })).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn notice(mut told: Next, settled: oneshot::Sender<()>) -> Result<Notice> {
    let records = told.rows.finish(None);
    let records =
        records.map_err(|error| Error::new(Class::Internal, "messages can't be put together").caused_by(error))?;
    let records = ChangeBatch { ops: told.ops, ..records };
    Ok(Notice { records: Some(records), committed: told.at, settled: Some(settled), ..Notice::default() })
}
