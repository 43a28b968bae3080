//! The admin API by HTTP.

use model::Side;
use serde_json::{Value, json};
use server::Server;
use state::Store;

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::test]
async fn streams_are_told_to_this_machine_alone() -> Result<(), Failed> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("state.db"))?;
    let server = Server::start(store.clone(), ([127, 0, 0, 1], 0).into(), None, None).await?;
    let url = format!("http://{}/api/v1/streams", server.address());
    let client = reqwest::Client::new();
    let answer: Value = client.get(&url).send().await?.json().await?;
    assert_eq!(answer, json!({"streams": []}));
    let told = engine::Stream { changes: 7, gaps: 1, position: Some("0a".to_owned()), ..engine::Stream::default() };
    let now = chrono::Utc::now();
    store.show_stream("both", Side::Salesforce, &serde_json::to_string(&told)?, false, now)?;
    store.show_stream("both", Side::External, "{}", true, now)?;
    store.show_stream("old", Side::Salesforce, "{}", false, now - chrono::TimeDelta::minutes(1))?;
    let answer: Value = client.get(&url).send().await?.json().await?;
    let streams = answer["streams"].as_array().ok_or("streams")?;
    let states: Vec<[&Value; 3]> = streams.iter().map(|one| [&one["sync"], &one["side"], &one["state"]]).collect();
    let expected =
        [["both", "Salesforce", "listening"], ["both", "outside", "stopped"], ["old", "Salesforce", "cut off"]];
    assert_eq!(json!(states), json!(expected));
    assert_eq!([&streams[0]["stream"]["changes"], &streams[0]["stream"]["position"]], [&json!(7), &json!("0a")]);

    for (request, status) in [
        (client.get(&url).header("host", "evil.example"), 403),
        (client.get(&url).header("host", "localhost"), 200),
        (client.post(&url), 405),
        (client.get(format!("http://{}/api/v1/nothing", server.address())), 404),
    ] {
        let answer = request.send().await?;
        assert_eq!(answer.status(), status);
        if status != 200 {
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            assert_eq!(answer.json::<Value>().await?["status"], status);
        }
    }
    let open = Server::start(store, ([0, 0, 0, 0], 0).into(), None, None).await;
    assert!(open.err().ok_or("it listens")?.to_string().contains("can be reached from other machines"));
    server.stop().await;
    assert!(client.get(&url).send().await.is_err(), "nobody listens any more");
    Ok(())
}
