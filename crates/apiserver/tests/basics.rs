//! Create, get, list, watch, update, patch and delete through all layers, in-process.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

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
    server.stop();
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let server = server().await;
    let caller = Caller::new(&server);
    let services = "/api/v1/namespaces/default/services";
    let kubernetes = caller.get(&format!("{services}/kubernetes")).await.body;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
    let spec = json!({"selector": {"a": "b"}, "type": "NodePort", "ports": [{"port": 80}]});
    let made = caller.post(services, &json!({"metadata": {"name": "a"}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let ip = made.body["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.43."), "{ip}");
    assert_eq!(made.body["spec"]["ipFamilies"], json!(["IPv4"]));
    let port = made.body["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    let address = format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}");
    assert_eq!(caller.get(&address).await.body["spec"]["parentRef"]["name"], "a");

    let taken = json!({"metadata": {"name": "b"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let refused = caller.post(services, &taken).await;
    assert_eq!(refused.code, 422);
    assert!(refused.body["message"].as_str().unwrap().ends_with("provided IP is already allocated"));
    let ports = json!([{"port": 80, "nodePort": port}]);
    let taken = json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": ports}});
    let refused = caller.post(services, &taken).await;
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.ports[0].nodePort");

    // An old manifest without addresses keeps them.
    let again = caller.put(&format!("{services}/a"), &json!({"metadata": {"name": "a"}, "spec": spec})).await;
    assert_eq!((&again.body["spec"]["clusterIP"], again.code), (&json!(ip), 200), "{:?}", again.body);
    assert_eq!(again.body["spec"]["ports"][0]["nodePort"], port);
    assert_eq!(caller.delete(&format!("{services}/a"), &json!(null)).await.code, 200);
    assert_eq!(caller.get(&address).await.code, 404);
    let free = json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "clusterIP": ip,
        "ports": [{"port": 80, "nodePort": port}]}});
    assert_eq!(caller.post(services, &free).await.code, 201);
    server.stop();
}

#[tokio::test]
async fn subresources() {
    let server = server().await;
    let caller = Caller::new(&server);
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"replicas": 9}});
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let made = caller.post(base, &deployment).await.body;
    assert_eq!((&made["metadata"]["generation"], &made["status"]), (&json!(1), &json!({})), "{made}");
    let scale = caller.get(&format!("{base}/d/scale")).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("a=b")));
    let patch = json!({"spec": {"replicas": 5}});
    assert_eq!(caller.patch(&format!("{base}/d/scale"), "merge-patch+json", &patch).await.code, 200);
    let status = json!({"status": {"replicas": 3}, "spec": {"replicas": 7}});
    let got = caller.patch(&format!("{base}/d/status"), "merge-patch+json", &status).await.body;
    assert_eq!((&got["spec"]["replicas"], &got["status"]["replicas"]), (&json!(5), &json!(3)));
    assert_eq!(got["metadata"]["generation"], 2);

    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(caller.post(pods, &pod).await.code, 201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(caller.post(&format!("{pods}/p/binding"), &binding).await.code, 201);
    let twice = caller.post(&format!("{pods}/p/binding"), &binding).await;
    assert_eq!(twice.code, 409);
    let bound = caller.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dn1")).await.body;
    assert_eq!(bound["items"][0]["status"]["conditions"][0]["type"], "PodScheduled");
    // A pod on a node is marked, and goes with the kubelet's second delete.
    let marked = caller.delete(&format!("{pods}/p"), &json!(null)).await.body;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(caller.get(&format!("{pods}/p")).await.code, 200);
    caller.delete(&format!("{pods}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(caller.get(&format!("{pods}/p")).await.code, 404);

    let gone = caller.delete("/api/v1/namespaces/kube-public", &json!(null)).await.body;
    assert_eq!(gone["status"]["phase"], "Terminating");
    let empty =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-public"}, "spec": {}});
    assert_eq!(caller.put("/api/v1/namespaces/kube-public/finalize", &empty).await.code, 200);
    assert_eq!(caller.get("/api/v1/namespaces/kube-public").await.code, 404);
    server.stop();
}

#[tokio::test]
async fn server_side_apply() {
    let server = server().await;
    let caller = Caller::new(&server);
    let uri = "/apis/apps/v1/namespaces/default/deployments/d";
    let config = |replicas: i64, image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    let made = caller.apply(uri, "one", &config(1, "i:1")).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let fields = &made.body["metadata"]["managedFields"];
    assert_eq!((&fields[0]["manager"], &fields[0]["operation"]), (&json!("one"), &json!("Apply")));
    let again = caller.apply(uri, "one", &config(1, "i:1")).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], made.body["metadata"]["resourceVersion"]);
    // A scale by somebody else takes the field; the next apply conflicts until forced.
    let scaled = json!({"spec": {"replicas": 3}});
    caller.patch(&format!("{uri}?fieldManager=scaler"), "merge-patch+json", &scaled).await;
    let refused = caller.apply(uri, "one", &config(2, "i:2")).await;
    assert_eq!(refused.code, 409, "{:?}", refused.body);
    assert_eq!(refused.body["details"]["causes"][0]["field"], ".spec.replicas");
    let forced = caller.apply(&format!("{uri}?force=true"), "one", &config(2, "i:2")).await;
    assert_eq!((&forced.body["spec"]["replicas"], forced.code), (&json!(2), 200));
    let unknown =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"x": 1}});
    let warned = caller.apply(&format!("{uri}?fieldValidation=Strict"), "two", &unknown).await;
    assert_eq!(warned.code, 400);
    server.stop();
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let server = server().await;
    let caller = Caller::new(&server);
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        let pod = json!({"metadata": {"name": name, "labels": {"x": "y"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(caller.post(pods, &pod).await.code, 201);
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let patched =
            caller.patch(&format!("{pods}/{name}/status"), "strategic-merge-patch+json", &status).await;
        assert_eq!(patched.code, 200, "{:?}", patched.body);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "pdb"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"x": "y"}}}});
    assert_eq!(caller.post(budgets, &budget).await.code, 201);
    let evict = |name: &str| {
        let uri = format!("{pods}/{name}/eviction");
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let caller = caller.clone();
        async move { caller.post(&uri, &body).await }
    };
    let early = evict("a").await;
    assert_eq!(
        (early.code, &early.headers["retry-after"]),
        (429, &"10".parse().unwrap()),
        "{:?}",
        early.body
    );
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(caller.patch(&format!("{budgets}/pdb/status"), "merge-patch+json", &status).await.code, 200);
    assert_eq!(evict("a").await.code, 201);
    let gone = caller.get(&format!("{pods}/a")).await.body;
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let refused = evict("b").await;
    assert_eq!(refused.code, 429);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "DisruptionBudget");
    server.stop();
}

