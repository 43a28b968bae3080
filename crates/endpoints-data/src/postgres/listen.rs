//! Listening to the log: its changes are streamed as they are committed, and the slot moves to where everything has an
//! outcome.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use endpoint::{Error, Notice, Notices, Result};
use futures::StreamExt as _;
use model::{Class, Entity};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;

use super::Postgres;
use super::pgoutput::{Decoder, Told};
use super::walsender::{Broken, Sent, Walsender};

/// The pauses before a stream is opened again: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// From which pause on it is told that it does not go well.
const TELLING: Duration = Duration::from_secs(1);
/// A stream that lived so long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(30);
/// How often the server is told that somebody reads, though nothing happens.
const TICK: Duration = Duration::from_secs(10);
/// Keys that were told and have no outcome yet, about; the log is read on only when there are fewer. Whoever listens stores
/// outcomes a few times a second, and must not run dry meanwhile.
const OPEN: usize = 10_000;
/// Keys above which nothing more is added to a notice that waits to be taken.
const KEYS: usize = 1_000;
/// Bytes of log without a change of ours after which the slot follows.
const PASSED: u64 = 1 << 20;

/// Who may read a slot: one at a time. Who listens lets go of it when somebody else wants it.
#[derive(Debug)]
pub(super) struct Turn {
    wanted: watch::Sender<usize>,
    held: tokio::sync::Mutex<()>,
}

/// Somebody wants the slot, until this is dropped.
struct Wanted<'t>(&'t Turn);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|wanted| *wanted -= 1);
    }
}

impl Turn {
    /// Takes the slot from who listens, for as long as what is returned is kept.
    pub(super) async fn take(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.wanted.send_modify(|wanted| *wanted += 1);
        let _wanted = Wanted(self);
        self.held.lock().await
    }
}

/// Changes that were read and not told yet.
#[derive(Debug, Default)]
struct Next {
    /// Keys, with the time of their first change where that is known.
    keys: HashMap<String, Option<i64>>,
    /// Keys of the transaction that is read, whose time stands at its end.
    untimed: Vec<String>,
    /// The end of the last transaction that is whole.
    until: Option<u64>,
    missed: Option<String>,
    reconnected: bool,
}

impl Next {
    /// Adds keys of a transaction, with the time of its commit if that stands at its beginning.
    fn extend(&mut self, keys: Vec<String>, committed: Option<i64>) {
        for key in keys {
            if committed.is_none() && !self.keys.contains_key(&key) {
                self.untimed.push(key.clone());
            }
            self.keys.entry(key).or_insert(committed);
        }
    }

    /// Notes that a transaction is whole, and when it was committed.
    fn end(&mut self, committed: Option<i64>) {
        for key in self.untimed.drain(..) {
            self.keys.insert(key, committed);
        }
    }
}

/// Why a stream was left though nothing broke.
enum Left {
    /// Nobody listens any more.
    Unheard,
    /// Somebody else reads the slot now.
    Wanted,
    /// What was told will have no outcome, and is told again.
    Unsettled,
}

struct Listener {
    postgres: Postgres,
    slot: String,
    turn: Arc<Turn>,
    entity: String,
    key: String,
    next: Next,
    /// Up to where the log was told.
    told: u64,
    /// Up to where everything that was told has an outcome.
    reached: u64,
    /// Place of the last commit whose changes were all read.
    commit: u64,
    /// What was told and has no outcome yet.
    open: VecDeque<Open>,
    /// The keys in it.
    open_keys: usize,
}

/// A notice without an outcome yet.
struct Open {
    /// Where the slot moves when it has one.
    until: Option<u64>,
    keys: usize,
    outcome: oneshot::Receiver<()>,
}

/// Waits for the outcome of what was told first; false when there will be none.
async fn settled(open: &mut VecDeque<Open>) -> bool {
    match open.front_mut() {
        Some(first) => (&mut first.outcome).await.is_ok(),
        None => std::future::pending().await,
    }
}

