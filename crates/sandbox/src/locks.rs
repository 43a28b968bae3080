//! Record locks: who writes a record holds it and its parents for as long as the transaction takes.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Answered, ApiError};

/// Record id to the moment until which it is held.
type Held = HashMap<String, Instant>;

/// The locks of an org.
#[derive(Debug)]
pub(crate) struct Locks {
    held: Mutex<Held>,
    released: Condvar,
    hold: Duration,
    wait: Duration,
    /// True where some transactions take longer than `hold`.
    slow: bool,
}

impl Locks {
    /// Returns the locks of an org; `slow` says that some transactions take their time though the others take none.
    pub(crate) fn new(settings: crate::definition::Locks, slow: bool) -> Self {
        Self {
            slow,
            held: Mutex::default(),
            released: Condvar::new(),
            hold: Duration::from_millis(settings.hold_ms),
            wait: Duration::from_millis(settings.wait_ms),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where transactions take no time, so that nobody ever waits.
    pub(crate) fn matter(&self) -> bool {
        self.slow || !self.hold.is_zero()
    }

    /// Returns the moment until which a write that begins now waits for others.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.wait
    }

    /// True if another transaction holds the record.
    pub(crate) fn is_held(&self, id: &str) -> bool {
        self.held().get(id).is_some_and(|until| *until > Instant::now())
    }

    /// Waits until a lock is released, but not beyond `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) {
        let held = self.held();
        let now = Instant::now();
        let next = held.values().filter(|until| **until > now).min().copied().unwrap_or(now);
        let pause = next.min(deadline).saturating_duration_since(now).max(Duration::from_millis(1));
        drop(self.released.wait_timeout(held, pause));
    }

    /// Holds records for as long as a transaction takes.
    ///
    /// # Errors
    ///
    /// `UNABLE_TO_LOCK_ROW` when another transaction has one of them for longer than we wait.
    pub(crate) fn hold(&self, ids: Vec<String>) -> Answered<()> {
        if !self.matter() {
            return Ok(());
        }
        let deadline = self.deadline();
        loop {
            let busy = ids.iter().find(|id| self.is_held(id));
            match busy {
                None => break,
                Some(id) if Instant::now() >= deadline => return Err(contended(id)),
                Some(_) => self.wait(deadline),
            }
        }
        self.keep(ids, Duration::ZERO);
        Ok(())
    }

    /// Holds records that are known to be free, for a transaction that takes so much longer than others.
    pub(crate) fn keep(&self, ids: Vec<String>, longer: Duration) {
        let now = Instant::now();
        let mut held = self.held();
        held.retain(|_, until| *until > now);
        held.extend(ids.into_iter().map(|id| (id, now + self.hold + longer)));
    }

    /// Lets a transaction take its time, then tells those who wait.
    pub(crate) fn pass(&self, longer: Duration) {
        std::thread::sleep(self.hold + longer);
        self.released.notify_all();
    }
}

/// The refusal of a write whose record another transaction holds. Source: recorded answers of row lock contention.
pub(crate) fn contended(id: &str) -> ApiError {
    let message = format!("unable to obtain exclusive access to this record or 1 records: {id}");
    ApiError::new(400, "UNABLE_TO_LOCK_ROW", message)
}
