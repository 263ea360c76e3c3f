//! Services as clients inside and outside the cluster see them.

use crate::{BUSYBOX, cluster, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, eventually, run, run_ok, until};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn curl(cluster: &Cluster, url: &str) -> Result<String> {
    run_ok(cluster.host.command("curl").args(["-sf", "--max-time", "3", url]))
}

fn service_ip(cluster: &Cluster, name: &str) -> Result<String> {
    cluster.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
}

#[test]
fn services_of_every_kind() -> Result<()> {
    let _turn = turn();
    let mut cluster = cluster()?;
    cluster.apply(&include_str!("manifests/services.yaml").replace("BUSYBOX", BUSYBOX))?;
    cluster.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let ip = service_ip(&cluster, "echo")?;
    until("the cluster IP answers", MINUTE, || curl(&cluster, &format!("http://{ip}/")))?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(curl(&cluster, &format!("http://{ip}/"))?);
    }
    ensure!(seen.len() == 3, "all three pods answer: {seen:?}");
    let sticky = service_ip(&cluster, "sticky")?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(curl(&cluster, &format!("http://{sticky}/"))?);
    }
    ensure!(seen.len() == 1, "one client, one pod: {seen:?}");
    // From another host on the network.
    let outside = cluster.lan.host()?;
    let node_port =
        cluster.kubectl(&["get", "service", "ported", "-o", "jsonpath={.spec.ports[0].nodePort}"])?;
    let url = format!("http://{}:{node_port}/", cluster.host.address);
    until("the node port answers outside", MINUTE, || {
        run_ok(outside.command("curl").args(["-sf", "--max-time", "3", &url]))
    })?;
    let url = format!("http://{}:8081/", cluster.host.address);
    until("the host port answers outside", MINUTE, || {
        run_ok(outside.command("curl").args(["-sf", "--max-time", "3", &url]))
    })?;
    // A pod reaches itself through its Service.
    let script = format!("for i in 1 2 3 4 5 6 7 8 9; do get {ip} 80 / || exit 1; done");
    cluster.kubectl(&["exec", "deploy/echo", "--", "sh", "-c", &script])?;
    // Nothing behind it: refused at once, not after a timeout.
    let empty = service_ip(&cluster, "empty")?;
    let begin = std::time::Instant::now();
    let finished = run(
        cluster.host.command("curl").args(["-s", "--max-time", "10", &format!("http://{empty}/")]),
        None,
    )?;
    ensure!(finished.code == Some(7) && begin.elapsed() < Duration::from_secs(3), "{finished:?}");
    // An endpoint that goes is not asked any more.
    cluster.kubectl(&["scale", "deployment/echo", "--replicas=1"])?;
    eventually("one endpoint is left", MINUTE, || {
        let path = "jsonpath={.items[*].endpoints[*].addresses[0]}";
        let slices =
            cluster.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=echo", "-o", path]);
        slices.is_ok_and(|s| s.split_whitespace().count() == 1)
    })?;
    until("only it answers", MINUTE, || {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 {
            seen.insert(curl(&cluster, &format!("http://{ip}/"))?);
        }
        ensure!(seen.len() == 1, "{seen:?}");
        Ok(())
    })
}

#[test]
fn names_resolve() -> Result<()> {
    let _turn = turn();
    let cluster = cluster()?;
    cluster.apply(&include_str!("manifests/services.yaml").replace("BUSYBOX", BUSYBOX))?;
    cluster.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let dig = |name: &str, kind: &str| {
        run_ok(cluster.host.command("dig").args(["+short", "+time=2", "+tries=1", "@10.43.0.10", name, kind]))
    };
    let ip = service_ip(&cluster, "echo")?;
    until("the name resolves", MINUTE, || {
        let answer = dig("echo.default.svc.cluster.local", "A")?;
        ensure!(answer.trim() == ip, "{answer}");
        Ok(())
    })?;
    ensure!(
        dig("_http._tcp.echo.default.svc.cluster.local", "SRV")?
            .contains("80 echo.default.svc.cluster.local.")
    );
    ensure!(dig("kubernetes.default.svc.cluster.local", "A")?.trim() == "10.43.0.1");
    ensure!(
        run_ok(cluster.host.command("dig").args(["+short", "@10.43.0.10", "-x", &ip]))?
            .contains("echo.default.svc.cluster.local.")
    );
    let missing =
        run_ok(cluster.host.command("dig").args(["@10.43.0.10", "absent.default.svc.cluster.local"]))?;
    ensure!(missing.contains("NXDOMAIN"), "{missing}");
    ensure!(dig("alias.default.svc.cluster.local", "CNAME")?.contains("example.com."));
    Ok(())
}
