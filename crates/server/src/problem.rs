//! What is wrong with a call, as `application/problem+json`. Source: RFC 9457.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::Class;
use serde_json::json;

use crate::work::Refused;

/// A call that can't be answered.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds after which it may be tried again.
    after: Option<u16>,
    /// What can be done about it, where that is known better than by the status.
    class: Option<Class>,
}

/// What calls are answered with.
pub(crate) type Answered<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), after: None, class: None }
    }

    /// The same problem, which may be gone after so many seconds.
    pub(crate) fn after(self, seconds: u16) -> Self {
        Self { after: Some(seconds), ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// There is no such thing.
    pub(crate) fn none(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.class {
            Class::Mapping => StatusCode::UNPROCESSABLE_ENTITY,
            Class::Rejected | Class::Stopped => StatusCode::CONFLICT,
            // It is a system behind us that can't be reached, or does not let us in.
            Class::Auth | Class::Transient { .. } | Class::Exhausted => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { class: Some(refused.class), ..Self::new(status, refused.text) }
    }
}

impl From<state::Error> for Problem {
    fn from(error: state::Error) -> Self {
        tracing::error!(%error, "the state cannot be used");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the state cannot be used; the log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason();
        let mut body = json!({"status": self.status.as_u16(), "title": title, "detail": self.detail});
        if let Some(class) = self.class {
            body["class"] = json!(class);
        }
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
        if let Some(seconds) = self.after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let value = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}
