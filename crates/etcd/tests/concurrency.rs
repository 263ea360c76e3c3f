//! The Lock and Election services, called directly and together with etcdctl, which does by itself what they do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use std::time::Duration;

use isopod_kv::grpc::{self, method, unary};
use isopod_kv::{
    CampaignRequest, CampaignResponse, Error, LeaderRequest, LeaderResponse, LeaseGrantRequest, LockRequest,
    LockResponse, ProclaimRequest, ProclaimResponse, RangeRequest, ResignRequest, ResignResponse,
    UnlockRequest, UnlockResponse,
};
use served::Served;
use tokio::io::AsyncBufReadExt;
use tonic::transport::Channel;

/// Far beyond what any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn channel(served: &Served) -> Channel {
    grpc::channels(&[served.client.to_string()], None).unwrap().remove(0)
}

async fn lease(served: &Served) -> i64 {
    served.engine.lease_grant(LeaseGrantRequest { id: 0, ttl: 600 }).await.unwrap().id
}

async fn lock(channel: Channel, lease: i64) -> Result<LockResponse, Error> {
    unary(&channel, method::LOCK, LockRequest { name: "l".into(), lease }).await
}

/// Waits until this many keys have the prefix.
async fn wait_for_keys(served: &Served, prefix: &'static str, count: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = served.engine.range(&RangeRequest::prefix(prefix)).await.unwrap().count;
        if found == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found} keys under {prefix}, not {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_by_one_in_order() {
    let served = Served::start(None).await;
    let leases = [lease(&served).await, lease(&served).await, lease(&served).await];
    let first = lock(channel(&served), leases[0]).await.unwrap();
    assert_eq!(first.key, format!("l/{:x}", leases[0]));
    // Who holds it gets it again.
    assert_eq!(lock(channel(&served), leases[0]).await.unwrap().key, first.key);
    let second = tokio::spawn(lock(channel(&served), leases[1]));
    wait_for_keys(&served, "l/", 2).await;
    let third = tokio::spawn(lock(channel(&served), leases[2]));
    wait_for_keys(&served, "l/", 3).await;
    // The second gives up waiting: its place is free, and the third still waits for the first.
    second.abort();
    wait_for_keys(&served, "l/", 2).await;
    assert!(!third.is_finished());
    let unlock = UnlockRequest { key: first.key };
    let _: UnlockResponse = unary(&channel(&served), method::UNLOCK, unlock).await.unwrap();
    let third = tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap().unwrap();
    assert_eq!(third.key, format!("l/{:x}", leases[2]));
    // Together with a client that does it by itself.
    let etcdctl = async { served.etcdctl(&["lock", "l", "echo", "held"], "").await };
    let release = async {
        wait_for_keys(&served, "l/", 2).await;
        served.engine.lease_revoke(leases[2]).await.unwrap();
    };
    let (output, ()) = tokio::join!(etcdctl, release);
    assert!(output.contains("held"), "{output}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_lease_ends_while_waiting_is_refused() {
    let served = Served::start(None).await;
    let (first, second) = (lease(&served).await, lease(&served).await);
    let held = lock(channel(&served), first).await.unwrap();
    let waiting = tokio::spawn(lock(channel(&served), second));
    wait_for_keys(&served, "l/", 2).await;
    served.engine.lease_revoke(second).await.unwrap();
    let _: UnlockResponse =
        unary(&channel(&served), method::UNLOCK, UnlockRequest { key: held.key }).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(refused.unwrap_err().to_string(), "mutex: session is expired");
    // Without a lease the server grants one.
    assert!(lock(channel(&served), 0).await.is_ok());
    served.stop().await;
}

async fn campaign(channel: Channel, lease: i64, value: &'static str) -> Result<CampaignResponse, Error> {
    let request = CampaignRequest { name: "e".into(), lease, value: value.into() };
    unary(&channel, method::CAMPAIGN, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_has_one_leader() {
    let served = Served::start(None).await;
    let channel = channel(&served);
    let ask = LeaderRequest { name: "e".into() };
    let none: Result<LeaderResponse, _> = unary(&channel, method::LEADER, ask.clone()).await;
    assert_eq!(none.unwrap_err().to_string(), "election: no leader");
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<LeaderRequest, LeaderResponse>::default();
    let path = http::uri::PathAndQuery::from_static(method::OBSERVE);
    let observed = grpc.server_streaming(tonic::Request::new(ask.clone()), path, codec).await.unwrap();
    let mut observed = observed.into_inner();
    let mut next = async || {
        let answer = tokio::time::timeout(PATIENCE, observed.message()).await.unwrap();
        String::from_utf8(answer.unwrap().unwrap().kv.unwrap().value.to_vec()).unwrap()
    };
    let leases = [lease(&served).await, lease(&served).await];
    let first = campaign(channel.clone(), leases[0], "one").await.unwrap().leader.unwrap();
    assert_eq!((first.key.clone(), next().await), (format!("e/{:x}", leases[0]).into(), "one".to_owned()));
    let second = tokio::spawn(campaign(channel.clone(), leases[1], "two"));
    wait_for_keys(&served, "e/", 2).await;
    let proclaim = |leader: &isopod_kv::LeaderKey, value: &'static str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.into(),
    };
    let _: ProclaimResponse = unary(&channel, method::PROCLAIM, proclaim(&first, "uno")).await.unwrap();
    assert_eq!(next().await, "uno");
    // Running again while leading changes the value.
    campaign(channel.clone(), leases[0], "une").await.unwrap();
    assert_eq!(next().await, "une");
    let leads: LeaderResponse = unary(&channel, method::LEADER, ask).await.unwrap();
    assert_eq!(leads.kv.unwrap().value, "une");
    let resign = ResignRequest { leader: Some(first.clone()) };
    let _: ResignResponse = unary(&channel, method::RESIGN, resign).await.unwrap();
    let second = tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, "two");
    let lost: Result<ProclaimResponse, _> = unary(&channel, method::PROCLAIM, proclaim(&first, "x")).await;
    assert_eq!(lost.unwrap_err().to_string(), "election: not leader");
    let nobody = ResignRequest { leader: None };
    let missing: Result<ResignResponse, _> = unary(&channel, method::RESIGN, nobody).await;
    assert_eq!(missing.unwrap_err().to_string(), "\"leader\" field must be provided");
    assert!(second.leader.unwrap().rev > first.rev);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_elects() {
    let served = Served::start(None).await;
    let start = |args: &[&str]| {
        tokio::process::Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &served.client.to_string(), "elect", "e"])
            .args(args)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut leads = start(&["mine"]);
    wait_for_keys(&served, "e/", 1).await;
    let leader: LeaderResponse =
        unary(&channel(&served), method::LEADER, LeaderRequest { name: "e".into() }).await.unwrap();
    assert_eq!(leader.kv.unwrap().value, "mine");
    let mut listens = start(&["-l"]);
    let mut lines = tokio::io::BufReader::new(listens.stdout.take().unwrap()).lines();
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        if line == "mine" {
            break;
        }
    }
    leads.kill().await.unwrap();
    listens.kill().await.unwrap();
    served.stop().await;
}
