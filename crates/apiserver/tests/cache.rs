//! The watch cache under trouble: broken watches, slow watchers, many writers.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;

use http_body_util::BodyExt as _;
use isopod_kv::Store as _;
use serde_json::{Value, json};
use support::memory_store::MemoryStore;
use support::{Caller, server, server_on};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

async fn names(caller: &Caller) -> Vec<String> {
    let list = caller.get(MAPS).await;
    assert_eq!(list.code, 200, "{:?}", list.body);
    let items = list.body["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Nothing written while the store cannot be followed is missing afterwards.
#[tokio::test]
async fn broken_watches_lose_nothing() {
    let store = MemoryStore::new();
    let server = server_on(Arc::clone(&store), |_| {}).await;
    let caller = Caller::new(&server);
    let mut wanted = Vec::new();
    for round in 0..5 {
        for i in 0..10 {
            let name = format!("m{round}-{i}");
            assert_eq!(caller.post(MAPS, &map(&name)).await.code, 201);
            wanted.push(name);
            if i == 3 {
                store.break_watches();
            }
        }
        assert_eq!(names(&caller).await, wanted, "round {round}");
    }
    server.stop();
}

/// A watcher that reads nothing is dropped; writers and other watchers go on.
#[tokio::test]
async fn a_slow_watcher_holds_nobody_up() {
    let server = server().await;
    let caller = Caller::new(&server);
    let uri = format!("{MAPS}?watch=true");
    let request = || http::Request::get(&uri).body(kube::client::Body::empty()).unwrap();
    let slow = caller.0.send(request()).await.unwrap();
    for i in 0..1_200 {
        assert_eq!(caller.post(MAPS, &map(&format!("m{i}"))).await.code, 201);
    }
    assert_eq!(names(&caller).await.len(), 1_200);
    // What was queued before the drop is still delivered, then the stream ends.
    let bytes = slow.into_body().collect().await.unwrap().to_bytes();
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
    assert!((1_000..1_200).contains(&lines), "{lines}");
    server.stop();
}

/// Concurrent increments by optimistic concurrency all count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimistic_concurrency() {
    let server = server().await;
    let caller = Caller::new(&server);
    caller.post(MAPS, &json!({"metadata": {"name": "n"}, "data": {"count": "0"}})).await;
    let uri = format!("{MAPS}/n");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (caller, uri) = (caller.clone(), uri.clone());
            tokio::spawn(async move {
                for _ in 0..25 {
                    loop {
                        let mut object = caller.get(&uri).await.body;
                        let count: u32 = object["data"]["count"].as_str().unwrap().parse().unwrap();
                        object["data"]["count"] = (count + 1).to_string().into();
                        match caller.put(&uri, &object).await.code {
                            200 => break,
                            code => assert_eq!(code, 409),
                        }
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(caller.get(&uri).await.body["data"]["count"], "100");
    server.stop();
}

/// What a watch from a revision gets within its time, as pairs of type and name; the code of an error.
async fn watched(caller: &Caller, query: &str) -> Vec<(String, String)> {
    let uri = format!("{MAPS}?watch=true&timeoutSeconds=1&{query}");
    let request = http::Request::get(&uri).body(kube::client::Body::empty()).unwrap();
    let bytes = caller.0.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let event: Value = serde_json::from_slice(line).unwrap();
            let object = &event["object"];
            let what = object["metadata"]["name"].as_str().map_or(object["code"].to_string(), str::to_owned);
            (event["type"].as_str().unwrap().to_owned(), what)
        })
        .collect()
}

/// A client that watched before a restart goes on where it was, as long as the store has the history.
#[tokio::test]
async fn watches_resume_after_a_restart() {
    let store = MemoryStore::new();
    let server = server_on(Arc::clone(&store), |_| {}).await;
    let caller = Caller::new(&server);
    let labelled = |name: &str, value: &str| json!({"metadata": {"name": name, "labels": {"app": value}}});
    let first = caller.post(MAPS, &labelled("a", "x")).await.body;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    caller.post(MAPS, &labelled("b", "x")).await;
    caller.put(&format!("{MAPS}/a"), &labelled("a", "y")).await;
    caller.post(MAPS, &labelled("c", "y")).await;
    caller.delete(&format!("{MAPS}/b"), &json!({})).await;
    server.stop();

    let server = server_on(Arc::clone(&store), |_| {}).await;
    let caller = Caller::new(&server);
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
    };
    let all = pairs(&[("ADDED", "b"), ("MODIFIED", "a"), ("ADDED", "c"), ("DELETED", "b")]);
    let from = format!("resourceVersion={revision}");
    assert_eq!(watched(&caller, &from).await, all);
    caller.post(MAPS, &labelled("d", "x")).await;
    let later = [all, pairs(&[("ADDED", "d")])].concat();
    assert_eq!(watched(&caller, &from).await, later, "with an event from after the restart");
    // What left the selection before the restart is told as gone from it.
    assert_eq!(
        watched(&caller, &format!("{from}&labelSelector=app%3Dx")).await,
        pairs(&[("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b"), ("ADDED", "d")])
    );
    server.stop();

    store.compact(revision.parse::<i64>().unwrap() + 3).await.unwrap();
    let server = server_on(Arc::clone(&store), |_| {}).await;
    let caller = Caller::new(&server);
    assert_eq!(watched(&caller, &from).await, pairs(&[("ERROR", "410")]));
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
