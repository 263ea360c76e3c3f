//! `isopod up` and `isopod down`.

use crate::cli::{DownArgs, UpArgs};
use crate::config::Config;
use crate::process::{Process, pause};
use crate::{data_dir, server_log, status, user_kubeconfig};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time a server may take to stop its parts.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// Lines of the log shown when the server ends at start.
const LOG_LINES: usize = 15;

/// The flags of `isopod server` that make the same configuration.
fn server_flags(config: &Config) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["server".into()];
    let mut flag = |name: &str, value: &std::ffi::OsStr| {
        flags.push(name.into());
        flags.push(value.to_owned());
    };
    flag("--data-dir", config.data_dir.as_os_str());
    flag("--run-dir", config.run_dir.as_os_str());
    flag("--bind-address", config.bind_address.to_string().as_ref());
    flag("--https-port", config.https_port.to_string().as_ref());
    flag("--node-name", config.node_name.as_ref());
    flag("--node-ip", config.node_ip.to_string().as_ref());
    flag("--cluster-cidr", config.cluster_cidr.to_string().as_ref());
    flag("--service-cluster-ip-range", config.service_cidr.to_string().as_ref());
    flag("--cluster-domain", config.cluster_domain.as_ref());
    flag("--write-kubeconfig", config.kubeconfig.as_os_str());
    flag("--kubelet-port", config.kubelet_port.to_string().as_ref());
    flag("--pod-manifest-path", config.manifests.as_os_str());
    flag("--log-level", config.log_level.as_ref());
    let grace = format!("{}ms", config.node_monitor_grace_period.as_millis());
    flag("--node-monitor-grace-period", grace.as_ref());
    for san in &config.tls_san {
        flag("--tls-san", san.as_ref());
    }
    if let Some(etcd) = &config.etcd {
        flag("--etcd-servers", etcd.servers.join(",").as_ref());
        for (name, path) in
            [("--etcd-cafile", &etcd.ca), ("--etcd-certfile", &etcd.cert), ("--etcd-keyfile", &etcd.key)]
        {
            if let Some(path) = path {
                flag(name, path.as_os_str());
            }
        }
    }
    if !config.agent {
        flags.push("--disable-agent".into());
    }
    flags.extend(config.api.arguments());
    flags
}

#[allow(clippy::disallowed_methods, reason = "starts this very binary as the server")]
fn spawn(config: &Config, log: File) -> Result<Child> {
    let exe = std::env::current_exe().context("find this binary")?;
    let mut command = Command::new(exe);
    command
        .args(server_flags(config))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("log")?)
        .stderr(log)
        .current_dir("/")
        .process_group(0);
    command.spawn().context("start the server")
}

fn step(begin: Instant, text: &str) {
    println!("[{:6.2}s] {text}", begin.elapsed().as_secs_f64());
}

/// Starts the server unless it runs, and waits for the node to be Ready.
pub(crate) async fn up(args: UpArgs) -> Result<()> {
    let begin = Instant::now();
    let config = Config::load(args.server.clone())?;
    if let Some(server) = Process::of(&config.data_dir) {
        step(begin, &format!("server runs already, pid {}", server.pid));
        wait_ready(&config, begin, args.timeout_seconds, || Ok(())).await?;
    } else {
        let faults = crate::check::faults(&config);
        if !faults.is_empty() {
            bail!("this machine is not ready for isopod:\n{}", faults.join("\n"));
        }
        step(begin, "machine checked");
        data_dir::prepare(&config.data_dir)?;
        let path = server_log::path(&config.data_dir);
        let log = server_log::open(&path)?;
        let from = log.metadata().map(|m| m.len()).unwrap_or(0);
        let mut child = spawn(&config, log)?;
        step(begin, &format!("server started, pid {}, log {}", child.id(), path.display()));
        let outcome = wait_ready(&config, begin, args.timeout_seconds, || match child.try_wait()? {
            None => Ok(()),
            Some(code) => bail!("the server ended at start ({code}):\n{}", tail(&path, from)),
        })
        .await;
        outcome.with_context(|| format!("see {}", path.display()))?;
    }
    if !args.no_context
        && let Some(user) = user_kubeconfig::path()
    {
        user_kubeconfig::add(&user, &config.kubeconfig)?;
        step(begin, &format!("context \"{}\" is in {}", user_kubeconfig::NAME, user.display()));
    }
    println!("kubeconfig: {}", config.kubeconfig.display());
    Ok(())
}

