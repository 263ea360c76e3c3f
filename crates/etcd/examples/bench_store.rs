//! Measures a store: `bench_store [DIRECTORY]`.
//!
//! The same client code runs on the engine in this process, on the engine behind gRPC over loopback, on three members,
//! and on `/usr/bin/etcd` behind the same gRPC client if it is installed; all sync to the same disk. Figures depend on
//! that disk: compare columns, not machines.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use isopod_etcd::{Config, Engine, InitialCluster, Listeners, open, open_member, serve, serve_peers};
use isopod_kv::{PutRequest, RangeRequest, Store, WatchCreateRequest, grpc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

/// How long each figure is measured.
const MEASURE: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 1000;
const WATCHERS: usize = 500;
const MEMORY_KEYS: usize = 150_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(base)?;
    println!("{:<44}{:>14}", "", "per second");

    let engine = open(Config::new(dir.path().join("engine")))?;
    measure("in process", engine.clone()).await?;
    let (store, shutdown) = served(engine.clone()).await?;
    measure("our gRPC", store).await?;
    shutdown.cancel();
    engine.stop().await;
    drop(engine);

    three(&dir.path().join("three")).await?;

    if Path::new("/usr/bin/etcd").exists() {
        let (mut process, store) = upstream(&dir.path().join("upstream")).await?;
        let measured = measure("upstream's etcd", store).await;
        process.kill()?;
        process.wait()?;
        measured?;
    }
    memory(&dir.path().join("memory")).await
}

async fn served(engine: Arc<Engine>) -> Result<(Arc<dyn Store>, CancellationToken), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let listeners = Listeners { client: vec![listener], metrics: Vec::new() };
    tokio::spawn(serve(engine, listeners, None, shutdown.clone()));
    Ok((grpc::connect(&[endpoint], None)?, shutdown))
}

/// Three of our members in this process, each with its own log; the client begins at the first.
async fn three(dir: &Path) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    let (mut peers, mut named) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        named.push(format!("m{n}=http://{}", listener.local_addr()?));
        peers.push(listener);
    }
    let (mut engines, mut endpoints) = (Vec::new(), Vec::new());
    for (n, peer) in peers.into_iter().enumerate() {
        let initial = InitialCluster {
            name: format!("m{n}"),
            initial_cluster: named.clone(),
            existing: false,
            token: "bench".to_owned(),
            peer_urls: vec![named[n][3..].to_owned()],
        };
        let (name, peer_urls) = (initial.name.clone(), initial.peer_urls.clone());
        let config = Config { name, peer_urls, ..Config::new(dir.join(&initial.name)) };
        let engine = open_member(config, initial.bootstrap(None).await?)?;
        tokio::spawn(serve_peers(engine.clone(), vec![peer], None, shutdown.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        endpoints.push(format!("http://{}", listener.local_addr()?));
        let listeners = Listeners { client: vec![listener], metrics: Vec::new() };
        tokio::spawn(serve(engine.clone(), listeners, None, shutdown.clone()));
        engines.push(engine);
    }
    while engines.iter().any(|engine| engine.leader() == 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // At the leader, as etcd's own figures are taken.
    let leader = engines.iter().position(|engine| engine.leader() == engine.member_id()).unwrap_or(0);
    let measured =
        measure("our gRPC, three members", grpc::connect(&endpoints[leader..=leader], None)?).await;
    shutdown.cancel();
    for engine in engines {
        engine.stop().await;
    }
    measured
}

async fn upstream(dir: &Path) -> Result<(Child, Arc<dyn Store>), Failure> {
    let free = || -> std::io::Result<String> {
        Ok(format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?))
    };
    let (client, peer) = (free()?, free()?);
    let process = Command::new("/usr/bin/etcd")
        .args(["--name", "m", "--log-level", "error", "--data-dir"])
        .arg(dir)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("m={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let store = grpc::connect(&[client], None)?;
    while store.status().await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((process, store))
}

fn report(name: &str, what: &str, per_second: f64) {
    println!("{:<44}{per_second:>14.0}", format!("{name}: {what}"));
}

async fn measure(name: &str, store: Arc<dyn Store>) -> Result<(), Failure> {
    for writers in [1, 100, 1000] {
        let rate = writes(store.clone(), writers).await?;
        report(name, &format!("puts, {writers} writers"), rate);
    }
    for key in 0..1000 {
        store.put(PutRequest::new(format!("/range/{key:04}"), vec![1; VALUE_BYTES])).await?;
    }
    for readers in [1, 100] {
        let rate = reads(store.clone(), readers, RangeRequest::key("/range/0500")).await?;
        report(name, &format!("ranges of one key, {readers} readers"), rate);
    }
    let rate = reads(store.clone(), 4, RangeRequest::prefix("/range/")).await? * 1000.0;
    report(name, "keys in ranges of 1000, 4 readers", rate);
    let rate = fan_out(store).await?;
    report(name, &format!("events to {WATCHERS} watchers"), rate);
    Ok(())
}

async fn writes(store: Arc<dyn Store>, writers: usize) -> Result<f64, isopod_kv::Error> {
    let (started, until) = (Instant::now(), Instant::now() + MEASURE);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut count = 0;
                while Instant::now() < until {
                    let key = format!("/bench/{writer}/{}", count % 100);
                    store.put(PutRequest::new(key, vec![b'x'; VALUE_BYTES])).await?;
                    count += 1;
                }
                Ok::<usize, isopod_kv::Error>(count)
            })
        })
        .collect();
    rate(started, tasks).await
}

