//! `bridgehead serve` as operators see it: by schedule, by the admin API, with tokens.

use std::io::BufRead as _;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::bench::{Bench, Failed};

/// A server that ends with this value.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) http: Client,
    pub(crate) token: Option<String>,
    /// Lines that it says about what went wrong.
    pub(crate) errors: Receiver<String>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(bench: &Bench) -> Result<Self, Failed> {
        Self::logging(bench, "warn")
    }

    pub(crate) fn logging(bench: &Bench, level: &str) -> Result<Self, Failed> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut child = bench.command(&["serve", "--port", "0"]).env("BRIDGEHEAD_LOG", level).spawn()?;
        let mut lines = std::io::BufReader::new(child.stdout.take().ok_or("its output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let (_, rest) = line.split_once("http://").ok_or_else(|| format!("no address: {line}"))?;
        let url = format!("http://{}", rest.split('/').next().unwrap_or_default());
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let (sender, errors) = std::sync::mpsc::channel();
        let said = std::io::BufReader::new(child.stderr.take().ok_or("its errors")?);
        std::thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, url, http: Client::builder().no_proxy().build()?, token: None, errors })
    }

    /// Waits until it says something about what went wrong.
    fn says(&self, part: &str) -> Result<(), Failed> {
        loop {
            let line =
                self.errors.recv_timeout(Duration::from_mins(1)).map_err(|_| format!("it does not say {part:?}"))?;
            if line.contains(part) {
                return Ok(());
            }
        }
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), Failed> {
        let mut request = self.http.request(method.parse()?, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failed> {
        let (status, answer) = self.call("GET", path, None).await?;
        assert_eq!(status, 200, "{path}: {answer}");
        Ok(answer)
    }

    /// Asks until the answer is as it should be.
    pub(crate) async fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Result<Value, Failed> {
        let asked = async {
            loop {
                let answer = self.get(path).await?;
                if holds(&answer) {
                    return Ok(answer);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), asked).await.map_err(|_| format!("{path} does not come to it"))?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_run_by_schedule_one_behind_another_and_follow_the_project() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    bench.edit(
        "bridgehead.yaml",
        "deletes: propagate }\n  - { sync: contacts_out",
        "deletes: propagate, schedule: { every: 1h } }\n  - { sync: contacts_out",
    )?;
    bench.edit(
        "bridgehead.yaml",
        "mapping: products, direction: to_salesforce",
        "mapping: products, direction: to_salesforce, schedule: { after: customers_out }",
    )?;
    bench.edit(
        "bridgehead.yaml",
        "mapping: customers, direction",
        "mapping: customers, reconcile: { schedule: { after: customers_out } }, direction",
    )?;
    let served = Served::start(&bench)?;
    let one =
        |name: &'static str| move |answer: &Value| answer["runs"][0]["outcome"] == "green" && answer["sync"] == name;
    served.until("/api/v1/syncs/customers_out", one("customers_out")).await?;
    served.until("/api/v1/syncs/products_in", one("products_in")).await?;
    let rows: i64 = bench.erp()?.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?;
    assert_eq!(rows, 1);
    let compared = |answer: &Value| answer["reconciliations"][0]["agrees"] == true;
    served.until("/api/v1/reconciliations", compared).await?;
    let planned = served.get("/api/v1/syncs/customers_out%3A%20compare").await?;
    assert_eq!(planned["planned"]["failed"], Value::Null, "{planned}");
    let all = served.get("/api/v1/syncs").await?;
    let orders = all["syncs"].as_array().into_iter().flatten().find(|one| one["sync"] == "orders_in").cloned();
    assert_eq!(orders.ok_or("orders_in")?["last_run"], Value::Null, "nothing schedules it");

    // A changed project is taken over when it is good, and not when it is not.
    bench.edit("mappings/orders.yaml", "external: engraving", "external: engravin")?;
    bench.edit(
        "bridgehead.yaml",
        "mapping: orders, direction: to_salesforce",
        "mapping: orders, direction: to_salesforce, schedule: { every: 1h }",
    )?;
    tokio::task::block_in_place(|| served.says("did you mean engraving?"))?;
    let planned = served.get("/api/v1/syncs/orders_in").await?;
    assert_eq!(planned["planned"]["next"], Value::Null, "what was there before goes on: {planned}");
    bench.edit("mappings/orders.yaml", "external: engravin", "external: engraving")?;
    served.until("/api/v1/syncs/orders_in", |answer| answer["runs"][0]["outcome"] == "green").await?;
    bench.expect(&["pause", "orders_in", "--why", "stocktaking"], 0, &["is paused"]).await?;
    let paused = |answer: &Value| answer["planned"]["paused"] == "stocktaking";
    served.until("/api/v1/syncs/orders_in", paused).await?;
    bench.expect(&["audit", "verify"], 0, &["The audit chain is whole"]).await?;
    bench.expect(&["audit", "list"], 0, &["scheduler", "run_ended", "customers_out", "paused", "stocktaking"]).await?;

    // It ends when the system asks it to.
    let id = i32::try_from(served.child.id())?;
    let asked = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status()?;
    assert!(asked.success());
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || served.child.wait()).await??;
    assert!(ended.success(), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_or_too_little_is_turned_away() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench
        .expect(&["serve", "--address", "0.0.0.0", "--port", "0"], 4, &["there is no token yet", "token make"])
        .await?;
    let mut served = Served::start(&bench)?;
    served.get("/api/v1/syncs").await?;
    let make = |role: &'static str| {
        let bench = &bench;
        async move {
            let output = bench.call(&["token", "make", role, "--role", role]).await?;
            Ok::<String, Failed>(String::from_utf8(output.stdout)?.trim().to_owned())
        }
    };
    let (viewer, operator, admin) = (make("viewer").await?, make("operator").await?, make("admin").await?);
    assert_eq!(served.call("GET", "/api/v1/syncs", None).await?.0, 401, "now everybody needs one");
    assert_eq!(served.call("GET", "/health", None).await?.0, 200);
    assert_eq!(served.call("GET", "/ready", None).await?.0, 200);
    // Each route, with the least role that may call it, and what is answered then.
    let why = || Some(json!({"why": "w"}));
    let winner = || Some(json!({"winner": "external"}));
    let text = || Some(json!({"text": ""}));
    let files = || Some(json!({"files": {"mappings/x.yaml": ""}, "reason": "r"}));
    let routes: [(&str, &str, Option<Value>, usize, u16); 53] = [
        ("GET", "/api/v1/streams", None, 0, 200),
        ("GET", "/api/v1/syncs", None, 0, 200),
        ("GET", "/api/v1/syncs/orders_in", None, 0, 200),
        ("GET", "/api/v1/runs", None, 0, 200),
        ("GET", "/api/v1/runs/7", None, 0, 404),
        ("GET", "/api/v1/dead-letters", None, 0, 200),
        ("GET", "/api/v1/dead-letters/7", None, 0, 404),
        ("GET", "/api/v1/conflicts", None, 0, 200),
        ("GET", "/api/v1/conflicts/7", None, 0, 404),
        ("GET", "/api/v1/reconciliations", None, 0, 200),
        ("GET", "/api/v1/audit", None, 0, 200),
        ("GET", "/api/v1/alerts", None, 0, 200),
        ("GET", "/api/v1/records?key=x", None, 0, 200),
        ("GET", "/api/v1/connections", None, 0, 200),
        ("GET", "/api/v1/mappings", None, 0, 200),
        ("GET", "/api/v1/mappings/orders", None, 0, 200),
        ("POST", "/api/v1/mappings/orders/try", text(), 1, 422),
        ("POST", "/api/v1/mappings/orders/keep", Some(json!({"text": "", "reason": "r"})), 2, 422),
        ("GET", "/api/v1/budgets", None, 0, 200),
        ("GET", "/api/v1/reconciliations/7", None, 0, 404),
        ("POST", "/api/v1/runs/7/undo", None, 1, 404),
        ("POST", "/api/v1/versions/7/promote", Some(json!({"reason": "r"})), 2, 404),
        ("POST", "/api/v1/tokens", Some(json!({"name": "n", "role": "viewer", "days": 0})), 2, 422),
        ("GET", "/api/v1/sessions", None, 2, 200),
        ("POST", "/api/v1/dead-letters/7/replay", None, 1, 404),
        ("GET", "/api/v1/versions", None, 0, 200),
        ("GET", "/api/v1/versions/7", None, 0, 404),
        ("GET", "/metrics", None, 0, 200),
        ("POST", "/api/v1/syncs/orders_in/run", None, 1, 202),
        ("POST", "/api/v1/syncs/orders_in/pause", why(), 1, 200),
        ("POST", "/api/v1/syncs/orders_in/resume", None, 1, 200),
        ("DELETE", "/api/v1/dead-letters/7", None, 1, 404),
        ("POST", "/api/v1/conflicts/7/resolve", winner(), 1, 404),
        ("GET", "/api/v1/tokens", None, 2, 200),
        ("DELETE", "/api/v1/tokens/77", None, 2, 404),
        ("GET", "/api/v1/syncs/orders_in/plan", None, 1, 200),
        ("POST", "/api/v1/syncs/nobody/compare", None, 1, 404),
        ("GET", "/api/v1/captures", None, 1, 200),
        ("DELETE", "/api/v1/captures/orders_in", None, 1, 404),
        ("POST", "/api/v1/dead-letters/7/mend", Some(json!({"fields": {}})), 1, 404),
        ("POST", "/api/v1/connections/nowhere/try", None, 1, 404),
        ("GET", "/api/v1/connections/erp/entities", None, 1, 200),
        ("GET", "/api/v1/connections/erp/entities/customers", None, 1, 200),
        ("GET", "/api/v1/settings", None, 0, 200),
        ("POST", "/api/v1/versions", files(), 2, 422),
        ("POST", "/api/v1/rollback", Some(json!({"reason": "r"})), 2, 404),
        ("POST", "/api/v1/alerts/test", Some(json!({"to": "nobody"})), 1, 404),
        ("GET", "/api/v1/audit/export", None, 0, 200),
        ("GET", "/api/v1/audit/verify", None, 0, 200),
        ("POST", "/api/v1/audit/prune", Some(json!({"before": "1999-12-31"})), 2, 200),
        ("DELETE", "/api/v1/sessions/nobody", None, 2, 404),
        ("GET", "/api/v1/records?key=x&now=true", None, 1, 200),
        ("GET", "/api/v1/connections/erp/entities/nothing", None, 1, 422),
    ];
    let tokens = [&viewer, &operator, &admin];
    let listed = routes.clone();
    for (method, path, body, least, wanted) in routes {
        served.token = None;
        assert_eq!(served.call(method, path, body.clone()).await?.0, 401, "{path}");
        for (role, token) in tokens.into_iter().enumerate().take(least + 1) {
            served.token = Some(token.clone());
            let (status, answer) = served.call(method, path, body.clone()).await?;
            let wanted = if role < least { 403 } else { wanted };
            assert_eq!(status, wanted, "{method} {path} as {role}: {answer}");
            assert!(!answer.to_string().contains("bh_"), "{answer}");
        }
    }
    // Who is signed in can be signed out by an admin, at once.
    served.token = Some(admin);
    let browser = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let came = browser.post(format!("{}/sign-in", served.url)).form(&[("token", &operator)]).send().await?;
    let cookie = came.headers()["set-cookie"].to_str()?.split(';').next().unwrap_or_default().to_owned();
    let overview = async || browser.get(format!("{}/", served.url)).header("cookie", &cookie).send().await;
    assert_eq!(overview().await?.status(), 200);
    let known = served.get("/api/v1/sessions").await?["sessions"][0].clone();
    assert_eq!(known["name"], "operator");
    let path = format!("/api/v1/sessions/{}", known["id"].as_str().ok_or("an id")?);
    assert_eq!(served.call("DELETE", &path, None).await?.0, 204);
    assert_eq!(overview().await?.headers()["location"], "/sign-in");
    // What makes no sense, and what other pages send.
    for (method, path, body, wanted) in [
        ("GET", "/api/v1/runs?limit=0", None, 400),
        ("GET", "/api/v1/runs?limit=many", None, 400),
        ("GET", "/api/v1/runs?nonsense=1", None, 400),
        ("GET", "/api/v1/runs/%00", None, 404),
        ("GET", "/api/v1/nothing", None, 404),
        ("POST", "/api/v1/syncs/nobody/run", None, 404),
        ("POST", "/api/v1/syncs/orders_in/pause", None, 415),
        ("POST", "/api/v1/syncs/orders_in/pause", Some(json!({"reason": "x"})), 422),
        ("POST", "/api/v1/syncs/orders_in/pause", Some(json!({"why": "x".repeat(100_000)})), 413),
        ("POST", "/api/v1/conflicts/7/resolve", Some(json!({"winner": "nobody"})), 422),
        ("POST", "/api/v1/syncs/orders_in/resume", None, 409),
        ("POST", "/api/v1/syncs/orders_in/run", Some(json!({"full": true, "pilot": 3})), 422),
        ("POST", "/api/v1/syncs/orders_in/run", Some(json!({"fully": true})), 422),
        ("POST", "/api/v1/syncs/orders_in/compare", Some(json!({"tolerance": {"Amount": -1}})), 422),
        ("POST", "/api/v1/versions", Some(json!({"files": {"../bridgehead.yaml": ""}, "reason": "r"})), 422),
        ("POST", "/api/v1/versions", Some(json!({"files": {"bridgehead.yaml": "version: 9"}, "reason": "r"})), 422),
        ("POST", "/api/v1/audit/prune", Some(json!({"before": "yesterday"})), 422),
        ("PUT", "/api/v1/runs", None, 405),
    ] {
        let (status, answer) = served.call(method, path, body).await?;
        assert_eq!(status, wanted, "{method} {path}: {answer}");
        assert_eq!(answer["status"], wanted, "a problem says what it is: {answer}");
    }
    // The description tells of every call, and each answers as it says it may, whatever stands for its parts.
    let told = served.get("/api/v1/openapi.json").await?;
    let mut calls = 0;
    for (path, methods) in told["paths"].as_object().into_iter().flatten() {
        for (method, call) in methods.as_object().into_iter().flatten() {
            for part in ["1", "\u{e9}%2F", "..", "-9223372036854775808"] {
                let path = path.split('/').map(|known| if known.starts_with('{') { part } else { known });
                let path = path.collect::<Vec<_>>().join("/");
                let body = call.get("requestBody").map(|_| json!({"why": 1, "winner": null}));
                let (status, answer) = served.call(&method.to_uppercase(), &path, body).await?;
                // What is no part of a path leads to another.
                let known = !call["responses"][status.as_str()].is_null() || (part == ".." && status == 404);
                assert!(known, "{method} {path} answers {status}: {answer}");
                calls += 1;
            }
        }
    }
    assert!(calls >= 54 * 4, "{calls}");
    // The list above has them all.
    let parts =
        |path: &str| path.split('?').next().unwrap_or_default().split('/').map(str::to_owned).collect::<Vec<_>>();
    for (path, methods) in told["paths"].as_object().into_iter().flatten() {
        for method in methods.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let like = |(of, tried, ..): &(&str, &str, Option<Value>, usize, u16)| {
                let (tried, told) = (parts(tried), parts(path));
                let same = |(tried, told): (&String, &String)| tried == told || told.starts_with('{');
                *of == method && tried.len() == told.len() && tried.iter().zip(&told).all(same)
            };
            let open = ["/health", "/ready", "/api/v1/openapi.json"].contains(&path.as_str());
            assert!(open || listed.iter().any(like), "{method} {path} is not tried without a token");
        }
    }
    let forged = served.http.post(format!("{}/api/v1/syncs/orders_in/run", served.url));
    let forged =
        forged.bearer_auth(served.token.as_deref().unwrap_or_default()).header("origin", "http://evil.example");
    assert_eq!(forged.send().await?.status(), 403);
    let list = bench.call(&["token", "list"]).await?;
    assert!(!String::from_utf8_lossy(&list.stdout).contains("bh_"));
    bench.expect(&["token", "revoke", "3"], 0, &["good for nothing"]).await?;
    assert_eq!(served.call("GET", "/api/v1/syncs", None).await?.0, 401);
    // Whoever guesses has to wait.
    served.token = Some("bh_guess".to_owned());
    let mut last = StatusCode::OK;
    for _ in 0..30 {
        last = served.call("GET", "/api/v1/syncs", None).await?.0;
    }
    assert_eq!(last, 429);
    served.token = Some(operator);
    assert_eq!(served.call("GET", "/api/v1/syncs", None).await?.0, 200, "who has one is not kept out");
    let log = bench.path(".bridgehead");
    for entry in std::fs::read_dir(log)? {
        let bytes = std::fs::read(entry?.path())?;
        assert!(!bytes.windows(viewer.len()).any(|part| part == viewer.as_bytes()), "no token stands in the state");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_is_told_which_columns_went_where() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let (url, mut told) = receiver(0).await?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let lineage = format!("lineage: {{ url: \"{url}\", namespaces: {{ erp: \"sqlite://erp\" }} }}\n");
    std::fs::write(bench.path("bridgehead.yaml"), format!("{config}{lineage}"))?;
    bench.expect(&["run", "customers_out"], 0, &["no row missing"]).await?;
    let (begun, ended) = (told.recv().await.ok_or("an event")?, told.recv().await.ok_or("an event")?);
    assert_eq!((&begun["eventType"], &ended["eventType"]), (&json!("START"), &json!("COMPLETE")));
    assert_eq!(begun["run"]["runId"], ended["run"]["runId"]);
    assert_eq!(ended["job"], json!({"namespace": "bridgehead", "name": "customers_out"}));
    assert_eq!(ended["inputs"][0]["namespace"], "bridgehead/crm");
    let output = &ended["outputs"][0];
    assert_eq!((&output["namespace"], &output["name"]), (&json!("sqlite://erp"), &json!("customers")));
    let fields = &output["facets"]["columnLineage"]["fields"];
    let from = |field: &str| -> Vec<Value> {
        let inputs = fields[field]["inputFields"].as_array().into_iter().flatten();
        inputs.map(|input| json!([input["field"], input["transformations"][0]["subtype"]])).collect()
    };
    assert_eq!(from("city"), [json!(["BillingCity", "IDENTITY"])]);
    assert_eq!(from("country"), [json!(["BillingCountry", "TRANSFORMATION"])], "`value` is the paired field");
    assert_eq!(from("address"), [json!(["BillingCity", "TRANSFORMATION"]), json!(["BillingStreet", "TRANSFORMATION"])]);
    // A run that fails says so, and a catalog that is away makes none fail.
    bench.erp()?.execute_batch("DROP TABLE customers")?;
    bench.expect(&["run", "customers_out"], 4, &[]).await?;
    assert_eq!(told.recv().await.ok_or("an event")?["eventType"], "START");
    let failed = told.recv().await.ok_or("an event")?;
    assert_eq!(failed["eventType"], "FAIL");
    assert!(failed["run"]["facets"]["errorMessage"]["message"].to_string().contains("customers"), "{failed}");
    bench.edit("bridgehead.yaml", &url, "http://127.0.0.1:9/")?;
    bench.client()?.create("Product2", &json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    bench.expect(&["run", "products_in"], 0, &["no row missing"]).await
}

/// A place that takes messages by POST; `refusing` of them first are refused.
async fn receiver(refusing: usize) -> Result<(String, tokio::sync::mpsc::UnboundedReceiver<Value>), Failed> {
    let (sender, messages) = tokio::sync::mpsc::unbounded_channel();
    let left = std::sync::Arc::new(AtomicUsize::new(refusing));
    let take = move |body: String| {
        let refused = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refused.is_err() {
            let _ = sender.send(serde_json::from_str(&body).unwrap_or(Value::String(body)));
        }
        let status = if refused.is_ok() { 503 } else { 200 };
        async move { axum::http::StatusCode::from_u16(status).unwrap_or_default() }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let router = axum::Router::new().route("/hook", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, messages))
}

/// A program of `clients/` with the Python that has what it needs: what it says first, and the rest as it comes. It ends with
/// what is returned.
fn client(script: &str) -> Result<(Child, String, Receiver<String>), Failed> {
    let missing = "BRIDGEHEAD_TEST_PYTHON is not set; `cargo xtask test` installs what it names";
    let python = std::env::var("BRIDGEHEAD_TEST_PYTHON").map_err(|_| missing)?;
    let script = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = std::process::Command::new(python);
    command.args(["-W", "ignore"]).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = std::io::BufReader::new(child.stdout.take().ok_or("its output")?).lines();
    let first = lines.next().ok_or("it says nothing")??;
    let (sender, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    Ok((child, first, said))
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_come_by_mail() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let (mut server, port, said) = client("mail.py")?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let alerts = format!(
        "alerts:\n  to: {{ desk: {{ kind: smtp, server: \"plain://127.0.0.1:{port}\", from: \"bridgehead@example.com\", \
         to: [\"desk@example.com\"] }} }}\n  rules: [{{ when: failure, to: [desk] }}]\n"
    );
    std::fs::write(bench.path("bridgehead.yaml"), config + &alerts)?;
    bench.expect(&["alerts", "--test", "desk"], 0, &[]).await?;
    let mail: Value = serde_json::from_str(&said.recv_timeout(Duration::from_mins(1))?)?;
    assert_eq!((&mail["from"], &mail["to"]), (&json!("bridgehead@example.com"), &json!(["desk@example.com"])));
    assert!(mail["text"].as_str().is_some_and(|text| text.contains("this is a test")), "{mail}");
    // What holds is told by mail, too, and so is its end.
    bench.erp()?.execute_batch("ALTER TABLE customers RENAME TO gone")?;
    let served = Served::start(&bench)?;
    served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
    let mail: Value = serde_json::from_str(&said.recv_timeout(Duration::from_mins(1))?)?;
    assert!(mail["subject"].as_str().is_some_and(|text| text.contains("customers_out")), "{mail}");
    bench.erp()?.execute_batch("ALTER TABLE gone RENAME TO customers")?;
    served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
    let mail: Value = serde_json::from_str(&said.recv_timeout(Duration::from_mins(1))?)?;
    assert!(mail["text"].as_str().is_some_and(|text| text.contains("over")), "{mail}");
    server.kill()?;
    server.wait()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_by_a_provider_and_stay_so_over_a_restart() -> Result<(), Failed> {
    let missing = "BRIDGEHEAD_TEST_NODE_MODULES is not set; `cargo xtask test` installs what it names";
    let modules = std::env::var("BRIDGEHEAD_TEST_NODE_MODULES").map_err(|_| missing)?;
    let bench = Bench::new().await?;
    let (mut provider, port, _) = client("oidc.py")?;
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    let oidc = format!(
        "oidc: {{ issuer: \"http://localhost:{port}\", client_id: console, client_secret: \"${{env:OIDC_SECRET}}\", \
         roles: {{ viewer: [staff], admin: [integration] }} }}\n"
    );
    std::fs::write(bench.path("bridgehead.yaml"), config + &oidc)?;
    std::fs::write(bench.path("secret"), "not told")?;
    bench.edit("bridgehead.yaml", "${env:OIDC_SECRET}", "${file:secret}")?;
    let look = |served: &Served, what: &str| {
        let script = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/oidc.mjs");
        let mut command = std::process::Command::new("node");
        command.arg(script).args([&served.url, &modules, what]).arg(bench.path("browser.json"));
        async move {
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && text.contains("done"), "{text}");
            Ok::<(), Failed>(())
        }
    };
    let served = Served::start(&bench)?;
    // Nobody needs a token for this machine any more than before, but everybody needs one, or the provider's word.
    let (status, _) = served.call("GET", "/api/v1/syncs", None).await?;
    assert_eq!(status, 401);
    look(&served, "first").await?;
    // Whom other roles would let in otherwise is asked anew as soon as they are at work, and so are the roles before.
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("browser.json"))?)?;
    let session = kept["cookies"].as_array().into_iter().flatten().find(|one| one["name"] == "bridgehead_session");
    let session = format!("bridgehead_session={}", session.ok_or("a session")?["value"].as_str().unwrap_or_default());
    let asked = async |wanted: u16| {
        let browser = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let came = async {
            while browser.get(format!("{}/", served.url)).header("cookie", &session).send().await?.status() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<(), Failed>(())
        };
        tokio::time::timeout(Duration::from_mins(1), came).await.map_err(|_| format!("{wanted} is not answered"))?
    };
    asked(200).await?;
    bench.edit("bridgehead.yaml", "admin: [integration]", "operator: [integration]")?;
    asked(303).await?;
    bench.edit("bridgehead.yaml", "operator: [integration]", "admin: [integration]")?;
    asked(200).await?;
    drop(served);
    let served = Served::start(&bench)?;
    look(&served, "again").await?;
    bench.expect(&["audit", "list"], 0, &["signed_in", "ada@example.com"]).await?;
    provider.kill()?;
    provider.wait()?;
    // Without the provider nobody is let in, and the console says why.
    let page = served.http.get(format!("{}/sign-in/oidc", served.url)).send().await?;
    assert_eq!(page.status(), 502);
    assert!(page.text().await?.contains("can't be had"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_is_followed_by_its_schedule() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    bench.edit(
        "bridgehead.yaml",
        "deletes: propagate }\n  - { sync: contacts_out",
        "deletes: propagate, schedule: { on: changes } }\n  - { sync: contacts_out",
    )?;
    let served = Served::start(&bench)?;
    served.until("/api/v1/streams", |answer| answer["streams"][0]["state"] == "listening").await?;
    let names = || -> Result<i64, Failed> {
        Ok(bench.erp()?.query_row("SELECT count(*) FROM customers", [], |row| row.get(0))?)
    };
    let reached = |count: i64| async move {
        let waited = async {
            while names()? < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<(), Failed>(())
        };
        tokio::time::timeout(Duration::from_mins(1), waited).await.map_err(|_| format!("{count} customers"))?
    };
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    reached(1).await?;
    let one = served.get("/api/v1/syncs/customers_out").await?;
    assert_eq!(one["planned"]["follows"], true, "{one}");
    // Another configuration is taken over, and nothing in between is lost.
    bench.edit("mappings/customers.yaml", "external: city", "external: city, to_external: \"upper(value)\"")?;
    bench
        .client()?
        .create("Account", &json!({"Name": "Birch", "Customer_No__c": "C-2", "BillingCity": "Bonn"}))
        .await?;
    reached(2).await?;
    let shouted = || -> Result<i64, Failed> {
        Ok(bench.erp()?.query_row("SELECT count(*) FROM customers WHERE city = 'BONN'", [], |row| row.get(0))?)
    };
    let waited = async {
        while shouted()? == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<(), Failed>(())
    };
    tokio::time::timeout(Duration::from_mins(1), waited).await.map_err(|_| "the new mapping is not at work")??;
    let (status, _) =
        served.call("POST", "/api/v1/syncs/customers_out/pause", Some(json!({"why": "stocktaking"}))).await?;
    assert_eq!(status, 200);
    served.until("/api/v1/streams", |answer| answer["streams"][0]["state"] == "stopped").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_of_an_alert_once_and_once_when_it_is_over() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let (url, mut told) = receiver(7).await?;
    let (chat, mut said) = receiver(0).await?;
    std::fs::write(bench.path("hook"), chat)?;
    let alerts = format!(
        "alerts:\n  to:\n    desk: {{ kind: webhook, url: \"{url}\" }}\n    chat: {{ kind: slack, url: \"${{file:hook}}\" }}\n  rules:\n    \
         - {{ when: dead_letters, syncs: [orders_in], to: [desk, chat] }}\n    - {{ when: failure, to: [chat] }}\n"
    );
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    std::fs::write(bench.path("bridgehead.yaml"), config + &alerts)?;
    bench.expect(&["alerts", "--test", "chat"], 0, &["chat took a test"]).await?;
    assert!(said.recv().await.ok_or("a test")?["text"].to_string().contains("this is a test"));
    bench.client()?.create("Product2", &json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    let erp = bench.erp()?;
    let insert = "INSERT INTO orders VALUES ('O-1', 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'Melted', '2026-01-01T00:00:00.000Z')";
    erp.execute(insert, [])?;
    bench.expect(&["run", "orders_in"], 3, &["1 dead letters"]).await?;
    let served = Served::start(&bench)?;
    // The desk is away at first, and is told as soon as it is back; the chat hears of it again with it.
    let first = said.recv().await.ok_or("a message")?;
    assert_eq!(
        first["text"],
        "\u{2717} orders_in: 1 dead letter waits \u{2014} what to do: docs/runbooks/dead_letters.md"
    );
    let desk = told.recv().await.ok_or("a message")?;
    let alert = &desk["alerts"][0];
    assert_eq!(
        (&alert["alert"], &alert["sync"], &alert["state"]),
        (&json!("dead_letters"), &json!("orders_in"), &json!("firing"))
    );
    served.until("/api/v1/alerts", |answer| answer["alerts"][0]["told"] == true).await?;
    bench.expect(&["alerts"], 0, &["dead_letters", "orders_in", "1 dead letter waits", "yes"]).await?;
    let metrics = served.get("/metrics").await?;
    assert!(metrics.to_string().contains("bridgehead_alerts_firing{sync=\\\"orders_in\\\"} 1"), "{metrics}");
    let page = served.http.get(format!("{}/", served.url)).send().await?.text().await?;
    assert!(page.contains("1 dead letter waits") && page.contains("/runbooks/dead_letters"), "{page}");
    let book = served.http.get(format!("{}/runbooks/dead_letters", served.url)).send().await?.text().await?;
    assert!(book.contains("<h2>Put it right</h2>"), "{book}");
    // Whoever starts anew tells nobody again what they know.
    drop(served);
    let served = Served::start(&bench)?;
    erp.execute("UPDATE orders SET stage = 'P', changed_at = '2026-01-02T00:00:00.000Z'", [])?;
    served.call("POST", "/api/v1/syncs/orders_in/run", None).await?;
    let over = told.recv().await.ok_or("a message")?;
    assert_eq!((&over["alerts"][0]["state"], over["alerts"].as_array().map(Vec::len)), (&json!("resolved"), Some(1)));
    served.until("/api/v1/alerts", |answer| answer["alerts"] == json!([])).await?;
    bench.expect(&["audit", "list"], 0, &["alert_raised", "alert_over"]).await
}

impl Served {
    pub(crate) async fn page(&self, path: &str) -> Result<String, Failed> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        assert_eq!(answer.status(), 200, "{path}");
        Ok(answer.text().await?)
    }

    /// Sends a form as its page has it, with what is changed in it.
    pub(crate) async fn send(
        &self,
        path: &str,
        page: &str,
        changed: &[(&str, &str)],
    ) -> Result<(StatusCode, String), Failed> {
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").ok_or("no form")?;
        let csrf = rest.split('"').next().unwrap_or_default();
        let mut form = vec![("csrf", csrf)];
        form.extend(changed);
        let answer = self.http.post(format!("{}{path}", self.url)).form(&form).send().await?;
        Ok((answer.status(), answer.text().await?))
    }
}

/// Returns what a page has in the hidden field of this name.
fn hidden(page: &str, name: &str) -> Result<String, Failed> {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).ok_or("no such field")?;
    let text = rest.split('"').next().unwrap_or_default();
    Ok(text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_mended_and_replayed_by_one_person() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.client()?.create("Product2", &json!({"Name": "Tourer", "Model_No__c": "M-01"})).await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    for id in ["O-1", "O-2"] {
        let insert = "INSERT INTO orders VALUES (?1, 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'Melted', '2026-01-01T00:00:00.000Z')";
        bench.erp()?.execute(insert, [id])?;
    }
    // A later one: what a window ended with is read again by the next.
    let later = "INSERT INTO orders VALUES ('O-3', 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'P', '2026-01-02T00:00:00.000Z')";
    bench.erp()?.execute(later, [])?;
    bench.expect(&["run", "orders_in"], 3, &["2 dead letters"]).await?;
    let served = Served::start(&bench)?;
    let page = served.page("/dead-letters/1").await?;
    let known = hidden(&page, "known")?;
    let record: serde_json::Map<String, Value> = serde_json::from_str(&known)?;
    let stage = record.iter().find(|(_, value)| *value == "Melted").map(|(name, _)| name.clone()).ok_or("a stage")?;
    let names: Vec<(String, String)> = record
        .iter()
        .map(|(name, value)| (format!("value:{name}"), value.as_str().unwrap_or_default().to_owned()))
        .chain(
            record
                .iter()
                .filter(|(_, value)| value.is_null())
                .map(|(name, _)| (format!("null:{name}"), "on".to_owned())),
        )
        .collect();
    let form = |stage_value: &'static str, act: &'static str| {
        let field = format!("value:{stage}");
        let mut form: Vec<(String, String)> = names.iter().filter(|(name, _)| *name != field).cloned().collect();
        form.extend([
            (field, stage_value.to_owned()),
            ("known".to_owned(), known.clone()),
            ("act".to_owned(), act.to_owned()),
        ]);
        form
    };
    let sent = async |form: Vec<(String, String)>| {
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        served.send("/dead-letters/1/edit", &page, &form).await
    };
    let (status, text) = sent(form("P", "replay")).await?;
    assert_eq!(status, 200, "{text}");
    served.until("/api/v1/dead-letters", |answer| answer["dead_letters"].as_array().map(Vec::len) == Some(1)).await?;
    let made = "SELECT COUNT() FROM Bike_Order__c WHERE Order_No__c = 'O-1' AND Account__r.Customer_No__c = 'C-1'";
    assert_eq!(bench.client()?.count(made, false).await?, 1);
    assert_eq!(served.get("/api/v1/dead-letters").await?["dead_letters"][0]["id"], 2, "the other was not asked for");
    let (status, text) = sent(form("S", "save")).await?;
    assert!(status == 404 && text.contains("is gone"), "{status} {text}");

    // Two people mend the same one: the second is told, and overwrites nothing.
    let page = served.page("/dead-letters/2").await?;
    let record = hidden(&page, "known")?;
    let both = |value: &'static str| {
        let mut form = form(value, "save");
        for (name, text) in &mut form {
            match name.as_str() {
                "known" => text.clone_from(&record),
                _ if text == "O-1" => "O-2".clone_into(text),
                _ => {}
            }
        }
        form
    };
    let second = async |form: Vec<(String, String)>| {
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        served.send("/dead-letters/2/edit", &page, &form).await
    };
    assert_eq!(second(both("P")).await?.0, 200);
    let (status, text) = second(both("S")).await?;
    assert!(status == 409 && text.contains("changed by somebody else"), "{status} {text}");
    let (status, text) = served.send("/dead-letters/2/edit", &page, &[("known", &record), ("value:x", "1")]).await?;
    assert!(status == 409 || status == 422, "{status} {text}");
    // By the API, too.
    assert_eq!(served.call("POST", "/api/v1/dead-letters/2/replay", None).await?.0, 202);
    served.until("/api/v1/dead-letters", |answer| answer["dead_letters"] == json!([])).await?;
    // Many at once, by what they have in common.
    for number in 10..70 {
        let insert = "INSERT INTO orders VALUES (?1, 'C-1', 'M-01', 1, 10.5, NULL, '2026-01-01', 'Melted', '2026-01-03T00:00:00.000Z')";
        bench.erp()?.execute(insert, [format!("O-{number}")])?;
    }
    bench.expect(&["run", "orders_in"], 3, &["60 dead letters"]).await?;
    let page = served.page("/dead-letters?code=INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST").await?;
    assert!(page.contains("(60)") && page.contains("Drop all of them"), "{page}");
    assert!(!served.page("/dead-letters").await?.contains("Drop all of them"), "nothing is chosen by itself");
    assert!(served.page("/dead-letters?code=OTHER").await?.contains("Nothing waits here"));
    let all = [("act", "drop"), ("sync", "orders_in"), ("state", ""), ("code", "OTHER")];
    assert_eq!(served.send("/dead-letters/all", &page, &all).await?.0, 200);
    assert_eq!(served.get("/api/v1/dead-letters?limit=1").await?["dead"], 60);
    assert_eq!(served.send("/dead-letters/all", &page, &[("act", "drop")]).await?.0, 400);
    let all = [("act", "drop"), ("sync", "orders_in"), ("state", "dead"), ("code", "")];
    assert_eq!(served.send("/dead-letters/all", &page, &all).await?.0, 200);
    assert_eq!(served.get("/api/v1/dead-letters").await?["dead_letters"], json!([]));
    bench
        .expect(&["audit", "list", "--limit", "200"], 0, &["dead_letter_edited", &format!("\"fields\":[\"{stage}\"]")])
        .await?;
    let audit = bench.call(&["audit", "export"]).await?.stdout;
    assert!(!String::from_utf8_lossy(&audit).contains("Melted"), "no value stands in the audit chain");
    bench.expect(&["audit", "verify"], 0, &["is whole"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_what_was_written_to_it_and_the_chain_proves_it() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.edit("bridgehead.yaml", "mapping: customers,", "mapping: customers, history: values,")?;
    bench.expect(&["deploy", "--reason", "first"], 0, &["Version 1"]).await?;
    let client = bench.client()?;
    let id = client.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1", "BillingCity": "Bonn"})).await?;
    let served = Served::start(&bench)?;
    served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
    served.until("/api/v1/syncs/customers_out", |answer| answer["runs"][0]["outcome"] == "green").await?;
    client.update("Account", &id, &json!({"BillingCity": "Oslo"})).await?;
    served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
    let written = |answer: &Value| {
        let history = &answer["records"][0]["history"];
        history.as_array().map(Vec::len) == Some(2) && history[0]["version"] == 1
    };
    served.until("/api/v1/records?key=C-1", written).await?;
    for key in ["C-1", &id, &id[..15]] {
        let page = served.page(&format!("/records?q={key}")).await?;
        assert!(page.contains("<strong>city</strong>: Bonn \u{2192} Oslo"), "{page}");
        assert!(page.contains("concat_ws") && page.contains("/versions/1"), "where a value comes from: {page}");
    }
    let page = served.page("/records?now=true&q=C-1").await?;
    assert!(page.contains("<td class=\"free\">Oslo</td>"), "{page}");
    assert!(served.page("/records?q=nobody").await?.contains("No sync knows nobody"));
    // A deletion is a write.
    bench.edit("bridgehead.yaml", "history: values,", "history: fingerprints, brake: 1,")?;
    bench.expect(&["deploy", "--reason", "second"], 0, &["Version 2"]).await?;
    client.delete("Account", &id).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 deleted"]).await?;
    drop(served);
    bench.expect(&["audit", "verify"], 0, &["is whole"]).await?;
    let state = rusqlite::Connection::open(bench.path(".bridgehead/state.db"))?;
    assert_eq!(
        state.execute("UPDATE image SET after = replace(after, 'Oslo', 'Rome') WHERE after LIKE '%Oslo%'", [])?,
        1
    );
    bench.expect(&["audit", "verify"], 70, &["what the run wrote to records is not what is kept of it"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_that_was_put_to_work_is_served() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1", "BillingCity": "Bonn"})).await?;
    bench.expect(&["deploy", "--reason", "first"], 0, &["Version 1"]).await?;
    // What the folder has does not count any more.
    bench.edit("mappings/customers.yaml", "external: city", "external: city, to_external: \"upper(value)\"")?;
    let served = Served::start(&bench)?;
    let city = || -> Result<String, Failed> {
        Ok(bench.erp()?.query_row("SELECT city FROM customers", [], |row| row.get(0))?)
    };
    served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
    served.until("/api/v1/syncs/customers_out", |answer| answer["runs"][0]["outcome"] == "green").await?;
    assert_eq!(city()?, "Bonn");
    bench.expect(&["deploy", "--reason", "shout"], 0, &["Version 2"]).await?;
    let louder = || async {
        loop {
            served.call("POST", "/api/v1/syncs/customers_out/run", None).await?;
            if city()? == "BONN" {
                return Ok::<(), Failed>(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), louder()).await??;
    let page = served.http.get(format!("{}/versions/2", served.url)).send().await?.text().await?;
    assert!(page.contains("shout") && page.contains("upper(value)"), "{page}");
    assert_eq!(served.get("/api/v1/versions").await?["versions"][0]["at_work"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_as_its_description_says() -> Result<(), Failed> {
    let missing = "BRIDGEHEAD_TEST_PYTHON is not set; `cargo xtask test` installs what it names";
    let python = std::path::PathBuf::from(std::env::var("BRIDGEHEAD_TEST_PYTHON").map_err(|_| missing)?);
    let bench = Bench::new().await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    bench.expect(&["run", "customers_out"], 0, &["1 created"]).await?;
    bench.expect(&["deploy", "--reason", "first"], 0, &["Version 1"]).await?;
    let token = bench.call(&["token", "make", "stranger", "--role", "operator"]).await?.stdout;
    let served = Served::start(&bench)?;
    let mut command = std::process::Command::new(python.with_file_name("schemathesis"));
    command.args(["run", &format!("{}/api/v1/openapi.json", served.url), "--max-examples", "20", "--no-color"]);
    command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
    command.args(["-H", &format!("Authorization: Bearer {}", String::from_utf8(token)?.trim())]);
    // What it finds it would keep beside it.
    command.current_dir(bench.path("."));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("generated") && text.contains("passed"), "{text}");
    assert!(!text.contains("Rate limited") && !text.contains("401 Unauthorized"), "{text}");
    served.get("/health").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_works_in_a_browser() -> Result<(), Failed> {
    let missing = "BRIDGEHEAD_TEST_NODE_MODULES is not set; `cargo xtask test` installs what it names";
    let modules = std::env::var("BRIDGEHEAD_TEST_NODE_MODULES").map_err(|_| missing)?;
    let there = crate::two_way::InPostgres::new(crate::two_way::MAPPING, "console").await?;
    let bench = &there.bench;
    bench.edit("bridgehead.yaml", "brake: 1", "brake: 1, conflicts: manual")?;
    there.sql("ALTER TABLE customers ADD country text, ADD revenue numeric(18, 0), ADD address text")?;
    there.sql("INSERT INTO customers (id, name, city) VALUES ('C-1', 'Acme <b>', 'Bonn'), ('C-2', 'Birch', 'Oslo')")?;
    bench.expect(&["run"], 0, &["2 created"]).await?;
    let id = crate::two_way::id_of(bench, "C-1").await?;
    bench.client()?.update("Account", &id, &json!({"BillingCity": "Salesforce's city"})).await?;
    there.sql("UPDATE customers SET city = 'The ERP''s city' WHERE id = 'C-1'")?;
    there.sql("INSERT INTO customers (id, name) VALUES ('C-3', repeat('n', 300))")?;
    bench.expect(&["run"], 3, &["1 dead letters", "1 conflicts held"]).await?;
    bench.expect(&["reconcile"], 3, &["BOTH SIDES DIFFER"]).await?;
    bench.expect(&["deploy", "--reason", "first"], 0, &["Version 1"]).await?;
    let rules = "alerts:\n  to: { desk: { kind: webhook, url: \"http://127.0.0.1:9/\" } }\n  rules: [{ when: dead_letters, to: [desk] }]\n";
    let config = std::fs::read_to_string(bench.path("bridgehead.yaml"))?;
    std::fs::write(bench.path("bridgehead.yaml"), config + rules)?;
    bench.expect(&["deploy", "--reason", "tell somebody"], 0, &["Version 2"]).await?;
    let served = Served::start(bench)?;
    // For a person to look through; kept where the tests' own things are.
    let shots = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&shots)?;
    let script = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/console.mjs");
    let look = |token: Option<String>| {
        let mut command = std::process::Command::new("node");
        command.arg(&script).args([&served.url, &modules]).arg(&shots).args(token);
        async move {
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && text.contains("done"), "{text}");
            Ok::<(), Failed>(())
        }
    };
    look(None).await?;
    let token = bench.call(&["token", "make", "ada"]).await?.stdout;
    look(Some(String::from_utf8(token)?.trim().to_owned())).await?;
    let told = ["signed_in", "ada", "conflict_resolved", "dead_letter_dropped", "deployed", "made_token"];
    bench.expect(&["audit", "list"], 0, &told).await?;
    bench.expect(&["audit", "verify"], 0, &["is whole"]).await?;
    drop(served);
    there.sql(&format!("DROP SCHEMA {} CASCADE", there.schema))
}
