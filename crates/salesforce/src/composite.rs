//! Several requests in one call, each with headers of its own.

use outbound::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{ApiError, Error};

/// Requests in one call. Source: REST API guide, "Composite".
pub const MAX_STEPS: usize = 25;

/// One request.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its method.
    pub method: &'static str,
    /// Its path below the version, such as `sobjects/Account/001...`.
    pub path: String,
    /// Only if the record was not changed after this moment: an HTTP date.
    pub unmodified_since: Option<String>,
    /// Its body.
    pub body: Option<Value>,
}

/// The answer to one request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepAnswer {
    /// Its status.
    pub http_status_code: u16,
    /// Its body.
    pub body: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answers {
    composite_response: Vec<StepAnswer>,
}

impl StepAnswer {
    /// Returns the first reason of a refusal.
    pub fn refusal(&self) -> Option<ApiError> {
        serde_json::from_value::<Vec<ApiError>>(self.body.clone()).ok()?.into_iter().next()
    }
}

impl Client {
    /// Sends at most [`MAX_STEPS`] requests in one call, each of which succeeds or fails by itself, and returns their
    /// answers in order.
    ///
    /// # Errors
    ///
    /// When the call as a whole fails, or an answer is missing.
    pub async fn composite(&self, steps: &[Step]) -> Result<Vec<StepAnswer>, Error> {
        let requests: Vec<Value> = steps
            .iter()
            .enumerate()
            .map(|(at, step)| {
                let mut request =
                    json!({"method": step.method, "url": self.path(&step.path), "referenceId": format!("r{at}")});
                if let Some(since) = &step.unmodified_since {
                    request["httpHeaders"] = json!({"If-Unmodified-Since": since});
                }
                if let Some(body) = &step.body {
                    request["body"] = body.clone();
                }
                request
            })
            .collect();
        let body = json!({"allOrNone": false, "compositeRequest": requests});
        let answers: Answers = self.json(&Request::new("POST", self.path("composite")).json(&body)).await?;
        if answers.composite_response.len() != steps.len() {
            let source = format!("{} answers to {} requests", answers.composite_response.len(), steps.len()).into();
            return Err(Error::BadAnswer { what: "the composite request".to_owned(), source });
        }
        Ok(answers.composite_response)
    }
}
