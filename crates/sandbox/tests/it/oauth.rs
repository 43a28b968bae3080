//! Signing in, and what users see.

use std::collections::HashMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sandbox::{Config, Definition, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed, provider};

type Form<'f> = &'f [(&'f str, &'f str)];

const ORG: &str = "\
organization: {admin_password: admin-pass, password_flow: true}
apps:
- {name: Portal, client_id: portal, secret_required: false, pkce_required: true, callbacks: ['http://localhost:9/cb'], scopes: [api, refresh_token, openid]}
- {name: Batch, client_id: batch, client_secret: s3, run_as: batch@example.com, flows: [client_credentials], session_minutes: 15}
- {name: Idle, client_id: idle, client_secret: s3, flows: [client_credentials]}
- {name: Far, client_id: far, client_secret: s3, run_as: batch@example.com, ip_ranges: [10.0.0.0-10.0.0.9]}
- {name: Old, client_id: old, client_secret: s3, flows: [password], approved: [Sales]}
- {name: Talk, client_id: talk, client_secret: s3, run_as: batch@example.com, scopes: [id]}
users:
- {username: batch@example.com, password: batch-pass, profile: Batch}
- {username: gone@example.com, password: gone-pass, active: false}
profiles:
  Batch:
    objects: {Account: [create, read, edit], Contact: [read], Opportunity: []}
    fields: {Account.AnnualRevenue: hidden, Account.Phone: read}
";

async fn org() -> Result<(Sandbox, reqwest::Client), Failed> {
    provider();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), ORG)?;
    let definition = Definition::load(file.path())?;
    let sandbox = Sandbox::start(Config { definition, ..Config::default() }).await?;
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    Ok((sandbox, http))
}

async fn post(
    sandbox: &Sandbox,
    http: &reqwest::Client,
    path: &str,
    form: &[(&str, &str)],
) -> Result<(u16, Value), Failed> {
    let answer = http.post(format!("{}/services/oauth2/{path}", sandbox.url())).form(form).send().await?;
    let status = answer.status().as_u16();
    Ok((status, serde_json::from_slice(&answer.bytes().await?).unwrap_or_default()))
}

fn client(sandbox: &Sandbox, http: &reqwest::Client, token: &Value) -> Client {
    Client {
        http: http.clone(),
        base: format!("{}/services/data/v66.0", sandbox.url()),
        token: token.as_str().unwrap_or_default().to_owned(),
    }
}

/// Reads the hidden fields of a form.
fn hidden(page: &str) -> HashMap<String, String> {
    let parts = page.split("<input type=\"hidden\" name=\"").skip(1);
    parts
        .filter_map(|part| {
            let (name, rest) = part.split_once("\" value=\"")?;
            Some((name.to_owned(), rest.split('"').next()?.replace("&amp;", "&")))
        })
        .collect()
}