async fn reads(
    store: Arc<dyn Store>,
    readers: usize,
    request: RangeRequest,
) -> Result<f64, isopod_kv::Error> {
    let (started, until) = (Instant::now(), Instant::now() + MEASURE);
    let tasks: Vec<_> = (0..readers)
        .map(|_| {
            let (store, request) = (store.clone(), request.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while Instant::now() < until {
                    store.range(request.clone()).await?;
                    count += 1;
                }
                Ok::<usize, isopod_kv::Error>(count)
            })
        })
        .collect();
    rate(started, tasks).await
}

async fn rate(
    started: Instant,
    tasks: Vec<tokio::task::JoinHandle<Result<usize, isopod_kv::Error>>>,
) -> Result<f64, isopod_kv::Error> {
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("a task of this program does not panic")?;
    }
    Ok(total as f64 / started.elapsed().as_secs_f64())
}

async fn fan_out(store: Arc<dyn Store>) -> Result<f64, isopod_kv::Error> {
    const CHANGES: usize = 200;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = store.watch(WatchCreateRequest::prefix("/fan/", 0)).await?;
        watchers.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < CHANGES {
                match watch.next().await {
                    Some(response) => seen += response?.events.len(),
                    None => break,
                }
            }
            Ok(seen)
        }));
    }
    let started = Instant::now();
    let writers =
        (0..CHANGES).map(|n| store.put(PutRequest::new(format!("/fan/{n}"), vec![b'x'; VALUE_BYTES])));
    futures::future::try_join_all(writers).await?;
    rate(started, watchers).await
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

async fn memory(dir: &Path) -> Result<(), Failure> {
    let config = Config { fsync: false, ..Config::new(dir) };
    let engine = open(config.clone())?;
    let before = resident();
    let mut puts = futures::stream::iter(0..MEMORY_KEYS)
        .map(|key| {
            let key = format!("/registry/pods/namespace-{}/pod-{key:08}", key % 100);
            engine.put(PutRequest::new(key, vec![b'x'; VALUE_BYTES]))
        })
        .buffer_unordered(256);
    while let Some(put) = puts.next().await {
        put?;
    }
    drop(puts);
    let per_key = (resident() - before) / MEMORY_KEYS;
    println!("{:<44}{per_key:>14}", format!("bytes per key of {MEMORY_KEYS}, values of {VALUE_BYTES}"));
    let started = Instant::now();
    engine.checkpoint().await?;
    println!("{:<44}{:>14}", "checkpoint of them, ms", started.elapsed().as_millis());
    engine.stop().await;
    drop(engine);
    let started = Instant::now();
    let engine = open(config)?;
    println!("{:<44}{:>14}", "opening them again, ms", started.elapsed().as_millis());
    engine.stop().await;
    Ok(())
}
