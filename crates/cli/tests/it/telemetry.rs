//! What the program tells of itself: traces to a collector, and logs for machines, with ids and without values.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::bench::{Bench, Failed};

/// A value that records hold, and nothing may tell.
const VALUE: &str = "Kirschallee 7";

/// A place that takes traces: its address, and what came.
pub(crate) async fn collector() -> Result<(String, UnboundedReceiver<(String, Vec<u8>)>), Failed> {
    let (sender, traces) = tokio::sync::mpsc::unbounded_channel();
    let take = move |headers: axum::http::HeaderMap, body: axum::body::Bytes| {
        let key = headers.get("x-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
        let _ = sender.send((key, body.to_vec()));
        async { axum::http::StatusCode::OK }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, traces))
}

fn attributes(span: &Span) -> HashMap<&str, String> {
    let text = |value: &opentelemetry_proto::tonic::common::v1::AnyValue| format!("{:?}", value.value);
    span.attributes.iter().filter_map(|pair| Some((pair.key.as_str(), text(pair.value.as_ref()?)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_traced_to_a_collector() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    let (url, mut traces) = collector().await?;
    let account = json!({"Name": "Acme", "Customer_No__c": "C-1", "BillingStreet": VALUE});
    bench.client()?.create("Account", &account).await?;
    let mut command = bench.command(&["run", "customers_out"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=open");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    traces.close();
    let (mut spans, mut service) = (Vec::new(), String::new());
    while let Some((key, bytes)) = traces.recv().await {
        assert_eq!(key, "open");
        assert!(!bytes.windows(VALUE.len()).any(|part| part == VALUE.as_bytes()), "no value is told");
        for resource in ExportTraceServiceRequest::decode(bytes.as_slice())?.resource_spans {
            service = format!("{:?}", resource.resource);
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    assert!(service.contains("bridgehead"), "{service}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).ok_or_else(|| format!("no span {name}"));
    let run = named("run")?;
    let told = attributes(run);
    assert!(told["sync"].contains("customers_out") && told["run"].contains('1'), "{told:?}");
    for name in ["read", "write", "request"] {
        assert_eq!(named(name)?.trace_id, run.trace_id, "{name} is a part of the run");
    }
    assert_eq!(named("read")?.parent_span_id, run.span_id);
    let request = attributes(named("request")?);
    assert!(request["http.response.status_code"].contains("200"), "{request:?}");
    assert!(!spans.iter().any(|span| attributes(span).values().any(|value| value.contains("v1/traces"))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_none_keeps_no_run_from_its_work() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.client()?.create("Account", &json!({"Name": "Acme", "Customer_No__c": "C-1"})).await?;
    for (endpoint, code) in [("http://127.0.0.1:9", 0), ("nowhere at all", 4)] {
        let mut command = bench.command(&["run", "customers_out"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{endpoint}: {said}");
        assert!(code == 0 || said.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_for_machines_names_run_and_record_and_no_value() -> Result<(), Failed> {
    let bench = Bench::new().await?;
    bench.erp()?.execute_batch("DELETE FROM orders; DELETE FROM customers")?;
    bench.customers_in(0)?;
    let long = format!("{VALUE}{}", "n".repeat(300));
    bench.erp()?.execute("INSERT INTO customers (id, name) VALUES ('C-9', ?1)", [long])?;
    let mut command = bench.command(&["run", "customers_in"]);
    command.env("BRIDGEHEAD_LOG", "info").env("BRIDGEHEAD_LOG_FORMAT", "json");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8(output.stderr)?;
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let aside = lines.iter().find(|line| line["fields"]["message"] == "a record was set aside");
    let aside = aside.ok_or_else(|| format!("no such line: {said}"))?;
    assert_eq!(
        (&aside["fields"]["record"], &aside["spans"][0]["sync"]),
        (&json!("C-9"), &json!("customers_in")),
        "{aside}"
    );
    assert_eq!(aside["spans"][0]["run"], 1, "{aside}");
    assert!(!said.contains(VALUE), "{said}");
    Ok(())
}
