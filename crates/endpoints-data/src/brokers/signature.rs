//! Signatures of webhooks: who sent it, and that nobody changed it.
//!
//! Source: Standard Webhooks 1.0.0; `shared/reference` for the schemes of others.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use endpoint::{Error, Result};
use model::Class;
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

/// What a request is signed with. Its `Debug` form shows nothing of it.
#[derive(Debug, Clone)]
pub(super) struct Key(hmac::Key);

/// How far the time of a request may be from ours, in seconds. Source: Standard Webhooks.
const TOLERANCE: i64 = 300;

/// How the senders of webhooks sign them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Standard Webhooks: id, time and body.
    #[default]
    Standard,
    /// `X-Hub-Signature-256`, as GitHub and Meta send it: the body, with no protection against being sent twice.
    Hub,
    /// Shopify: the body; what is sent twice is known by `X-Shopify-Event-Id`.
    Shopify,
    /// `WooCommerce`: the body; what is sent twice is known by `X-WC-Webhook-Delivery-ID`.
    Woocommerce,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its signature is missing or wrong.
    Signature,
    /// It is of another time.
    Time,
}

/// Returns the key of Standard Webhooks: what stands behind `whsec_` in base64, or the text itself.
pub(super) fn standard_key(secret: &SecretString) -> Result<Key> {
    let text = secret.expose_secret();
    let bytes = match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| {
            Error::new(
                Class::Auth,
                "a signing secret that begins with whsec_ goes on with base64, and this one does not",
            )
        })?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.is_empty() {
        return Err(Error::new(Class::Auth, "a signing secret is empty"));
    }
    Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
}

/// Signs a request as Standard Webhooks does.
pub(super) fn standard(key: &Key, id: &str, time: &str, body: &[u8]) -> String {
    format!("v1,{}", STANDARD.encode(hmac::sign(&key.0, &signed(id, time, body)).as_ref()))
}

fn signed(id: &str, time: &str, body: &[u8]) -> Vec<u8> {
    let mut signed = format!("{id}.{time}.").into_bytes();
    signed.extend_from_slice(body);
    signed
}

impl Scheme {
    /// Returns the key that a secret is for this scheme.
    pub(super) fn key(&self, secret: &SecretString) -> Result<Key> {
        match self {
            Self::Standard => standard_key(secret),
            _ if secret.expose_secret().is_empty() => Err(Error::new(Class::Auth, "a signing secret is empty")),
            _ => Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes()))),
        }
    }

    /// Returns what a request is known by when it is sent twice, where its sender says that.
    pub(super) fn id<'h>(&self, header: impl Fn(&str) -> Option<&'h str>) -> Option<&'h str> {
        match self {
            Self::Standard => header("webhook-id"),
            Self::Hub => header("x-github-delivery"),
            Self::Shopify => header("x-shopify-event-id"),
            Self::Woocommerce => header("x-wc-webhook-delivery-id"),
        }
    }

    /// Checks who sent a request; `now` is in seconds since 1970. One of the keys must fit.
    pub(super) fn check<'h>(
        &self,
        keys: &[Key],
        header: impl Fn(&str) -> Option<&'h str>,
        body: &[u8],
        now: i64,
    ) -> std::result::Result<(), Refused> {
        let (name, is_hex, prefix) = match self {
            Self::Standard => {
                let id = header("webhook-id").ok_or(Refused::Signature)?;
                let time = header("webhook-timestamp").ok_or(Refused::Signature)?;
                let given = header("webhook-signature").ok_or(Refused::Signature)?;
                let signed = signed(id, time, body);
                let of = |one: &str| STANDARD.decode(one.strip_prefix("v1,")?).ok();
                let fits = |tag: &[u8]| keys.iter().any(|key| hmac::verify(&key.0, &signed, tag).is_ok());
                if !given.split(' ').filter_map(of).any(|tag| fits(&tag)) {
                    return Err(Refused::Signature);
                }
                let late = time.parse().map_or(i64::MAX, |time: i64| now.saturating_sub(time).saturating_abs());
                return if late > TOLERANCE { Err(Refused::Time) } else { Ok(()) };
            }
            Self::Hub => ("x-hub-signature-256", true, "sha256="),
            Self::Shopify => ("x-shopify-hmac-sha256", false, ""),
            Self::Woocommerce => ("x-wc-webhook-signature", false, ""),
        };
        let given = header(name).and_then(|given| given.strip_prefix(prefix)).ok_or(Refused::Signature)?;
        let tag = if is_hex { from_hex(given) } else { STANDARD.decode(given).ok() }.ok_or(Refused::Signature)?;
        let fits = keys.iter().any(|key| hmac::verify(&key.0, body, &tag).is_ok());
        if fits { Ok(()) } else { Err(Refused::Signature) }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<'h>(list: &'h [(&'h str, &'h str)]) -> impl Fn(&str) -> Option<&'h str> {
        move |name| list.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    #[test]
    fn standard_webhooks_are_signed_as_their_own_example_says() {
        // Source: the example of the Standard Webhooks libraries.
        let key = standard_key(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).expect("a key");
        let (id, time, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        let signature = standard(&key, id, time, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let other = standard_key(&"another".into()).expect("a key");
        let list = format!("v1a,x v1,AAAA {signature}");
        let given = [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", list.as_str())];
        let now: i64 = 1_614_265_330;
        let check = |keys: &[Key], now: i64, body: &[u8]| Scheme::Standard.check(keys, headers(&given), body, now);
        assert_eq!(check(&[other.clone(), key.clone()], now + 300, body), Ok(()));
        assert_eq!(check(std::slice::from_ref(&key), now + 301, body), Err(Refused::Time));
        assert_eq!(check(std::slice::from_ref(&key), now - 301, body), Err(Refused::Time));
        assert_eq!(check(&[other], now, body), Err(Refused::Signature));
        assert_eq!(check(std::slice::from_ref(&key), now, b"{}"), Err(Refused::Signature));
        assert!(standard_key(&"whsec_***".into()).is_err() && standard_key(&"".into()).is_err());
    }

    #[test]
    fn what_others_sign_is_checked_as_they_do_it() {
        let key = Scheme::Hub.key(&"It's a Secret to Everybody".into()).expect("a key");
        // Source: GitHub's documentation, "Validating webhook deliveries".
        let hub = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let body = b"Hello, World!";
        let keys = [key];
        assert_eq!(Scheme::Hub.check(&keys, headers(&[("x-hub-signature-256", hub)]), body, 0), Ok(()));
        let tag = STANDARD.encode(hmac::sign(&keys[0].0, body));
        assert_eq!(Scheme::Shopify.check(&keys, headers(&[("x-shopify-hmac-sha256", &tag)]), body, 0), Ok(()));
        assert_eq!(Scheme::Woocommerce.check(&keys, headers(&[("x-wc-webhook-signature", &tag)]), body, 0), Ok(()));
        for bad in ["", "sha256=", "sha256=7", "sha256=zz", &hub[7..]] {
            let checked = Scheme::Hub.check(&keys, headers(&[("x-hub-signature-256", bad)]), body, 0);
            assert_eq!(checked, Err(Refused::Signature), "{bad}");
        }
        assert_eq!(Scheme::Hub.check(&keys, headers(&[]), body, 0), Err(Refused::Signature));
    }
}
