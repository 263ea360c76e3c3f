//! A member as a real process, killed again and again while clients write.
//!
//! Run without arguments this is the test; run as `kill member DIR` it is the member. (It has no test harness, so
//! that the process under test can be this program itself.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isopod_etcd::{Config, Listeners, open, serve};
use isopod_kv::{PutRequest, RangeRequest, Store, grpc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const KILLS: u64 = 20;
const WRITERS: usize = 16;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args.iter().position(|arg| arg == "member") {
        Some(at) => runtime.block_on(member(Path::new(&args[at + 1]))),
        None if args.iter().any(|arg| arg == "--list") => println!("kill: test"),
        None => {
            runtime.block_on(test());
            println!("test kill ... ok");
        }
    }
}

async fn member(dir: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Small files, so that kills also hit changes of file and checkpoints.
    let config = Config { segment_bytes: 64 << 10, checkpoint_log_bytes: 128 << 10, ..Config::new(dir) };
    let engine = open(config).unwrap();
    println!("{address}");
    let listeners = Listeners { client: vec![listener], metrics: Vec::new() };
    serve(engine, listeners, None, CancellationToken::new()).await.unwrap();
}

struct Member {
    process: Child,
    store: Arc<dyn Store>,
}

impl Member {
    fn start(dir: &Path) -> Member {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("member")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the member did not start: its error is above");
        let store = grpc::connect(&[format!("http://{}", line.trim())], None).unwrap();
        Member { process, store }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SIGKILL: nothing is flushed, nothing is said.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What each writer was last told of, and what it tried last.
#[derive(Default)]
struct Progress {
    answered: [AtomicU64; WRITERS],
    tried: [AtomicU64; WRITERS],
}

async fn test() {
    let dir = tempfile::tempdir().unwrap();
    let progress = Arc::new(Progress::default());
    let mut revision = 0;
    for round in 0..KILLS {
        let member = Member::start(dir.path());
        revision = verify(&*member.store, &progress, revision).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(member.store.clone(), progress.clone(), writer)))
            .collect();
        // Different moments in the life of the log; what matters is not which, but that they differ.
        tokio::time::sleep(Duration::from_millis(30 + round * 17 % 200)).await;
        drop(member);
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let member = Member::start(dir.path());
    verify(&*member.store, &progress, revision).await;
    let total: u64 = progress.answered.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert!(total > KILLS * WRITERS as u64, "the writers got somewhere");
    println!("{KILLS} kills, {total} answered writes, none lost");
}

async fn write(store: Arc<dyn Store>, progress: Arc<Progress>, writer: usize) {
    loop {
        let value = progress.tried[writer].load(Ordering::SeqCst) + 1;
        progress.tried[writer].store(value, Ordering::SeqCst);
        // A kilobyte of padding makes batches span sectors and files.
        let request = PutRequest::new(format!("/writer/{writer}"), format!("{value} {}", "x".repeat(1000)));
        if store.put(request).await.is_err() {
            return;
        }
        progress.answered[writer].store(value, Ordering::SeqCst);
    }
}

/// Every writer finds what it was last told of, or what it tried last.
async fn verify(store: &dyn Store, progress: &Progress, last_revision: i64) -> i64 {
    let mut revision = 0;
    for writer in 0..WRITERS {
        let response = store.range(RangeRequest::key(format!("/writer/{writer}"))).await.unwrap();
        revision = response.header.unwrap().revision;
        let found = response.kvs.first().map_or(0, |kv| {
            let value = std::str::from_utf8(&kv.value).unwrap();
            value.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        let (answered, tried) =
            (progress.answered[writer].load(Ordering::SeqCst), progress.tried[writer].load(Ordering::SeqCst));
        assert!(found >= answered, "writer {writer} was told of {answered} and finds {found}");
        assert!(found <= tried, "writer {writer} tried {tried} and finds {found}");
    }
    assert!(revision >= last_revision, "the revision went back from {last_revision} to {revision}");
    revision
}
