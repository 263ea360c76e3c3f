//! The kubelet on the real API server and the built-in runtime, with containers that really run.
//!
//! Needs root. The binary is its own shim, so it has a `main` instead of the test harness; an argument picks
//! tests by name.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod support;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use kube::api::LogParams;
use serde_json::json;
use support::Cluster;

type Test = for<'a> fn(&'a mut Cluster) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        const TESTS: &[(&str, Test)] = &[$((stringify!($name), |c| Box::pin($name(c)))),*];
    };
}

tests![
    runs_and_ends,
    starts_quickly,
    volumes,
    environment,
    init_and_sidecars,
    restarts,
    probes,
    hooks,
    logs_and_exec,
    refused,
    static_pod,
    survives_a_restart,
    guarded,
    processes_are_limited,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "shim") {
        return isopod_runtime::shim::main(&args[1..]);
    }
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let filter = args.into_iter().find(|a| !a.starts_with('-'));
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let mut cluster = Cluster::start().await;
        for (name, test) in TESTS {
            if filter.as_ref().is_some_and(|f| !name.contains(f.as_str())) {
                continue;
            }
            let began = Instant::now();
            test(&mut cluster).await;
            println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
        }
        cluster.end().await;
    });
    ExitCode::SUCCESS
}

fn sh(script: &str) -> serde_json::Value {
    json!({"name": "c", "command": ["sh", "-c", script]})
}

