//! Three members of isopod's own store, for tests that run on them over gRPC.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isopod_etcd::{Config, Engine, InitialCluster, Listeners, open_member, serve, serve_peers};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Far beyond what an election takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The members, which run until the value is dropped.
pub struct Members {
    /// Where clients reach them, separated by commas.
    pub urls: String,
    engines: Vec<Arc<Engine>>,
    shutdown: CancellationToken,
    runtime: Runtime,
}

impl Members {
    /// Starts a group and waits until it has a leader.
    pub fn start(directory: &Path) -> Members {
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let (urls, engines) = runtime.block_on(group(directory, &shutdown));
        Members { urls, engines, shutdown, runtime }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let stop = async {
            for engine in &self.engines {
                engine.stop().await;
            }
        };
        self.runtime.block_on(stop);
    }
}

async fn listeners() -> (Vec<TcpListener>, Vec<String>) {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let urls = listeners.iter().map(|at| format!("http://{}", at.local_addr().unwrap())).collect();
    (listeners, urls)
}

async fn group(directory: &Path, shutdown: &CancellationToken) -> (String, Vec<Arc<Engine>>) {
    let (clients, client_urls) = listeners().await;
    let (peers, peer_urls) = listeners().await;
    let named: Vec<String> = (0..3).map(|n| format!("m{n}={}", peer_urls[n])).collect();
    let mut engines = Vec::new();
    for (n, (client, peer)) in clients.into_iter().zip(peers).enumerate() {
        let initial = InitialCluster {
            name: format!("m{n}"),
            initial_cluster: named.clone(),
            existing: false,
            token: "api".to_owned(),
            peer_urls: vec![peer_urls[n].clone()],
        };
        let config = Config {
            name: initial.name.clone(),
            client_urls: vec![client_urls[n].clone()],
            peer_urls: initial.peer_urls.clone(),
            fsync: false,
            ..Config::new(directory.join(&initial.name))
        };
        let engine = open_member(config, initial.bootstrap(None).await.unwrap()).unwrap();
        tokio::spawn(serve_peers(Arc::clone(&engine), vec![peer], None, shutdown.clone()));
        let listeners = Listeners { client: vec![client], metrics: Vec::new() };
        tokio::spawn(serve(Arc::clone(&engine), listeners, None, shutdown.clone()));
        engines.push(engine);
    }
    let led = async {
        while engines.iter().any(|engine| engine.leader() == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, led).await.expect("a leader");
    (client_urls.join(","), engines)
}
