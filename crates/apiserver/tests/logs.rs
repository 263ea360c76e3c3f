//! Nothing secret is logged, however much is logged.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::Write;
use std::sync::Arc;

use isopod_apiserver::layers::PeerCertificates;
use parking_lot::Mutex;
use serde_json::json;
use support::{Caller, guarded_server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_credential_and_no_secret_is_logged() {
    let written = Written::default();
    let writer = written.clone();
    tracing_subscriber::fmt().with_env_filter("trace").with_writer(move || writer.clone()).init();
    let server = guarded_server().await;
    let admin = Caller::of(&server, "admin", &["system:masters"]);
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden-value-1"}});
    assert_eq!(admin.post(secrets, &secret).await.code, 201);
    assert_eq!(admin.get(secrets).await.code, 200);
    let wrong = json!({"metadata": {"name": "t"}, "data": {"k": "hidden-value-2"}});
    assert_eq!(admin.post(secrets, &wrong).await.code, 400);
    let wrong = json!({"metadata": {"name": "t"}, "stringData": {"not a key": "hidden-value-3"}});
    assert_eq!(admin.post(secrets, &wrong).await.code, 422);
    let account = json!({"metadata": {"name": "a"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.code, 201);
    let path = "/api/v1/namespaces/default/serviceaccounts/a/token";
    let token = admin.post(path, &json!({"spec": {}})).await.body;
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let review = json!({"spec": {"token": "hidden-value-4"}});
    assert_eq!(admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.code, 201);
    for credential in [&token, "hidden-value-5", "abcdef.hiddenvalue6hid"] {
        let (mut near, far) = tokio::io::duplex(256 * 1024);
        tokio::spawn(Arc::clone(&server).connection(
            far,
            PeerCertificates::default(),
            CancellationToken::new(),
        ));
        let request = format!(
            "GET {secrets} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\nconnection: close\r\n\r\n"
        );
        near.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
    }
    server.stop();
    let text = String::from_utf8_lossy(&written.0.lock()).into_owned();
    // Something is logged, or this would show nothing.
    assert!(text.contains("credentials refused"), "{text}");
    let payload = token.split('.').nth(1).unwrap();
    for hidden in ["hidden-value", "hiddenvalue6hid", &*token, payload, "aGlkZGVu"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}
