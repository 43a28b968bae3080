//! Secrets are planted wherever the configuration can hold one; then everything is called, and none of them may come out.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::{Bench, Failed};
use crate::serve::Served;

/// What is planted, each by the name of its file; `crm` is good, and all others are for systems that are not there.
fn planted() -> BTreeMap<&'static str, String> {
    let names = [
        "postgres",
        "nats",
        "nats-token",
        "rabbit",
        "kafka",
        "hook",
        "key",
        "inbox",
        "store",
        "jwt",
        "refresh",
        "token",
        "chat",
        "desk",
        "mail",
        "otlp",
        "oidc",
        "cli",
    ];
    names.into_iter().enumerate().map(|(at, name)| (name, format!("pl4nted{at:02}{name}Zq"))).collect()
}

const CONNECTIONS: &str = r#"
  postgres: { kind: postgres, url: "postgres://bridge@127.0.0.1:9/erp", tls: off, password: "${file:postgres}" }
  nats: { kind: nats, url: "nats://127.0.0.1:9", tls: off, user: bridge, password: "${file:nats}" }
  nats_token: { kind: nats, url: "nats://127.0.0.1:9", tls: off, token: "${file:nats-token}" }
  rabbit: { kind: rabbitmq, url: "amqp://127.0.0.1:9/%2f", tls: off, user: bridge, password: "${file:rabbit}" }
  kafka: { kind: kafka, servers: "127.0.0.1:9", tls: off, user: bridge, password: "${file:kafka}" }
  hook: { kind: webhook, url: "http://127.0.0.1:9/x", tls: off, authorization: "${file:hook}", secrets: ["${file:key}"] }
  inbox: { kind: inbox, listen: "127.0.0.1:0", signature: github, secrets: ["${file:inbox}"] }
  store: { kind: files, url: "s3://bucket/x", options: { region: x, endpoint: "http://127.0.0.1:9", allow_http: "true" }, secrets: { secret_access_key: "${file:store}" } }
  jwt: { kind: salesforce, url: "http://127.0.0.1:9", auth: { grant: jwt_bearer, client_id: c, username: u, private_key: "${file:jwt}" } }
  refresh: { kind: salesforce, url: "http://127.0.0.1:9", auth: { grant: refresh_token, client_id: c, refresh_token: "${file:refresh}" } }
  token: { kind: salesforce, url: "SANDBOX", auth: { grant: access_token, access_token: "${file:token}" } }
"#;

const OIDC: &str = r#"
oidc: { issuer: "http://127.0.0.1:9", client_id: c, client_secret: "${file:oidc}", roles: { viewer: [x] } }
"#;

const ALERTS: &str = r#"
alerts:
  to:
    chat: { kind: slack, url: "${file:chat}" }
    desk: { kind: webhook, url: "http://127.0.0.1:9/", authorization: "${file:desk}" }
    mail: { kind: smtp, server: "smtp://127.0.0.1:9", from: a@b.example, to: [c@d.example], user: u, password: "${file:mail}" }
  rules: [{ when: failure, to: [chat, desk, mail] }]
"#;

