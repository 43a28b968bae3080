//! What the caller can do about an error.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The class of an error: all that a retry loop, an HTTP status or an exit code looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// Lock, throttle, 5xx or transport: the same call may succeed later, not before `after` if given.
    Transient {
        /// How long the other side asked us to wait.
        after: Option<Duration>,
    },
    /// Credentials are missing, wrong, expired or revoked.
    Auth,
    /// One record is at fault; the rest goes on and this one becomes a dead letter.
    Rejected,
    /// The mapping or the configuration is at fault: stop the sync and keep the position.
    Mapping,
    /// The allowance of the other side is used up: stop, and go on when it has recovered.
    Exhausted,
    /// A brake or a person stopped the run; nothing is wrong and it can go on.
    Stopped,
    /// Our own fault, or that of the machine (disk full, broken state file).
    Internal,
}

impl Class {
    /// Returns the process exit code for a run that ended with this class.
    ///
    /// 0 is success and 2 is a wrong command line (clap's own), so neither appears here.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Rejected => 3,
            Self::Mapping => 4,
            Self::Auth => 5,
            Self::Transient { .. } => 6,
            Self::Exhausted => 7,
            Self::Stopped => 8,
            Self::Internal => 70,
        }
    }

    /// Returns how much a class matters beside others, when several things went wrong at once; more is worse.
    pub fn gravity(self) -> u8 {
        match self {
            Self::Rejected => 1,
            Self::Stopped => 2,
            Self::Transient { .. } => 3,
            Self::Exhausted => 4,
            Self::Mapping => 5,
            Self::Auth => 6,
            Self::Internal => 7,
        }
    }

    /// True when the very same call may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct() {
        let classes = [
            Class::Transient { after: None },
            Class::Auth,
            Class::Rejected,
            Class::Mapping,
            Class::Exhausted,
            Class::Stopped,
            Class::Internal,
        ];
        let mut codes: Vec<u8> = classes.iter().map(|class| class.exit_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), classes.len());
        assert!(!codes.contains(&0) && !codes.contains(&2));
    }
}
