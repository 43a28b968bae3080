//! Who a user is: the identity, signed statements of it, and the keys to check them with.

use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::{rand, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::definition::App;
use crate::org::Org;
use crate::rest::{Answer, Call};

/// Name of the one key that signs id tokens.
const KEY_ID: &str = "sandbox";

impl Org {
    /// Returns the address of a user's identity.
    pub(crate) fn identity(&self, caller: &Caller) -> String {
        format!("{}/id/{}/{}", self.url(), self.org_id, caller.user_id)
    }

    /// Returns a signed statement of who the user is; `None` if no key can be made.
    pub(crate) fn id_token(&self, app: &App, caller: &Caller, identity: &str, nonce: Option<String>) -> Option<String> {
        let now = self.now().timestamp();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID});
        let mut claims = json!({
            "iss": self.url(), "sub": identity, "aud": app.client_id, "exp": now + 120, "iat": now,
            "preferred_username": caller.username, "email": caller.username, "email_verified": true,
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let key = self.sign_in.key()?;
        let mut sealed = vec![0; key.public_modulus_len()];
        let random = rand::SystemRandom::new();
        key.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut sealed).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Answers `/id/keys`.
    pub(crate) fn keys(&self) -> Answer {
        let numbers = self.sign_in.key().and_then(|key| numbers(key.public_key().as_ref()));
        let keys: Vec<Value> = numbers
            .into_iter()
            .map(|[modulus, exponent]| {
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID,
                       "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent)})
            })
            .collect();
        Answer::json(200, &json!({"keys": keys}))
    }

    /// Returns who a caller is.
    pub(crate) fn userinfo(&self, caller: &Caller) -> Value {
        let identity = self.identity(caller);
        let system = self.system();
        let user = system.schema.object("User");
        let call = Call { caller: system.clone(), ..Call::default() };
        let soql = format!(
            "SELECT FirstName, LastName, Name, Email, UserType, LanguageLocaleKey, LocaleSidKey, TimeZoneSidKey FROM User \
             WHERE Id='{}'",
            caller.user_id
        );
        let record = user.and_then(|_| self.select(&call, "v66.0", &soql, false).ok()?.pop()).unwrap_or_default();
        let text = |name: &str| record[name].clone();
        let nick = caller.username.split('@').next().unwrap_or_default();
        let base = self.url();
        let offset =
            chrono::Offset::fix(&chrono::TimeZone::offset_from_utc_datetime(&caller.zone, &self.now().naive_utc()));
        let link = |path: &str| format!("{base}/services/{path}");
        json!({
            "sub": identity, "id": identity, "asserted_user": true, "user_id": caller.user_id,
            "organization_id": self.org_id, "preferred_username": caller.username, "username": caller.username,
            "nickname": nick, "nick_name": nick, "name": text("Name"), "display_name": text("Name"),
            "email": text("Email"), "email_verified": true, "given_name": text("FirstName"),
            "first_name": text("FirstName"), "family_name": text("LastName"), "last_name": text("LastName"),
            "zoneinfo": text("TimeZoneSidKey"), "timezone": text("TimeZoneSidKey"), "active": true,
            "user_type": "STANDARD", "language": text("LanguageLocaleKey"), "locale": text("LocaleSidKey"),
            "utcOffset": i64::from(offset.local_minus_utc()) * 1000, "is_app_installed": true,
            "photos": {"picture": format!("{base}/profilephoto/005/F"), "thumbnail": format!("{base}/profilephoto/005/T")},
            "status": {"created_date": null, "body": null}, "is_lightning_login_user": false,
            "urls": {"enterprise": link(&format!("Soap/c/{{version}}/{}", self.org_id)),
                     "metadata": link(&format!("Soap/m/{{version}}/{}", self.org_id)),
                     "partner": link(&format!("Soap/u/{{version}}/{}", self.org_id)),
                     "rest": link("data/v{version}/"), "sobjects": link("data/v{version}/sobjects/"),
                     "search": link("data/v{version}/search/"), "query": link("data/v{version}/query/"),
                     "recent": link("data/v{version}/recent/"),
                     "tooling_soap": link(&format!("Soap/T/{{version}}/{}", self.org_id)),
                     "tooling_rest": link("data/v{version}/tooling/"), "profile": format!("{base}/{}", caller.user_id),
                     "feeds": link("data/v{version}/chatter/feeds"), "groups": link("data/v{version}/chatter/groups"),
                     "users": link("data/v{version}/chatter/users"),
                     "feed_items": link("data/v{version}/chatter/feed-items"),
                     "feed_elements": link("data/v{version}/chatter/feed-elements"), "custom_domain": base},
        })
    }

    /// Answers the discovery document.
    pub(crate) fn discovery(&self) -> Answer {
        let base = self.url();
        let link = |path: &str| format!("{base}/services/oauth2/{path}");
        Answer::json(
            200,
            &json!({"issuer": base, "authorization_endpoint": link("authorize"), "token_endpoint": link("token"),
                    "revocation_endpoint": link("revoke"), "userinfo_endpoint": link("userinfo"),
                    "introspection_endpoint": link("introspect"), "jwks_uri": format!("{base}/id/keys"),
                    "scopes_supported": ["api", "full", "id", "openid", "profile", "email", "refresh_token", "web"],
                    "response_types_supported": ["code", "token", "id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"],
                    "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "private_key_jwt"]}),
        )
    }
}

/// Reads modulus and exponent of an RSA public key in DER.
fn numbers(der: &[u8]) -> Option<[&[u8]; 2]> {
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, rest) = element(sequence, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    let plain = |number: &'_ [u8]| number.iter().position(|byte| *byte != 0).unwrap_or_default();
    Some([&modulus[plain(modulus)..], &exponent[plain(exponent)..]])
}

/// Splits off the element of this tag.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeyPair, KeySize};

    use super::*;

    #[test]
    fn a_public_key_gives_its_numbers() {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let [modulus, exponent] = numbers(key.public_key().as_ref()).expect("numbers");
        assert_eq!((modulus.len(), exponent), (256, &[1, 0, 1][..]));
    }
}