#[tokio::test]
async fn finalizers_policies_and_collections() {
    let server = server().await;
    let caller = Caller::new(&server);
    let one = format!("{MAPS}/f");
    let held = json!({"metadata": {"name": "f", "finalizers": ["example.com/hold"]}});
    let made = caller.post(MAPS, &held).await.body;
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(caller.delete(&one, &wrong).await.code, 409);
    let marked = caller.delete(&one, &json!({"propagationPolicy": "Foreground"})).await.body;
    assert_eq!(marked["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    assert_eq!(marked["metadata"]["uid"], made["metadata"]["uid"]);
    let more =
        json!({"metadata": {"finalizers": ["example.com/hold", "foregroundDeletion", "example.com/new"]}});
    assert_eq!(caller.patch(&one, "merge-patch+json", &more).await.code, 422);
    let none = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    assert_eq!(caller.patch(&one, "json-patch+json", &none).await.code, 200);
    assert_eq!(caller.get(&one).await.code, 404);

    for i in 0..40 {
        let labels = json!({"even": (i % 2 == 0).to_string()});
        caller.post(MAPS, &json!({"metadata": {"name": format!("m{i}"), "labels": labels}})).await;
    }
    let deleted = caller.delete(&format!("{MAPS}?labelSelector=even%3Dtrue"), &json!(null)).await;
    assert_eq!((deleted.code, deleted.body["items"].as_array().unwrap().len()), (200, 20));
    assert_eq!(caller.get(MAPS).await.body["items"].as_array().unwrap().len(), 20);
    let dry = caller.delete(&format!("{MAPS}?dryRun=All"), &json!(null)).await;
    assert_eq!(dry.code, 200);
    assert_eq!(caller.get(MAPS).await.body["items"].as_array().unwrap().len(), 20);
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