fn tail(path: &Path, from: u64) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // A log that is not text says nothing.
        let _ = file.read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

async fn wait_ready(
    config: &Config,
    begin: Instant,
    timeout_seconds: u64,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<()> {
    let until = begin + Duration::from_secs(timeout_seconds);
    let mut said = 0;
    loop {
        alive()?;
        let (done, why) = look(config).await;
        let reached = match (done, why.as_str()) {
            (true, _) => 3,
            (_, "the node is not Ready") => 2,
            _ => said,
        };
        if reached >= 2 && said < 2 {
            step(begin, "API server is ready");
            said = 2;
        }
        if done {
            step(begin, if config.agent { "node is Ready" } else { "control plane is ready" });
            return Ok(());
        }
        if Instant::now() > until {
            bail!("not ready after {timeout_seconds} s: {why}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn look(config: &Config) -> (bool, String) {
    if !config.kubeconfig.exists() {
        return (false, "the server has not written its kubeconfig".into());
    }
    let client = match isopod_client::from_kubeconfig(&config.kubeconfig).await {
        Ok(client) => client,
        Err(error) => return (false, format!("kubeconfig: {error}")),
    };
    match status::text_of(&client, "/readyz").await {
        Ok(text) if text.trim() == "ok" => {}
        Ok(text) => return (false, format!("the API server is not ready: {text}")),
        Err(error) => return (false, format!("the API server does not answer: {error:#}")),
    }
    if !config.agent {
        return (true, String::new());
    }
    match Api::<Node>::all(client).get_opt(&config.node_name).await {
        Ok(Some(node)) if status::is_ready(&node) => (true, String::new()),
        Ok(_) => (false, "the node is not Ready".into()),
        Err(error) => (false, format!("the API server does not answer: {error}")),
    }
}

/// Stops the server and everything it runs; with `purge`, removes everything it made.
pub(crate) async fn down(args: DownArgs) -> Result<()> {
    let place = &args.place;
    match Process::of(&place.data_dir) {
        Some(server) => {
            server.stop(STOP_TIME_MAX);
            println!("server stopped");
        }
        None => println!("server does not run"),
    }
    if nix::unistd::geteuid().is_root() {
        crate::agent::stop_everything(&place.data_dir, &place.run_dir, args.purge).await?;
    }
    if !args.purge {
        return Ok(());
    }
    if let Some(user) = user_kubeconfig::path() {
        user_kubeconfig::remove(&user)?;
    }
    let kubeconfig = status::kubeconfig(&place.data_dir);
    if kubeconfig.exists() {
        std::fs::remove_file(&kubeconfig).with_context(|| format!("remove {}", kubeconfig.display()))?;
    }
    for directory in [&place.run_dir, &place.data_dir] {
        remove_directory(directory)?;
    }
    println!("removed {} and {}", place.data_dir.display(), place.run_dir.display());
    Ok(())
}

/// Unmounts whatever is mounted below a directory, the deepest first, so that removing the directory cannot reach
/// into what was mounted there.
pub(crate) fn unmount_below(directory: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .filter(|point| point.starts_with(directory) && point != directory)
        .collect();
    points.sort();
    for point in points.iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// Removes a directory tree; a mount that is just going away is waited for.
fn remove_directory(path: &Path) -> Result<()> {
    for _ in 0..20 {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => pause(Duration::from_millis(50)),
            other => return other.with_context(|| format!("remove {}", path.display())),
        }
    }
    bail!("{} is still in use: something is mounted in it", path.display())
}
