//! Three members as real processes, worked with etcdctl: killed, restarted, added, removed.
//!
//! Run without arguments this is the test; run as `cluster member …` it is a member. (It has no test harness, so that
//! the process under test can be this program itself.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the test itself polls and is not async")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isopod_etcd::{Config, InitialCluster, Listeners, is_member, open_member, serve, serve_peers};
use isopod_kv::{PutRequest, RangeRequest, Store, grpc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes on an idle machine; what is missing fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args.iter().position(|arg| arg == "member") {
        Some(at) => runtime.block_on(member(&args[at + 1..])),
        None if args.iter().any(|arg| arg == "--list") => println!("cluster: test"),
        None => {
            test(&runtime);
            println!("test cluster ... ok");
        }
    }
}

/// `member DIR NAME CLIENT PEER INITIAL_CLUSTER new|existing`
async fn member(args: &[String]) {
    let [dir, name, client, peer, initial_cluster, state] = args else { panic!("six arguments") };
    let config = Config {
        name: name.clone(),
        client_urls: vec![format!("http://{client}")],
        peer_urls: vec![format!("http://{peer}")],
        // So that a member that was away is brought a snapshot.
        catch_up_entries: 50,
        segment_bytes: 64 << 10,
        checkpoint_log_bytes: 256 << 10,
        ..Config::new(dir)
    };
    let initial = InitialCluster {
        name: name.clone(),
        initial_cluster: initial_cluster.split(',').map(str::to_owned).collect(),
        existing: state == "existing" && !is_member(Path::new(dir)).unwrap(),
        token: "test".to_owned(),
        peer_urls: config.peer_urls.clone(),
    };
    let peers = vec![TcpListener::bind(peer).await.unwrap()];
    let clients = vec![TcpListener::bind(client).await.unwrap()];
    let engine = open_member(config, initial.bootstrap(None).await.unwrap()).unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(serve_peers(engine.clone(), peers, None, shutdown.clone()));
    let listeners = Listeners { client: clients, metrics: Vec::new() };
    tokio::spawn(serve(engine.clone(), listeners, None, shutdown.clone()));
    engine.removed().cancelled().await;
    println!("removed");
    shutdown.cancel();
    engine.stop().await;
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: nothing is flushed, nothing is said.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    dir: PathBuf,
    process: Option<Process>,
}

struct Cluster {
    places: Vec<Place>,
    dir: tempfile::TempDir,
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Cluster {
    fn place(&mut self, name: &str) {
        let dir = self.dir.path().join(name);
        let (client, peer) = (free_address(), free_address());
        self.places.push(Place { name: name.to_owned(), client, peer, dir, process: None });
    }

    fn start(&mut self, at: usize, state: &str) {
        let initial: Vec<String> =
            self.places.iter().map(|place| format!("{}=http://{}", place.name, place.peer)).collect();
        let place = &mut self.places[at];
        let process = Command::new(std::env::current_exe().unwrap())
            .arg("member")
            .arg(&place.dir)
            .args([&place.name, &place.client.to_string(), &place.peer.to_string()])
            .args([&initial.join(","), state])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        place.process = Some(Process(process));
    }

    fn endpoints(&self) -> Vec<String> {
        self.places.iter().map(|place| format!("http://{}", place.client)).collect()
    }

    /// Runs etcdctl against one place.
    fn run(&self, at: usize, args: &[&str]) -> Output {
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout=2s", "--command-timeout=10s"])
            .arg(format!("--endpoints={}", self.places[at].client))
            .args(args)
            .output()
            .expect("Debian's etcd-client is installed")
    }

    /// Runs etcdctl until it succeeds: what it says.
    fn ctl(&self, at: usize, args: &[&str]) -> String {
        self.until(&format!("etcdctl {args:?}"), || {
            let output = self.run(at, args);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complained = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(said + &complained) } else { Err(said + &complained) }
        })
    }

