//! Create, get, list, watch, update, patch and delete through all layers, in-process.

mod support;

use serde_json::json;
use support::{Caller, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn create_get_update_delete() {
    let server = server().await;
    let caller = Caller::new(&server);
    let created = caller.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    assert_eq!(created.code, 201, "{:?}", created.body);
    assert_eq!(created.body["kind"], "ConfigMap");
    assert!(created.body["metadata"]["uid"].is_string());
    let got = caller.get(&format!("{MAPS}/a")).await;
    assert_eq!(got.body, created.body);
    let again = caller.post(MAPS, &json!({"metadata": {"name": "a"}})).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));

    let mut changed = got.body.clone();
    changed["data"]["k"] = "w".into();
    let updated = caller.put(&format!("{MAPS}/a"), &changed).await;
    assert_eq!(updated.code, 200, "{:?}", updated.body);
    let stale = caller.put(&format!("{MAPS}/a"), &changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let patched = caller.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"x": "y"}})).await;
    assert_eq!(patched.body["data"], json!({"k": "w", "x": "y"}));
    let gone = caller.delete(&format!("{MAPS}/a"), &json!(null)).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(caller.get(&format!("{MAPS}/a")).await.code, 404);
    server.stop();
}

#[tokio::test]
async fn list_pages_and_selectors() {
    let server = server().await;
    let caller = Caller::new(&server);
    for i in 0..25 {
        let labels = json!({"odd": (i % 2 == 1).to_string()});
        let body = json!({"metadata": {"name": format!("m{i:02}"), "labels": labels}});
        assert_eq!(caller.post(MAPS, &body).await.code, 201);
    }
    let all = caller.get(MAPS).await.body;
    assert_eq!(all["items"].as_array().unwrap().len(), 25);
    assert_eq!(all["kind"], "ConfigMapList");
    let odd = caller.get(&format!("{MAPS}?labelSelector=odd%3Dtrue")).await.body;
    assert_eq!(odd["items"].as_array().unwrap().len(), 12);
    let one = caller.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm07")).await.body;
    assert_eq!(one["items"][0]["metadata"]["name"], "m07");
    let bad = caller.get(&format!("{MAPS}?fieldSelector=data.x%3Dm07")).await;
    assert_eq!(bad.code, 400);

    let mut names = Vec::new();
    let mut token = String::new();
    let mut revision = None;
    loop {
        let page = caller.get(&format!("{MAPS}?limit=10&continue={token}")).await.body;
        names.extend(page["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()));
        let this = page["metadata"]["resourceVersion"].clone();
        assert_eq!(*revision.get_or_insert(this.clone()), this, "all pages are of one revision");
        // A change between pages is not seen by them.
        caller.post(MAPS, &json!({"metadata": {"name": format!("m{}x", names.len())}})).await;
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names.len(), 25);
    server.stop();
}

#[tokio::test]
async fn watch_sees_transitions() {
    let server = server().await;
    let caller = Caller::new(&server);
    let start = caller.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let map = |labels: serde_json::Value| json!({"metadata": {"name": "w", "labels": labels}});
    caller.post(MAPS, &map(json!({"a": "1"}))).await;
    caller.put(&format!("{MAPS}/w"), &map(json!({"a": "2"}))).await;
    caller.put(&format!("{MAPS}/w"), &map(json!({"a": "1"}))).await;
    caller.delete(&format!("{MAPS}/w"), &json!(null)).await;
    let uri = format!("{MAPS}?watch=true&timeoutSeconds=1&labelSelector=a%3D1&resourceVersion={start}");
    let watched = caller.get(&uri).await;
    let types: Vec<String> = String::from_utf8(watched.bytes)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED", "ADDED", "DELETED"]);
    let old = caller.get(&format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion=1")).await;
    assert_eq!(old.body["type"], "ERROR");
    assert_eq!(old.body["object"]["code"], 410);
    server.stop();
}
