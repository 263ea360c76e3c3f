//! `isopod demo`: a Deployment of three pods behind a Service, from an image that is this very binary.

use crate::cli::DemoArgs;
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Name of the image that the binary is packed as.
pub(crate) const IMAGE: &str = "isopod.local/demo:v1";
const NAME: &str = "isopod-demo";
const NAMESPACE: &str = "default";
const PORT: u16 = 8080;
const REQUESTS: usize = 30;
/// A request of the demo that takes longer has failed.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Rollout of three small pods that takes longer has failed.
const ROLLOUT_TIME_MAX: Duration = Duration::from_secs(60);
/// Connections at once of the demo's web server; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// Flags of the pods' web server.
#[derive(Args, Debug, Clone)]
pub(crate) struct ServerFlags {
    /// Port to listen on.
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

/// Answers every request with the pod's name.
pub(crate) async fn serve(flags: ServerFlags) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", flags.port)).await.context("listen")?;
    let name = crate::config::hostname()?;
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.context("accept")?,
            _ = term.recv() => return Ok(()),
        };
        let name = name.clone();
        tokio::spawn(async move {
            let _ = timeout(REQUEST_TIME_MAX, answer(stream, &name)).await;
            drop(slot);
        });
    }
}

async fn answer(stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    // The head ends with an empty line; 8 KiB are plenty for a probe or a browser.
    let mut head = (&mut stream).take(8192);
    let mut line = String::new();
    while head.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let body = format!("Hello from {name}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn deployment() -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "web", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                        "args": ["demo-server"],
                        "ports": [{"name": "http", "containerPort": PORT}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 2},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "runAsNonRoot": true, "runAsUser": 65532, "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"}},
                    }],
                },
            },
        },
    })
}

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"app": NAME}},
        "spec": {"selector": {"app": NAME}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

async fn request(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect((address, 80)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.and_then(|b| b.strip_prefix("Hello from ").map(str::to_owned)).context("an unexpected answer")
}

async fn rolled_out(deployments: &Api<Deployment>) -> Result<()> {
    let done = |d: &Deployment| {
        let status = d.status.as_ref();
        status.and_then(|s| s.observed_generation) == d.metadata.generation
            && status.and_then(|s| s.available_replicas) == Some(3)
            && status.and_then(|s| s.updated_replicas) == Some(3)
    };
    let wait = kube::runtime::wait::await_condition(deployments.clone(), NAME, |d: Option<&Deployment>| {
        d.is_some_and(done)
    });
    timeout(ROLLOUT_TIME_MAX, wait).await.context("the demo's pods did not become available")??;
    Ok(())
}

/// Runs the demo against a running cluster.
pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    let client = crate::status::admin_client(&args.place.data_dir).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    if args.delete {
        for result in [
            deployments.delete(NAME, &DeleteParams::foreground()).await.map(drop),
            services.delete(NAME, &DeleteParams::default()).await.map(drop),
        ] {
            match result {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other.context("delete the demo")?,
            }
        }
        println!("demo deleted");
        return Ok(());
    }
    crate::image::ensure_demo_image(&args.place)?;
    let params = PatchParams::apply("isopod-demo").force();
    deployments.patch(NAME, &params, &Patch::Apply(deployment())).await.context("apply the Deployment")?;
    services.patch(NAME, &params, &Patch::Apply(service())).await.context("apply the Service")?;
    println!("demo: Deployment and Service {NAMESPACE}/{NAME} applied, waiting for 3 pods");
    rolled_out(&deployments).await?;
    let address =
        services.get(NAME).await?.spec.and_then(|s| s.cluster_ip).context("the Service has no cluster IP")?;
    let answers = ask(&address).await?;
    println!("demo: {REQUESTS} requests to the Service's cluster IP {address}:80 were answered by");
    for (pod, count) in &answers {
        println!("  {count:>3} × {pod}");
    }
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let running = pods.list(&ListParams::default().labels(&format!("app={NAME}"))).await?.items.len();
    if answers.len() < 2 {
        bail!("all requests were answered by one of {running} pods");
    }
    Ok(())
}

/// Sends the requests and counts who answers. kube-proxy may learn of the last pod a moment after the rollout is
/// complete, so a refused connection is tried again for a while.
async fn ask(address: &str) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    let until = tokio::time::Instant::now() + REQUEST_TIME_MAX;
    while answers.values().sum::<usize>() < REQUESTS {
        match timeout(REQUEST_TIME_MAX, request(address)).await {
            Ok(Ok(pod)) => *answers.entry(pod).or_default() += 1,
            Ok(Err(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(Err(error)) => return Err(error).context("request to the Service"),
            Err(_) => bail!("a request to the Service took over {REQUEST_TIME_MAX:?}"),
        }
    }
    Ok(answers)
}
