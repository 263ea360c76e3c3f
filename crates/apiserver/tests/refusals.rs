//! What strangers and people without the right do not get, over a connection and through all layers.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;

use isopod_apiserver::ApiServer;
use isopod_apiserver::layers::PeerCertificates;
use serde_json::json;
use support::{Caller, guarded_server, guarded_server_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// The status code of a request on a connection of its own, without a certificate.
async fn code(server: &Arc<ApiServer>, method: &str, path: &str, headers: &str) -> u16 {
    let (mut near, far) = tokio::io::duplex(256 * 1024);
    tokio::spawn(Arc::clone(server).connection(far, PeerCertificates::default(), CancellationToken::new()));
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
    near.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

#[tokio::test]
async fn strangers_reach_health_and_version_alone() {
    let server = guarded_server().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/version", "/version/"] {
        assert_eq!(code(&server, "GET", path, "").await, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/apis/apps/v1",
        "/api/v1/namespaces/default/pods",
        "/api/v1/pods?watch=1",
        "/api/v1/namespaces/default/secrets/a",
        "/api/v1/nodes/n/proxy/healthz",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/logs",
        "/debug/pprof/",
        "/healthzz",
        "/version2",
        "//healthz",
    ] {
        assert_eq!(code(&server, "GET", path, "").await, 401, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(code(&server, method, "/api/v1/namespaces/default/pods", "").await, 401, "{method}");
        // Health may be looked at and nothing else.
        assert_eq!(code(&server, method, "/healthz", "").await, 403, "{method}");
    }
    // Single checks are for those who have a name and the right.
    assert_eq!(code(&server, "GET", "/livez/ping", "").await, 403);
    assert_eq!(code(&server, "GET", "/healthz/../api", "").await, 403);
    // Who shows bad credentials is not taken for a stranger, and who names himself is nobody.
    assert_eq!(code(&server, "GET", "/healthz", "authorization: Bearer forged\r\n").await, 401);
    assert_eq!(
        code(&server, "GET", "/api", "x-remote-user: admin\r\nx-remote-group: system:masters\r\n").await,
        401
    );
    assert_eq!(code(&server, "GET", "/api", "impersonate-user: admin\r\n").await, 401);
    server.stop();
}

#[tokio::test]
async fn profiling_is_served_to_nobody() {
    let server = guarded_server().await;
    let admin = Caller::of(&server, "admin", &["system:masters"]);
    for path in [
        "/debug/pprof/",
        "/debug/pprof/profile",
        "/debug/pprof/heap",
        "/debug/flags/v",
        "/debug/api_priority_and_fairness/dump_queues",
        "/logs",
    ] {
        assert_eq!(admin.get(path).await.code, 404, "{path}");
    }
    server.stop();
}

/// A role that may `get` what runs commands does not let its holder run any; `create` does.
#[tokio::test]
async fn commands_in_containers_need_create() {
    let server = guarded_server().await;
    let admin = Caller::of(&server, "admin", &["system:masters"]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let resources = ["pods/exec", "pods/attach", "pods/portforward"];
    for (user, verb) in [("reader", "get"), ("runner", "create")] {
        let role = json!({"metadata": {"name": user}, "rules": [{"apiGroups": [""], "resources": resources, "verbs": [verb]}]});
        assert_eq!(admin.post(&format!("{rbac}/roles"), &role).await.code, 201);
        let binding = json!({"metadata": {"name": user}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        assert_eq!(admin.post(&format!("{rbac}/rolebindings"), &binding).await.code, 201);
    }
    let (reader, runner) = (Caller::of(&server, "reader", &[]), Caller::of(&server, "runner", &[]));
    for resource in resources {
        let sub = resource.trim_start_matches("pods/");
        let path = format!("/api/v1/namespaces/default/pods/none/{sub}?command=id");
        for method in ["GET", "POST"] {
            let refused = reader
                .send(method, &path, &[("upgrade", "websocket"), ("connection", "Upgrade")], vec![])
                .await;
            assert_eq!(refused.code, 403, "{method} {path}");
            let message = refused.body["message"].as_str().unwrap();
            assert!(message.contains("cannot create resource"), "{message}");
            // Allowed: there is no such pod.
            assert_eq!(runner.send(method, &path, &[], vec![]).await.code, 404, "{method} {path}");
        }
    }
    server.stop();
}

/// External IPs are refused unless the administrator turns the plugin off that refuses them.
#[tokio::test]
async fn external_addresses_are_allowed_by_the_administrator_alone() {
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.9"]}});
    for (disabled, code) in [(vec![], 403), (vec!["DenyServiceExternalIPs".to_owned()], 201)] {
        let server = guarded_server_with(|config| config.admission.disabled = disabled).await;
        let admin = Caller::of(&server, "admin", &["system:masters"]);
        let answer = admin.post("/api/v1/namespaces/default/services", &service).await;
        assert_eq!(answer.code, code, "{:?}", answer.body);
        server.stop();
    }
}

/// A node asks for certificates in its own name, nobody for one of an administrator, and who approves or signs needs
/// the right over the signer.
#[tokio::test]
async fn certificate_requests_are_held_to_their_authors() {
    use base64::Engine as _;
    let server = guarded_server().await;
    let admin = Caller::of(&server, "admin", &["system:masters"]);
    let node = Caller::of(&server, "system:node:a", &["system:nodes"]);
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |name: &str, user: &str, group: &str, signer: &str| {
        let identity = isopod_pki::Identity::client(user, Some(group));
        let (pem, _) = isopod_pki::certificate_request(&identity).unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
        json!({"metadata": {"name": name}, "spec": {"request": encoded, "usages": ["digital signature", "client auth"],
            "signerName": format!("kubernetes.io/{signer}")}})
    };
    let kubelet = "kube-apiserver-client-kubelet";
    let own = node.post(requests, &request("own", "system:node:a", "system:nodes", kubelet)).await;
    assert_eq!(own.code, 201, "{:?}", own.body);
    assert_eq!(own.body["spec"]["username"], "system:node:a");
    let other = node.post(requests, &request("other", "system:node:b", "system:nodes", kubelet)).await;
    assert_eq!(other.code, 403, "{:?}", other.body);
    let master = request("master", "jane", "system:masters", "kube-apiserver-client");
    assert_eq!(admin.post(requests, &master).await.code, 403);

    // May write the subresources, and has no right over the signer.
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "writer"}, "rules": [{"apiGroups": ["certificates.k8s.io"], "verbs": ["update"],
        "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]}]});
    assert_eq!(admin.post(&format!("{rbac}/clusterroles"), &role).await.code, 201);
    let binding = json!({"metadata": {"name": "writer"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"}});
    assert_eq!(admin.post(&format!("{rbac}/clusterrolebindings"), &binding).await.code, 201);
    let jane = Caller::of(&server, "jane", &[]);
    let mut approved = own.body.clone();
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]});
    let refused = jane.put(&format!("{requests}/own/approval"), &approved).await;
    assert_eq!(refused.code, 403, "{:?}", refused.body);
    assert!(
        refused.body["message"].as_str().unwrap().contains("not permitted to approve"),
        "{:?}",
        refused.body
    );
    let mut signed = own.body.clone();
    let certificate = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem();
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate);
    signed["status"] = json!({"certificate": certificate});
    let refused = jane.put(&format!("{requests}/own/status"), &signed).await;
    assert_eq!(refused.code, 403, "{:?}", refused.body);
    assert_eq!(admin.put(&format!("{requests}/own/approval"), &approved).await.code, 200);
    server.stop();
}
