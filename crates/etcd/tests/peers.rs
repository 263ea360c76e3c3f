//! Members that speak over mutual TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use std::sync::Arc;
use std::time::Duration;

use isopod_etcd::{Config, Engine, InitialCluster, PeerTls, discover, open_member, serve_peers};
use isopod_kv::{PutRequest, RangeRequest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use served::Certificates;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Far beyond what an election takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn client(certificates: &Certificates, identity: bool) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if identity {
        let (certificate, key) = certificates.client("peer");
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn settled(engines: &[Arc<Engine>]) {
    let agree = async {
        while engines.iter().any(|engine| engine.leader() == 0 || engine.leader() != engines[0].leader()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, agree).await.expect("a leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_speak_over_mutual_tls_and_strangers_are_turned_away() {
    let certificates = Certificates::new();
    let tls = PeerTls { server: certificates.server_config(), client: client(&certificates, true) };
    let dir = tempfile::tempdir().unwrap();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let urls: Vec<String> = listeners
        .iter()
        .map(|listener| format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port()))
        .collect();
    let initial_cluster: Vec<String> = (0..3).map(|n| format!("m{n}={}", urls[n])).collect();
    let shutdown = CancellationToken::new();
    let mut engines = Vec::new();
    for (n, listener) in listeners.into_iter().enumerate() {
        let initial = InitialCluster {
            name: format!("m{n}"),
            initial_cluster: initial_cluster.clone(),
            existing: false,
            token: "tls".to_owned(),
            peer_urls: vec![urls[n].clone()],
        };
        let config = Config {
            name: initial.name.clone(),
            peer_urls: initial.peer_urls.clone(),
            ..Config::new(dir.path().join(&initial.name))
        };
        let engine = open_member(config, initial.bootstrap(None).await.unwrap()).unwrap();
        tokio::spawn(serve_peers(engine.clone(), vec![listener], Some(tls.clone()), shutdown.clone()));
        engines.push(engine);
    }
    settled(&engines).await;
    for (n, engine) in engines.iter().enumerate() {
        engine.put(PutRequest::new(format!("k{n}"), "v")).await.unwrap();
    }
    for engine in &engines {
        // Linearizable: each asks the leader.
        assert_eq!(engine.range(&RangeRequest::prefix("k")).await.unwrap().count, 3);
    }

    let group = discover(&urls, Some(client(&certificates, true))).await.unwrap();
    assert_eq!((group.cluster_id, group.members.len()), (engines[0].cluster_id(), 3));
    assert!(discover(&urls, Some(client(&certificates, false))).await.is_err(), "no certificate");
    assert!(discover(&urls, Some(client(&Certificates::new(), true))).await.is_err(), "another authority");
    assert!(discover(&[urls[0].replace("https", "http")], None).await.is_err(), "no TLS");

    shutdown.cancel();
    for engine in engines {
        engine.stop().await;
    }
}

/// Members of another cluster at the same addresses are not heard.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_not_listened_to() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let (first, second) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let urls = [&first, &second].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
    let mut engines = Vec::new();
    for (n, listener) in [first, second].into_iter().enumerate() {
        let initial = InitialCluster {
            name: format!("m{n}"),
            initial_cluster: vec![format!("m0={}", urls[0]), format!("m1={}", urls[1])],
            existing: false,
            token: format!("token {n}"),
            peer_urls: vec![urls[n].clone()],
        };
        let config = Config { name: initial.name.clone(), ..Config::new(dir.path().join(&initial.name)) };
        let engine = open_member(config, initial.bootstrap(None).await.unwrap()).unwrap();
        tokio::spawn(serve_peers(engine.clone(), vec![listener], None, shutdown.clone()));
        engines.push(engine);
    }
    assert_ne!(engines[0].cluster_id(), engines[1].cluster_id());
    // Each would have to be heard by the other to be elected; a linearizable read says that it was not.
    let request = RangeRequest::key("a");
    let reads = engines.iter().map(|engine| engine.range(&request));
    for read in futures::future::join_all(reads).await {
        assert!(read.unwrap_err().is_unavailable());
    }
    assert!(engines.iter().all(|engine| engine.leader() == 0));
    shutdown.cancel();
    for engine in engines {
        engine.stop().await;
    }
}
