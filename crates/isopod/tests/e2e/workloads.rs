//! A set of manifests of the kind that people use, through its whole life, with kubectl.

use crate::{BUSYBOX, BUSYBOX_2, cluster, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, eventually, run, until};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn manifest() -> String {
    include_str!("manifests/shop.yaml").replace("BUSYBOX", BUSYBOX)
}

fn contains(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "expected {wanted:?} in\n{text}");
    Ok(())
}

#[test]
fn a_shop_from_apply_to_delete() -> Result<()> {
    let _turn = turn();
    let cluster = cluster()?;
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    contains(&cluster.apply(&manifest())?, "deployment.apps/web created")?;
    k(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    job_completes(&cluster)?;
    mounts_and_environment(&cluster)?;
    services_answer_by_name(&cluster)?;
    scale_update_rollback(&cluster)?;
    describe_and_tables(&cluster)?;
    exec_logs_cp_port_forward(&cluster)?;
    quota_refuses(&cluster)?;
    contains(&cluster.apply(&manifest())?, "service/web unchanged")?;
    k(&["delete", "namespace", "shop", "--timeout=90s"])?;
    ensure!(!cluster.kubectl_try(&["get", "namespace", "shop"])?.ok, "the namespace is gone");
    Ok(())
}

fn job_completes(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Complete", "job/migrate", "--timeout=60s"])?;
    let logs = cluster.kubectl(&["-n", "shop", "logs", "job/migrate"])?;
    contains(&logs, "migrated as app with s3cret")
}

fn mounts_and_environment(cluster: &Cluster) -> Result<()> {
    let read = |path: &str| cluster.kubectl(&["-n", "shop", "exec", "deploy/web", "--", "cat", path]);
    contains(&read("/config/greeting")?, "hello from the shop")?;
    contains(&read("/secret/password")?, "s3cret")?;
    contains(&read("/info/labels")?, "app=\"web\"")?;
    contains(&read("/var/run/secrets/kubernetes.io/serviceaccount/namespace")?, "shop")?;
    let environment = cluster.kubectl(&["-n", "shop", "exec", "deploy/web", "--", "env"])?;
    for wanted in [
        "GREETING=hello from the shop",
        "PASSWORD=s3cret",
        "POD_NAME=web-",
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
    ] {
        contains(&environment, wanted)?;
    }
    // A changed ConfigMap reaches the file in the running pod.
    cluster.kubectl(&[
        "-n",
        "shop",
        "patch",
        "configmap",
        "settings",
        "-p",
        "{\"data\":{\"greeting\":\"changed\"}}",
    ])?;
    until("the mounted file follows", MINUTE, || contains(&read("/config/greeting")?, "changed"))
}

fn services_answer_by_name(cluster: &Cluster) -> Result<()> {
    for name in ["web", "web.shop", "web.shop.svc.cluster.local"] {
        let answer = until("the Service answers by name", MINUTE, || {
            cluster.kubectl(&["-n", "shop", "exec", "client", "--", "get", name, "8080", "/index.html"])
        })?;
        contains(&answer, "hello from the shop")?;
    }
    let headless = cluster.kubectl(&[
        "-n",
        "shop",
        "exec",
        "client",
        "--",
        "nslookup",
        "web-headless.shop.svc.cluster.local",
    ])?;
    let addresses = headless.lines().filter(|l| l.contains("Address") && l.contains("10.42.")).count();
    ensure!(addresses == 2, "two pods behind the headless Service:\n{headless}");
    Ok(())
}

fn scale_update_rollback(cluster: &Cluster) -> Result<()> {
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    k(&["-n", "shop", "scale", "deployment/web", "--replicas=4"])?;
    k(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    let image = |tag: &str| format!("web={tag}");
    k(&["-n", "shop", "set", "image", "deployment/web", &image(BUSYBOX_2)])?;
    k(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=90s"])?;
    contains(&k(&["-n", "shop", "exec", "deploy/web", "--", "env"])?, &format!("IMAGE_NAME={BUSYBOX_2}"))?;
    contains(&k(&["-n", "shop", "rollout", "history", "deployment/web"])?, "2")?;
    k(&["-n", "shop", "rollout", "undo", "deployment/web"])?;
    k(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=90s"])?;
    let now = k(&[
        "-n",
        "shop",
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    ensure!(now == BUSYBOX, "rolled back to {now}");
    eventually("the old pods are gone", MINUTE, || {
        let pods = k(&["-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"]).unwrap_or_default();
        pods.lines().count() == 4
    })
}

fn describe_and_tables(cluster: &Cluster) -> Result<()> {
    let k = |arguments: &[&str]| cluster.kubectl(arguments);
    let table = k(&["-n", "shop", "get", "deployments,pods,services,configmaps,jobs", "-o", "wide"])?;
    for wanted in
        ["READY", "UP-TO-DATE", "AVAILABLE", "4/4", "CLUSTER-IP", "NOMINATED NODE", "COMPLETIONS", "SELECTOR"]
    {
        contains(&table, wanted)?;
    }
    let name =
        k(&["-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let pod = k(&["-n", "shop", "describe", "pod", &name])?;
    for wanted in ["Successfully assigned shop/web-", "Started", "Container image", "Ready             True"]
    {
        contains(&pod, wanted)?;
    }
    contains(&k(&["-n", "shop", "describe", "deployment", "web"])?, "ScalingReplicaSet")?;
    contains(&k(&["-n", "shop", "describe", "service", "web"])?, "Endpoints:")?;
    contains(&k(&["describe", "node", "node-1"])?, "Allocated resources")?;
    contains(&k(&["explain", "pod.spec.containers.livenessProbe"])?, "FIELDS")?;
    contains(&k(&["api-resources"])?, "deployments")?;
    Ok(())
}

fn exec_logs_cp_port_forward(cluster: &Cluster) -> Result<()> {
    let mut command =
        cluster.kubectl_command(&["-n", "shop", "exec", "-i", "client", "--", "sh", "-c", "cat; exit 7"]);
    let finished = run(&mut command, Some("through stdin"))?;
    ensure!(finished.out == "through stdin" && finished.code == Some(7), "exec: {finished:?}");
    let file = cluster.directory.path().join("copied");
    std::fs::write(&file, "copied content")?;
    let path = file.to_string_lossy();
    cluster.kubectl(&["cp", &path, "shop/client:/tmp/copied"])?;
    contains(
        &cluster.kubectl(&["-n", "shop", "exec", "client", "--", "cat", "/tmp/copied"])?,
        "copied content",
    )?;
    let mut forward =
        cluster.kubectl_command(&["-n", "shop", "port-forward", "service/web", "18080:8080"]).spawn()?;
    let got = until("the forwarded port answers", MINUTE, || {
        isopod_testkit::run_ok(cluster.host.command("curl").args([
            "-s",
            "--max-time",
            "5",
            "http://127.0.0.1:18080/index.html",
        ]))
    });
    forward.kill()?;
    forward.wait()?;
    // The pods were made anew after the ConfigMap was changed.
    contains(&got?, "changed")?;
    let text = isopod_testkit::run_ok(cluster.host.command("timeout").args(["3", "sh", "-c"]).arg(format!(
        "KUBECONFIG={} kubectl -n shop logs -f counter | head -n 5",
        cluster.kubeconfig().display()
    )))?;
    ensure!(text.lines().count() == 5, "followed: {text}");
    Ok(())
}

fn quota_refuses(cluster: &Cluster) -> Result<()> {
    let refused = cluster.kubectl_try(&["-n", "shop", "run", "greedy", "--image", BUSYBOX, "--overrides",
        "{\"spec\":{\"containers\":[{\"name\":\"greedy\",\"image\":\"x\",\"resources\":{\"requests\":{\"memory\":\"100Gi\"},\"limits\":{\"memory\":\"100Gi\"}}}]}}"])?;
    ensure!(!refused.ok, "over quota");
    contains(&refused.err, "exceeded quota: shop-quota, requested: requests.memory=100Gi")
}
