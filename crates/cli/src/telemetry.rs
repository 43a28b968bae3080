//! What the program tells of itself: a log on standard error, and traces to a collector by OTLP, where one is named by the variables
//! that OpenTelemetry has for it.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use outbound::{Body, Client, Settings};
use tokio::runtime::Handle;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Variables that name a collector. Source: "OpenTelemetry Protocol Exporter" of the OpenTelemetry specification.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// The name that a collector knows the program by, where `OTEL_SERVICE_NAME` has no other.
const SERVICE: &str = "bridgehead";
/// Crates whose spans are worth a trace: ours.
const TRACED: [&str; 8] =
    ["bridgehead", "engine", "endpoints_data", "endpoints_apps", "salesforce", "outbound", "server", "mapping"];

/// Traces under way; what is left of them is sent when this ends.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "not all traces could be sent");
        }
    }
}

/// Begins to log, and to trace.
///
/// # Errors
///
/// When the variables name a collector that can't be called.
pub(crate) fn begin(runtime: &Handle) -> Result<Telemetry, String> {
    let filter = EnvFilter::try_from_env("BRIDGEHEAD_LOG").unwrap_or_else(|_| "warn".into());
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let as_json = std::env::var("BRIDGEHEAD_LOG_FORMAT").is_ok_and(|format| format == "json");
    let log = if as_json { log.json().with_filter(filter).boxed() } else { log.with_filter(filter).boxed() };
    let provider = provider(runtime)?;
    let traces = provider.as_ref().map(|provider| {
        let ours = Targets::new().with_targets(TRACED.map(|target| (target, LevelFilter::INFO)));
        tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE)).with_filter(ours)
    });
    tracing_subscriber::registry().with(log).with(traces).init();
    Ok(Telemetry(provider))
}

fn provider(runtime: &Handle) -> Result<Option<SdkTracerProvider>, String> {
    let named = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let Some(variable) = ENDPOINTS.iter().find(|name| named(name)) else { return Ok(None) };
    let settings = Settings { retries: 0, ..Settings::default() };
    let client = Client::new(settings).map_err(|error| error.to_string())?;
    let collector = Collector { client, runtime: runtime.clone() };
    let exporter = SpanExporter::builder().with_http().with_http_client(collector).build();
    let exporter = exporter.map_err(|error| format!("{variable} names no collector that can be called: {error}"))?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(SERVICE);
    }
    Ok(Some(SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build()))
}

/// How traces leave: by the one client that everything else leaves by.
#[derive(Debug)]
struct Collector {
    client: Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut wanted = outbound::Request::new("POST", request.uri().to_string());
        for (name, value) in request.headers() {
            wanted = wanted.header(name.as_str().to_owned(), value.to_str()?);
        }
        wanted.body = Body::Bytes(request.into_body());
        let client = self.client.clone();
        // Whoever exports is a thread without a runtime; and sending traces is not itself traced.
        let sent = async move {
            let response = client.send(&wanted).await?;
            Ok::<_, outbound::Error>((response.status(), response.bytes().await?))
        };
        let (status, body) = self.runtime.spawn(sent.with_subscriber(NoSubscriber::new())).await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}