    fn until<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt() {
                Ok(found) => return found,
                Err(reason) if Instant::now() > deadline => panic!("{what}: {reason}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn status(&self, at: usize) -> fields::Status {
        fields::Status::parse(&self.ctl(at, &["endpoint", "status", "-w", "fields"]))
    }

    /// Where the leader is.
    fn leader(&self) -> usize {
        self.until("a leader", || {
            (0..self.places.len())
                .filter(|at| self.places[*at].process.is_some())
                .find(|at| {
                    let output = self.run(*at, &["endpoint", "status", "-w", "fields"]);
                    let status = fields::Status::parse(&String::from_utf8_lossy(&output.stdout));
                    status.member != 0 && status.member == status.leader
                })
                .ok_or_else(|| "none".to_owned())
        })
    }
}

/// The part of etcdctl's output that is looked at.
mod fields {
    #[derive(Debug, Default)]
    pub(crate) struct Status {
        pub(crate) member: u64,
        pub(crate) leader: u64,
        pub(crate) revision: u64,
        pub(crate) learner: bool,
    }

    impl Status {
        /// From `endpoint status -w fields`: lines of `"Name" : value`.
        pub(crate) fn parse(fields: &str) -> Status {
            let value = |name: &str| {
                let line = fields.lines().find(|line| line.starts_with(&format!("\"{name}\"")))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            };
            let number = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
            Status {
                member: number("MemberID"),
                leader: number("Leader"),
                revision: number("Revision"),
                learner: value("IsLearner").is_some_and(|text| text == "true"),
            }
        }
    }
}

/// A client that counts up for as long as it is let, and what it was told.
struct Writer {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(runtime: &tokio::runtime::Runtime, store: Arc<dyn Store>) -> Writer {
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (answered.clone(), stop.clone());
        let task = runtime.spawn(async move {
            let mut next = 1;
            while !stopped.load(Ordering::SeqCst) {
                // What is not answered is written again: the value only ever grows.
                if store.put(PutRequest::new("counter", format!("{next:020}"))).await.is_ok() {
                    count.store(next, Ordering::SeqCst);
                    next += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Writer { answered, stop, task }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn finish(self, runtime: &tokio::runtime::Runtime) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        runtime.block_on(self.task).unwrap();
        self.answered.load(Ordering::SeqCst)
    }
}

fn test(runtime: &tokio::runtime::Runtime) {
    let mut cluster = Cluster { places: Vec::new(), dir: tempfile::tempdir().unwrap() };
    for name in ["a", "b", "c"] {
        cluster.place(name);
    }
    for at in 0..3 {
        cluster.start(at, "new");
    }
    every_member_serves(&cluster);
    let store = runtime.block_on(async { grpc::connect(&cluster.endpoints(), None).unwrap() });
    let writer = Writer::start(runtime, store.clone());
    a_killed_leader_is_replaced(&mut cluster, &writer);
    leadership_moves(&cluster);
    let answered = writer.finish(runtime);
    let read = runtime.block_on(store.range(RangeRequest::key("counter"))).unwrap();
    let found: u64 = std::str::from_utf8(&read.kvs[0].value).unwrap().parse().unwrap();
    assert!(answered > 0 && found >= answered, "{answered} was answered, {found} is there");
    a_learner_comes_votes_and_goes(&mut cluster);
    a_stranger_is_turned_away(&cluster);
    println!("{answered} answered writes, none lost");
}

fn every_member_serves(cluster: &Cluster) {
    for at in 0..3 {
        cluster.ctl(at, &["put", &format!("from-{at}"), "v"]);
        let health = cluster.ctl(at, &["endpoint", "health"]);
        assert!(health.contains("is healthy"), "{health}");
    }
    for at in 0..3 {
        let keys = cluster.ctl(at, &["get", "from-", "--prefix", "--keys-only"]);
        assert_eq!(keys.split_whitespace().count(), 3, "{keys}");
        let members = cluster.ctl(at, &["member", "list"]);
        let started = members.lines().filter(|line| line.contains("started")).count();
        assert_eq!(started, 3, "{members}");
    }
    let leaders: Vec<u64> = (0..3).map(|at| cluster.status(at).leader).collect();
    assert!(leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
}

fn a_killed_leader_is_replaced(cluster: &mut Cluster, writer: &Writer) {
    for round in 0..3 {
        let old = cluster.leader();
        cluster.places[old].process = None;
        let killed = Instant::now();
        let before = writer.answered();
        cluster.until("writes go on", || match writer.answered() > before + 5 {
            true => Ok(()),
            false => Err("none".to_owned()),
        });
        println!("round {round}: writes went on after {:?}", killed.elapsed());
        // More than the others keep in memory: it is brought a snapshot.
        let before = writer.answered();
        cluster.until("more writes", || match writer.answered() > before + 150 {
            true => Ok(()),
            false => Err("few".to_owned()),
        });
        cluster.start(old, "new");
        // A linearizable read: it has caught up with all that was acknowledged.
        let answered = writer.answered();
        let value = cluster.ctl(old, &["get", "counter", "--print-value-only"]);
        let value: u64 = value.trim().parse().unwrap();
        assert!(value >= answered, "{answered} was answered, {value} is read");
    }
}

fn leadership_moves(cluster: &Cluster) {
    let from = cluster.leader();
    let to = (from + 1) % 3;
    let target = cluster.status(to).member;
    let refused = cluster.run(to, &["move-leader", &format!("{target:x}")]);
    assert!(!refused.status.success(), "only the leader moves its leadership");
    cluster.ctl(from, &["move-leader", &format!("{target:x}")]);
    assert_eq!(cluster.status(to).leader, target);
}

fn a_learner_comes_votes_and_goes(cluster: &mut Cluster) {
    cluster.place("d");
    let peer = format!("--peer-urls=http://{}", cluster.places[3].peer);
    let added = cluster.ctl(0, &["member", "add", "d", &peer, "--learner"]);
    let id = added.split_whitespace().find(|word| u64::from_str_radix(word, 16).is_ok() && word.len() > 8);
    let id = id.unwrap_or_else(|| panic!("no ID: {added}")).to_owned();
    let early = cluster.run(0, &["member", "promote", &id]);
    let complaint = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(complaint.contains("can only promote a learner member which is in sync"), "{complaint}");
    cluster.start(3, "existing");
    cluster.until("the learner has caught up", || {
        let status = cluster.status(3);
        let revision = cluster.status(0).revision;
        let caught_up = status.learner && status.revision == revision && revision > 0;
        if caught_up { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let refused = cluster.run(3, &["get", "counter"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("rpc not supported for learner"), "{complaint}");
    cluster.ctl(0, &["member", "promote", &id]);
    cluster.ctl(3, &["put", "from-3", "v"]);
    assert_eq!(cluster.ctl(3, &["member", "list"]).lines().count(), 4);
    cluster.ctl(0, &["member", "remove", &id]);
    let mut gone = cluster.places[3].process.take().unwrap();
    cluster.until("the removed member ends", || match gone.0.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("it runs".to_owned()),
    });
    assert_eq!(cluster.ctl(0, &["member", "list"]).lines().count(), 3);
    cluster.ctl(1, &["put", "last", "v"]);
}

/// Whoever speaks another language to the peers' port, or none, changes nothing.
fn a_stranger_is_turned_away(cluster: &Cluster) {
    use std::io::Write;
    for at in 0..3 {
        for garbage in
            [&[0xff; 5000][..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x01"]
        {
            let mut stream = std::net::TcpStream::connect(cluster.places[at].peer).unwrap();
            let _ = stream.write_all(garbage);
        }
        cluster.ctl(at, &["put", "still", "there"]);
    }
}
