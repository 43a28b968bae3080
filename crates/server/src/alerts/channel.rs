//! Where alerts go: a webhook, a chat in the format of Slack, mail.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor};
use outbound::{Client, Request, Settings};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::Message;

/// Lines of a message; more are counted.
const LINES: usize = 20;
/// Longest wait for a mail server.
const PATIENCE: Duration = Duration::from_secs(20);

/// Follows a reference to what is secret, such as `${env:NAME}`; says why it can't.
pub(crate) type Resolve<'r> = dyn Fn(&str) -> Result<SecretString, String> + 'r;

/// Where alerts go, as it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ChannelConfig {
    /// JSON by POST.
    Webhook {
        /// The address; a reference where it is secret.
        url: String,
        /// What goes into the header `authorization`: a reference.
        #[serde(default)]
        authorization: Option<String>,
    },
    /// An incoming webhook of Slack, or of what understands its format.
    Slack {
        /// The address, which is secret: a reference.
        url: String,
    },
    /// Mail.
    Smtp {
        /// `smtps://host` (port 465), `smtp://host` (port 587, encrypted by STARTTLS), or `plain://host:25` without encryption.
        server: String,
        /// The sender.
        from: String,
        /// The receivers.
        to: Vec<String>,
        /// The user, where the server wants one.
        #[serde(default)]
        user: Option<String>,
        /// The user's password: a reference.
        #[serde(default)]
        password: Option<String>,
    },
}

/// Where alerts go.
pub(super) enum Channel {
    /// JSON by POST.
    Webhook {
        /// The address.
        url: SecretString,
        /// The header `authorization`.
        authorization: Option<SecretString>,
        /// What sends it.
        http: Client,
    },
    /// A chat in the format of Slack.
    Slack {
        /// The address.
        url: SecretString,
        /// What sends it.
        http: Client,
    },
    /// Mail.
    Smtp {
        /// The sender.
        from: lettre::message::Mailbox,
        /// The receivers.
        to: Vec<lettre::message::Mailbox>,
        /// What sends it.
        server: Box<AsyncSmtpTransport<Tokio1Executor>>,
    },
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Webhook { .. } => "Webhook",
            Self::Slack { .. } => "Slack",
            Self::Smtp { .. } => "Smtp",
        })
    }
}

impl ChannelConfig {
    pub(super) fn open(&self, resolve: &Resolve<'_>) -> Result<Channel, String> {
        let http = || Client::new(Settings::default()).map_err(|error| error.to_string());
        let address = |text: &str| {
            let url = if text.starts_with("${") { resolve(text)? } else { SecretString::from(text.to_owned()) };
            let good = ["http://", "https://"].iter().any(|scheme| url.expose_secret().starts_with(scheme));
            if good { Ok(url) } else { Err("`url` is no address that begins with https:// or http://".to_owned()) }
        };
        match self {
            Self::Webhook { url, authorization } => Ok(Channel::Webhook {
                url: address(url)?,
                authorization: authorization.as_deref().map(resolve).transpose()?,
                http: http()?,
            }),
            Self::Slack { url } if !url.starts_with("${") => {
                Err("the address of a Slack webhook is a secret; give it as ${env:NAME} or ${file:PATH}".to_owned())
            }
            Self::Slack { url } => Ok(Channel::Slack { url: address(url)?, http: http()? }),
            Self::Smtp { server, from, to, user, password } => {
                let mailbox =
                    |text: &String| text.parse().map_err(|error| format!("{text:?} is no mail address: {error}"));
                let to = to.iter().map(mailbox).collect::<Result<Vec<_>, _>>()?;
                if to.is_empty() {
                    return Err("`to` names nobody".to_owned());
                }
                let from = mailbox(from)?;
                let (transport, encrypted) = transport(server)?;
                let mut transport = transport.timeout(Some(PATIENCE));
                if let Some(user) = user {
                    if !encrypted {
                        return Err("a password is not sent unencrypted; use smtps:// or smtp://".to_owned());
                    }
                    let password = password.as_deref().ok_or("`user` needs a `password`")?;
                    let password = resolve(password)?.expose_secret().to_owned();
                    transport = transport.credentials(Credentials::new(user.clone(), password));
                }
                Ok(Channel::Smtp { from, to, server: Box::new(transport.build()) })
            }
        }
    }
}

type Builder = lettre::transport::smtp::AsyncSmtpTransportBuilder;

/// Returns what speaks to a mail server, and whether it does so encrypted.
fn transport(server: &str) -> Result<(Builder, bool), String> {
    type Transport = AsyncSmtpTransport<Tokio1Executor>;
    let wrong = || format!("{server:?} is no mail server; write it as smtps://host, smtp://host or plain://host:25");
    let (scheme, rest) = server.split_once("://").ok_or_else(wrong)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| wrong())?)),
        None => (rest, None),
    };
    let failed = |error: lettre::transport::smtp::Error| format!("{server:?} cannot be used: {error}");
    let (builder, encrypted) = match scheme {
        "smtps" => (Transport::relay(host).map_err(failed)?, true),
        "smtp" => (Transport::starttls_relay(host).map_err(failed)?, true),
        "plain" => (Transport::builder_dangerous(host), false),
        _ => return Err(wrong()),
    };
    Ok((port.into_iter().fold(builder, Builder::port), encrypted))
}

fn text(message: &Message) -> String {
    let mut lines: Vec<String> = message.lines.iter().take(LINES).cloned().collect();
    if message.lines.len() > LINES {
        lines.push(format!("... and {} more", message.lines.len() - LINES));
    }
    lines.join("\n")
}

async fn post(http: &Client, request: Request) -> Result<(), String> {
    // What it is about carries an id: sent twice it is known.
    let answer = http.send(&request.idempotent().hidden()).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if (200..300).contains(&status) { Ok(()) } else { Err(format!("it was answered with {status}")) }
}

impl Channel {
    /// Delivers a message; says why it could not. What it says holds no address and no secret.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        match self {
            Self::Webhook { url, authorization, http } => {
                let mut request = Request::new("POST", url.expose_secret()).json(&message.body);
                if let Some(authorization) = authorization {
                    request = request.header("authorization", authorization.expose_secret());
                }
                post(http, request).await
            }
            Self::Slack { url, http } => {
                post(http, Request::new("POST", url.expose_secret()).json(&json!({"text": text(message)}))).await
            }
            Self::Smtp { from, to, server } => {
                let mut mail = Mail::builder().from(from.clone()).subject(format!("Bridgehead: {}", message.subject));
                for receiver in to {
                    mail = mail.to(receiver.clone());
                }
                let mail = mail.header(ContentType::TEXT_PLAIN).body(text(message) + "\n");
                let mail = mail.map_err(|error| format!("the mail cannot be written: {error}"))?;
                server.send(mail).await.map(drop).map_err(|error| format!("the mail server refused it: {error}"))
            }
        }
    }
}
