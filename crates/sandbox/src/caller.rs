//! Who calls: a user, and what of the org that user sees.

use std::sync::Arc;

use chrono_tz::Tz;

use crate::schema::Schema;

/// A user at work. The default is nobody, who sees nothing.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) user_id: String,
    pub(crate) username: String,
    pub(crate) zone: Tz,
    /// The objects and fields that the user sees; what may not be written says so in its flags.
    pub(crate) schema: Arc<Schema>,
    /// All there is, which formulas see whoever asks.
    pub(crate) all: Arc<Schema>,
    /// True for users with the permission "Modify All Data".
    pub(crate) admin: bool,
    /// True for users with the permission "View All Data".
    pub(crate) views_all: bool,
    /// True for users with the permission "Bulk API Hard Delete".
    pub(crate) hard_delete: bool,
}

impl Default for Caller {
    fn default() -> Self {
        Self {
            user_id: String::new(),
            username: String::new(),
            zone: Tz::UTC,
            schema: Arc::default(),
            all: Arc::default(),
            admin: false,
            views_all: false,
            hard_delete: false,
        }
    }
}