async fn runs_and_ends(c: &mut Cluster) {
    c.pod(
        "job",
        json!({"restartPolicy": "Never", "containers": [sh("echo hello; echo done > /dev/termination-log")]}),
    )
    .await;
    let pod = c.phase("job", "Succeeded").await;
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(0), &json!("Completed")), "{pod:#}");
    assert_eq!(state["message"], "done\n");
    assert_eq!(c.log("job", LogParams::default()).await, "hello\n");
    c.delete("job", 0).await;

    c.pod("web", json!({"terminationGracePeriodSeconds": 60, "containers": [sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")]})).await;
    let pod = c.phase("web", "Running").await;
    assert_eq!(pod["status"]["podIPs"][0]["ip"], pod["status"]["podIP"]);
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    // A signal that comes before the trap is set is lost, since the shell is the first process.
    c.eventually("the trap is set", || async {
        match c.log("web", LogParams::default()).await.as_str() {
            "ready\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    c.delete("web", 60).await;
    c.eventually("pod directories removed", || async {
        let left = std::fs::read_dir(c.dir.path().join("kubelet/pods")).unwrap().count();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
}

async fn starts_quickly(c: &mut Cluster) {
    let mut times = Vec::new();
    for i in 0..10 {
        let name = format!("quick-{i}");
        let began = Instant::now();
        c.pod(&name, json!({"terminationGracePeriodSeconds": 0, "containers": [sh("sleep 1000")]})).await;
        c.phase(&name, "Running").await;
        times.push(began.elapsed().as_millis());
    }
    for i in 0..10 {
        c.delete(&format!("quick-{i}"), 0).await;
    }
    times.sort_unstable();
    println!("create to Running, ms: {times:?}");
}

async fn volumes(c: &mut Cluster) {
    c.config_map("cfg", json!({"a": "one", "b": "two"})).await;
    c.secret("sec", json!({"password": "hunter2"})).await;
    let script = "cat /cfg/a /sec/password /down/labels /sub /tok/ca.crt; echo; wc -c < /tok/token; \
        stat -c '%a %g' /sec/..data/password; echo x > /mem/f && stat -c %g /mem; id -G; \
        while ! grep -q new /cfg/a; do sleep 0.05; done; echo updated; sleep 1000";
    c.pod(
        "vol",
        json!({
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"fsGroup": 2000, "supplementalGroups": [3000]},
            "containers": [{"name": "c", "command": ["sh", "-c", script], "volumeMounts": [
                {"name": "cfg", "mountPath": "/cfg"},
                {"name": "sec", "mountPath": "/sec", "readOnly": true},
                {"name": "down", "mountPath": "/down"},
                {"name": "mem", "mountPath": "/mem"},
                {"name": "tok", "mountPath": "/tok"},
                {"name": "cfg", "mountPath": "/sub", "subPath": "b"}]}],
            "volumes": [
                {"name": "cfg", "configMap": {"name": "cfg"}},
                {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 256}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "tok", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"configMap": {"name": "kube-root-ca.crt"}}]}}],
        }),
    )
    .await;
    c.phase("vol", "Running").await;
    let log = c
        .eventually("output", || async {
            let log = c.log("vol", LogParams::default()).await;
            if log.lines().count() >= 5 { Ok(log) } else { Err(log) }
        })
        .await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "onehunter2app=\"vol\"twoPEM", "{log}");
    assert!(lines[1].parse::<u32>().unwrap() > 100, "{log}");
    assert_eq!(lines[2], "440 2000", "{log}");
    assert_eq!(lines[3], "2000", "{log}");
    assert!(lines[4].contains("2000") && lines[4].contains("3000"), "{log}");
    c.config_map("cfg", json!({"a": "new"})).await;
    c.eventually("update reaches the container", || async {
        let log = c.log("vol", LogParams::default()).await;
        if log.contains("updated") { Ok(()) } else { Err(log) }
    })
    .await;
    c.delete("vol", 0).await;
    c.pod(
        "waits",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "command": ["sleep", "1000"],
            "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "late"}}]}),
    )
    .await;
    c.field("waits", "/status/containerStatuses/0/state/waiting/reason", json!("ContainerCreating")).await;
    c.secret("late", json!({"x": "y"})).await;
    c.phase("waits", "Running").await;
    c.delete("waits", 0).await;
}

async fn environment(c: &mut Cluster) {
    c.config_map("env", json!({"K1": "v1", "K2": "v2"})).await;
    c.secret("envs", json!({"S": "s3"})).await;
    c.pod(
        "env",
        json!({
            "restartPolicy": "Never", "hostname": "box", "subdomain": "sub",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}],
            "containers": [{"name": "c",
                "command": ["sh", "-c", "env | grep -E '^(P_|A|B|NAME|IP|CPU|S=|KUBERNETES_SERVICE_PORT)' | sort; hostname; cat /etc/resolv.conf; tail -4 /etc/hosts; echo $(ARG)"],
                "resources": {"limits": {"cpu": "500m", "memory": "32Mi"}},
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "env"}}],
                "env": [
                    {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)$(P_K1)$$(A)$(NONE)"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "envs", "key": "S"}}},
                    {"name": "ARG", "value": "arg"}]}],
        }),
    )
    .await;
    let pod = c.phase("env", "Succeeded").await;
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    let log = c.log("env", LogParams::default()).await;
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let want = format!(
        "A=a\nARG=arg\nB=av1$(A)$(NONE)\nCPU=500\nIP={ip}\nKUBERNETES_SERVICE_PORT=443\nKUBERNETES_SERVICE_PORT_HTTPS=443\nNAME=env\nP_K1=v1\nP_K2=v2\nS=s3\nbox\n"
    );
    assert!(log.starts_with(&want), "{log}\nwanted\n{want}");
    assert!(log.contains("nameserver 10.43.0.10\n") && log.contains("ndots:5"), "{log}");
    assert!(log.contains(&format!("{ip}\tbox.sub.default.svc.cluster.local\tbox\n")), "{log}");
    assert!(log.ends_with("1.2.3.4\talias\narg\n"), "{log}");
    c.delete("env", 0).await;
    c.pod(
        "noenv",
        json!({"containers": [{"name": "c", "env": [{"name": "X", "valueFrom":
        {"configMapKeyRef": {"name": "env", "key": "none"}}}]}]}),
    )
    .await;
    let pod = c
        .field(
            "noenv",
            "/status/containerStatuses/0/state/waiting/reason",
            json!("CreateContainerConfigError"),
        )
        .await;
    let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "couldn't find key none in ConfigMap default/env");
    c.delete("noenv", 0).await;
}

async fn init_and_sidecars(c: &mut Cluster) {
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    c.pod(
        "init",
        json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 60,
            "initContainers": [
                {"name": "i1", "command": ["sh", "-c", "echo i1 >> /v/o"], "volumeMounts": mount},
                {"name": "side", "restartPolicy": "Always", "volumeMounts": mount,
                 "command": ["sh", "-c", "trap 'echo side ends >> /v/o; exit 0' TERM; echo side >> /v/o; while :; do sleep 0.05; done"],
                 "startupProbe": {"exec": {"command": ["grep", "-q", "side", "/v/o"]}, "periodSeconds": 1}},
                {"name": "i2", "command": ["sh", "-c", "echo i2 >> /v/o"], "volumeMounts": mount}],
            "containers": [{"name": "c", "command": ["sh", "-c", "cat /v/o"], "volumeMounts": mount}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }),
    )
    .await;
    let pod = c.phase("init", "Succeeded").await;
    let params = LogParams { container: Some("c".into()), ..LogParams::default() };
    assert_eq!(c.log("init", params).await, "i1\nside\ni2\n");
    let inits = pod["status"]["initContainerStatuses"].as_array().unwrap();
    assert_eq!(inits[1]["state"]["terminated"]["exitCode"], 0, "{pod:#}");
    c.delete("init", 0).await;
}