/// Returns all that lies in a folder and the folders in it, but for what was planted there.
fn files(folder: &Path, all: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failed> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, all)?;
        } else if !planted().keys().any(|name| path.ends_with(name)) {
            all.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_comes_out_anywhere() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    for (name, secret) in planted() {
        let text = if name == "chat" { format!("http://127.0.0.1:9/{secret}") } else { secret };
        std::fs::write(bench.path(name), text)?;
    }
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let connections = CONNECTIONS.replace("SANDBOX", bench.sandbox.url());
    let config = config.replace("syncs:", &format!("{}syncs:", connections.trim_start_matches('\n'))) + ALERTS;
    std::fs::write(bench.path("bridgehead.yaml"), config)?;
    // A sync whose other end is one of those that are not there.
    let mapping = std::fs::read_to_string(bench.path("mappings/products.yaml"))?;
    std::fs::write(
        bench.path("mappings/lost.yaml"),
        mapping.replace("connection: erp", "connection: postgres").replace("mapping: products", "mapping: lost"),
    )?;
    bench.edit(
        "bridgehead.yaml",
        "syncs:\n",
        "syncs:\n  - { sync: lost, mapping: lost, direction: to_salesforce }\n",
    )?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;

    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    let names = [
        "postgres",
        "nats",
        "nats_token",
        "rabbit",
        "kafka",
        "hook",
        "inbox",
        "store",
        "jwt",
        "refresh",
        "token",
        "crm",
    ];
    let mut calls: Vec<Vec<&str>> = names.iter().map(|name| vec!["discover", name]).collect();
    calls.extend([
        vec!["check"],
        vec!["plan"],
        vec!["run", "customers_out"],
        vec!["run", "lost", "--json"],
        vec!["reconcile", "lost"],
        vec!["runs", "--json"],
        vec!["alerts", "--test", "chat"],
        vec!["alerts", "--test", "desk"],
        vec!["alerts", "--test", "mail"],
        vec!["deploy", "--reason", "r"],
        vec!["audit", "export"],
        vec!["schema"],
    ]);
    let mut failed = 0;
    let (collector, mut traces) = crate::telemetry::collector().await?;
    let key = format!("x-key={}", planted()["otlp"]);
    for call in calls {
        let mut command = bench.command(&call);
        command.env("BRIDGEHEAD_LOG", "trace");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector).env("OTEL_EXPORTER_OTLP_HEADERS", &key);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        failed += usize::from(!output.status.success());
        said.push((format!("{call:?}, stdout"), output.stdout));
        said.push((format!("{call:?}, stderr"), output.stderr));
    }
    assert!(failed >= 14, "systems that are not there were asked: {failed}");
    traces.close();
    let before = said.len();
    while let Some((sent, trace)) = traces.recv().await {
        assert_eq!(sent, planted()["otlp"], "it was used");
        said.push(("a trace".to_owned(), trace));
    }
    assert!(said.len() > before, "it traces");
    let mut served = Served::logging(&bench, "trace")?;
    served.call("POST", "/api/v1/syncs/lost/run", None).await?;
    served.until("/api/v1/alerts", |answer| !answer["alerts"].as_array().is_none_or(Vec::is_empty)).await?;
    let told = served.get("/api/v1/openapi.json").await?;
    let paths = told["paths"].as_object().into_iter().flatten().filter(|(_, methods)| methods.get("get").is_some());
    let pages = [
        "/",
        "/records?q=C-1&now=true",
        "/dead-letters",
        "/conflicts",
        "/alerts",
        "/connections",
        "/versions",
        "/audit",
        "/settings",
        "/mappings",
        "/mappings/lost",
        "/syncs/lost",
        "/syncs/lost/plan",
        "/audit/export",
        "/runs/1",
        "/console.js",
    ];
    let paths: Vec<String> = paths
        .map(|(path, _)| {
            let path = path.replace("{id}", "1").replace("{sync}", "lost").replace("{mapping}", "lost");
            path.replace("{connection}", "postgres").replace("{entity}", "lost")
        })
        .collect();
    for path in paths.iter().map(String::as_str).chain(pages) {
        let answer = served.http.get(format!("{}{path}", served.url)).send().await?;
        said.push((format!("{path}, headers"), format!("{:?}", answer.headers()).into_bytes()));
        said.push((path.to_owned(), answer.bytes().await?.to_vec()));
    }
    let page = served.page("/connections").await?;
    for name in names {
        let (_, text) = served.send("/connections", &page, &[("name", name)]).await?;
        said.push((format!("asked {name}"), text.into_bytes()));
    }
    // What people do by the API: systems asked, a configuration checked, places told.
    let project: BTreeMap<String, String> = ["bridgehead.yaml", "mappings/lost.yaml"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), std::fs::read_to_string(bench.path(name))?)))
        .collect::<Result<_, Failed>>()?;
    let mut asked: Vec<(String, Value)> = vec![
        ("/api/v1/versions".to_owned(), json!({"files": project, "reason": "r", "dry_run": true})),
        ("/api/v1/syncs/lost/compare".to_owned(), json!({})),
        ("/api/v1/mappings/lost/try".to_owned(), json!({"text": project["mappings/lost.yaml"]})),
    ];
    asked.extend(names.map(|name| (format!("/api/v1/connections/{name}/try"), json!({}))));
    asked.extend(["chat", "desk", "mail"].map(|to| ("/api/v1/alerts/test".to_owned(), json!({"to": to}))));
    for (path, body) in asked {
        let (status, answer) = served.call("POST", &path, Some(body)).await?;
        assert!(status.as_u16() >= 400 || path.ends_with("compare") || path.ends_with("try"), "{path}: {answer}");
        said.push((path, answer.to_string().into_bytes()));
    }
    // A token on its way to a server.
    let mut command = bench.command(&["--server", &served.url, "runs"]);
    command.env("BRIDGEHEAD_LOG", "trace").env("BRIDGEHEAD_TOKEN", &planted()["cli"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    assert_eq!(output.status.code(), Some(5), "it is none that is good");
    said.push(("a call of a server".to_owned(), [output.stdout, output.stderr].concat()));
    served.child.kill()?;
    let errors: Vec<String> = served.errors.iter().collect();
    assert!(errors.len() > 20, "it logs: {errors:?}");
    said.push(("the log of serve".to_owned(), errors.join("\n").into_bytes()));
    // A provider that is away, and one who comes back from nowhere.
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    std::fs::write(bench.path("bridgehead.yaml"), config + OIDC)?;
    let mut served = Served::logging(&bench, "trace")?;
    for path in ["/sign-in", "/sign-in/oidc", "/sign-in/oidc/callback?state=s&code=c", "/api/v1/syncs"] {
        let answer = served.http.get(format!("{}{path}", served.url)).send().await?;
        said.push((path.to_owned(), answer.bytes().await?.to_vec()));
    }
    served.child.kill()?;
    let errors: Vec<String> = served.errors.iter().collect();
    assert!(errors.iter().any(|line| line.contains("could not sign in")), "{errors:?}");
    said.push(("the log of sign-ins".to_owned(), errors.join("\n").into_bytes()));
    files(&bench.path("."), &mut said)?;
    let mut secrets: Vec<String> = planted().into_values().collect();
    secrets.push("sandbox-secret".to_owned());
    for (place, bytes) in said.iter().filter(|(place, _)| !place.contains("/org/")) {
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            let text = || {
                String::from_utf8_lossy(bytes)
                    .lines()
                    .filter(|line| line.contains(secret))
                    .take(3)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            assert!(!found, "{secret} stands in {place}: {}", text());
        }
    }
    Ok(())
}
