//! What pods are promised by the kubelet.

use crate::{BUSYBOX, cluster, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, eventually, until};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn get(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

fn pod(cluster: &Cluster, name: &str, spec: &str) -> Result<()> {
    let spec = spec.replace("BUSYBOX", BUSYBOX);
    let body = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    cluster.apply(&body).map(drop)
}

fn phase(cluster: &Cluster, name: &str, wanted: &str) -> Result<()> {
    until(&format!("pod {name} is {wanted}"), MINUTE, || {
        let phase = get(cluster, name, ".status.phase")?;
        ensure!(phase == wanted, "{phase}: {}", get(cluster, name, ".status")?);
        Ok(())
    })
}

#[test]
fn containers_start_end_and_restart_as_promised() -> Result<()> {
    let _turn = turn();
    let cluster = cluster()?;
    order_of_init_and_sidecar(&cluster)?;
    restart_policies(&cluster)?;
    probes(&cluster)?;
    termination(&cluster)?;
    limits_and_security(&cluster)?;
    static_pod(&cluster)?;
    previous_logs(&cluster)?;
    Ok(())
}

fn order_of_init_and_sidecar(cluster: &Cluster) -> Result<()> {
    pod(cluster, "ordered", "{restartPolicy: Never, terminationGracePeriodSeconds: 2, volumes: [{name: v, emptyDir: {}}],
        initContainers: [
          {name: first, image: BUSYBOX, command: [sh, -c, 'echo 1 >> /v/log'], volumeMounts: [{name: v, mountPath: /v}]},
          {name: side, image: BUSYBOX, restartPolicy: Always, command: [sh, -c, 'echo side >> /v/log; touch /v/up; sleep 3600'],
           startupProbe: {exec: {command: [test, -f, /v/up]}, periodSeconds: 1}, volumeMounts: [{name: v, mountPath: /v}]},
          {name: second, image: BUSYBOX, command: [sh, -c, 'echo 2 >> /v/log'], volumeMounts: [{name: v, mountPath: /v}]}],
        containers: [{name: main, image: BUSYBOX, command: [cat, /v/log], volumeMounts: [{name: v, mountPath: /v}]}]}")?;
    phase(cluster, "ordered", "Succeeded")?;
    let log = cluster.kubectl(&["logs", "ordered", "-c", "main"])?;
    ensure!(log == "1\nside\n2\n", "{log:?}");
    cluster.kubectl(&["delete", "pod", "ordered", "--timeout=30s"]).map(drop)
}

fn restart_policies(cluster: &Cluster) -> Result<()> {
    pod(
        cluster,
        "fails",
        "{restartPolicy: Never, containers: [{name: c, image: BUSYBOX, command: [sh, -c, 'echo gone > /dev/termination-log; exit 3']}]}",
    )?;
    phase(cluster, "fails", "Failed")?;
    let ended = ".status.containerStatuses[0].state.terminated";
    ensure!(get(cluster, "fails", &format!("{ended}.exitCode"))? == "3");
    ensure!(get(cluster, "fails", &format!("{ended}.message"))?.contains("gone"));
    pod(cluster, "crashes", "{containers: [{name: c, image: BUSYBOX, command: [sh, -c, 'exit 1']}]}")?;
    eventually("it backs off", MINUTE, || {
        get(cluster, "crashes", ".status.containerStatuses[0].state.waiting.reason")
            .is_ok_and(|r| r == "CrashLoopBackOff")
    })?;
    pod(
        cluster,
        "absent",
        "{containers: [{name: c, image: 'test.local/absent:1', imagePullPolicy: Never}]}",
    )?;
    eventually("the image is never pulled", MINUTE, || {
        get(cluster, "absent", ".status.containerStatuses[0].state.waiting.reason")
            .is_ok_and(|r| r == "ErrImageNeverPull")
    })?;
    cluster
        .kubectl(&["delete", "pod", "fails", "crashes", "absent", "--grace-period=1", "--timeout=30s"])
        .map(drop)
}

fn probes(cluster: &Cluster) -> Result<()> {
    pod(
        cluster,
        "probed",
        "{terminationGracePeriodSeconds: 1, containers: [{name: c, image: BUSYBOX,
        command: [sh, -c, 'touch /tmp/ready /tmp/live; sleep 3600'],
        readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1},
        livenessProbe: {exec: {command: [cat, /tmp/live]}, periodSeconds: 1, failureThreshold: 1}}]}",
    )?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=60s"])?;
    cluster.kubectl(&["exec", "probed", "--", "rm", "/tmp/ready"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready=false", "pod/probed", "--timeout=60s"])?;
    cluster.kubectl(&["exec", "probed", "--", "rm", "/tmp/live"])?;
    eventually("liveness restarts it", MINUTE, || {
        get(cluster, "probed", ".status.containerStatuses[0].restartCount").is_ok_and(|c| c == "1")
    })?;
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=probed"])?;
    ensure!(
        events.contains("Liveness probe failed") && events.contains("Readiness probe failed"),
        "{events}"
    );
    cluster.kubectl(&["delete", "pod", "probed", "--timeout=30s"]).map(drop)
}

fn termination(cluster: &Cluster) -> Result<()> {
    let path = cluster.directory.path().join("hooks");
    std::fs::create_dir_all(&path)?;
    let host = path.to_string_lossy();
    pod(cluster, "hooked", &format!("{{terminationGracePeriodSeconds: 20, volumes: [{{name: h, hostPath: {{path: {host}}}}}],
        containers: [{{name: c, image: BUSYBOX, volumeMounts: [{{name: h, mountPath: /h}}],
        command: [sh, -c, 'trap \"echo term >> /h/log; exit 0\" TERM; while true; do sleep 0.1; done'],
        lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo post >> /h/log']}}}}, preStop: {{exec: {{command: [sh, -c, 'echo pre >> /h/log']}}}}}}}}]}}"))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/hooked", "--timeout=60s"])?;
    let begin = std::time::Instant::now();
    cluster.kubectl(&["delete", "pod", "hooked", "--timeout=30s"])?;
    ensure!(
        begin.elapsed() < Duration::from_secs(15),
        "it ended by itself, not by the end of its grace period"
    );
    let log = std::fs::read_to_string(path.join("log"))?;
    ensure!(log == "post\npre\nterm\n", "{log:?}");
    Ok(())
}

fn limits_and_security(cluster: &Cluster) -> Result<()> {
    pod(cluster, "limited", "{restartPolicy: Never, containers: [{name: c, image: BUSYBOX,
        command: [sh, -c, 'dd if=/dev/zero of=/dev/null bs=200M count=1'], resources: {limits: {memory: 32Mi, cpu: 500m}}}]}")?;
    phase(cluster, "limited", "Failed")?;
    let reason = get(cluster, "limited", ".status.containerStatuses[0].state.terminated.reason")?;
    ensure!(reason == "OOMKilled", "{reason}");
    pod(cluster, "confined", "{securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, seccompProfile: {type: RuntimeDefault}},
        hostname: named, containers: [{name: c, image: BUSYBOX, command: [sleep, '3600'], workingDir: /tmp,
        securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}")?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/confined", "--timeout=60s"])?;
    let run = |script: &str| cluster.kubectl(&["exec", "confined", "--", "sh", "-c", script]);
    ensure!(
        run("id")?.contains("uid=1000 gid=2000 groups=2000,3000") || run("id")?.contains("3000"),
        "{}",
        run("id")?
    );
    ensure!(
        run("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status")?.contains("CapEff:\t0000000000000000")
    );
    ensure!(run("grep NoNewPrivs /proc/self/status")?.contains('1'));
    ensure!(run("grep Seccomp: /proc/self/status")?.contains('2'));
    ensure!(run("touch /etc/x 2>&1 || true")?.contains("Read-only"));
    ensure!(run("hostname; pwd; cat /etc/hosts")?.contains("named"));
    ensure!(run("cat /etc/resolv.conf")?.contains("nameserver 10.43.0.10"));
    ensure!(run("cat /proc/1/cmdline | tr '\\0' ' '")?.contains("sleep"), "its own PID namespace");
    ensure!(
        run("cat /proc/sysrq-trigger 2>&1 || true; echo x > /proc/sysrq-trigger 2>&1 || echo refused")?
            .contains("refused")
    );
    cluster.kubectl(&["delete", "pod", "limited", "confined", "--grace-period=1", "--timeout=30s"]).map(drop)
}

fn static_pod(cluster: &Cluster) -> Result<()> {
    let file = cluster.data_dir().join("manifests/still.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: still}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: {BUSYBOX}, command: [sleep, '3600']}}]}}\n"
    );
    std::fs::write(&file, text)?;
    eventually("the static pod's mirror runs", MINUTE, || {
        get(cluster, "still-node-1", ".status.phase").is_ok_and(|p| p == "Running")
    })?;
    std::fs::remove_file(&file)?;
    eventually("the mirror is gone", MINUTE, || get(cluster, "still-node-1", ".status.phase").is_err())
}

fn previous_logs(cluster: &Cluster) -> Result<()> {
    pod(cluster, "twice", "{terminationGracePeriodSeconds: 1, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, image: BUSYBOX, volumeMounts: [{name: v, mountPath: /v}],
        command: [sh, -c, 'if [ -f /v/once ]; then echo second life; sleep 3600; fi; touch /v/once; echo first life; exit 1']}]}")?;
    eventually("it restarted", MINUTE, || {
        cluster.kubectl(&["logs", "twice"]).is_ok_and(|l| l.contains("second life"))
    })?;
    ensure!(cluster.kubectl(&["logs", "twice", "--previous"])?.contains("first life"));
    let stamped = cluster.kubectl(&["logs", "twice", "--timestamps", "--tail=1"])?;
    ensure!(stamped.starts_with("20") && stamped.contains("second life"), "{stamped}");
    let tty = isopod_testkit::run(
        cluster.host.command("script").env("KUBECONFIG", cluster.kubeconfig()).args([
            "-qec",
            "kubectl exec -it twice -- tty",
            "/dev/null",
        ]),
        None,
    )?;
    ensure!(tty.out.contains("/dev/pts/") || tty.out.contains("/dev/console"), "{tty:?}");
    cluster.kubectl(&["delete", "pod", "twice", "--timeout=30s"]).map(drop)
}
