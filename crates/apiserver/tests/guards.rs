//! Who may do what, and what is completed or refused on the way in: all layers together, in-process.

mod support;

use std::time::Duration;

use isopod_api::Value;
use serde_json::json;
use support::{Caller, guarded_server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "i"}]}})
}

async fn account(admin: &Caller, namespace: &str, name: &str) {
    let uri = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let created = admin.post(&uri, &json!({"metadata": {"name": name}})).await;
    assert_eq!(created.code, 201, "{}", created.body);
}

/// Waits until a request is answered with a code: roles decide by the watch cache, which follows the store.
async fn settles(caller: &Caller, uri: &str, code: u16) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = caller.get(uri).await;
        if answer.code == code {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{uri} still answers {}", answer.code);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn roles_decide_and_nobody_grants_more_than_they_hold() {
    let server = guarded_server().await;
    let (admin, jane) = (Caller::new(&server), Caller::of(&server, "jane", &[]));
    let refused = jane.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    let binding = |name: &str, role: &str, user: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]})
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(admin.post(&bindings, &binding("jane", "admin", "jane")).await.code, 201);
    settles(&jane, "/api/v1/namespaces/default/configmaps", 200).await;
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/configmaps").await.code, 403);
    assert_eq!(jane.post(&bindings, &binding("bob", "view", "bob")).await.code, 201);
    let more = jane.post(&bindings, &binding("eve", "cluster-admin", "eve")).await;
    assert_eq!(more.code, 403);
    let message = more.body["message"].as_str().unwrap();
    assert!(message.contains("is attempting to grant RBAC permissions not currently held"), "{message}");
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]});
    assert_eq!(jane.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.code, 403);
    let lost = jane.post(&bindings, &binding("lost", "lost", "bob")).await;
    assert_eq!(lost.code, 404, "{}", lost.body);
    assert_eq!(admin.delete(&format!("{bindings}/jane"), &json!(null)).await.code, 200);
    settles(&jane, "/api/v1/namespaces/default/configmaps", 403).await;
    server.stop();
}

#[tokio::test]
async fn sums_follow_their_parts() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    let part = json!({"metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}]});
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), &part).await.code, 201);
    let grown = async {
        loop {
            let view = admin.get(&format!("{RBAC}/clusterroles/admin")).await.body;
            if view["rules"].as_array().unwrap().contains(&part["rules"][0]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), grown)
        .await
        .expect("admin sums up edit, which sums up view");
    server.stop();
}

#[tokio::test]
async fn reviews() {
    let server = guarded_server().await;
    let (admin, jane) = (Caller::new(&server), Caller::of(&server, "jane", &["devs"]));
    let own = jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    assert_eq!(own.body["status"]["userInfo"]["username"], "jane", "{}", own.body);
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask =
        json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let answer = jane.post(uri, &ask).await;
    assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(false)), "{}", answer.body);
    assert_eq!(admin.post(uri, &ask).await.body["status"]["allowed"], true);
    let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let ask = json!({"spec": {"user": "system:kube-scheduler", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let answer = admin.post(uri, &ask).await.body;
    assert_eq!(answer["status"]["allowed"], true);
    assert!(answer["status"]["reason"].as_str().unwrap().starts_with("RBAC: allowed by ClusterRoleBinding"));
    assert_eq!(admin.post(uri, &json!({"spec": {"user": "x"}})).await.code, 422);
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = jane.post(uri, &json!({"spec": {"namespace": "default"}})).await.body;
    assert!(rules["status"]["resourceRules"].as_array().is_some_and(|rules| !rules.is_empty()), "{rules}");
    server.stop();
}

#[tokio::test]
async fn tokens_are_issued_reviewed_and_bound() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    account(&admin, "default", "default").await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = admin.post(uri, &json!({"spec": {"expirationSeconds": 600}})).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let token = answer.body["status"]["token"].as_str().unwrap();
    let review = |token: &str| {
        let (admin, body) = (admin.clone(), json!({"spec": {"token": token}}));
        async move {
            admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await.body["status"].clone()
        }
    };
    let status = review(token).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    assert_ne!(review(&token[..token.len() - 6]).await["authenticated"], true);
    let short = admin.post(uri, &json!({"spec": {"expirationSeconds": 1}})).await;
    assert_eq!(short.code, 422, "{}", short.body);
    assert_eq!(
        admin.delete("/api/v1/namespaces/default/serviceaccounts/default", &json!(null)).await.code,
        200
    );
    assert_ne!(review(token).await["authenticated"], true, "the account is gone");
    let keys = admin.get("/openid/v1/jwks").await.body;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    server.stop();
}

#[tokio::test]
async fn pods_are_completed_and_judged() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    let pods = "/api/v1/namespaces/team/pods";
    let missing = admin.post(pods, &pod("p")).await;
    assert_eq!((missing.code, &missing.body["message"]), (404, &json!("namespaces \"team\" not found")));
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let team = json!({"metadata": {"name": "team", "labels": labels}});
    assert_eq!(admin.post("/api/v1/namespaces", &team).await.code, 201);
    let early = admin.post(pods, &pod("p")).await;
    assert!(early.body["message"].as_str().unwrap().contains("serviceaccount \"default\" not found"));
    account(&admin, "team", "default").await;
    let made = admin.post(pods, &pod("p")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let spec = &made.body["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    let mut privileged = pod("q");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let refused = admin.post(pods, &privileged).await;
    assert_eq!(refused.code, 403);
    assert!(refused.body["message"].as_str().unwrap().contains("violates PodSecurity \"baseline:latest\""));
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": privileged["spec"]}}});
    let warned = admin.post("/apis/apps/v1/namespaces/team/deployments", &deployment).await;
    assert_eq!(warned.code, 201, "{}", warned.body);
    let warning = warned.headers.get("warning").expect("a warning").to_str().unwrap();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");
    server.stop();
}

#[tokio::test]
async fn quotas_are_reserved_once() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let maps = "/api/v1/namespaces/default/configmaps";
    let hard = json!({"configmaps": "3"});
    let made = admin.post(quotas, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let unknown = admin.post(maps, &json!({"metadata": {"name": "early"}})).await;
    assert!(
        unknown.body["message"].as_str().unwrap().contains("status unknown for quota: q"),
        "{}",
        unknown.body
    );
    let mut quota = made.body;
    quota["status"] = json!({"hard": hard, "used": {"configmaps": "0"}});
    let counted = admin.put(&format!("{quotas}/q/status"), &quota).await;
    assert_eq!(counted.code, 200, "{}", counted.body);
    let tries = (0..8).map(|n| {
        let admin = admin.clone();
        async move { admin.post(maps, &json!({"metadata": {"name": format!("m{n}")}})).await }
    });
    let answers = futures::future::join_all(tries).await;
    let made = answers.iter().filter(|answer| answer.code == 201).count();
    assert_eq!(made, 3, "{:?}", answers.iter().map(|a| &a.body["message"]).collect::<Vec<_>>());
    let refused = answers.iter().find(|answer| answer.code == 403).expect("one is refused");
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3"
        )
    );
    // A create that fails after it was reserved for gives the place back.
    let used =
        || async { admin.get(&format!("{quotas}/q")).await.body["status"]["used"]["configmaps"].clone() };
    assert_eq!(used().await, "3");
    server.stop();
}

