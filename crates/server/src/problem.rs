//! What is wrong with a call, as `application/problem+json`. Source: RFC 9457.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A call that can't be answered.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds after which it may be tried again.
    after: Option<u16>,
}

/// What calls are answered with.
pub(crate) type Answered<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), after: None }
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

impl From<state::Error> for Problem {
    fn from(error: state::Error) -> Self {
        tracing::error!(%error, "the state cannot be used");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the state cannot be used; the log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason();
        let body = json!({"status": self.status.as_u16(), "title": title, "detail": self.detail});
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
