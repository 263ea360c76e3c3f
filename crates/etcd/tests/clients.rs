//! Real clients: etcdctl as Debian ships it, TLS with client certificates, plain HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use futures::StreamExt;
use isopod_kv::{Code, PutRequest, RangeRequest, WatchCreateRequest, grpc};
use served::{Certificates, Served, http_get};
use tokio::io::AsyncReadExt;

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

/// What dashboards and alerts for etcd ask for.
const DASHBOARD: &[&str] = &[
    "etcd_server_has_leader 1",
    "etcd_server_is_leader 1",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_server_health_success",
    "etcd_server_version{server_version=\"",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "grpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_start_time_seconds",
];

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
    served.etcdctl(&["get", "a"], "").await;
    let metrics = http_get(served.metrics, "/metrics").await;
    for name in DASHBOARD {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{metrics}");
    }
    let alarm = isopod_kv::AlarmRequest { action: 1, member_id: 0, alarm: 1 };
    served.engine.alarm(alarm).await.unwrap();
    assert!(
        http_get(served.metrics, "/health").await.ends_with(r#"{"health":"false","reason":"ALARM NOSPACE"}"#)
    );
    assert!(http_get(served.metrics, "/health?exclude=NOSPACE").await.contains(r#""health":"true""#));
    assert!(http_get(served.metrics, "/health?serializable=true").await.starts_with("HTTP/1.1 503"));
    let verbose = http_get(served.metrics, "/readyz?verbose&exclude=disk_space").await;
    let checks = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n\
                  [+]log_writable ok\nok\n";
    assert!(verbose.ends_with(checks), "{verbose}");
    assert!(http_get(served.metrics, "/readyz/linearizable_read").await.ends_with("ok\n"));
    let corrupt = isopod_kv::AlarmRequest { action: 1, member_id: 0, alarm: 2 };
    served.engine.alarm(corrupt).await.unwrap();
    let failed = http_get(served.metrics, "/readyz").await;
    assert!(failed.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{failed}");
    assert!(failed.starts_with("HTTP/1.1 503"));
    assert!(http_get(served.metrics, "/livez").await.ends_with("ok\n"));
    served.stop().await;
}

#[tokio::test]
async fn tls_asks_for_a_client_certificate() {
    let certificates = Certificates::new();
    let served = Served::start(Some(certificates.server_config())).await;
    let endpoint = [format!("https://{}", served.client)];
    let mut tls = grpc::TlsConfig { ca_pem: certificates.ca_pem.clone().into_bytes(), ..Default::default() };
    let stranger = grpc::connect(&endpoint, Some(tls.clone())).unwrap();
    assert_eq!(stranger.range(RangeRequest::key("a")).await.unwrap_err().code(), Code::Unavailable);
    let (certificate, key) = certificates.client("client");
    tls.identity = Some((certificate.into_bytes(), key.into_bytes()));
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
