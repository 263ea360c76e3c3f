//! The client side: kube-rs (HTTP/1.1 over TLS, client certificate), some requests at once.

use crate::node::IMAGE;
use crate::{Report, millis};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use isopod_testkit::{Cluster, run_ok};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Requests at once.
const CONCURRENCY: usize = 16;
const CREATES: usize = 10_000;
const GETS: usize = 20_000;
const LISTS: usize = 40;
const PODS: usize = 50;
const NAMESPACE: &str = "bench";
/// A step that takes longer has failed.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// This program, inside the cluster's network.
pub(crate) fn command(cluster: &Cluster, what: &str) -> Command {
    let exe = std::env::current_exe().expect("this program has a path");
    let mut command = cluster.host.command(&exe.to_string_lossy());
    command.args(["inside", what]);
    command
}

/// Rates of the API server.
pub(crate) fn rates(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let output = run_ok(command(cluster, "rates").arg(cluster.kubeconfig()))?;
    for line in output.lines() {
        let (what, figure) = line.split_once('\t').context("two columns")?;
        let budget = match what {
            w if w.starts_with("GET") => "10 × upstream",
            w if w.starts_with("LIST") => "20 × upstream",
            _ => "5 × upstream",
        };
        report.add(format!("{what}, kube-rs, {CONCURRENCY} at once"), figure, budget);
    }
    Ok(())
}

/// What runs inside the cluster's network.
pub(crate) fn inside(what: &str, kubeconfig: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match what {
            "ready" => ready(kubeconfig).await,
            "pods" => pods(client(kubeconfig).await?).await,
            "rates" => measure(client(kubeconfig).await?).await,
            other => bail!("{other}?"),
        }
    })
}

async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    Ok(isopod_client::from_kubeconfig(kubeconfig).await?)
}

/// Returns as soon as the node is Ready.
async fn ready(kubeconfig: &Path) -> Result<()> {
    let begin = Instant::now();
    let is_ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            && node.spec.as_ref().is_some_and(|s| s.taints.as_deref().unwrap_or_default().is_empty())
    };
    while begin.elapsed() < STEP_TIME_MAX {
        if let Ok(client) = client(kubeconfig).await
            && let Ok(nodes) = Api::<Node>::all(client).list(&ListParams::default()).await
            && nodes.items.iter().any(is_ready)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("not ready")
}

fn running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// Starts pods one after the other; prints the percentiles.
async fn pods(client: kube::Client) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client, "default");
    let mut watch = api.watch(&WatchParams::default(), "0").await?.boxed();
    let mut began = HashMap::new();
    let mut times = Vec::new();
    for number in 0..PODS {
        let name = format!("start-{number}");
        let pod = serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "3600"]}]}}),
        )?;
        began.insert(name.clone(), Instant::now());
        api.create(&PostParams::default(), &pod).await?;
        tokio::time::timeout(STEP_TIME_MAX, async {
            while let Some(event) = watch.next().await {
                if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event?
                    && pod.metadata.name.as_deref() == Some(&name)
                    && running(&pod)
                {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        })
        .await??;
        times.push(began[&name].elapsed());
    }
    times.sort();
    println!("pod created to container running, {PODS} pods, p50\t{}", millis(times[PODS / 2]));
    println!("pod created to container running, {PODS} pods, p99\t{}", millis(times[PODS * 99 / 100]));
    for number in 0..PODS {
        api.delete(&format!("start-{number}"), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

/// Runs `count` requests, some at once; gives how many a second.
async fn rate<F>(count: usize, request: impl Fn(usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<(), kube::Error>>,
{
    let begin = Instant::now();
    let mut answers = stream::iter((0..count).map(request)).buffer_unordered(CONCURRENCY);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

async fn measure(client: kube::Client) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let content = "x".repeat(200);
    let created = rate(CREATES, |n| {
        let (api, content) = (api.clone(), content.clone());
        async move {
            let object: ConfigMap = serde_json::from_value(
                json!({"metadata": {"name": format!("c-{n}")}, "data": {"k": content}}),
            )
            .map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await.map(drop)
        }
    })
    .await?;
    println!("create ConfigMap, each durable before its answer\t{created:.0}/s");
    let text = |path: String| {
        let client = client.clone();
        async move {
            let request = http::Request::get(path).body(Vec::new()).expect("a valid path");
            client.request_text(request).await.map(drop)
        }
    };
    let got =
        rate(GETS, |n| text(format!("/api/v1/namespaces/{NAMESPACE}/configmaps/c-{}", n % CREATES))).await?;
    println!("GET ConfigMap\t{got:.0}/s");
    let listed = rate(LISTS, |_| text(format!("/api/v1/namespaces/{NAMESPACE}/configmaps"))).await?;
    println!("LIST {CREATES} ConfigMaps\t{listed:.1}/s");
    Api::<Namespace>::all(client).delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(())
}