#[tokio::test]
async fn a_person_signs_in_with_a_proof_key_and_the_tokens_rotate() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let verifier = "v".repeat(64);
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let authorize = format!("{}/services/oauth2/authorize", sandbox.url());
    let query = [
        ("response_type", "code"),
        ("client_id", "portal"),
        ("redirect_uri", "http://localhost:9/cb"),
        ("state", "a&b"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("scope", "api refresh_token openid"),
    ];
    let page = http.get(&authorize).query(&query).send().await?.text().await?;
    assert!(page.contains("Portal wants to sign in"), "{page}");
    let mut form = hidden(&page);
    form.extend([("username".to_owned(), "batch@example.com".to_owned()), ("password".to_owned(), "wrong".to_owned())]);
    assert_eq!(http.post(&authorize).form(&form).send().await?.status(), 401);
    form.insert("password".to_owned(), "batch-pass".to_owned());
    let answer = http.post(&authorize).form(&form).send().await?;
    let cookie = answer.headers()["set-cookie"].to_str()?.split(';').next().unwrap_or_default().to_owned();
    let page = answer.text().await?;
    assert!(page.contains("asks to act for batch@example.com"), "{page}");
    let mut consent = hidden(&page);
    consent.insert("allow".to_owned(), "1".to_owned());
    let forged: HashMap<String, String> = consent
        .iter()
        .map(|(name, value)| (name.clone(), if name == "proof" { "x".to_owned() } else { value.clone() }))
        .collect();
    let answer = http.post(&authorize).header("cookie", &cookie).form(&forged).send().await?;
    assert_eq!(answer.status(), 200, "a forged consent leads back to the login page");
    // The same consent twice gives two codes.
    let mut codes = Vec::new();
    for _ in 0..2 {
        let answer = http.post(&authorize).header("cookie", &cookie).form(&consent).send().await?;
        let location = answer.headers()["location"].to_str()?.to_owned();
        assert!(
            location.starts_with("http://localhost:9/cb?code=") && location.ends_with("&state=a%26b"),
            "{location}"
        );
        let code = location.split("code=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or_default();
        codes.push(code.to_owned());
    }
    let redeem = |verifier: &'static str, code: usize| {
        [
            ("grant_type", "authorization_code"),
            ("code", codes[code].as_str()),
            ("client_id", "portal"),
            ("redirect_uri", "http://localhost:9/cb"),
            ("code_verifier", verifier),
        ]
    };
    let verifier: &'static str = Box::leak(verifier.into_boxed_str());
    let (status, refused) =
        post(&sandbox, &http, "token", &redeem("somebody-else-who-saw-the-code-pass-by", 1)).await?;
    let wrong = (status, &refused["error_description"]);
    assert_eq!(wrong, (400, &json!("invalid code verifier")), "a code is its client's");
    let (status, granted) = post(&sandbox, &http, "token", &redeem(verifier, 0)).await?;
    assert_eq!(status, 200, "{granted}");
    assert!(
        granted["issued_at"].is_string() && granted["expires_in"].is_null() && granted["id_token"].is_string(),
        "{granted}"
    );
    let (status, refused) = post(&sandbox, &http, "token", &redeem(verifier, 0)).await?;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "a code is good once");

    let identity = http
        .get(granted["id"].as_str().unwrap_or_default())
        .bearer_auth(granted["access_token"].as_str().unwrap_or_default());
    let identity: Value = identity.send().await?.json().await?;
    assert_eq!(identity["username"], "batch@example.com");
    let first = granted["refresh_token"].as_str().unwrap_or_default().to_owned();
    let refresh = async |token: &str| {
        post(
            &sandbox,
            &http,
            "token",
            &[("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "portal")],
        )
        .await
    };
    let (_, second) = refresh(&first).await?;
    let (access, next) = (&second["access_token"], second["refresh_token"].as_str().unwrap_or_default());
    assert_eq!(client(&sandbox, &http, access).call("GET", "/limits", None).await?.0, 200);
    assert_eq!(refresh(&first).await?.0, 400, "an old token is refused");
    assert_eq!(refresh(next).await?.0, 400, "and ends its family");
    assert_eq!(client(&sandbox, &http, access).call("GET", "/limits", None).await?.0, 401, "with all its sessions");
    Ok(())
}

#[tokio::test]
async fn an_id_token_is_signed_by_the_key_that_is_published() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let form = [
        ("grant_type", "password"),
        ("username", "admin@sandbox.example"),
        ("password", "admin-pass"),
        ("client_id", "sandbox"),
        ("client_secret", "sandbox-secret"),
    ];
    assert_eq!(post(&sandbox, &http, "token", &form).await?.0, 200);
    let subject = URL_SAFE_NO_PAD.encode("{\"sub\": \"admin@sandbox.example\"}");
    let exchange = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", &format!("x.{subject}.y")),
        ("scope", "api openid"),
        ("client_id", "sandbox"),
        ("client_secret", "sandbox-secret"),
    ];
    let (_, granted) = post(&sandbox, &http, "token", &exchange).await?;
    let keys: Value = http.get(format!("{}/id/keys", sandbox.url())).send().await?.json().await?;
    let text = |name: &str| keys["keys"][0][name].as_str().unwrap_or_default().to_owned();
    let key = jsonwebtoken::DecodingKey::from_rsa_components(&text("n"), &text("e"))?;
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    rules.set_audience(&["sandbox"]);
    let claims = jsonwebtoken::decode::<Value>(granted["id_token"].as_str().unwrap_or_default(), &key, &rules)?.claims;
    assert_eq!(claims["iss"], json!(sandbox.url()));
    let found: Value =
        http.get(format!("{}/.well-known/openid-configuration", sandbox.url())).send().await?.json().await?;
    assert_eq!(found["token_endpoint"], json!(format!("{}/services/oauth2/token", sandbox.url())));
    Ok(())
}