async fn restarts(c: &mut Cluster) {
    c.pod("crash", json!({"containers": [sh("echo run; exit 3")], "terminationGracePeriodSeconds": 0})).await;
    let pod =
        c.field("crash", "/status/containerStatuses/0/state/waiting/reason", json!("CrashLoopBackOff")).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    // On a machine that is very busy the next turn may have come.
    assert!(status["restartCount"].as_u64().unwrap() >= 1, "{status}");
    let params = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(c.log("crash", params).await, "run\n");
    c.delete("crash", 0).await;
    c.pod("noimage", json!({"containers": [{"name": "c", "image": "none:1", "imagePullPolicy": "Never"}]}))
        .await;
    c.field("noimage", "/status/containerStatuses/0/state/waiting/reason", json!("ErrImageNeverPull")).await;
    c.delete("noimage", 0).await;
}

async fn probes(c: &mut Cluster) {
    c.pod(
        "probed",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c",
            "command": ["sh", "-c", "touch /tmp/ok; sleep 1000"],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
            "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1}}]}),
    )
    .await;
    let pod = c.phase("probed", "Running").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    c.exec(&pod, "touch /tmp/ready").await.unwrap();
    c.field("probed", "/status/containerStatuses/0/ready", json!(true)).await;
    c.exec(&pod, "rm /tmp/ok").await.unwrap();
    c.field("probed", "/status/containerStatuses/0/restartCount", json!(1)).await;
    c.delete("probed", 0).await;
}

async fn hooks(c: &mut Cluster) {
    let dir = c.dir.path().join("hooks");
    std::fs::create_dir_all(&dir).unwrap();
    c.pod(
        "hooked",
        json!({"terminationGracePeriodSeconds": 60,
            "containers": [{"name": "c",
                "command": ["sh", "-c", "trap 'echo term >> /h/o; exit 0' TERM; touch /h/ready; while :; do sleep 0.05; done"],
                "volumeMounts": [{"name": "h", "mountPath": "/h"}],
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "while ! test -e /h/ready; do sleep 0.05; done; echo start >> /h/o"]}},
                              "preStop": {"exec": {"command": ["sh", "-c", "echo stop >> /h/o"]}}}}],
            "volumes": [{"name": "h", "hostPath": {"path": dir, "type": "Directory"}}]}),
    )
    .await;
    c.phase("hooked", "Running").await;
    c.delete("hooked", 60).await;
    assert_eq!(std::fs::read_to_string(dir.join("o")).unwrap(), "start\nstop\nterm\n");
}

async fn logs_and_exec(c: &mut Cluster) {
    let script = "i=0; while [ $i -lt 3 ]; do echo l$i; i=$((i+1)); sleep 0.2; done; sleep 1000";
    c.pod("logs", json!({"terminationGracePeriodSeconds": 0, "containers": [sh(script)]})).await;
    c.phase("logs", "Running").await;
    let params = LogParams { follow: true, limit_bytes: Some(9), ..LogParams::default() };
    assert_eq!(c.log("logs", params).await, "l0\nl1\nl2\n");
    let params = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(c.log("logs", params).await, "l2\n");
    let params = kube::api::AttachParams::default().stdin(false).stdout(true).stderr(true);
    let mut process =
        c.pods().exec("logs", ["sh", "-c", "echo out; echo err >&2; exit 3"], &params).await.unwrap();
    let mut out = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut process.stdout().unwrap(), &mut out).await.unwrap();
    assert_eq!(out, "out\n");
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    c.delete("logs", 0).await;
}

