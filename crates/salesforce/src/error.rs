//! What the org refuses, and what can be done about it.

use model::Class;
use outbound::BoxError;
use serde::Deserialize;

/// A refusal in the org's own words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The org's code, such as `INVALID_FIELD`.
    #[serde(alias = "errorCode", alias = "statusCode", alias = "error")]
    pub code: String,
    /// The org's text.
    #[serde(default, alias = "error_description")]
    pub message: String,
    /// Fields that the org names.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// A failure while talking to an org.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer.
    #[error(transparent)]
    Transport(#[from] outbound::Error),
    /// Sign-in was refused.
    #[error("the org refused the sign-in at {host}")]
    SignIn {
        /// Where.
        host: String,
        /// The org's reason.
        source: ApiError,
    },
    /// The grant is gone: a person has to consent again.
    #[error("the refresh token of {client_id} is no longer valid; connect the org again")]
    GrantLost {
        /// The app's consumer key.
        client_id: String,
    },
    /// A credential can't be used as it is.
    #[error("the {what} cannot be used")]
    BadCredential {
        /// Which.
        what: &'static str,
        /// The cause.
        source: BoxError,
    },
    /// The token file can't be read or written.
    #[error("the token file cannot be kept")]
    TokenFile(#[source] std::io::Error),
    /// A call was refused.
    #[error("the org refused {what}")]
    Refused {
        /// Method and path.
        what: String,
        /// HTTP status.
        status: u16,
        /// The org's reason.
        source: ApiError,
    },
    /// An answer that no org would give.
    #[error("the answer to {what} cannot be understood")]
    BadAnswer {
        /// Method and path.
        what: String,
        /// The cause.
        source: BoxError,
    },
    /// A job ended as a whole.
    #[error("the org ended job {job} as {state}: {message}")]
    JobFailed {
        /// The job's id.
        job: String,
        /// `Failed` or `Aborted`.
        state: String,
        /// The org's text.
        message: String,
    },
    /// A value on the wire is not of the field's type.
    #[error("{field} in row {row} is not {expected}: {value:?}")]
    BadValue {
        /// The field.
        field: String,
        /// The row, from 1, in the page.
        row: usize,
        /// What was expected.
        expected: String,
        /// The start of the value.
        value: String,
    },
    /// An address that none can be reached by.
    #[error("{address:?} is no address of the Pub/Sub API")]
    BadAddress {
        /// The address.
        address: String,
        /// The cause.
        source: BoxError,
    },
    /// An event that can't be what its topic carries.
    #[error("event {row} for {topic} can't be published: {why}")]
    BadEvent {
        /// The topic.
        topic: String,
        /// The event, from 1.
        row: usize,
        /// The reason.
        why: String,
    },
    /// A call that a class does not have, or not like this.
    #[error("{operation} can't be called: {why}")]
    BadCall {
        /// The operation.
        operation: String,
        /// The reason.
        why: String,
    },
    /// Data on our own disk can't be written or read.
    #[error("a spool file cannot be used")]
    Spool(#[source] std::io::Error),
}

impl Error {
    /// Returns what the caller can do.
    pub fn class(&self) -> Class {
        match self {
            Self::Transport(error) => error.class(),
            Self::SignIn { .. } | Self::GrantLost { .. } | Self::BadCredential { .. } => Class::Auth,
            Self::Refused { status, source, .. } => class_of(&source.code, &source.message, *status),
            Self::BadAnswer { .. } => Class::Transient { after: None },
            // Somebody in the org wanted it to stop.
            Self::JobFailed { state, .. } if state == "Aborted" => Class::Stopped,
            Self::JobFailed { message, .. } => class_of("", message, 400),
            Self::BadValue { .. } | Self::BadAddress { .. } | Self::BadEvent { .. } | Self::BadCall { .. } => {
                Class::Mapping
            }
            Self::TokenFile(_) | Self::Spool(_) => Class::Internal,
        }
    }

    /// Returns the org's own code, if it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { source, .. } | Self::SignIn { source, .. } => Some(&source.code),
            _ => None,
        }
    }

    /// True when a subscription can't go on where it stood: what it asked for is not kept any more, or never was.
    pub fn is_past_replay(&self) -> bool {
        match self {
            // The Streaming API has no code of its own for it.
            Self::Refused { source, .. } if source.code == "COMETD_400" => source.message.contains("replayId"),
            _ => self.code().is_some_and(|code| code.contains(".subscription.fetch.replayid.")),
        }
    }
}

