//! Sessions: how they are got, renewed by one at a time, and kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use outbound::Request;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::error::{self, Error};

/// How a client signs in. SOAP login is not among them: it is being retired.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credentials {
    /// OAuth client credentials, against the org's own domain.
    ClientCredentials {
        /// The org's My Domain address.
        login_url: String,
        /// Consumer key.
        client_id: String,
        /// Consumer secret.
        client_secret: SecretString,
    },
    /// OAuth JWT bearer.
    JwtBearer {
        /// Where the token endpoint is.
        login_url: String,
        /// Consumer key.
        client_id: String,
        /// User that the session is for.
        username: String,
        /// RSA private key, PEM.
        private_key: SecretString,
        /// The audience, such as `https://login.salesforce.com`; the login address if not given.
        audience: Option<String>,
    },
    /// OAuth refresh token, with or without rotation.
    RefreshToken {
        /// Where the token endpoint is.
        login_url: String,
        /// Consumer key.
        client_id: String,
        /// Consumer secret, where the app has one.
        client_secret: Option<SecretString>,
        /// The token as it was first granted; the file's content is newer.
        refresh_token: SecretString,
        /// Where a rotated token is kept.
        file: TokenFile,
    },
    /// A session that somebody else opened; it can't be renewed.
    AccessToken {
        /// The org's address.
        instance_url: String,
        /// The token.
        access_token: SecretString,
    },
}

/// The file that the current refresh token of a grant is kept in, and the lock beside it.
#[derive(Debug, Clone)]
pub struct TokenFile {
    /// The file; its folder must exist.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    refresh_token: String,
}

impl TokenFile {
    /// Runs `refresh` while no other thread or process does, giving it the newest token.
    ///
    /// A token that it returns is on disk before this returns.
    async fn rotate<F, T>(&self, first: &SecretString, refresh: F) -> Result<T, Error>
    where
        F: AsyncFnOnce(SecretString) -> Result<(T, Option<String>), Error>,
    {
        let lock_path = self.path.with_extension("lock");
        let lock = tokio::task::spawn_blocking(move || {
            let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(lock_path)?;
            lock.lock()?;
            Ok::<_, std::io::Error>(lock)
        });
        let lock = lock.await.map_err(|error| Error::TokenFile(std::io::Error::other(error)))?;
        let lock = lock.map_err(Error::TokenFile)?;
        let kept = match std::fs::read(&self.path) {
            Ok(bytes) => {
                let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| Error::TokenFile(error.into()))?;
                kept.refresh_token.into()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => first.clone(),
            Err(error) => return Err(Error::TokenFile(error)),
        };
        let (value, rotated) = refresh(kept).await?;
        if let Some(refresh_token) = rotated {
            self.keep(refresh_token).map_err(Error::TokenFile)?;
        }
        drop(lock);
        Ok(value)
    }

    /// Replaces the file in one step, readable by its owner alone.
    fn keep(&self, refresh_token: String) -> std::io::Result<()> {
        use std::io::Write as _;
        let fresh = self.path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&fresh)?;
        serde_json::to_writer(&mut file, &Kept { version: 1, refresh_token })?;
        file.flush()?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)
    }
}

/// An open session.
#[derive(Debug, Clone)]
pub struct Session {
    /// The access token.
    pub token: SecretString,
    /// Scheme and host that calls go to.
    pub instance_url: String,
    /// Counts renewals, so that a stale one is told from a fresh one.
    generation: u64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    instance_url: String,
    refresh_token: Option<String>,
}

/// The one owner of a session among all clones of a client.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    credentials: Arc<Credentials>,
    current: Arc<Mutex<Option<Session>>>,
    http: outbound::Client,
}

impl Sessions {
    pub(crate) fn new(credentials: Credentials, http: outbound::Client) -> Self {
        Self { credentials: Arc::new(credentials), current: Arc::default(), http }
    }

