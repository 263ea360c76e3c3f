//! Rates of GET, LIST and create on a store in memory, entered in-process (no TLS, no disk): what the
//! request path itself costs.
//!
//! `cargo run --release -p isopod-apiserver --example requests`
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use http_body_util::BodyExt as _;
use isopod_apiserver::net::in_process::Service;
use serde_json::json;
use tower::Service as _;

const OBJECTS: usize = 10_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let everyone = |layers: &mut isopod_apiserver::layers::Layers| {
        layers.authenticators = vec![std::sync::Arc::new(support::Everyone)];
    };
    let server = support::server_with(everyone).await;
    let service = Service::new(server.clone());
    let send = |method: &'static str, uri: String, body: Vec<u8>| {
        let mut service = service.clone();
        async move {
            let body = http_body_util::Full::new(bytes::Bytes::from(body));
            let request =
                http::Request::builder().method(method).uri(uri).body(body).expect("a fixed request");
            let response = service.call(request).await.expect("the service never fails");
            let code = response.status().as_u16();
            let mut bytes = 0;
            let mut body = response.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
            }
            (code, bytes)
        }
    };
    let report = |what: &str, count: usize, since: Instant| {
        let seconds = since.elapsed().as_secs_f64();
        println!("{what}: {:.0}/s ({:.1} us each)", count as f64 / seconds, seconds / count as f64 * 1e6);
    };
    let start = Instant::now();
    for i in 0..OBJECTS {
        let body = json!({"metadata": {"name": format!("m{i}"), "labels": {"app": "bench"}}, "data": {"k": "v".repeat(200)}});
        assert_eq!(send("POST", MAPS.to_owned(), body.to_string().into_bytes()).await.0, 201);
    }
    report("create, one client", OBJECTS, start);
    let start = Instant::now();
    for i in 0..OBJECTS * 5 {
        assert_eq!(send("GET", format!("{MAPS}/m{}", i % OBJECTS), Vec::new()).await.0, 200);
    }
    report("GET, one client", OBJECTS * 5, start);
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..50 {
        bytes = send("GET", MAPS.to_owned(), Vec::new()).await.1;
    }
    report(&format!("LIST of {OBJECTS} ({bytes} bytes)"), 50, start);
    server.stop();
}
