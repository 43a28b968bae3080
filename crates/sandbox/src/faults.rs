//! The allowance of API calls, and sessions that end after so many of them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What is set from outside while the sandbox runs.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Calls until every session ends; below zero never.
    expiry: AtomicI64,
    /// API calls a day.
    allowance: AtomicU64,
}

impl Faults {
    pub(crate) fn new(allowance: u64) -> Self {
        Self { expiry: AtomicI64::new(-1), allowance: AtomicU64::new(allowance) }
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

    /// True when sessions end with this call.
    pub(crate) fn expires_now(&self) -> bool {
        self.expiry.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left >= 0).then_some(left - 1)) == Ok(0)
    }
}
