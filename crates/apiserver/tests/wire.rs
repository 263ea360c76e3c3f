//! Forms of answers: protobuf, tables, metadata, YAML, discovery, OpenAPI; and the server over TLS.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;

use isopod_api::codec::proto;
use serde_json::{Value, json};
use support::{Caller, Everyone, server, server_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTO: &str = "application/vnd.kubernetes.protobuf";

async fn with_map(caller: &Caller) {
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(caller.post(MAPS, &body).await.code, 201);
}

#[tokio::test]
async fn protobuf_both_ways() {
    let server = server().await;
    let caller = Caller::new(&server);
    let facts = isopod_api::facts::builtin().kind("", "v1", "ConfigMap").unwrap();
    let body = proto::encode(
        facts,
        &json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "p"}, "data": {"k": "v"}}),
    );
    let made = caller.send("POST", MAPS, &[("content-type", PROTO), ("accept", PROTO)], body).await;
    assert_eq!(made.code, 201, "{}", String::from_utf8_lossy(&made.bytes));
    assert_eq!(made.headers["content-type"], PROTO);
    assert_eq!(proto::decode(&made.bytes).unwrap().value["data"]["k"], "v");
    let list = caller.send("GET", MAPS, &[("accept", PROTO)], vec![]).await;
    let list = proto::decode(&list.bytes).unwrap().value;
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&json!("ConfigMapList"), &json!("p"))
    );
    let missing = caller.send("GET", &format!("{MAPS}/none"), &[("accept", PROTO)], vec![]).await;
    assert_eq!(proto::decode(&missing.bytes).unwrap().value["reason"], "NotFound");

    let uri = format!("{MAPS}?watch=true&timeoutSeconds=1");
    let watched = caller.send("GET", &uri, &[("accept", PROTO)], vec![]).await;
    let length = u32::from_be_bytes(watched.bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(watched.bytes.len(), 4 + length);
    assert!(
        watched.bytes.windows(5).any(|w| w == b"ADDED") && watched.bytes.windows(4).any(|w| w == b"k8s\0")
    );
    server.stop();
}

#[tokio::test]
async fn tables_metadata_yaml() {
    let server = server().await;
    let caller = Caller::new(&server);
    with_map(&caller).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = caller.send("GET", MAPS, &[("accept", table)], vec![]).await.body;
    assert_eq!(answer["kind"], "Table");
    let titles: Vec<&Value> =
        answer["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(titles.first(), Some(&&json!("Name")));
    assert_eq!(titles.len(), answer["rows"][0]["cells"].as_array().unwrap().len());
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let meta = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let answer = caller.send("GET", MAPS, &[("accept", meta)], vec![]).await.body;
    assert_eq!(answer["items"][0]["data"], Value::Null);
    let yaml = caller.send("GET", &format!("{MAPS}/a"), &[("accept", "application/yaml")], vec![]).await;
    assert!(String::from_utf8(yaml.bytes).unwrap().contains("kind: ConfigMap\n"));
    let pretty = caller.get(&format!("{MAPS}/a?pretty=true")).await;
    assert!(pretty.bytes.starts_with(b"{\n  "));
    server.stop();
}

#[tokio::test]
async fn initial_events_and_bookmarks() {
    let server = server().await;
    let caller = Caller::new(&server);
    with_map(&caller).await;
    let uri = format!(
        "{MAPS}?watch=true&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let watched = caller.get(&uri).await;
    let events: Vec<Value> =
        String::from_utf8(watched.bytes).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("ADDED"), &json!("BOOKMARK")));
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.stop();
}

#[tokio::test]
async fn discovery_and_openapi() {
    let server = server().await;
    let caller = Caller::new(&server);
    assert_eq!(caller.get("/version").await.body["minor"], "36");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = caller.send("GET", "/apis", &[("accept", aggregated)], vec![]).await;
    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
    assert!(answer.body["items"].as_array().unwrap().iter().any(|g| g["metadata"]["name"] == "apps"));
    let again =
        caller.send("GET", "/apis", &[("accept", aggregated), ("if-none-match", &etag)], vec![]).await;
    assert_eq!(again.code, 304);
    let index = caller.get("/openapi/v3").await.body;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = caller.get(&url).await.body;
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    server.stop();
}

/// Versions of one resource, and twins in two groups, show the same objects.
#[tokio::test]
async fn versions_share_objects() {
    let server = server().await;
    let caller = Caller::new(&server);
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default"},
        "reason": "R", "message": "m", "type": "Normal", "source": {"component": "c"}});
    let made = caller.post("/api/v1/namespaces/default/events", &event).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let twin = caller.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.body;
    assert_eq!((&twin["note"], &twin["apiVersion"]), (&json!("m"), &json!("events.k8s.io/v1")));
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let base = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    assert_eq!(caller.post(base, &hpa).await.code, 201);
    let two = caller.get(&format!("{}/h", base.replace("v1", "v2"))).await.body;
    assert_eq!(two["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    server.stop();
}

#[tokio::test]
async fn over_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = server_with(|layers| layers.authenticators = vec![Arc::new(Everyone)]).await;
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let chain = vec![key.cert.der().clone()];
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(Arc::clone(&server).serve(listener, Arc::new(tls), shutdown.clone()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    // Bytes that are no TLS, and a connection that says nothing, hold nobody up.
    let mut noise = tokio::net::TcpStream::connect(address).await.unwrap();
    noise.write_all(&[0; 64]).await.unwrap();
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn large_lists_are_compressed_when_asked() {
    let server = server().await;
    let caller = Caller::new(&server);
    for i in 0..40 {
        let body = json!({"metadata": {"name": format!("m{i}")}, "data": {"k": "v".repeat(8_000)}});
        assert_eq!(caller.post(MAPS, &body).await.code, 201);
    }
    let plain = caller.get(MAPS).await;
    let packed = caller.send("GET", MAPS, &[("accept-encoding", "gzip")], vec![]).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.bytes.len() * 5 < plain.bytes.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.bytes[..]), &mut text).unwrap();
    let unpacked: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(unpacked["items"], plain.body["items"]);
    server.stop();
}

/// A page whose snapshot is gone comes from the store, at the same revision.
#[tokio::test]
async fn old_pages_come_from_the_store() {
    let server = server().await;
    let caller = Caller::new(&server);
    for i in 0..6 {
        caller.post(MAPS, &json!({"metadata": {"name": format!("m{i}")}})).await;
    }
    let first = caller.get(&format!("{MAPS}?limit=3")).await.body;
    for i in 0..isopod_apiserver::limits::PAGE_SNAPSHOTS_MAX + 2 {
        caller.delete(&format!("{MAPS}/m5"), &Value::Null).await;
        caller.post(MAPS, &json!({"metadata": {"name": format!("x{i}")}})).await;
        caller.get(&format!("{MAPS}?limit=1")).await;
    }
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = caller.get(&format!("{MAPS}?limit=3&continue={token}")).await.body;
    let names: Vec<&Value> =
        second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["m3", "m4", "m5"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    server.stop();
}

#[test]
fn again_on_embedded() {
    support::swaps::again_on_embedded();
}

#[test]
fn again_on_three_members() {
    support::swaps::again_on_three_members();
}

#[test]
fn again_on_etcd_3_4() {
    support::swaps::again_on_etcd_3_4();
}

#[test]
fn again_on_etcd_3_5() {
    support::swaps::again_on_etcd_3_5();
}