#[tokio::test]
async fn a_kubelet_sees_its_pods_alone() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    let kubelet = Caller::of(&server, "system:node:n1", &["system:nodes"]);
    account(&admin, "default", "default").await;
    for name in ["mine", "other"] {
        let secret = json!({"metadata": {"name": name}});
        assert_eq!(admin.post("/api/v1/namespaces/default/secrets", &secret).await.code, 201);
    }
    let node = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(kubelet.post("/api/v1/nodes", &node("n1")).await.code, 201);
    let other = kubelet.post("/api/v1/nodes", &node("n2")).await;
    assert_eq!(other.code, 403, "{}", other.body);
    let secret = "/api/v1/namespaces/default/secrets/mine";
    assert_eq!(kubelet.get(secret).await.code, 403, "no pod yet");
    let mut pod = pod("p");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "mine"}}]);
    let made = admin.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    settles(&kubelet, secret, 200).await;
    assert_eq!(kubelet.get("/api/v1/namespaces/default/secrets/other").await.code, 403);
    assert_eq!(kubelet.get("/api/v1/namespaces/default/secrets").await.code, 403);
    assert_eq!(kubelet.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.code, 200);
    assert_eq!(kubelet.get("/api/v1/pods").await.code, 403);
    let token = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p",
        "uid": made.body["metadata"]["uid"]}}});
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = kubelet.post(uri, &token).await;
    assert_eq!(issued.code, 201, "{}", issued.body);
    assert_eq!(kubelet.post(uri, &json!({"spec": {}})).await.code, 403, "not bound to a pod");
    let stranger = Caller::of(&server, "system:node:n2", &["system:nodes"]);
    assert_eq!(stranger.post(uri, &token).await.code, 403);
    server.stop();
}

/// What admission fills in has its defaults at once: a later change of the metadata changes nothing else.
#[tokio::test]
async fn pods_given_limits_by_admission_can_be_updated() {
    let server = guarded_server().await;
    let admin = Caller::new(&server);
    let limits = json!({"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container",
        "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "10m"}}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/limitranges", &limits).await.code, 201);
    let account = json!({"metadata": {"name": "default"}});
    let made = admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.code;
    assert!(made == 201 || made == 409, "{made}");
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "finalizers": ["example.org/a"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let created = loop {
        let created = admin.post(pods, &pod).await;
        // The plugin sees limits by the watch cache, which follows the store.
        let limited = created.body["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "200m";
        if created.code == 201 && limited {
            break created;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", created.body);
        let patch = json!({"metadata": {"finalizers": null}});
        admin.patch(&format!("{pods}/p"), "merge-patch+json", &patch).await;
        admin.delete(&format!("{pods}/p"), &json!({"gracePeriodSeconds": 0})).await;
    };
    let policy = &created.body["spec"]["containers"][0]["resizePolicy"];
    assert_eq!(policy[0], json!({"resourceName": "cpu", "restartPolicy": "NotRequired"}));
    let patch = json!({"metadata": {"finalizers": null}});
    let patched = admin.patch(&format!("{pods}/p"), "merge-patch+json", &patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
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
