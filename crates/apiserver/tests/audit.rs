//! The audit log of a server: what is recorded, at which stages, and what never is.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isopod_apiserver::ApiServer;
use isopod_apiserver::audit;
use isopod_apiserver::layers::{Layers, PeerCertificates};
use serde_json::{Value, json};
use support::memory_store::MemoryStore;
use support::{Caller, Everyone, config, server_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const HIDDEN: &str = "aGlkZGVuLXZhbHVl";

async fn server(
    policy: Option<&str>,
    change: impl FnOnce(&mut Layers),
) -> (Arc<ApiServer>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let policy = policy.map_or_else(Default::default, |text| audit::parse_policy(text).unwrap());
    let mut config = config();
    let log = audit::log::Config { path: path(&directory), ..audit::log::Config::default() };
    config.audit = Some(audit::Config { policy, log });
    (server_of(config, MemoryStore::new(), change).await, directory)
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("audit.log")
}

fn read(server: &ApiServer, path: &Path) -> (String, Vec<Value>) {
    server.flush_audit();
    let text = std::fs::read_to_string(path).unwrap();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (text, events)
}

#[tokio::test]
async fn by_default_who_did_what_and_nothing_secret() {
    let (server, directory) = server(None, |_| {}).await;
    let caller = Caller::of(&server, "jane", &["ops"]);
    let secret = json!({"metadata": {"generateName": "s-"}, "data": {"password": HIDDEN}});
    let headers = [
        ("content-type", "application/json"),
        ("audit-id", "mine"),
        ("x-forwarded-for", "192.0.2.7, nonsense"),
    ];
    let uri = format!("{SECRETS}?fieldManager=m");
    let made = caller.send("POST", &uri, &headers, secret.to_string().into_bytes()).await;
    assert_eq!((made.code, &made.headers["audit-id"]), (201, &"mine".parse().unwrap()));
    let name = made.body["metadata"]["name"].as_str().unwrap().to_owned();
    // What is wrong with a Secret is told to the client and not to the log.
    let wrong = json!({"metadata": {"name": "w"}, "data": {HIDDEN: "eA==", "not a key": HIDDEN}});
    assert_eq!(caller.post(SECRETS, &wrong).await.code, 422);
    let review = json!({"spec": {"token": "hidden-value"}});
    caller.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(caller.get(&format!("{SECRETS}/none")).await.code, 404);
    let system = Caller::of(&server, "system:kube-controller-manager", &[]);
    assert_eq!(system.get("/api/v1/pods").await.code, 200);

    let (text, events) = read(&server, &path(&directory));
    for hidden in [HIDDEN, "hidden-value"] {
        assert!(!text.contains(hidden), "{text}");
    }
    assert_eq!(events.len(), 4, "{text}");
    let event = &events[0];
    assert_eq!((&event["stage"], &event["level"]), (&json!("ResponseComplete"), &json!("Metadata")));
    assert_eq!((&event["auditID"], &event["verb"]), (&json!("mine"), &json!("create")));
    assert_eq!(event["user"], json!({"username": "jane", "groups": ["ops", "system:authenticated"]}));
    assert_eq!(event["sourceIPs"], json!(["192.0.2.7"]));
    assert_eq!(event["requestURI"], format!("{SECRETS}?fieldManager=m"));
    assert_eq!(event["objectRef"]["name"], name.as_str());
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(event["requestReceivedTimestamp"].as_str() <= event["stageTimestamp"].as_str());
    assert_eq!(events[1]["responseStatus"]["code"], 422);
    assert_eq!(events[3]["responseStatus"]["message"], "secrets \"none\" not found");
    let metrics = String::from_utf8(caller.get("/metrics").await.bytes).unwrap();
    for name in ["apiserver_audit_event_total", "apiserver_audit_level_total", "apiserver_audit_error_total"]
    {
        assert!(metrics.contains(&format!("# TYPE {name} counter")), "{name} in {metrics}");
    }
    server.stop();
}

/// A watch is recorded when it starts and when its client has gone.
#[tokio::test]
async fn watches_have_a_start_and_an_end() {
    let (server, directory) = server(None, |_| {}).await;
    let caller = Caller::of(&server, "jane", &[]);
    assert_eq!(caller.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await.code, 200);
    let stages: Vec<Value> =
        read(&server, &path(&directory)).1.into_iter().map(|mut e| e["stage"].take()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    server.stop();
}

#[tokio::test]
async fn bodies_when_a_policy_asks_for_them() {
    let policy = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: None
  verbs: [list]
- level: Request
  resources: [{resources: [configmaps]}]
  verbs: [patch]
- level: RequestResponse
"#;
    let (server, directory) = server(Some(policy), |_| {}).await;
    let caller = Caller::of(&server, "jane", &[]);
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(caller.post(MAPS, &map).await.code, 201);
    let patch = json!({"data": {"k": "w"}});
    assert_eq!(caller.patch(&format!("{MAPS}/a"), "merge-patch+json", &patch).await.code, 200);
    assert_eq!(caller.get(MAPS).await.code, 200);
    assert_eq!(caller.delete(&format!("{MAPS}/a"), &Value::Null).await.code, 200);
    let review = json!({"spec": {"token": "hidden-value"}});
    caller.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    let (text, events) = read(&server, &path(&directory));
    let stage = |event: &Value| event["stage"] == "ResponseComplete";
    let [create, patched, delete, review] = &events.iter().filter(|e| stage(e)).collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    // RequestReceived is not left out by this policy.
    assert_eq!(events.len(), 8, "{text}");
    assert_eq!(create["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(create["responseObject"]["data"], json!({"k": "v"}));
    assert!(create["responseObject"]["metadata"]["uid"].is_string());
    assert!(create["responseObject"]["metadata"]["managedFields"].is_null(), "{create}");
    assert_eq!((&patched["requestObject"], &patched["responseObject"]), (&patch, &Value::Null));
    assert_eq!(delete["responseObject"]["status"], "Success");
    assert_eq!((&review["requestObject"], &review["responseObject"]), (&Value::Null, &Value::Null));
    assert!(!text.contains("hidden-value"));
    server.stop();
}

/// Refused logins, refused requests, and what an administrator does in another's name.
#[tokio::test]
async fn refusals_and_impersonation() {
    let (server, directory) = server(None, |layers| layers.authenticators.clear()).await;
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(Arc::clone(&server).connection(
        far,
        PeerCertificates::default(),
        CancellationToken::new(),
    ));
    let request = "GET /api/v1/pods HTTP/1.1\r\nhost: x\r\nauthorization: Bearer hidden-value\r\nconnection: close\r\n\r\n";
    near.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    serving.await.unwrap();
    let caller = Caller::of(&server, "admin", &["system:masters"]);
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "dev")];
    assert_eq!(caller.send("GET", MAPS, &headers, vec![]).await.code, 200);
    let (text, events) = read(&server, &path(&directory));
    assert!(!text.contains("hidden-value"), "{text}");
    let [refused, impersonated] = &events[..] else { panic!("{text}") };
    assert_eq!((&refused["user"], &refused["responseStatus"]["code"]), (&json!({}), &json!(401)));
    assert_eq!(refused["stage"], "ResponseStarted");
    assert_eq!(impersonated["user"]["username"], "admin");
    assert_eq!(
        impersonated["impersonatedUser"],
        json!({"username": "bob", "groups": ["dev", "system:authenticated"]})
    );
    server.stop();
}

/// A client that does not wait for its answer leaves a trace too.
#[tokio::test]
async fn a_client_that_goes_away_is_recorded() {
    let (server, directory) = server(None, |layers| layers.authenticators = vec![Arc::new(Everyone)]).await;
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(Arc::clone(&server).connection(
        far,
        PeerCertificates::default(),
        CancellationToken::new(),
    ));
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    );
    near.write_all(head.as_bytes()).await.unwrap();
    near.shutdown().await.unwrap();
    drop(near);
    serving.await.unwrap();
    let (text, events) = read(&server, &path(&directory));
    let [event] = &events[..] else { panic!("{text}") };
    assert!(event["responseStatus"]["code"].as_u64() >= Some(400), "{event}");
    server.stop();
}
