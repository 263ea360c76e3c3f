//! Real clients: etcdctl as Debian ships it, TLS with client certificates, plain HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use futures::StreamExt;
use isopod_etcd::{Config, Engine, Listeners, open, serve};
use isopod_kv::{Code, PutRequest, RangeRequest, WatchCreateRequest, grpc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Served {
    engine: Arc<Engine>,
    client: SocketAddr,
    metrics: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    dir: tempfile::TempDir,
}

impl Served {
    async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let [client, metrics] = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let (client_address, metrics_address) = (client.local_addr().unwrap(), metrics.local_addr().unwrap());
        let mut config = Config::new(dir.path().join("data"));
        config.client_urls = vec![format!("http://{client_address}")];
        let engine = open(config).unwrap();
        let shutdown = CancellationToken::new();
        let listeners = Listeners { client: vec![client], metrics: vec![metrics] };
        let server = tokio::spawn(serve(engine.clone(), listeners, tls, shutdown.clone()));
        Served { engine, client: client_address, metrics: metrics_address, shutdown, server, dir }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
        self.engine.stop().await;
    }

    /// Runs etcdctl; what it printed, both streams.
    async fn etcdctl(&self, args: &[&str], input: &'static str) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.client.to_string()).args(args);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("Debian's etcd-client is installed");
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        // etcdctl logs what it retries as JSON; that is not an answer.
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), errors.join("\n"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_works() {
    let served = Served::start(None).await;
    let ask = async |line: &'static str| served.etcdctl(&line.split(' ').collect::<Vec<_>>(), "").await;
    assert_eq!(ask("put a 1").await, "OK\n");
    assert_eq!(ask("put a 2 --prev-kv").await, "OK\na\n1\n");
    assert_eq!(ask("get a").await, "a\n2\n");
    assert_eq!(ask("get a --rev 2").await, "a\n1\n");
    assert_eq!(ask("del a --prev-kv").await, "1\na\n2\n");
    assert_eq!(ask("put b 1").await, "OK\n");
    let script = "version(\"b\") = \"1\"\n\nput c 3\nget b\n\nget a\n\n";
    assert_eq!(served.etcdctl(&["txn"], script).await.trim(), "SUCCESS\n\nOK\n\nb\n1");
    assert_eq!(ask("compact 4").await, "compacted revision 4\n");
    let error = ask("get a --rev 3").await;
    assert!(error.contains("etcdserver: mvcc: required revision has been compacted"), "{error}");
    assert!(ask("lease grant 100").await.contains("granted with TTL(100s)"));
    assert!(ask("lease list").await.starts_with("found 1 leases"));
    assert!(ask("endpoint health").await.contains("is healthy"));
    let status = ask("endpoint status -w json").await;
    assert!(status.contains("\"leader\"") && status.contains("\"version\":\"3.6.0\""), "{status}");
    assert!(ask("endpoint hashkv").await.starts_with(&served.client.to_string()));
    assert!(ask("member list").await.contains("started, default"));
    assert!(ask("defrag").await.starts_with("Finished defragmenting"));
    assert_eq!(ask("alarm list").await, "");
    assert!(ask("lock name echo held").await.contains("held"));
    let path = served.dir.path().join("snapshot");
    let saved = served.etcdctl(&["snapshot", "save", path.to_str().unwrap()], "").await;
    assert!(saved.contains("Snapshot saved"), "{saved}");
    assert_eq!(std::fs::metadata(&path).unwrap().len() % 512, 32);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_watches() {
    let served = Served::start(None).await;
    // An interactive watch ends with its input. The revision makes it independent of who is first.
    served.engine.put(PutRequest::new("w/1", "x")).await.unwrap();
    served.engine.put(PutRequest::new("w/2", "y")).await.unwrap();
    let watch = served.etcdctl(&["lock", "l", "--", "etcdctl", "version"], "").await;
    assert!(watch.contains("etcdctl version"), "{watch}");
    let mut child = tokio::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &served.client.to_string(), "watch", "--rev", "2", "--prefix", "w/"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut out = vec![0; "PUT\nw/1\nx\nPUT\nw/2\ny\n".len()];
    child.stdout.take().unwrap().read_exact(&mut out).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&out), "PUT\nw/1\nx\nPUT\nw/2\ny\n");
    child.kill().await.unwrap();
    served.stop().await;
}

async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_version_and_metrics_are_served_over_http() {
    let served = Served::start(None).await;
    served.engine.put(PutRequest::new("a", "1")).await.unwrap();
    for address in [served.metrics, served.client] {
        assert!(http_get(address, "/health").await.ends_with(r#"{"health":"true","reason":""}"#));
        assert!(http_get(address, "/readyz").await.ends_with("ok\n"));
        assert!(http_get(address, "/version").await.contains(r#""etcdserver":"3.6.0""#));
        assert!(http_get(address, "/metrics").await.contains("etcd_disk_wal_fsync_duration_seconds_count"));
        assert!(http_get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    }
    let alarm = isopod_kv::AlarmRequest { action: 1, member_id: 0, alarm: 1 };
    served.engine.alarm(alarm).await.unwrap();
    assert!(http_get(served.metrics, "/health").await.contains("alarm:NOSPACE"));
    served.stop().await;
}

/// An authority, a server's certificate for 127.0.0.1 and a client's.
struct Certificates {
    ca_pem: String,
    server: (String, String),
    client: (String, String),
}

fn certificates() -> Certificates {
    let key = || rcgen::KeyPair::generate().unwrap();
    let ca_key = key();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let sign = |name: &str| {
        let key = key();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    Certificates { ca_pem: ca.pem(), server: sign("127.0.0.1"), client: sign("client") }
}

#[tokio::test]
async fn tls_asks_for_a_client_certificate() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificates = certificates();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificates.server.0.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(certificates.server.1.as_bytes()).unwrap(),
        )
        .unwrap();
    let served = Served::start(Some(Arc::new(config))).await;
    let endpoint = [format!("https://{}", served.client)];
    let mut tls = grpc::TlsConfig { ca_pem: certificates.ca_pem.into_bytes(), ..Default::default() };
    let stranger = grpc::connect(&endpoint, Some(tls.clone())).unwrap();
    assert_eq!(stranger.range(RangeRequest::key("a")).await.unwrap_err().code(), Code::Unavailable);
    tls.identity = Some((certificates.client.0.into_bytes(), certificates.client.1.into_bytes()));
    let store = grpc::connect(&endpoint, Some(tls)).unwrap();
    let mut watch = store.watch(WatchCreateRequest::key("a", 0)).await.unwrap();
    store.put(PutRequest::new("a", "1")).await.unwrap();
    let response = watch.next().await.unwrap().unwrap();
    assert_eq!(response.events[0].kv.as_ref().unwrap().value, "1");
    drop(watch);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_writers_share_one_connection() {
    let served = Served::start(None).await;
    let store = grpc::connect(&[format!("http://{}", served.client)], None).unwrap();
    let writers: Vec<_> = (0..1000)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..5 {
                    store
                        .put(PutRequest::new(format!("/w/{writer}/{round}"), vec![b'x'; 1000]))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(served.engine.revision(), 5001);
    served.stop().await;
}
