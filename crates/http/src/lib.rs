//! The one outbound HTTP client: TLS, timeouts, retry, redaction.
