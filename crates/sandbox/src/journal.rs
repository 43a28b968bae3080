//! The last calls, for people who debug with them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rest::{Answer, Call};

/// Calls that are kept.
const KEPT: usize = 200;
/// Bytes of a body that are kept.
const SHOWN: usize = 8192;

/// A call and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) client: String,
    pub(crate) user: String,
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) request: String,
    pub(crate) answer: String,
}

/// Returns how a client names itself: to the org, else to any server.
fn client(call: &Call) -> &str {
    let options = call.header("sforce-call-options").unwrap_or_default();
    let named = options.split(',').find_map(|option| option.trim().strip_prefix("client="));
    named.or_else(|| call.header("user-agent")).unwrap_or_default()
}

/// The last calls, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Mutex<VecDeque<Entry>>,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call. What is said while signing in is secret and is not kept.
    pub(crate) fn note(&self, call: &Call, target: &str, answer: &Answer, took: Duration) {
        let secret = call.path.iter().any(|step| step == "oauth2" || step == "password");
        let start = |bytes: &[u8]| {
            if secret {
                "(not kept)".to_owned()
            } else {
                String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned()
            }
        };
        let path = if secret { target.split('?').next().unwrap_or_default() } else { target };
        let mut entries = self.entries();
        let number = entries.back().map_or(1, |last| last.number + 1);
        if entries.len() >= KEPT {
            entries.pop_front();
        }
        entries.push_back(Entry {
            number,
            method: call.method.clone(),
            target: path.to_owned(),
            client: client(call).to_owned(),
            user: call.caller.username.clone(),
            status: answer.status,
            took,
            request: start(&call.body),
            answer: start(&answer.body),
        });
    }

    /// Returns the calls, newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries().iter().rev().take(count).cloned().collect()
    }

    /// Finds a call by its number.
    pub(crate) fn find(&self, number: u64) -> Option<Entry> {
        self.entries().iter().find(|entry| entry.number == number).cloned()
    }
}
