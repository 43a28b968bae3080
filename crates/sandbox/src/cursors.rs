//! Cursors: what is left of the answers to queries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Answered, ApiError};
use crate::query::Plan;

/// Most open cursors of a user; the oldest is closed first. Source: SOQL reference.
const MAX_CURSORS: usize = 10;
/// Most open lists of children of a user, each the rest of one record's; no source says how many an org keeps.
const MAX_CHILDREN: usize = 2000;

/// The rest of a query's answer.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) plan: Plan,
    /// Numbers of all rows of the answer, in order.
    pub(crate) rows: Vec<u32>,
    pub(crate) deleted: bool,
}

struct Open {
    id: String,
    user: String,
    of_children: bool,
    cursor: Arc<Cursor>,
}

/// The open cursors.
#[derive(Default)]
pub(crate) struct Cursors(Mutex<State>);

#[derive(Default)]
struct State {
    /// Oldest first.
    open: VecDeque<Open>,
    made: u64,
}

impl Cursors {
    /// Keeps the rest of an answer and returns the cursor's id.
    pub(crate) fn keep(&self, user: &str, of_children: bool, cursor: Cursor) -> String {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.made += 1;
        let id = crate::id::make("0r8", state.made);
        let alike = |open: &Open| open.user == user && open.of_children == of_children;
        let most = if of_children { MAX_CHILDREN } else { MAX_CURSORS };
        if state.open.iter().filter(|open| alike(open)).count() >= most
            && let Some(oldest) = state.open.iter().position(alike)
        {
            state.open.remove(oldest);
        }
        state.open.push_back(Open { id: id.clone(), user: user.to_owned(), of_children, cursor: Arc::new(cursor) });
        id
    }

    /// Finds a cursor of this user.
    pub(crate) fn find(&self, user: &str, id: &str) -> Answered<Arc<Cursor>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = state.open.iter().find(|open| open.id == id && open.user == user);
        found
            .map(|open| open.cursor.clone())
            .ok_or_else(|| ApiError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator"))
    }

    /// Closes all of them.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open.clear();
    }
}
