//! Misbehaviour on demand: what a test of a client wants to see it survive.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::error::{Answered, ApiError};

/// What goes wrong next. All of it is off at the start.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Record writes that are still to meet a lock.
    locks: AtomicU64,
    /// Ingest jobs that are still to be aborted after their first batch.
    aborts: AtomicU64,
    /// Calls until every session ends; below zero never.
    expiry: AtomicI64,
    /// API calls a day.
    allowance: AtomicU64,
}

/// Takes one from a counter; false when it is at zero.
fn take(counter: &AtomicU64) -> bool {
    counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
}

impl Faults {
    pub(crate) fn new(allowance: u64) -> Self {
        Self {
            locks: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
            expiry: AtomicI64::new(-1),
            allowance: AtomicU64::new(allowance),
        }
    }

    pub(crate) fn lock_rows(&self, writes: u64) {
        self.locks.store(writes, Ordering::Release);
    }

    pub(crate) fn abort_jobs(&self, jobs: u64) {
        self.aborts.store(jobs, Ordering::Release);
    }

    pub(crate) fn expire_after(&self, calls: u32) {
        self.expiry.store(calls.into(), Ordering::Release);
    }

    pub(crate) fn allow(&self, calls: u64) {
        self.allowance.store(calls, Ordering::Release);
    }

    /// Returns the number of API calls a day.
    pub(crate) fn allowance(&self) -> u64 {
        self.allowance.load(Ordering::Acquire)
    }

    /// Refuses a write if one is to meet a lock. Source: recorded answers of row lock contention.
    pub(crate) fn meet_lock(&self, id: &str) -> Answered<()> {
        if !take(&self.locks) {
            return Ok(());
        }
        let message = format!("unable to obtain exclusive access to this record or 1 records: {id}");
        Err(ApiError::new(400, "UNABLE_TO_LOCK_ROW", message))
    }

    /// True when the job that asks is to be aborted.
    pub(crate) fn aborts_job(&self) -> bool {
        take(&self.aborts)
    }

    /// True when sessions end with this call.
    pub(crate) fn expires_now(&self) -> bool {
        self.expiry.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left >= 0).then_some(left - 1)) == Ok(0)
    }
}