impl Listener {
    /// Tells changes until there is an error that time does not mend, which is told last.
    async fn listen(&mut self, sender: &mpsc::Sender<Result<Notice>>) {
        // What there was before is read by whoever listens, and needs not be told.
        self.next.until = Some(self.told);
        if !self.tell(sender).await || !self.settle().await {
            return;
        }
        let (turn, mut pause) = (Arc::clone(&self.turn), PAUSES[0]);
        loop {
            let held = turn.held.lock().await;
            let since = Instant::now();
            let left = self.read_on(sender).await;
            drop(held);
            let failed = match left {
                Ok(Left::Unheard) => return,
                Ok(Left::Wanted) => continue,
                Ok(Left::Unsettled) => {
                    self.begin_again();
                    continue;
                }
                Err(Broken::Lost(why)) => {
                    // Whoever looks for what was missed makes the slot anew.
                    self.begin_again();
                    self.next.missed = Some(format!("its slot {} tells nothing any more: {why}", self.slot));
                    if !self.tell(sender).await || !self.settle().await {
                        return;
                    }
                    None
                }
                Err(Broken::Failed(error)) if error.class().is_transient() => Some(error),
                Err(Broken::Failed(error)) => {
                    let what = format!("cannot read changes of {} from the log", self.entity);
                    let _ = sender.send(Err(Error::new(error.class(), what).caused_by(error))).await;
                    return;
                }
            };
            if let Some(error) = failed {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                // Once is nothing; what goes on is for somebody to see.
                if pause >= TELLING {
                    tracing::warn!(slot = self.slot, %error, ?cause, "the log can't be streamed; trying again");
                } else {
                    tracing::debug!(slot = self.slot, %error, ?cause, "listening again");
                }
            }
            self.next.reconnected = true;
            if since.elapsed() > GOOD {
                pause = PAUSES[0];
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// Forgets what was told, so that it is told again.
    fn begin_again(&mut self) {
        self.commit = 0;
        self.open.clear();
        self.open_keys = 0;
        self.next = Next::default();
    }

    /// Streams the log until somebody else wants its slot, or something is wrong.
    async fn read_on(&mut self, sender: &mpsc::Sender<Result<Notice>>) -> std::result::Result<Left, Broken> {
        let mut log = self.postgres.stream(&self.slot, self.reached).await?;
        tracing::debug!(slot = self.slot, from = self.reached, "streaming the log");
        let left = self.take_turns(&mut log, sender).await?;
        log.report(self.reached).await?;
        log.close().await;
        Ok(left)
    }

    /// Does what is to be done next, in the order of what must not wait.
    async fn take_turns(
        &mut self,
        log: &mut Walsender,
        sender: &mpsc::Sender<Result<Notice>>,
    ) -> std::result::Result<Left, Broken> {
        let mut decoder = Decoder::new(&self.key);
        decoder.told = self.commit;
        let turn = Arc::clone(&self.turn);
        let mut wanted = turn.wanted.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // False in the middle of a transaction.
        let mut whole = true;
        loop {
            let much = self.next.keys.len() >= KEYS;
            let ready = self.is_ready() && (whole || much);
            tokio::select! {
                biased;
                () = async { drop(wanted.wait_for(|wanted| *wanted > 0).await) } => return Ok(Left::Wanted),
                settled = settled(&mut self.open) => {
                    if !settled {
                        return Ok(Left::Unsettled);
                    }
                    self.pass();
                    log.report(self.reached).await?;
                }
                _ = tick.tick() => log.report(self.reached).await?,
                sent = log.next(), if !much && self.open_keys < OPEN => match sent? {
                    Sent::Message(message) => match decoder.read(&message) {
                        Some(Told::Nothing) => whole = false,
                        Some(Told::Keys(keys)) => self.next.extend(keys, decoder.committed),
                        Some(Told::Unknown(why)) => self.next.missed = Some(why),
                        Some(Told::End(place)) => {
                            whole = true;
                            self.commit = decoder.told;
                            self.next.until = Some(place);
                            self.next.end(decoder.committed.take());
                        }
                        None => {
                            let message = "the log holds a message that pgoutput does not have";
                            return Err(Broken::Failed(Error::new(Class::Internal, message)));
                        }
                    },
                    Sent::Alive(place, asked) => {
                        if whole {
                            self.next.until = Some(place);
                        }
                        if asked {
                            log.report(self.reached).await?;
                        }
                    }
                },
                permit = sender.reserve(), if ready => match permit {
                    Ok(permit) => permit.send(Ok(self.notice())),
                    Err(_) => return Ok(Left::Unheard),
                },
            }
        }
    }

    /// True when there is something to tell. What others write is passed over, and the slot follows now and then.
    fn is_ready(&self) -> bool {
        let Next { keys, until, missed, reconnected, .. } = &self.next;
        let passed = until.is_some_and(|until| until.saturating_sub(self.told) >= PASSED);
        !keys.is_empty() || missed.is_some() || *reconnected || (passed && self.open.is_empty())
    }

    /// Makes a notice of what was read.
    fn notice(&mut self) -> Notice {
        let Next { keys, until, missed, reconnected, .. } = std::mem::take(&mut self.next);
        self.told = until.unwrap_or(self.told).max(self.told);
        let (settled, outcome) = oneshot::channel();
        self.open_keys += keys.len();
        self.open.push_back(Open { until, keys: keys.len(), outcome });
        let (keys, committed) = keys.into_iter().unzip();
        Notice {
            keys,
            committed,
            until: until.map(|place| place.to_string()),
            missed,
            reconnected,
            settled: Some(settled),
            ..Notice::default()
        }
    }

    /// Notes that what was told first has an outcome.
    fn pass(&mut self) {
        if let Some(first) = self.open.pop_front() {
            self.open_keys -= first.keys;
            self.reached = self.reached.max(first.until.unwrap_or_default());
        }
    }

    /// Tells what was read; false when nobody listens any more.
    async fn tell(&mut self, sender: &mpsc::Sender<Result<Notice>>) -> bool {
        let notice = self.notice();
        sender.send(Ok(notice)).await.is_ok()
    }

    /// Waits until everything that was told has an outcome; false when something will have none.
    async fn settle(&mut self) -> bool {
        while !self.open.is_empty() {
            if !settled(&mut self.open).await {
                return false;
            }
            self.pass();
        }
        true
    }
}

impl Postgres {
    /// Returns who may read a slot.
    pub(super) fn turn(&self, slot: &str) -> Arc<Turn> {
        let new = || Arc::new(Turn { wanted: watch::Sender::new(0), held: tokio::sync::Mutex::new(()) });
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(slot.to_owned()).or_insert_with(new))
    }

    /// Listens to the log from now on.
    pub(super) async fn notices(&self, entity: &Entity, slot: &str, key: &str) -> Result<Notices> {
        let told = self.log_end().await?.parse().unwrap_or_default();
        let mut listener = Listener {
            postgres: self.clone(),
            slot: slot.to_owned(),
            turn: self.turn(slot),
            entity: entity.name.clone(),
            key: key.to_owned(),
            next: Next::default(),
            told,
            reached: 0,
            commit: 0,
            open: VecDeque::new(),
            open_keys: 0,
        };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = listener.listen(&sender) => {}
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }
}
