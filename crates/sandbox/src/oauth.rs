//! The token endpoint, and what a token opens.

use std::collections::HashMap;
use std::sync::PoisonError;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::org::Org;
use crate::rest::Answer;

/// A refusal of the token endpoint.
fn refused(status: u16, error: &str, description: &str) -> Answer {
    Answer::json(status, &json!({"error": error, "error_description": description}))
}

fn random(bytes: usize) -> String {
    let mut noise = vec![0; bytes];
    // The system's generator fails only where there is none; then every token is refused.
    if rand::fill(&mut noise).is_err() {
        tracing::error!("no randomness for tokens");
    }
    URL_SAFE_NO_PAD.encode(noise)
}

impl Org {
    /// Answers `POST /services/oauth2/token`.
    pub(crate) fn token(&self, form: &HashMap<String, String>, basic: Option<(String, String)>) -> Answer {
        let get = |name: &str| form.get(name).map(String::as_str);
        let (id, secret) = match &basic {
            Some((id, secret)) => (Some(id.as_str()), Some(secret.as_str())),
            None => (get("client_id"), get("client_secret")),
        };
        let Some(grant) = get("grant_type") else {
            return refused(400, "unsupported_grant_type", "grant type not supported");
        };
        let jwt = grant == "urn:ietf:params:oauth:grant-type:jwt-bearer";
        if !jwt {
            if id != Some(self.config.client_id.as_str()) {
                return refused(400, "invalid_client_id", "client identifier invalid");
            }
            if secret != Some(self.config.client_secret.as_str()) {
                return refused(400, "invalid_client", "invalid client credentials");
            }
        }
        match grant {
            "client_credentials" => self.granted(None),
            "refresh_token" => self.refreshed(get("refresh_token").unwrap_or_default()),
            _ if jwt => match self.check_assertion(get("assertion").unwrap_or_default()) {
                Ok(()) => self.granted(None),
                Err(description) => refused(400, "invalid_grant", description),
            },
            _ => refused(400, "unsupported_grant_type", "grant type not supported"),
        }
    }

    /// Each refresh token is good once; showing an old one again ends its successors too.
    fn refreshed(&self, token: &str) -> Answer {
        let mut tokens = self.refresh_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.get(token).copied() {
            Some(true) => {
                let next = format!("5Aep{}", random(48));
                tokens.insert(token.to_owned(), false);
                tokens.insert(next.clone(), true);
                drop(tokens);
                self.granted(Some(next))
            }
            Some(false) => {
                tokens.values_mut().for_each(|live| *live = false);
                refused(400, "invalid_grant", "expired access/refresh token")
            }
            None => refused(400, "invalid_grant", "expired access/refresh token"),
        }
    }

    fn check_assertion(&self, assertion: &str) -> Result<(), &'static str> {
        let key = self.config.jwt_public_key.as_deref().ok_or("user hasn't approved this consumer")?;
        let key = jsonwebtoken::DecodingKey::from_rsa_pem(key.as_bytes()).map_err(|_| "invalid assertion")?;
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.set_audience(&["https://login.salesforce.com", "https://test.salesforce.com", self.url()]);
        rules.set_issuer(&[&self.config.client_id]);
        let claims = jsonwebtoken::decode::<Value>(assertion, &key, &rules).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidAudience => "audience is invalid",
            jsonwebtoken::errors::ErrorKind::InvalidIssuer => "client identifier invalid",
            _ => "invalid assertion",
        })?;
        if claims.claims["sub"] == "admin@sandbox.example" { Ok(()) } else { Err("user hasn't approved this consumer") }
    }

    fn granted(&self, refresh: Option<String>) -> Answer {
        let token = format!("{}!{}", &self.org_id[..15], random(66));
        let now = self.now();
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), now);
        let identity = format!("{}/id/{}/{}", self.url(), self.org_id, self.user_id);
        let issued = now.timestamp_millis().to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.config.client_secret.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, format!("{identity}{issued}").as_bytes()));
        let mut body = json!({
            "access_token": token, "signature": signature, "scope": "api refresh_token", "instance_url": self.url(),
            "id": identity, "token_type": "Bearer", "issued_at": issued,
        });
        if let Some(refresh) = refresh {
            body["refresh_token"] = Value::String(refresh);
        }
        Answer::json(200, &body)
    }

    /// Ends a session or a refresh token.
    pub(crate) fn revoke(&self, token: &str) -> Answer {
        let session = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(token).is_some();
        let refresh = self.refresh_tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(token).is_some();
        if session || refresh { Answer::empty(200) } else { refused(400, "unsupported_token_type", "invalid token") }
    }

    /// Ends every session.
    pub(crate) fn expire_sessions(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// True if the token opens the org.
    pub(crate) fn is_valid(&self, token: &str) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(token)
    }

    /// Returns who the token speaks for.
    pub(crate) fn userinfo(&self) -> Value {
        let identity = format!("{}/id/{}/{}", self.url(), self.org_id, self.user_id);
        json!({
            "sub": identity, "id": identity, "user_id": self.user_id, "organization_id": self.org_id,
            "preferred_username": "admin@sandbox.example", "username": "admin@sandbox.example", "nickname": "admin",
            "nick_name": "admin", "name": "Ada Admin", "display_name": "Ada Admin", "email": "admin@sandbox.example",
            "email_verified": true, "given_name": "Ada", "first_name": "Ada", "family_name": "Admin",
            "last_name": "Admin", "zoneinfo": "UTC", "timezone": "UTC", "active": true, "user_type": "STANDARD",
            "language": "en_US", "locale": "en_US", "utcOffset": 0,
            "urls": {"rest": format!("{}/services/data/v{{version}}/", self.url()),
                     "sobjects": format!("{}/services/data/v{{version}}/sobjects/", self.url()),
                     "query": format!("{}/services/data/v{{version}}/query/", self.url())},
        })
    }
}
