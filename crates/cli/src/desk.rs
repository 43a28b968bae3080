//! Who answers commands that look after things: the admin API, within this program or of a server elsewhere. What runs long by
//! itself on the folder's project (`run`, `reconcile`, `plan`) asks nobody unless a server is named.

use std::sync::Arc;
use std::time::Duration;

use model::Class;
use outbound::{Client, Request, Settings};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use server::Local;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::project::{Place, Project};
use crate::served::Served;

/// Where the token for a server stands: as an argument every program on the machine could read it.
const TOKEN: &str = "BRIDGEHEAD_TOKEN";
/// How long an answer may take: an undo, or a check of a thousand mappings.
const PATIENCE: Duration = Duration::from_hours(1);

/// The admin API, wherever it is.
pub(crate) enum Desk {
    /// In this program, on the project of the folder.
    Here(Local),
    /// Of a server elsewhere.
    There(Remote),
}

/// A server elsewhere.
pub(crate) struct Remote {
    client: Client,
    url: String,
    token: Option<String>,
}

/// What is wrong with a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: String,
    class: Option<Class>,
}

/// Returns a name as it stands in a path.
pub(crate) fn part(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// Returns what can be done about an answer with this status.
fn class_of(status: u16) -> Class {
    match status {
        401 | 403 => Class::Auth,
        429 | 502..=504 => Class::Transient { after: None },
        500.. => Class::Internal,
        _ => Class::Mapping,
    }
}

impl Desk {
    /// Opens the desk of a project; `stop` lets what writes stop at its next checkpoint.
    pub(crate) fn here(project: Project, place: &Place, stop: CancellationToken) -> Self {
        let store = project.store.clone();
        Self::Here(Local::new(store, Arc::new(Served::new(project, place, stop))))
    }

    /// Opens the desk of a server.
    pub(crate) fn there(url: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::new(Class::Mapping, format!("--server {url}: {what}"));
        let url = url.trim_end_matches('/');
        let rest = url.strip_prefix("http://").map(|rest| (false, rest));
        let (safe, rest) = rest
            .or_else(|| url.strip_prefix("https://").map(|rest| (true, rest)))
            .ok_or_else(|| wrong("write it with its scheme, such as https://bridgehead.example"))?;
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        if token.is_some() && !safe && !["127.0.0.1", "localhost", "[::1]"].contains(&host) {
            return Err(wrong("a token would go over the network for everybody to read; use https"));
        }
        let settings = Settings { read_timeout: PATIENCE, ..Settings::default() };
        let client = Client::new(settings).map_err(|error| Failure::from_error(error.class(), &error))?;
        Ok(Self::There(Remote { client, url: url.to_owned(), token }))
    }

    /// Asks for something, and reads the answer as what is wanted.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, None).await
    }

    /// Does something, and reads the answer as what is wanted.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.call("POST", path, Some(body)).await
    }

    /// Removes something.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("DELETE", path, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let path = format!("/api/v1/{path}");
        let (status, answer) = match self {
            Self::Here(local) => local.call(method, &path, body).await,
            Self::There(remote) => remote.call(method, &path, body).await?,
        };
        if !(200..300).contains(&status) {
            let problem: Problem = serde_json::from_value(answer).unwrap_or_default();
            let mut text = problem.detail;
            if text.is_empty() {
                text = format!("the server answered {status}");
            }
            if status == 401 && matches!(self, Self::There(_)) {
                text = format!("{text} ({TOKEN} holds the one for --server)");
            }
            return Err(Failure::new(problem.class.unwrap_or_else(|| class_of(status)), text));
        }
        serde_json::from_value(answer).map_err(|error| {
            Failure::new(Class::Internal, format!("the answer to {method} {path} is of another version: {error}"))
        })
    }

    /// Returns all entries of a list, a page at a time, but at most so many; `query` is what narrows it.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        query: &[(&str, Option<&str>)],
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut entries = Vec::new();
        let given = query.iter().filter_map(|(name, value)| Some(format!("&{name}={}", part((*value)?))));
        let given: String = given.collect();
        let mut next = String::new();
        loop {
            let limit = (most - entries.len()).min(PAGE);
            if limit == 0 {
                return Ok(entries);
            }
            let mut page: Value = self.get(&format!("{path}?limit={limit}{given}{next}")).await?;
            let wrong =
                |error| Failure::new(Class::Internal, format!("{path} has an answer of another version: {error}"));
            let found: Vec<T> = serde_json::from_value(page[name].take()).map_err(wrong)?;
            entries.extend(found);
            let more = page["next"].as_object().and_then(|next| next.iter().next());
            let Some((which, last)) = more else { return Ok(entries) };
            next = format!("&{which}={}", last.as_str().map_or_else(|| last.to_string(), part));
        }
    }
}

/// Entries of a page: the most that there may be.
const PAGE: usize = 500;

impl Remote {
    async fn call(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<(u16, Value), Failure> {
        let mut request = Request::new(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let failed = |error: outbound::Error| Failure::from_error(error.class(), &error);
        let response = self.client.send(&request).await.map_err(failed)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(failed)?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_needs_an_address_with_a_scheme() {
        let refused = |url| Desk::there(url).err().map(|failure| failure.text).unwrap_or_default();
        assert!(refused("bridgehead.example").contains("with its scheme"));
        assert_eq!(refused("https://bridgehead.example/"), "");
        assert_eq!(part("orders: compare"), "orders%3A%20compare");
    }
}
