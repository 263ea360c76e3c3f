//! Streams to a kubelet: bytes pass only after 101, identities do not pass at all.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;

use isopod_apiserver::ApiServer;
use isopod_apiserver::layers::PeerCertificates;
use serde_json::json;
use support::memory_store::MemoryStore;
use support::{Caller, Everyone, config, server_of};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Reads a head: everything up to the empty line.
async fn head(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "the stream ended early: {head}");
    }
    head
}

/// A kubelet that upgrades `/exec`, echoing one line, refuses `/attach`, and has one line of log.
async fn kubelet() -> (u16, Arc<rustls::ClientConfig>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let chain = vec![key.cert.der().clone()];
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us goes away here.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let mut stream = BufReader::new(stream);
                let request = head(&mut stream).await;
                assert!(!request.to_lowercase().contains("authorization"), "{request}");
                let line = request.lines().next().unwrap().to_owned();
                if line.starts_with("GET /exec/default/p/c?") {
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
                    stream.write_all(format!("{answer}{line}\n").as_bytes()).await.unwrap();
                    let mut text = String::new();
                    stream.read_line(&mut text).await.unwrap();
                    stream.write_all(format!("echo {text}").as_bytes()).await.unwrap();
                } else if line.starts_with("GET /containerLogs/default/p/c") {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nline").await.unwrap();
                } else {
                    stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    (port, Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

async fn cluster() -> Arc<ApiServer> {
    let (port, tls) = kubelet().await;
    cluster_with(port, tls).await
}

async fn cluster_with(port: u16, tls: Arc<rustls::ClientConfig>) -> Arc<ApiServer> {
    let mut config = config();
    config.kubelet_tls = Some(tls);
    let change =
        |layers: &mut isopod_apiserver::layers::Layers| layers.authenticators = vec![Arc::new(Everyone)];
    let server = server_of(config, MemoryStore::new(), change).await;
    let caller = Caller::new(&server);
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    assert_eq!(caller.post("/api/v1/nodes", &node).await.code, 201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(caller.post("/api/v1/namespaces/default/pods", &pod).await.code, 201);
    server
}

/// A connection to the server.
fn connect(server: &Arc<ApiServer>) -> BufReader<DuplexStream> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = Arc::clone(server);
    tokio::spawn(server.connection(far, PeerCertificates::default(), CancellationToken::new()));
    BufReader::new(near)
}

async fn request(stream: &mut BufReader<DuplexStream>, path: &str) -> String {
    let text = format!(
        "GET /api/v1/namespaces/default/pods/p/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    head(stream).await
}

#[tokio::test]
async fn exec_is_piped_after_101() {
    let server = cluster().await;
    let mut stream = connect(&server);
    let answer = request(&mut stream, "exec?stdin=true&stdout=1&command=sh&command=-c&command=a%20b").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "GET /exec/default/p/c?input=1&output=1&command=sh&command=-c&command=a%20b HTTP/1.1\n");
    stream.write_all(b"hello\n").await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "echo hello\n");
    server.stop();
}

/// A refused upgrade is an ordinary answer: the next request on the connection goes through all layers.
#[tokio::test]
async fn refusals_do_not_open_the_backend() {
    let server = cluster().await;
    let mut stream = connect(&server);
    let answer = request(&mut stream, "attach").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let mut body = [0; 2];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"no");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("audit-id"), "{answer}");
    server.stop();
}

/// Somebody at the node's address whose certificate another authority signed sees nothing of the request.
#[tokio::test]
async fn a_kubelet_of_another_authority_is_refused() {
    let (port, _) = kubelet().await;
    let (_, trusted) = kubelet().await;
    let server = cluster_with(port, trusted).await;
    let caller = Caller::new(&server);
    let answer = caller.get("/api/v1/namespaces/default/pods/p/log").await;
    let message = answer.body["message"].as_str().unwrap();
    assert!(answer.code == 500 && message.contains("tls: invalid peer certificate"), "{message}");
    let answer = request(&mut connect(&server), "exec?command=a").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    let answer = caller.get("/api/v1/nodes/n/proxy/healthz").await;
    assert!(answer.code >= 500, "{:?}", answer.body);
    server.stop();
}

#[tokio::test]
async fn logs_and_their_errors() {
    let server = cluster().await;
    let caller = Caller::new(&server);
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(caller.get(&format!("{pods}/p/log?tailLines=1")).await.bytes, b"line");
    let wrong = caller.get(&format!("{pods}/p/log?container=x")).await;
    assert_eq!(wrong.body["message"], "container x is not valid for pod p");
    assert_eq!(caller.get(&format!("{pods}/p/log?tailLines=-1")).await.code, 422);
    assert_eq!(caller.get(&format!("{pods}/p/exec?command=a")).await.code, 400);
    server.stop();
}
