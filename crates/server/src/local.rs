//! The API within a program that does not serve it: what the command line does goes through it, too.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::response::Response;
use serde_json::Value;
use state::{Role, Store};
use tower::ServiceExt as _;

use crate::api::{self, Api};
use crate::auth::Caller;
use crate::work::Work;

/// Most bytes of an answer; the largest are versions with all their files.
const ANSWER_BYTES: usize = 256 << 20;

/// The API for whoever is at this machine, who may do everything.
#[derive(Debug, Clone)]
pub struct Local(axum::Router);

impl Local {
    /// Answers from a store, and by what `work` knows of the project.
    pub fn new(store: Store, work: Arc<dyn Work>) -> Self {
        let api = Arc::new(Api::new(store, Some(work), None, true, None));
        let caller = Caller { name: "local".to_owned(), role: Role::Admin };
        Self(api::calls_router().layer(Extension(caller)).with_state(api))
    }

    /// Asks for something; returns the status and the answer, which is null where there is none.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let Ok(request) = request.body(body) else { return (400, Value::Null) };
        let response: Response = match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), ANSWER_BYTES).await.unwrap_or_default();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}
