//! One transcript on three stores: the engine in process, the engine behind gRPC, and Debian's etcd behind gRPC.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod suite;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use expect_test::expect_file;
use isopod_etcd::{Config, Engine, Listeners, open, serve};
use isopod_kv::grpc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn check(transcript: &str) {
    expect_file!["./conformance.txt"].assert_eq(transcript);
}

fn engine(dir: &tempfile::TempDir) -> Arc<Engine> {
    open(Config::new(dir.path())).expect("an empty directory")
}

#[tokio::test]
async fn in_process() {
    let dir = tempfile::tempdir().unwrap();
    check(&suite::transcript(&*engine(&dir)).await);
}

#[tokio::test]
async fn over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let listeners = Listeners { client: vec![listener], metrics: Vec::new() };
    let server = tokio::spawn(serve(engine(&dir), listeners, None, shutdown.clone()));
    let store = grpc::connect(&[endpoint], None).unwrap();
    check(&suite::transcript(&*store).await);
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

/// Debian's etcd, ended with the test.
struct Etcd {
    process: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Etcd {
        let dir = tempfile::tempdir().unwrap();
        let [client, peer] = [free_address(), free_address()].map(|address| format!("http://{address}"));
        let process = Command::new("etcd")
            .args(["--name", "m", "--log-level", "error", "--data-dir"])
            .arg(dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's etcd-server is installed");
        let etcd = Etcd { process, endpoint: client, _dir: dir };
        let store = grpc::connect(std::slice::from_ref(&etcd.endpoint), None).unwrap();
        for _ in 0..100 {
            if store.status().await.is_ok_and(|status| status.leader != 0) {
                return etcd;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd did not start");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn upstream_over_grpc() {
    let etcd = Etcd::start().await;
    // The first endpoint answers nobody: the client goes on to the next.
    let endpoints = [format!("http://{}", free_address()), etcd.endpoint.clone()];
    let store = grpc::connect(&endpoints, None).unwrap();
    assert!(store.range(isopod_kv::RangeRequest::key("x")).await.is_ok());
    check(&suite::transcript(&*store).await);
}
