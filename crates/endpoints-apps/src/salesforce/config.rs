//! The configuration of a Salesforce connection.

use std::sync::Arc;

use ::salesforce::{Client, Credentials, Settings, TokenFile};
use endpoint::{Endpoint, Kind, Result, Setup, configuration};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{DEFAULT_BULK_ROWS, Org, failed};

/// Salesforce, as a kind of connection.
pub const KIND: Kind = Kind::new::<SalesforceConfig>(
    "salesforce",
    "A Salesforce org, by REST, Bulk API 2.0 and the Pub/Sub API.",
    |value, setup| configuration::<SalesforceConfig>(value)?.open(setup),
);

/// A Salesforce org.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SalesforceConfig {
    /// Address to sign in at: the org's My Domain, or `https://login.salesforce.com`; with `access_token` the org's own
    /// address.
    pub url: String,
    /// How to sign in.
    pub auth: Auth,
    /// API version, such as `"66.0"`.
    #[serde(default)]
    pub version: Option<String>,
    /// How changes are told that are followed.
    #[serde(default)]
    pub events: Events,
    /// Address of the Pub/Sub API with scheme and port, where it is not the usual one.
    #[serde(default)]
    pub pubsub: Option<String>,
    /// From how many rows on reads and writes go by Bulk API 2.0.
    #[serde(default = "SalesforceConfig::default_bulk_rows")]
    pub bulk_rows: u64,
}

/// How an org tells of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Events {
    /// By the Pub/Sub API: quicker, and no more than we can take.
    #[default]
    Pubsub,
    /// By the Streaming API, over the org's own address and HTTP/1.1: for networks that let nothing else out.
    Streaming,
}

/// How to sign in to an org. Secrets are given by reference: `${env:NAME}` or `${file:PATH}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "grant", rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// OAuth client credentials, against the org's own domain.
    ClientCredentials {
        /// Consumer key.
        client_id: String,
        /// Consumer secret, by reference.
        client_secret: String,
    },
    /// OAuth JWT bearer.
    JwtBearer {
        /// Consumer key.
        client_id: String,
        /// The user that the session is for.
        username: String,
        /// RSA private key in PEM, by reference.
        private_key: String,
        /// The audience; the address to sign in at if not given.
        #[serde(default)]
        audience: Option<String>,
    },
    /// OAuth refresh token; a rotated one is kept beside the state file.
    RefreshToken {
        /// Consumer key.
        client_id: String,
        /// Consumer secret, by reference, where the app has one.
        #[serde(default)]
        client_secret: Option<String>,
        /// The token as it was first granted, by reference.
        refresh_token: String,
    },
    /// A session that somebody else opened; it can't be renewed.
    AccessToken {
        /// The token, by reference.
        access_token: String,
    },
}

impl SalesforceConfig {
    fn default_bulk_rows() -> u64 {
        DEFAULT_BULK_ROWS
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let mut settings = Settings::default();
        settings.version = self.version.clone().unwrap_or(settings.version);
        let (bulk_rows, events, pubsub) = (self.bulk_rows, self.events, self.pubsub.clone());
        let client = Client::new(self.credentials(setup)?, settings).map_err(failed("the client cannot be set up"))?;
        Ok(Arc::new(Org::new(client, Arc::clone(&setup.journal), bulk_rows).told_by(events, pubsub)))
    }

    fn credentials(self, setup: &Setup<'_>) -> Result<Credentials> {
        let references = setup.references;
        let login_url = references.resolve(&self.url)?;
        Ok(match self.auth {
            Auth::ClientCredentials { client_id, client_secret } => Credentials::ClientCredentials {
                login_url,
                client_id: references.resolve(&client_id)?,
                client_secret: references.secret(&client_secret)?,
            },
            Auth::JwtBearer { client_id, username, private_key, audience } => Credentials::JwtBearer {
                login_url,
                client_id: references.resolve(&client_id)?,
                username: references.resolve(&username)?,
                private_key: references.secret(&private_key)?,
                audience,
            },
            Auth::RefreshToken { client_id, client_secret, refresh_token } => Credentials::RefreshToken {
                login_url,
                client_id: references.resolve(&client_id)?,
                client_secret: client_secret.map(|secret| references.secret(&secret)).transpose()?,
                refresh_token: references.secret(&refresh_token)?,
                file: TokenFile { path: setup.state.join(format!("{}.token", setup.name)) },
            },
            Auth::AccessToken { access_token } => {
                Credentials::AccessToken { instance_url: login_url, access_token: references.secret(&access_token)? }
            }
        })
    }
}
