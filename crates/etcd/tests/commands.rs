//! The commands of etcdctl that no other test uses, word for word.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use std::time::Duration;

use isopod_kv::grpc;
use isopod_kv::{AlarmRequest, PutRequest, RangeRequest};
use served::Served;

/// Far beyond what any command takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let served = Served::start(None).await;
    let ask = async |line: &str| served.etcdctl(&line.split(' ').collect::<Vec<_>>(), "").await;
    for line in ["put a 1", "put b 3", "put c 2", "put d/1 4", "put d/2 5", "put b 0"] {
        assert_eq!(ask(line).await, "OK\n");
    }
    assert_eq!(ask("get a c").await, "a\n1\nb\n0\n");
    assert_eq!(ask("get d/ --prefix --keys-only").await, "d/1\n\nd/2\n\n");
    assert_eq!(ask("get --prefix --limit 2 --print-value-only a").await, "1\n");
    assert_eq!(ask("get c --from-key --print-value-only").await, "2\n4\n5\n");
    let sorted = "get a d --order DESCEND --print-value-only --sort-by ";
    assert_eq!(ask(&format!("{sorted}VALUE")).await, "2\n1\n0\n");
    assert_eq!(ask(&format!("{sorted}MODIFY")).await, "0\n2\n1\n");
    assert_eq!(ask(&format!("{sorted}CREATE")).await, "2\n0\n1\n");
    assert_eq!(ask(&format!("{sorted}VERSION")).await, "0\n1\n2\n");
    assert_eq!(ask("get b --rev 3").await, "b\n3\n");
    assert_eq!(ask("get b --consistency s").await, "b\n0\n");
    assert_eq!(ask("put a --ignore-value --prev-kv").await, "OK\na\n1\n");
    assert_eq!(ask("put none --ignore-value").await, "Error: etcdserver: key not found\n".trim_end());
    assert_eq!(ask("del d/ --prefix --prev-kv").await, "2\nd/1\n4\nd/2\n5\n");
    assert_eq!(ask("del b --from-key").await, "2\n");
    assert_eq!(ask("compaction 7 --physical").await, "compacted revision 7\n");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_and_alarms() {
    let served = Served::start(None).await;
    let ask = async |line: &str| served.etcdctl(&line.split(' ').collect::<Vec<_>>(), "").await;
    let granted = ask("lease grant 600").await;
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
    assert_eq!(ask(&format!("put l 1 --lease {id}")).await, "OK\n");
    let left = ask(&format!("lease timetolive {id} --keys")).await;
    assert!(left.contains("granted with TTL(600s)") && left.contains("attached keys([l])"), "{left}");
    let renewed = ask(&format!("lease keep-alive --once {id}")).await;
    assert_eq!(renewed, format!("lease {id} keepalived with TTL(600)\n"));
    assert_eq!(ask("lease list").await, format!("found 1 leases\n{id}\n"));
    assert_eq!(ask("put l 2 --ignore-lease").await, "OK\n");
    assert_eq!(ask(&format!("lease revoke {id}")).await, format!("lease {id} revoked\n"));
    assert_eq!(ask("get l").await, "");
    assert_eq!(ask(&format!("lease timetolive {id}")).await, format!("lease {id} already expired\n"));
    assert!(ask(&format!("lease revoke {id}")).await.contains("requested lease not found"));
    served.engine.alarm(AlarmRequest { action: 1, member_id: 0, alarm: 1 }).await.unwrap();
    let alarm = format!("memberID:{} alarm:NOSPACE \n", served.engine.member_id());
    assert_eq!(ask("alarm list").await, alarm);
    assert!(ask("put a 1").await.contains("etcdserver: mvcc: database space exceeded"));
    assert_eq!(ask("alarm disarm").await, alarm);
    assert_eq!(ask("put a 1").await, "OK\n");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_follows() {
    let (source, target) = (Served::start(None).await, Served::start(None).await);
    source.engine.put(PutRequest::new("m/1", "before")).await.unwrap();
    let mut mirror = tokio::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &source.client.to_string(), "make-mirror", &target.client.to_string()])
        .args(["--prefix", "m/"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    wait_for(&target, "m/1", "before").await;
    source.engine.put(PutRequest::new("m/2", "after")).await.unwrap();
    wait_for(&target, "m/2", "after").await;
    mirror.kill().await.unwrap();
    source.stop().await;
    target.stop().await;
}

async fn wait_for(served: &Served, key: &'static str, value: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = served.engine.range(&RangeRequest::key(key)).await.unwrap();
        if found.kvs.first().is_some_and(|kv| kv.value == value.as_bytes()) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{key} does not become {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[tokio::test]
async fn health_is_that_of_the_whole_server() {
    let served = Served::start(None).await;
    let channel = grpc::channels(&[served.client.to_string()], None).unwrap().remove(0);
    let check = async |service: &str| -> Result<HealthResponse, isopod_kv::Error> {
        let request = HealthRequest { service: service.to_owned() };
        grpc::unary(&channel, "/grpc.health.v1.Health/Check", request).await
    };
    assert_eq!(check("").await, Ok(HealthResponse { status: 1 }));
    assert_eq!(check("etcdserverpb.KV").await.unwrap_err().code(), isopod_kv::Code::NotFound);
    served.stop().await;
}
