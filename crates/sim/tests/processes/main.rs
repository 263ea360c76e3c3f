//! Three members as real processes on hosts of their own, killed, stopped, cut off and out of space while clients write;
//! what the clients saw is judged by the checkers that judge the simulator's runs. Needs root, for the hosts are network
//! namespaces, and `nft`.
//!
//! Run without arguments this is the test; run as `processes member …` it is a member. (It has no test harness, so that
//! the process under test can be this program itself.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The test kit as a whole brings clients of the API server with it, which take long to build and are not needed here.
#[allow(dead_code, unreachable_pub, reason = "shared with the test kit")]
#[path = "../../../testkit/src/command.rs"]
mod command;
#[allow(dead_code, unreachable_pub, reason = "shared with the test kit")]
#[path = "../../../testkit/src/lan.rs"]
mod lan;
mod load;
mod members;

use anyhow::{Context, Result, ensure};
use isopod_etcd::{Config, InitialCluster, Listeners, open_member, serve, serve_peers};
use isopod_sim::check::check;
use isopod_sim::history::History;
use load::Load;
use members::{Cut, Members};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a fault lasts: longer than an election takes, so that the others go on without the member.
const FAULT: Duration = Duration::from_secs(3);
/// How long the members are left alone between faults.
const PEACE: Duration = Duration::from_secs(1);
const CLIENTS: u32 = 5;
const WATCHERS: u32 = 2;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().position(|arg| arg == "member") {
        Some(at) => tokio::runtime::Runtime::new()?.block_on(member(&args[at + 1..])),
        None if args.iter().any(|arg| arg == "--list") => println!("processes: test"),
        None => {
            test()?;
            println!("test processes ... ok");
        }
    }
    Ok(())
}

/// `member DIR NAME CLIENT PEER INITIAL_CLUSTER`
async fn member(args: &[String]) {
    let [dir, name, client, peer, initial_cluster] = args else { panic!("five arguments") };
    let config = Config {
        name: name.clone(),
        client_urls: vec![format!("http://{client}")],
        peer_urls: vec![format!("http://{peer}")],
        // Small, so that members that were away are brought snapshots, and a full disk is felt at once.
        catch_up_entries: 100,
        segment_bytes: 256 << 10,
        checkpoint_log_bytes: 1 << 20,
        ..Config::new(dir)
    };
    let initial = InitialCluster {
        name: name.clone(),
        initial_cluster: initial_cluster.split(',').map(str::to_owned).collect(),
        existing: false,
        token: "faults".to_owned(),
        peer_urls: config.peer_urls.clone(),
    };
    let peers = vec![TcpListener::bind(peer).await.unwrap()];
    let clients = vec![TcpListener::bind(client).await.unwrap()];
    let engine = open_member(config, initial.bootstrap(None).await.unwrap()).unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(serve_peers(engine.clone(), peers, None, shutdown.clone()));
    let listeners = Listeners { client: clients, metrics: Vec::new() };
    serve(engine, listeners, None, shutdown).await.unwrap();
}

/// Runs load and faults on the network of the clients' host.
fn run(members: &mut Members) -> Result<History> {
    let path = format!("/run/netns/{}", members.clients.namespace);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = std::fs::File::open(path)?;
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            // One thread: others that a runtime makes later would have to enter the host as well.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(tokio::task::LocalSet::new().run_until(live(members)))
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn live(members: &mut Members) -> Result<History> {
    members.connect()?;
    members.leader().await?;
    let load = Load::new(&members.client_urls(), members.runs.clone())?;
    let clients = (0..CLIENTS).map(|client| tokio::task::spawn_local(load.clone().client(client)));
    let watchers = (0..WATCHERS).map(|watcher| tokio::task::spawn_local(load.clone().watcher(watcher)));
    let tasks: Vec<_> = clients.chain(watchers).collect();
    torment(members, &load).await?;
    load.recover().await.with_context(|| members.logs())?;
    // Watchers are to see the end as well.
    tokio::time::sleep(PEACE).await;
    load.over.replace(true);
    for task in tasks {
        task.await?;
    }
    let events = load.events().await?;
    let (operations, watches) = (load.operations.take(), load.watches.take());
    Ok(History { operations, watches, events, ..History::default() })
}

/// Does to the members whatever may happen to machines, one after the other.
async fn torment(members: &mut Members, load: &Load) -> Result<()> {
    for round in 0..3 {
        let leader = members.leader().await?;
        members.kill(leader)?;
        tokio::time::sleep(FAULT).await;
        members.launch(leader)?;
        tokio::time::sleep(PEACE).await;

        let stopped = if round == 1 { members.leader().await? } else { round };
        members.signal(stopped, "STOP")?;
        tokio::time::sleep(FAULT).await;
        members.signal(stopped, "CONT")?;
        tokio::time::sleep(PEACE).await;

        let apart = members.leader().await?;
        let cut = [Cut::Both, Cut::Inward, Cut::Outward][round];
        members.cut(apart, cut)?;
        tokio::time::sleep(FAULT).await;
        members.join(apart)?;
        tokio::time::sleep(PEACE).await;
    }
    members.fill_disk()?;
    // Until the log needs its next file, a full disk is not felt.
    load.bulk.replace(true);
    tokio::time::sleep(2 * FAULT).await;
    load.bulk.replace(false);
    members.free_disk()?;
    tokio::time::sleep(PEACE).await;
    for member in 0..3 {
        members.kill(member)?;
    }
    for member in 0..3 {
        members.launch(member)?;
    }
    tokio::time::sleep(PEACE).await;
    Ok(())
}

fn test() -> Result<()> {
    let mut members = Members::start()?;
    let history = run(&mut members)?;
    let answered = history.operations.iter().filter(|operation| operation.answer().is_some()).count();
    let events: usize = history.watches.iter().map(|watch| watch.deliveries.len()).sum();
    println!("{} requests, {answered} answered, {events} deliveries", history.operations.len());
    ensure!(answered > 200, "only {answered} requests of {} were answered", history.operations.len());
    ensure!(events > 20, "the watchers were given {events} responses");
    let violations: Vec<String> = check(&history).iter().map(ToString::to_string).collect();
    ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    Ok(())
}
