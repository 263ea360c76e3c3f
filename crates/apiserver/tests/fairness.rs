//! One client's flood leaves the others their turns.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isopod_api::identity::UserInfo;
use isopod_apiserver::layers::{Attributes, Authorizer, Decision};
use parking_lot::Mutex;
use serde_json::json;
use support::memory_store::MemoryStore;
use support::{Answer, Caller, config, server_of};
use tokio::sync::Semaphore;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const FLOOD: usize = 400;

/// Lets clients through one by one, in the order that they got their seats.
struct Gate {
    permits: Semaphore,
    order: Mutex<Vec<String>>,
}

#[async_trait]
impl Authorizer for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }
    async fn authorize(&self, user: &UserInfo, _: &Attributes) -> Decision {
        if user.name.starts_with("client-") {
            self.order.lock().push(user.name.clone());
            self.permits.acquire().await.unwrap().forget();
        }
        Decision::Allow(String::new())
    }
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The sum of a metric's values in the flow schema of ordinary users.
async fn metric(admin: &Caller, name: &str) -> usize {
    let text = String::from_utf8(admin.get("/metrics").await.bytes).unwrap();
    let lines = text.lines().filter(|l| l.starts_with(name) && l.contains("flow_schema=\"global-default\""));
    lines.map(|l| l.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[tokio::test]
async fn a_flood_does_not_starve_others() {
    let gate = Arc::new(Gate { permits: Semaphore::new(0), order: Mutex::default() });
    let mut config = config();
    config.seats = 20;
    let layer = Arc::clone(&gate);
    let server = server_of(config, MemoryStore::new(), |layers| layers.authorizers = vec![layer]).await;
    let admin = Caller::new(&server);
    let flood = Caller::of(&server, "client-a", &[]);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let flood = flood.clone();
        tasks.spawn(async move { flood.get(MAPS).await });
    }
    let waiting = "apiserver_flowcontrol_current_inqueue_requests{";
    let rejected = "apiserver_flowcontrol_rejected_requests_total{";
    eventually("all requests of the flood run, wait or are refused", async || {
        let running = gate.order.lock().len();
        running + metric(&admin, waiting).await + metric(&admin, rejected).await == FLOOD
    })
    .await;
    // A hand of six queues of fifty each is full.
    assert_eq!(metric(&admin, waiting).await, 300);
    let running = gate.order.lock().len();
    assert!((2..=20).contains(&running), "{running}");

    let other = Caller::of(&server, "client-b", &[]);
    let asked = tokio::spawn(async move { other.get(MAPS).await });
    eventually("the other client waits", async || metric(&admin, waiting).await == 301).await;
    // Administrators and watches of the system are not in anybody's queue.
    assert_eq!(admin.get(MAPS).await.code, 200);
    let mut before = 0;
    while !gate.order.lock().iter().any(|user| user == "client-b") {
        let started = gate.order.lock().len();
        gate.permits.add_permits(1);
        eventually("the next one runs", async || gate.order.lock().len() > started).await;
        before += 1;
        assert!(before <= 10, "the other client waits behind the flood");
    }
    gate.permits.add_permits(FLOOD);
    let answer = asked.await.unwrap();
    assert_eq!(answer.code, 200);
    let schema = admin.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/global-default").await.body;
    let uid = schema["metadata"]["uid"].as_str().unwrap();
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], uid);
    assert!(answer.headers.contains_key("x-kubernetes-pf-prioritylevel-uid"));
    let answers: Vec<Answer> = tasks.join_all().await;
    let refused: Vec<_> = answers.iter().filter(|a| a.code == 429).collect();
    assert_eq!(refused.len(), FLOOD - 300 - running);
    assert_eq!(
        (&refused[0].headers["retry-after"], &refused[0].body["reason"]),
        (&"1".parse().unwrap(), &json!("TooManyRequests"))
    );
    assert!(answers.iter().all(|a| matches!(a.code, 200 | 429)));
    server.stop();
}

/// What administrators make of the objects is followed, but for what every cluster must have.
#[tokio::test]
async fn stored_objects_are_followed() {
    let server = support::server().await;
    let admin = Caller::new(&server);
    let base = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let levels = admin.get(&format!("{base}/prioritylevelconfigurations")).await.body;
    assert_eq!(names(&levels).len(), 8);
    assert_eq!(names(&admin.get(&format!("{base}/flowschemas")).await.body).len(), 11);
    let schema = json!({"metadata": {"name": "mine"}, "spec": {"matchingPrecedence": 3,
        "priorityLevelConfiguration": {"name": "mine"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    let made = admin.post(&format!("{base}/flowschemas"), &schema).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    eventually("the schema is told that its level is missing", async || {
        let schema = admin.get(&format!("{base}/flowschemas/mine")).await.body;
        schema["status"]["conditions"][0]["status"] == "True"
    })
    .await;
    let level = json!({"metadata": {"name": "mine"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    let made = admin.post(&format!("{base}/prioritylevelconfigurations"), &level).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let jane = Caller::of(&server, "jane", &[]);
    let uid = made.body["metadata"]["uid"].as_str().unwrap().to_owned();
    eventually("its requests go to the new level", async || {
        jane.get(MAPS).await.headers["x-kubernetes-pf-prioritylevel-uid"] == *uid
    })
    .await;
    let path = format!("{base}/flowschemas/catch-all");
    assert_eq!(admin.delete(&path, &serde_json::Value::Null).await.code, 200);
    let change = json!({"spec": {"matchingPrecedence": 9}});
    let exempt = format!("{base}/flowschemas/exempt");
    assert_eq!(admin.patch(&exempt, "merge-patch+json", &change).await.code, 200);
    eventually("mandatory objects come back", async || {
        admin.get(&path).await.code == 200 && admin.get(&exempt).await.body["spec"]["matchingPrecedence"] == 1
    })
    .await;
    server.stop();
}
