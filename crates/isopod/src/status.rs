//! `isopod status`: the parts, their health, version and memory.

use crate::cli::StatusArgs;
use crate::process::{self, Process};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory that holds the kubeconfig's place, if it is not the default one.
const KUBECONFIG_AT: &str = "kubeconfig.path";

/// Remembers where the administrator's kubeconfig of this data directory was written to.
pub(crate) fn remember_kubeconfig(data_dir: &Path, path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    isopod_pki::write_private(&data_dir.join(KUBECONFIG_AT), text.as_bytes())
        .context("remember the kubeconfig's place")
}

/// Where the administrator's kubeconfig is.
pub(crate) fn kubeconfig(data_dir: &Path) -> PathBuf {
    match std::fs::read_to_string(data_dir.join(KUBECONFIG_AT)) {
        Ok(path) => PathBuf::from(path),
        Err(_) => data_dir.join("admin.kubeconfig"),
    }
}

/// A client with the administrator's rights on the cluster of a data directory.
pub(crate) async fn admin_client(data_dir: &Path) -> Result<kube::Client> {
    let path = kubeconfig(data_dir);
    if !path.exists() {
        bail!("no cluster here: {} does not exist (start one with `isopod up`)", path.display());
    }
    isopod_client::from_kubeconfig(&path).await.with_context(|| format!("use {}", path.display()))
}

/// The text of a path such as `/readyz?verbose`, whatever its status code.
pub(crate) async fn text_of(client: &kube::Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new())?;
    match client.request_text(request).await {
        Ok(text) => Ok(text),
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a node's Ready condition is true.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

/// Pids and memory of the shims that belong to this data directory.
fn shims(run_dir: &Path) -> Vec<u64> {
    let wanted = run_dir.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            arguments.get(1).is_some_and(|a| a == "shim") && arguments.iter().any(|a| a.starts_with(&wanted))
        })
        .filter_map(process::memory)
        .collect()
}

/// Prints the state of the cluster; fails when it does not run or is not ready.
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let Some(server) = Process::of(&args.place.data_dir) else {
        bail!("not running (data directory {})", args.place.data_dir.display());
    };
    let client = admin_client(&args.place.data_dir).await?;
    let version = client.apiserver_version().await.context("ask the API server")?;
    println!("server      pid {}, {}", server.pid, server.memory().map_or("-".into(), mebibytes));
    println!("version     {}", version.git_version);
    let shims = shims(&args.place.run_dir);
    println!("shims       {}, {}", shims.len(), mebibytes(shims.iter().sum()));
    println!("kubeconfig  {}", kubeconfig(&args.place.data_dir).display());
    let verbose = text_of(&client, "/readyz?verbose").await?;
    for line in verbose.lines().filter(|l| l.starts_with("[+]") || l.starts_with("[-]")) {
        println!("{line}");
    }
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
    let mut ready = !verbose.contains("[-]");
    for node in &nodes.items {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let on_it = |p: &&Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name);
        let running = pods.items.iter().filter(on_it).count();
        let state = if is_ready(node) { "Ready" } else { "NotReady" };
        ready &= is_ready(node);
        println!("node        {name}  {state}  {running} pods");
    }
    if ready { Ok(()) } else { bail!("not ready") }
}