#[tokio::test]
async fn refusals_of_the_token_endpoint_say_why() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let cases: [(Form<'_>, &str, &str); 10] = [
        (
            &[("grant_type", "client_credentials"), ("client_id", "nope")],
            "invalid_client_id",
            "client identifier invalid",
        ),
        (
            &[("grant_type", "client_credentials"), ("client_id", "batch"), ("client_secret", "no")],
            "invalid_client",
            "invalid client credentials",
        ),
        (
            &[("grant_type", "client_credentials"), ("client_id", "idle"), ("client_secret", "s3")],
            "invalid_grant",
            "no client credentials user enabled",
        ),
        (
            &[("grant_type", "client_credentials"), ("client_id", "old"), ("client_secret", "s3")],
            "invalid_request",
            "client credentials flow not enabled",
        ),
        (
            &[("grant_type", "client_credentials"), ("client_id", "far"), ("client_secret", "s3")],
            "invalid_grant",
            "ip restricted",
        ),
        (
            &[("grant_type", "refresh_token"), ("client_id", "batch"), ("client_secret", "s3"), ("refresh_token", "x")],
            "unsupported_grant_type",
            "grant type not supported",
        ),
        (
            &[
                ("grant_type", "password"),
                ("client_id", "old"),
                ("client_secret", "s3"),
                ("username", "batch@example.com"),
                ("password", "no"),
            ],
            "invalid_grant",
            "authentication failure",
        ),
        (
            &[
                ("grant_type", "password"),
                ("client_id", "old"),
                ("client_secret", "s3"),
                ("username", "batch@example.com"),
                ("password", "batch-pass"),
            ],
            "invalid_app_access",
            "user is not admin approved to access this app",
        ),
        (
            &[
                ("grant_type", "password"),
                ("client_id", "old"),
                ("client_secret", "s3"),
                ("username", "gone@example.com"),
                ("password", "gone-pass"),
            ],
            "inactive_user",
            "user is inactive",
        ),
        (
            &[("grant_type", "magic"), ("client_id", "batch"), ("client_secret", "s3")],
            "unsupported_grant_type",
            "grant type not supported",
        ),
    ];
    for (form, error, description) in cases {
        let (status, refused) = post(&sandbox, &http, "token", form).await?;
        assert_eq!(
            (status, &refused["error"], &refused["error_description"]),
            (400, &json!(error), &json!(description)),
            "{form:?}"
        );
    }
    let strange = http.get(format!(
        "{}/services/oauth2/authorize?client_id=portal&redirect_uri=http://evil/&response_type=code",
        sandbox.url()
    ));
    assert_eq!(strange.send().await?.status(), 400, "nobody is sent to an address that the app has not");
    let plain = http.get(format!(
        "{}/services/oauth2/authorize?client_id=portal&redirect_uri=http://localhost:9/cb&response_type=code",
        sandbox.url()
    ));
    let location = plain.send().await?.headers()["location"].to_str()?.to_owned();
    assert!(location.contains("error=invalid_request"), "a proof key is needed: {location}");
    Ok(())
}

#[tokio::test]
async fn tokens_are_introspected_revoked_and_end() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let grant = [("grant_type", "client_credentials"), ("client_id", "batch"), ("client_secret", "s3")];
    let (_, granted) = post(&sandbox, &http, "token", &grant).await?;
    let token = granted["access_token"].as_str().unwrap_or_default();
    let look = [("token", token), ("client_id", "batch"), ("client_secret", "s3")];
    let (_, seen) = post(&sandbox, &http, "introspect", &look).await?;
    assert_eq!((&seen["active"], &seen["username"]), (&json!(true), &json!("batch@example.com")));
    let stranger = [("token", token), ("client_id", "idle"), ("client_secret", "s3")];
    assert_eq!(
        post(&sandbox, &http, "introspect", &stranger).await?.1,
        json!({"active": false}),
        "an app sees its own tokens"
    );
    sandbox.move_clock(14 * 60);
    assert_eq!(client(&sandbox, &http, &granted["access_token"]).call("GET", "/limits", None).await?.0, 200);
    sandbox.move_clock(28 * 60);
    assert_eq!(
        client(&sandbox, &http, &granted["access_token"]).call("GET", "/limits", None).await?.0,
        200,
        "use keeps it alive"
    );
    sandbox.move_clock(44 * 60);
    assert_eq!(
        client(&sandbox, &http, &granted["access_token"]).call("GET", "/limits", None).await?.0,
        401,
        "rest ends it"
    );
    let (_, granted) = post(&sandbox, &http, "token", &grant).await?;
    let token = granted["access_token"].as_str().unwrap_or_default();
    assert_eq!(post(&sandbox, &http, "revoke", &[("token", token)]).await?.0, 200);
    assert_eq!(
        post(&sandbox, &http, "introspect", &[("token", token), ("client_id", "batch"), ("client_secret", "s3")])
            .await?
            .1["active"],
        false
    );
    assert_eq!(post(&sandbox, &http, "revoke", &[("token", token)]).await?.0, 400);
    let narrow = [("grant_type", "client_credentials"), ("client_id", "talk"), ("client_secret", "s3")];
    let (_, granted) = post(&sandbox, &http, "token", &narrow).await?;
    let (status, refused) = client(&sandbox, &http, &granted["access_token"]).call("GET", "/limits", None).await?;
    assert_eq!((status, &refused[0]["message"]), (401, &json!("This session is not valid for use with the REST API")));
    Ok(())
}

