//! Pulling from a registry that asks for credentials, spoken to over loopback.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use isopod_cri::v1::*;
use isopod_cri::{Code, ImageService, RuntimeService};
use serde_json::json;
use sha2::{Digest, Sha256};
use support::{Node, container};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry holds: documents and blobs by the last part of their path.
struct Registry {
    content: HashMap<String, (&'static str, Bytes)>,
    address: String,
}

fn sha(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Registry {
    async fn start() -> Arc<Self> {
        let (first, second, config) = support::image_parts();
        let (first, second) = (gzip(&first), second);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha(config.as_bytes()), "size": config.len()},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha(&first), "size": first.len()},
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha(&second), "size": second.len()},
            ],
        })
        .to_string();
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [
                {"mediaType": OCI_MANIFEST, "digest": sha(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
                {"mediaType": OCI_MANIFEST, "digest": sha(manifest.as_bytes()), "size": manifest.len(), "platform": {"os": "linux", "architecture": "amd64"}},
            ],
        })
        .to_string();
        let mut content = HashMap::new();
        let blob = "application/octet-stream";
        for bytes in [Bytes::from(first), Bytes::from(second), Bytes::from(config)] {
            content.insert(sha(&bytes), (blob, bytes));
        }
        // A registry that sends more than was promised, and one that does not stop.
        let mut long: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        long["config"]["size"] = json!(10);
        let long = long.to_string();
        let endless = " ".repeat(5 << 20);
        let broken = manifest.replace(&sha(&content.values().next().unwrap().1), &sha(b"missing"));
        for (tag, kind, text) in [
            ("1", OCI_INDEX, index),
            ("plain", OCI_MANIFEST, manifest),
            ("broken", OCI_MANIFEST, broken),
            ("long", OCI_MANIFEST, long),
            ("endless", OCI_MANIFEST, endless),
        ] {
            let bytes = Bytes::from(text);
            content.insert(sha(&bytes), (kind, bytes.clone()));
            content.insert(tag.to_owned(), (kind, bytes));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Arc::new(Self { content, address: listener.local_addr().unwrap().to_string() });
        let served = registry.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let answer = served.answer(&request);
                        async move { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        registry
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let header =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let respond = |status, kind: &str, body: Bytes| {
            Response::builder().status(status).header("content-type", kind).body(Full::from(body)).unwrap()
        };
        let path = request.uri().path();
        // user:secret
        let basic = header("authorization") == "Basic dXNlcjpzZWNyZXQ=";
        if path == "/token" {
            return match basic {
                true => respond(StatusCode::OK, "application/json", r#"{"token": "the-token"}"#.into()),
                false => respond(StatusCode::UNAUTHORIZED, "application/json", "{}".into()),
            };
        }
        if header("authorization") != "Bearer the-token" {
            let body = r#"{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}"#;
            let mut response = respond(StatusCode::UNAUTHORIZED, "application/json", body.into());
            let challenge = format!("Bearer realm=\"http://{}/token\",service=\"registry\"", self.address);
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        match self.content.get(last) {
            Some((kind, bytes)) => {
                let mut response = respond(StatusCode::OK, kind, bytes.clone());
                response.headers_mut().insert("docker-content-digest", sha(bytes).parse().unwrap());
                response
            }
            None if path == "/v2/" => respond(StatusCode::OK, "application/json", "{}".into()),
            None => {
                let body = r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#;
                respond(StatusCode::NOT_FOUND, "application/json", body.into())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_with_credentials() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let pull = async |name: &str, password: &str| {
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: format!("{}/team/busybox{name}", registry.address),
                ..ImageSpec::default()
            }),
            auth: Some(AuthConfig {
                username: "user".into(),
                password: password.into(),
                ..AuthConfig::default()
            }),
            sandbox_config: None,
        };
        node.runtime.pull_image(request).await
    };
    // The archive that every test imports has the same layers: without it they have to come from the registry.
    let imported = Some(ImageSpec { image: support::IMAGE.to_owned(), ..ImageSpec::default() });
    node.runtime.remove_image(RemoveImageRequest { image: imported }).await.unwrap();
    let error = pull(":1", "wrong").await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied, "{error}");
    assert!(!error.message.contains("wrong"), "{error}");
    let error = pull(":nothing", "secret").await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    pull(":broken", "secret").await.unwrap_err();
    let error = pull(":long", "secret").await.unwrap_err();
    assert!(error.message.contains("it has more bytes than its descriptor says"), "{error}");
    let error = pull(":endless", "secret").await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("the manifest has more than 4194304 bytes"), "{error}");
    let id = pull(":1", "secret").await.unwrap().image_ref;
    assert_eq!(pull(":plain", "secret").await.unwrap().image_ref, id);
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: format!("{}/team/busybox:1", registry.address),
            ..ImageSpec::default()
        }),
        verbose: false,
    };
    let image = node.runtime.image_status(request).await.unwrap().image.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags.len(), 2);
    assert_eq!(image.repo_digests.len(), 2);
    pull(&format!("@{}", image.repo_digests[0].split_once('@').unwrap().1), "secret").await.unwrap();
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "echo pulled");
    config.image.as_mut().unwrap().image = id;
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    assert_eq!(node.wait_exit(&id).await.exit_code, 0);
    let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    node.runtime.remove_pod_sandbox(request).await.unwrap();
}