/// Returns what can be done about a refusal with this code, text and HTTP status.
///
/// The one place that decides. Source: REST API and Bulk API 2.0 guides, status codes.
pub fn class_of(code: &str, message: &str, status: u16) -> Class {
    let transient = Class::Transient { after: None };
    match code {
        "REQUEST_LIMIT_EXCEEDED" if message.contains("Concurrent") => transient,
        "REQUEST_LIMIT_EXCEEDED" | "EXCEEDEDQUOTA" | "ExceededQuota" | "STORAGE_LIMIT_EXCEEDED" => Class::Exhausted,
        "UNABLE_TO_LOCK_ROW"
        | "SERVER_UNAVAILABLE"
        | "UNKNOWN_EXCEPTION"
        | "INTERNAL_ERROR"
        | "QUERY_TIMEOUT"
        | "REQUEST_RUNNING_TOO_LONG"
        | "TooManyLockFailure"
        | "INVALID_QUERY_LOCATOR"
        | "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE" => transient,
        "INVALID_SESSION_ID" | "INVALID_AUTH_HEADER" | "API_DISABLED_FOR_ORG" | "CLIENT_NOT_ACCESSIBLE_FOR_USER" => {
            Class::Auth
        }
        // The object, field or query is not there, or not for us.
        "INVALID_TYPE"
        | "MALFORMED_QUERY"
        | "INVALIDENTITY"
        | "INVALIDJOB"
        | "INVALIDBATCH"
        | "INVALIDOPERATION"
        | "INSUFFICIENT_ACCESS" => Class::Mapping,
        "INVALID_FIELD" if status != 200 && !message.contains("Foreign key external ID") => Class::Mapping,
        _ if message.starts_with("InvalidBatch : Field name not found") => Class::Mapping,
        _ if message.starts_with("ClientInputError") => Class::Internal,
        _ if status == 401 => Class::Auth,
        _ if matches!(status, 429 | 500..=599) => transient,
        _ => Class::Rejected,
    }
}

/// Reads the reason of a refusal: an error array, an error object, or anything else as it is.
pub(crate) fn read(status: u16, body: &[u8]) -> ApiError {
    if let Ok(mut errors) = serde_json::from_slice::<Vec<ApiError>>(body) {
        if !errors.is_empty() {
            return errors.swap_remove(0);
        }
    } else if let Ok(error) = serde_json::from_slice::<ApiError>(body) {
        return error;
    }
    // A gateway or a maintenance page: its text is no help, its status is.
    ApiError {
        code: format!("HTTP_{status}"),
        message: "the answer holds no error of the org".into(),
        fields: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_in_every_shape() {
        let cases = [
            (&br#"[{"message":"m","errorCode":"C","fields":["F"]}]"#[..], "C"),
            (br#"[{"errorCode":"C","message":"m"}]"#, "C"),
            (br#"{"error":"invalid_grant","error_description":"d"}"#, "invalid_grant"),
            (b"<html>maintenance</html>", "HTTP_503"),
            (b"", "HTTP_503"),
            (b"[]", "HTTP_503"),
        ];
        for (body, code) in cases {
            assert_eq!(read(503, body).code, code);
        }
    }

    #[test]
    fn classes_say_what_to_do() {
        let cases = [
            ("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", 403, Class::Exhausted),
            (
                "REQUEST_LIMIT_EXCEEDED",
                "ConcurrentRequests (Concurrent API Requests) Limit exceeded.",
                403,
                Class::Transient { after: None },
            ),
            (
                "UNABLE_TO_LOCK_ROW",
                "unable to obtain exclusive access to this record",
                400,
                Class::Transient { after: None },
            ),
            ("STRING_TOO_LONG", "Name: data value too large", 400, Class::Rejected),
            ("INVALID_FIELD", "No such column 'X' on entity 'Account'", 400, Class::Mapping),
            (
                "INVALID_FIELD",
                "Foreign key external ID: a-1 not found for field Ext__c in entity Account",
                400,
                Class::Rejected,
            ),
            ("HTTP_502", "", 502, Class::Transient { after: None }),
            ("INVALID_SESSION_ID", "Session expired or invalid", 401, Class::Auth),
        ];
        for (code, message, status, class) in cases {
            assert_eq!(class_of(code, message, status), class, "{code}");
        }
    }
}