async fn refused(c: &mut Cluster) {
    c.pod("big", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1000"}}}]})).await;
    let pod = c.phase("big", "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu", "{pod:#}");
    c.delete("big", 0).await;
    c.pod("root", json!({"securityContext": {"runAsNonRoot": true}, "containers": [sh("sleep 1")]})).await;
    c.field("root", "/status/containerStatuses/0/state/waiting/reason", json!("CreateContainerConfigError"))
        .await;
    c.delete("root", 0).await;
}

async fn static_pod(c: &mut Cluster) {
    let manifest = |n: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: st}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: '{}', command: [sleep, '{n}']}}\n",
            support::IMAGE
        )
    };
    let path = c.static_pods().join("st.yaml");
    std::fs::write(&path, manifest(1000)).unwrap();
    let first = c.phase("st-n1", "Running").await;
    assert_eq!(first["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    std::fs::write(&path, manifest(2000)).unwrap();
    c.eventually("replaced", || async {
        let pod = c.get("st-n1").await?;
        let new = pod["spec"]["containers"][0]["command"][1] == "2000" && pod["status"]["phase"] == "Running";
        if new { Ok(()) } else { Err(format!("{pod:#}")) }
    })
    .await;
    std::fs::remove_file(&path).unwrap();
    c.gone("st-n1").await;
}

async fn survives_a_restart(c: &mut Cluster) {
    let down = json!([{"name": "down", "mountPath": "/down"}]);
    c.pod(
        "stays",
        json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "command": ["sleep", "1000"], "volumeMounts": down}],
            "volumes": [{"name": "down", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}),
    )
    .await;
    c.pod("leaves", json!({"terminationGracePeriodSeconds": 0, "containers": [sh("sleep 1000")]})).await;
    let before = c.phase("stays", "Running").await;
    c.phase("leaves", "Running").await;
    c.stop_kubelet().await;
    c.pods().delete("leaves", &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
    c.start_kubelet().await;
    c.gone("leaves").await;
    // The new kubelet's worker has looked at the pod once it has brought its volumes up to date.
    let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}}));
    c.pods().patch("stays", &kube::api::PatchParams::default(), &patch).await.unwrap();
    c.eventually("the label reaches the old container", || async {
        match c.exec(&before, "grep -q seen /down/labels").await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let after = c.phase("stays", "Running").await;
    let id = "/status/containerStatuses/0/containerID";
    assert_eq!(before.pointer(id), after.pointer(id));
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    c.delete("stays", 0).await;
}

/// Status code of a GET, by curl: no client of ours stands between.
fn get(url: &str, more: &[&str]) -> String {
    let output = std::process::Command::new("curl")
        .args(["--silent", "--insecure", "--max-time", "30", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}"])
        .args(more)
        .arg(url)
        .output()
        .expect("curl (Debian's package curl) is installed");
    String::from_utf8(output.stdout).unwrap()
}

async fn guarded(c: &mut Cluster) {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(c.client.clone());
    let node = serde_json::to_value(nodes.get(support::NODE).await.unwrap()).unwrap();
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
    let (cert, key) = c.stranger("stranger");
    let files = [cert.to_str().unwrap(), key.to_str().unwrap()];
    let stranger = ["--cert", files[0], "--key", files[1]];
    let forged = ["--header", "Authorization: Bearer forged"];
    let (cert, key) = c.administrator();
    let files = [cert.to_str().unwrap(), key.to_str().unwrap()];
    let administrator = ["--cert", files[0], "--key", files[1]];
    for path in [
        "/pods",
        "/metrics",
        "/stats/summary",
        "/healthz",
        "/configz",
        "/logs/",
        "/run/default/x/c",
        "/exec/default/x/c?command=id",
        "/nothing",
    ] {
        let url = format!("https://127.0.0.1:{port}{path}");
        assert_eq!(get(&url, &[]), "401", "{path}");
        assert_eq!(get(&url, &forged), "401", "{path}");
        assert_eq!(get(&url, &stranger), "403", "{path}");
        let allowed = get(&url, &administrator);
        assert!(allowed != "401" && allowed != "403" && allowed != "000", "{path}: {allowed}");
    }
    // Without TLS there is nothing, and there is no other port than those of the two servers.
    assert_ne!(get(&format!("http://127.0.0.1:{port}/pods"), &[]), "200");
    let mut ports = support::listening();
    ports.sort_unstable();
    let mut wanted = vec![u16::try_from(port).unwrap(), c.port];
    wanted.sort_unstable();
    assert_eq!(ports, wanted);
}

async fn processes_are_limited(c: &mut Cluster) {
    // Far fewer than asked for: what a pod may not have, it does not get.
    let script = "i=0; while [ $i -lt 500 ]; do sleep 1000 & i=$((i+1)); done";
    let spec =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [sh(script)]});
    c.pod("forks", spec).await;
    c.field("forks", "/status/phase", json!("Failed")).await;
    let log = c.log("forks", LogParams::default()).await;
    assert!(log.contains("can't fork"), "{log}");
    c.delete("forks", 0).await;
    // The group is the pod's, so all of its containers share the limit.
    c.pod("limited", json!({"terminationGracePeriodSeconds": 0, "containers": [sh("sleep 1000")]})).await;
    let pod = c.phase("limited", "Running").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let file = c.pod_cgroup_file("pids", uid, "pids.max");
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), support::POD_PIDS_MAX.to_string());
    c.delete("limited", 0).await;
}