    /// Returns the open session, opening one if there is none.
    pub(crate) async fn current(&self) -> Result<Session, Error> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref() {
            return Ok(session.clone());
        }
        let session = self.open(0).await?;
        *current = Some(session.clone());
        Ok(session)
    }

    /// Returns a session newer than `stale`; callers that come together share one renewal.
    pub(crate) async fn renew(&self, stale: &Session) -> Result<Session, Error> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.generation > stale.generation) {
            return Ok(session.clone());
        }
        if let Credentials::AccessToken { instance_url, .. } = self.credentials.as_ref() {
            let source =
                error::read(401, br#"[{"errorCode":"INVALID_SESSION_ID","message":"Session expired or invalid"}]"#);
            return Err(Error::SignIn { host: instance_url.clone(), source });
        }
        let session = self.open(stale.generation + 1).await?;
        *current = Some(session.clone());
        Ok(session)
    }

    async fn open(&self, generation: u64) -> Result<Session, Error> {
        let granted = match self.credentials.as_ref() {
            Credentials::AccessToken { instance_url, access_token } => {
                let instance_url = instance_url.trim_end_matches('/').to_owned();
                return Ok(Session { token: access_token.clone(), instance_url, generation });
            }
            Credentials::ClientCredentials { login_url, client_id, client_secret } => {
                let form = [
                    ("grant_type", "client_credentials"),
                    ("client_id", client_id),
                    ("client_secret", client_secret.expose_secret()),
                ];
                self.grant(login_url, &form).await?
            }
            Credentials::JwtBearer { login_url, client_id, username, private_key, audience } => {
                let audience = audience.as_deref().unwrap_or(login_url.trim_end_matches('/'));
                let assertion = assertion(client_id, username, audience, private_key)?;
                let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
                self.grant(login_url, &form).await?
            }
            Credentials::RefreshToken { login_url, client_id, client_secret, refresh_token, file } => {
                let refresh = async |token: SecretString| {
                    let mut form = vec![
                        ("grant_type", "refresh_token"),
                        ("client_id", client_id.as_str()),
                        ("refresh_token", token.expose_secret()),
                    ];
                    form.extend(client_secret.as_ref().map(|secret| ("client_secret", secret.expose_secret())));
                    let granted = self.grant(login_url, &form).await.map_err(|error| match error {
                        Error::SignIn { source, .. } if source.code == "invalid_grant" => {
                            Error::GrantLost { client_id: client_id.clone() }
                        }
                        other => other,
                    })?;
                    let rotated = granted.refresh_token.clone();
                    Ok((granted, rotated))
                };
                file.rotate(refresh_token, refresh).await?
            }
        };
        let instance_url = granted.instance_url.trim_end_matches('/').to_owned();
        Ok(Session { token: granted.access_token.into(), instance_url, generation })
    }

    async fn grant(&self, login_url: &str, form: &[(&str, &str)]) -> Result<Granted, Error> {
        let url = format!("{}/services/oauth2/token", login_url.trim_end_matches('/'));
        let request = Request::new("POST", url).form(form);
        let response = self.http.send(&request).await?;
        let status = response.status();
        let body = response.bytes().await?;
        if status != 200 {
            return Err(Error::SignIn { host: request.host().to_owned(), source: error::read(status, &body) });
        }
        serde_json::from_slice(&body)
            .map_err(|error| Error::BadAnswer { what: "the sign-in".to_owned(), source: error.into() })
    }
}

/// Returns a signed assertion that is good for three minutes.
fn assertion(client_id: &str, username: &str, audience: &str, key: &SecretString) -> Result<String, Error> {
    let unusable =
        |source: jsonwebtoken::errors::Error| Error::BadCredential { what: "private key", source: source.into() };
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(key.expose_secret().as_bytes()).map_err(unusable)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let claims = serde_json::json!({"iss": client_id, "sub": username, "aud": audience, "exp": now + 180});
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256), &claims, &key).map_err(unusable)
}