#[tokio::test]
async fn what_a_user_may_not_see_is_absent_everywhere() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let admin = Client::sign_in(&sandbox).await?;
    admin.create("Opportunity", json!({"Name": "o", "StageName": "Prospecting", "CloseDate": "2026-01-01"})).await?;
    let (_, granted) = post(
        &sandbox,
        &http,
        "token",
        &[("grant_type", "client_credentials"), ("client_id", "batch"), ("client_secret", "s3")],
    )
    .await?;
    let user = client(&sandbox, &http, &granted["access_token"]);
    let id = user.create("Account", json!({"Name": "Acme"})).await?;
    let owner = user.query("SELECT Owner.Username FROM Account").await?;
    assert_eq!(owner["records"][0]["Owner"]["Username"], "batch@example.com");
    let (_, described) = user.call("GET", "/sobjects/Account/describe", None).await?;
    let field =
        |name: &str| described["fields"].as_array().into_iter().flatten().find(|field| field["name"] == name).cloned();
    assert!(field("AnnualRevenue").is_none());
    assert_eq!(field("Phone").map(|field| field["updateable"].clone()), Some(json!(false)));
    assert_eq!((&described["createable"], &described["deletable"]), (&json!(true), &json!(false)));
    let admin_id =
        user.query("SELECT Id FROM User WHERE Username = 'admin@sandbox.example'").await?["records"][0]["Id"].clone();
    let path = format!("/sobjects/User/{}/password", admin_id.as_str().unwrap_or_default());
    let (status, _) = user.call("POST", &path, Some(&json!({"NewPassword": "taken-over"}))).await?;
    assert_eq!(status, 403, "nobody sets another's password");
    let records = vec![json!({"attributes": {"type": "Account"}, "Name": "a", "AnnualRevenue": 1}); 200];
    for _ in 0..2 {
        admin.call("POST", "/composite/sobjects", Some(&json!({"records": records}))).await?;
    }
    let small = [("sforce-query-options", "batchSize=200")];
    let (_, _, page) = admin.raw("GET", "/query?q=SELECT+AnnualRevenue+FROM+Account", &small, "").await?;
    let page: Value = serde_json::from_slice(&page)?;
    let next = page["nextRecordsUrl"].as_str().unwrap_or_default().trim_start_matches("/services/data/v66.0");
    let (status, refused) = user.call("GET", next, None).await?;
    assert_eq!(
        (status, &refused[0]["errorCode"]),
        (400, &json!("INVALID_QUERY_LOCATOR")),
        "nobody reads on for another"
    );
    assert_eq!(admin.call("GET", next, None).await?.0, 200);
    let (_, global) = user.call("GET", "/sobjects", None).await?;
    assert!(!global["sobjects"].as_array().into_iter().flatten().any(|object| object["name"] == "Opportunity"));
    let cases = [
        ("GET", "/query?q=SELECT+AnnualRevenue+FROM+Account".to_owned(), Value::Null, 400, "INVALID_FIELD"),
        (
            "GET",
            "/query?q=SELECT+Id+FROM+Account+WHERE+AnnualRevenue+%3E+1".to_owned(),
            Value::Null,
            400,
            "INVALID_FIELD",
        ),
        ("GET", "/query?q=SELECT+Id+FROM+Opportunity".to_owned(), Value::Null, 400, "INVALID_TYPE"),
        ("GET", "/sobjects/Opportunity/describe".to_owned(), Value::Null, 404, "NOT_FOUND"),
        ("PATCH", format!("/sobjects/Account/{id}"), json!({"AnnualRevenue": 1}), 400, "INVALID_FIELD"),
        ("PATCH", format!("/sobjects/Account/{id}"), json!({"Phone": "1"}), 400, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ("DELETE", format!("/sobjects/Account/{id}"), Value::Null, 403, "INSUFFICIENT_ACCESS_OR_READONLY"),
        ("POST", "/sobjects/Contact".to_owned(), json!({"LastName": "x"}), 403, "INSUFFICIENT_ACCESS_OR_READONLY"),
        (
            "POST",
            "/jobs/ingest".to_owned(),
            json!({"object": "Account", "operation": "hardDelete"}),
            400,
            "FEATURENOTENABLED",
        ),
    ];
    for (method, path, body, expected, code) in cases {
        let (status, answer) = user.call(method, &path, Some(&body).filter(|body| !body.is_null())).await?;
        assert_eq!((status, &answer[0]["errorCode"]), (expected, &json!(code)), "{method} {path}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn an_assertion_signed_by_the_app_s_key_signs_a_user_in() -> Result<(), Failed> {
    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    provider();
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let public = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
    let sandbox = Sandbox::start(Config { jwt_public_key: Some(public), ..Config::default() }).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let now = chrono::Utc::now().timestamp();
    let assertion = |claims: &Value| -> Result<String, Failed> {
        let body =
            format!("{}.{}", URL_SAFE_NO_PAD.encode("{\"alg\":\"RS256\"}"), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut sealed = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, body.as_bytes(), &mut sealed)?;
        Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    };
    let good = json!({"iss": "sandbox", "sub": "admin@sandbox.example", "aud": "https://login.salesforce.com", "exp": now + 180});
    let cases = [
        (json!({}), 200, ""),
        (json!({"aud": "https://test.salesforce.com"}), 200, ""),
        (json!({"aud": "https://example.com"}), 400, "audience is invalid"),
        (json!({"sub": "nobody@sandbox.example"}), 400, "user hasn't approved this consumer"),
        (json!({"iss": "nope"}), 400, "client identifier invalid"),
        (json!({"exp": now - 600}), 400, "invalid assertion"),
    ];
    for (change, expected, description) in cases {
        let mut claims = good.clone();
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let assertion = assertion(&claims)?;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
        let (status, answer) = post(&sandbox, &http, "token", &form).await?;
        assert_eq!(status, expected, "{claims}: {answer}");
        assert!(description.is_empty() || answer["error_description"] == description, "{claims}: {answer}");
        assert!(answer["refresh_token"].is_null(), "this flow has none");
    }
    let mut forged = assertion(&good)?;
    forged.replace_range(forged.len() - 20.., "AAAAAAAAAAAAAAAAAAAA");
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", forged.as_str())];
    assert_eq!(post(&sandbox, &http, "token", &form).await?.1["error_description"], "invalid assertion");
    Ok(())
}

#[tokio::test]
async fn a_token_comes_in_the_fragment_for_those_who_still_want_it() -> Result<(), Failed> {
    let (sandbox, http) = org().await?;
    let authorize = format!("{}/services/oauth2/authorize", sandbox.url());
    let query = [
        ("response_type", "token"),
        ("client_id", "sandbox"),
        ("redirect_uri", "http://localhost:3000/callback"),
        ("state", "s"),
    ];
    let page = http.get(&authorize).query(&query).send().await?.text().await?;
    let mut form = hidden(&page);
    form.extend([
        ("username".to_owned(), "admin@sandbox.example".to_owned()),
        ("password".to_owned(), "admin-pass".to_owned()),
    ]);
    let answer = http.post(&authorize).form(&form).send().await?;
    let cookie = answer.headers()["set-cookie"].to_str()?.split(';').next().unwrap_or_default().to_owned();
    let consent = hidden(&answer.text().await?);
    let mut denied = consent.clone();
    denied.insert("deny".to_owned(), "1".to_owned());
    let answer = http.post(&authorize).header("cookie", &cookie).form(&denied).send().await?;
    let location = answer.headers()["location"].to_str()?.to_owned();
    assert!(
        location.contains("#error=access_denied&error_description=end-user%20denied%20authorization&state=s"),
        "{location}"
    );
    let mut allowed = consent;
    allowed.insert("allow".to_owned(), "1".to_owned());
    let answer = http.post(&authorize).header("cookie", &cookie).form(&allowed).send().await?;
    let location = answer.headers()["location"].to_str()?.to_owned();
    let token = location.split("access_token=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or_default();
    let token = json!(token.replace("%21", "!"));
    assert_eq!(client(&sandbox, &http, &token).call("GET", "/limits", None).await?.0, 200, "{location}");
    Ok(())
}
