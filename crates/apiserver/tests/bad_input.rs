//! Whatever a client sends gets a `Status`, and the server goes on.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use serde_json::{Value, json};
use support::{Caller, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Method, path (`@` stands for the collection), headers, body; code and reason of the answer.
type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], Vec<u8>, u16, &'c str);

#[tokio::test]
async fn statuses() {
    let server = server().await;
    let caller = Caller::new(&server);
    let json_type: &[(&str, &str)] = &[("content-type", "application/json")];
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let big = vec![b' '; 3 * 1024 * 1024 + 1];
    let cases: Vec<Case<'_>> = vec![
        ("POST", MAPS, json_type, big, 413, "RequestEntityTooLarge"),
        ("POST", MAPS, json_type, deep.into_bytes(), 400, "BadRequest"),
        ("POST", MAPS, json_type, b"{".to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, b"".to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, b"\xff\xfe".to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, b"[]".to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, br#"{"kind":"Pod"}"#.to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, br#"{"metadata":7}"#.to_vec(), 400, "BadRequest"),
        ("POST", MAPS, json_type, br#"{"metadata":{"name":"A B"}}"#.to_vec(), 422, "Invalid"),
        (
            "POST",
            MAPS,
            json_type,
            br#"{"metadata":{"name":"a","namespace":"x"}}"#.to_vec(),
            400,
            "BadRequest",
        ),
        ("POST", MAPS, &[("content-type", "text/html")], b"{}".to_vec(), 415, "UnsupportedMediaType"),
        (
            "POST",
            MAPS,
            &[("content-type", "application/vnd.kubernetes.protobuf")],
            b"k8s\0\xff".to_vec(),
            400,
            "BadRequest",
        ),
        ("POST", "@?dryRun=Some", json_type, b"{}".to_vec(), 422, "Invalid"),
        ("PATCH", "@/x", json_type, b"{}".to_vec(), 415, "UnsupportedMediaType"),
        (
            "PATCH",
            "@/x",
            &[("content-type", "application/merge-patch+json")],
            b"{}".to_vec(),
            404,
            "NotFound",
        ),
        ("GET", MAPS, &[("accept", "image/png")], vec![], 406, "NotAcceptable"),
        ("GET", "@?labelSelector=a%3D%3D%3Db", &[], vec![], 400, "BadRequest"),
        ("GET", "@?continue=zzz", &[], vec![], 400, "BadRequest"),
        ("GET", "@?limit=x", &[], vec![], 400, "BadRequest"),
        ("GET", "@?resourceVersion=x", &[], vec![], 400, "BadRequest"),
        ("GET", "@?resourceVersionMatch=Exact", &[], vec![], 422, "Invalid"),
        ("GET", "@/..%2f..%2fsecrets", &[], vec![], 404, "NotFound"),
        ("GET", "/api/v1/namespaces/..%2fx/configmaps/a", &[], vec![], 404, "NotFound"),
        ("GET", "/api/v1/nothing", &[], vec![], 404, "NotFound"),
        ("PUT", MAPS, json_type, b"{}".to_vec(), 405, "MethodNotAllowed"),
        ("OPTIONS", MAPS, &[], vec![], 405, "MethodNotAllowed"),
    ];
    for (method, uri, headers, body, code, reason) in cases {
        let uri = uri.replace('@', MAPS);
        let start: String = String::from_utf8_lossy(&body).chars().take(60).collect();
        let answer = caller.send(method, &uri, headers, body).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (code, &json!(reason)),
            "{method} {uri} {start} gave {:?}",
            answer.body
        );
        assert_eq!(answer.body["kind"], "Status");
    }
    assert_eq!(caller.get("/readyz").await.bytes, b"ok");
    server.stop();
}

#[tokio::test]
async fn unknown_fields() {
    let server = server().await;
    let caller = Caller::new(&server);
    let body = json!({"metadata": {"name": "a"}, "dta": {}});
    let strict = caller.post(&format!("{MAPS}?fieldValidation=Strict"), &body).await;
    assert_eq!(strict.code, 400);
    assert!(strict.body["message"].as_str().unwrap().contains("unknown field \"dta\""));
    let warned = caller.post(MAPS, &body).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    server.stop();
}

#[tokio::test]
async fn invalid_objects_name_their_fields() {
    let server = server().await;
    let caller = Caller::new(&server);
    let body = json!({"metadata": {"name": "a", "labels": {"a b": "c"}}, "data": {"x/y": "z"}});
    let answer = caller.post(MAPS, &body).await;
    let fields: Vec<&Value> =
        answer.body["details"]["causes"].as_array().unwrap().iter().map(|c| &c["field"]).collect();
    assert_eq!(fields, ["metadata.labels", "data[x/y]"]);
    server.stop();
}

/// A handler's fault is one request's 500.
#[tokio::test]
async fn a_panic_stays_in_its_request() {
    struct Faulty;
    #[async_trait::async_trait]
    impl isopod_apiserver::layers::VirtualResource for Faulty {
        fn resource(&self) -> (&'static str, &'static str, &'static str) {
            ("authorization.k8s.io", "subjectaccessreviews", "")
        }
        async fn create(
            &self,
            _: &isopod_apiserver::layers::VirtualRequest<'_>,
            _: Value,
        ) -> Result<Value, isopod_api::status::Status> {
            panic!("on purpose")
        }
    }
    let server =
        support::server_with(|layers| layers.virtual_resources.insert(0, std::sync::Arc::new(Faulty))).await;
    let caller = Caller::new(&server);
    let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = caller.post(uri, &json!({"spec": {"user": "u"}})).await;
    assert_eq!((answer.code, &answer.body["reason"]), (500, &json!("InternalError")));
    assert_eq!(caller.get("/readyz").await.bytes, b"ok");
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
