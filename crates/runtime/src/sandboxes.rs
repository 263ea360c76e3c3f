//! Pod sandboxes: their files, their shim, their network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isopod_cri::v1::*;
use isopod_cri::{HostPort, PodNetworkRequest};
use nix::mount::{MsFlags, mount};
use parking_lot::Mutex;

use crate::client::{ShimClient, blocking};
use crate::error::{Context, Error};
use crate::images::Usage;
use crate::record::{SandboxRecord, save, save_config};
use crate::runtime::{Inner, Sandbox, new_id, now};
use crate::shim::protocol::Setup;
use crate::snapshot::unmount;

/// Shared memory of a pod, as Docker and containerd size it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";
/// Control group of shims, away from the server's so that a supervisor that stops the server spares them.
const SHIM_CGROUP: &str = "/isopod-shim";

/// The namespace modes of a sandbox.
pub(crate) fn modes(config: &PodSandboxConfig) -> NamespaceOption {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

fn is_node(mode: i32) -> bool {
    mode == NamespaceMode::Node as i32
}

impl Inner {
    /// Creates and starts a sandbox.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: PodSandboxConfig,
        handler: String,
    ) -> Result<String, Error> {
        if !handler.is_empty() {
            return Err(Error::NotFound(format!("no runtime for {handler:?} is configured")));
        }
        let metadata =
            config.metadata.clone().ok_or_else(|| Error::invalid("sandbox config has no metadata"))?;
        let modes = modes(&config);
        if modes.userns_options.as_ref().is_some_and(|u| u.mode == NamespaceMode::Pod as i32) {
            return Err(Error::invalid("user namespaces are not supported by the built-in runtime"));
        }
        let id = new_id();
        let (dir, run_dir) =
            (self.config.root.join("sandboxes").join(&id), self.config.state.join("s").join(&id));
        let netns = (!is_node(modes.network)).then(|| self.netns_path(&id).display().to_string());
        let setup = Setup {
            id: id.clone(),
            dir: run_dir.display().to_string(),
            netns: netns.clone(),
            new_ipc: !is_node(modes.ipc),
            hostname: netns.is_some().then(|| hostname(&config, &metadata)),
            shared_pid_namespace: modes.pid == NamespaceMode::Pod as i32,
            sysctls: sysctls(&config, &modes)?,
            cgroup: SHIM_CGROUP.to_owned(),
        };
        let record = SandboxRecord {
            id: id.clone(),
            created_at: now(),
            ready: false,
            runtime_handler: handler,
            netns,
            ips: Vec::new(),
            shim_pid: 0,
            pause_pid: None,
            detached: true,
        };
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            config,
            shim: ShimClient::new(&run_dir),
            dir,
            run_dir,
            record: Mutex::new(record),
            changing: tokio::sync::Mutex::default(),
            cpu: Mutex::default(),
        });
        if let Err(e) = self.start_sandbox(&sandbox, &setup).await {
            if let Err(cleanup) = self.tear_down(&sandbox).await {
                tracing::warn!(sandbox = id, "clean up after a failed start: {cleanup}");
            }
            let _ = crate::images::remove_tree(&sandbox.dir);
            return Err(e);
        }
        self.sandboxes.write().insert(id.clone(), sandbox.clone());
        self.watch(sandbox.clone());
        self.publish(&sandbox, &id, ContainerEventType::ContainerCreatedEvent);
        self.publish(&sandbox, &id, ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    async fn start_sandbox(&self, sandbox: &Sandbox, setup: &Setup) -> Result<(), Error> {
        for dir in [&sandbox.dir, &sandbox.run_dir] {
            std::fs::create_dir(dir).what(|| format!("create {}", dir.display()))?;
        }
        write_files(sandbox, setup.hostname.as_deref())?;
        if setup.new_ipc {
            let shm = sandbox.shm();
            std::fs::create_dir(&shm).what(|| format!("create {}", shm.display()))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
                .what(|| format!("mount {}", shm.display()))?;
        }
        save_config(&sandbox.dir, &sandbox.config)?;
        // Recorded before it runs: whatever happens next, a later server finds it and cleans up.
        save(&sandbox.dir, &*sandbox.record.lock())?;
        let config = &self.config;
        let (_, ready) = ShimClient::launch(&config.shim_exe, &config.shim_args, setup).await?;
        let mut ips = Vec::new();
        if let Some(netns) = &setup.netns {
            sandbox.update(|record| record.detached = false)?;
            let request = network_request(sandbox, netns);
            ips = self
                .config
                .network
                .attach(request)
                .await
                .map_err(|e| Error::Shim(format!("set up the network of sandbox {}: {e}", sandbox.id)))?;
        }
        sandbox.update(|record| {
            record.ips = ips.iter().map(ToString::to_string).collect();
            record.shim_pid = ready.pid;
            record.pause_pid = ready.pause_pid;
            record.ready = true;
        })
    }

    /// Stops everything in the sandbox and gives its network back. Succeeds if that is done already.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let sandbox = match self.sandbox(id) {
            Err(Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        let _changing = sandbox.changing.lock().await;
        let was_ready = sandbox.is_ready();
        let stops = self.containers_of(&sandbox.id).into_iter().map(|container| {
            let inner = self.clone();
            async move { inner.stop_container(&container, 0).await }
        });
        for outcome in futures::future::join_all(stops).await {
            outcome?;
        }
        self.tear_down(&sandbox).await?;
        if was_ready {
            self.publish(&sandbox, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Removes a sandbox and its containers. Succeeds if it is gone.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let sandbox = match self.sandbox(id) {
            Err(Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        self.stop_sandbox(&sandbox.id).await?;
        let _changing = sandbox.changing.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container).await?;
        }
        let (dir, cgroups) = (sandbox.dir.clone(), self.cgroups.clone());
        let own_group = sandbox.own_cgroup();
        blocking(move || {
            if let Some(group) = own_group {
                cgroups.remove(&group)?;
            }
            crate::images::remove_tree(&dir)
        })
        .await?;
        self.sandboxes.write().remove(&sandbox.id);
        self.publish(&sandbox, &sandbox.id, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Takes the sandbox apart: network, shim, namespaces, mounts. Each step succeeds if it was done before.
    pub(crate) async fn tear_down(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let (netns, detached, shim_pid) = {
            let record = sandbox.record.lock();
            (record.netns.clone(), record.detached, record.shim_pid)
        };
        if let Some(netns) = netns.as_ref().filter(|_| !detached) {
            let request = network_request(sandbox, netns);
            self.config
                .network
                .detach(request)
                .await
                .map_err(|e| Error::Shim(format!("give back the network of sandbox {}: {e}", sandbox.id)))?;
            sandbox.update(|record| record.detached = true)?;
        }
        if let Err(e) = sandbox.shim.shutdown().await {
            tracing::debug!(sandbox = sandbox.id, shim_pid, "shim is gone already: {e}");
        }
        if let Some(netns) = netns {
            let path = PathBuf::from(netns);
            unmount(&path)?;
            remove_file(&path)?;
        }
        unmount(&sandbox.shm())?;
        let run_dir = sandbox.run_dir.clone();
        blocking(move || crate::images::remove_tree(&run_dir)).await?;
        if sandbox.dir.exists() {
            sandbox.update(|record| record.ready = false)?;
        }
        Ok(())
    }

    /// What sandboxes take on disk beyond images: the records.
    pub(crate) fn containers_usage(&self) -> Usage {
        let containers: Vec<_> = self.containers.read().values().cloned().collect();
        containers.iter().fold(Usage::default(), |mut sum, container| {
            if let Some(sample) = &*container.disk.lock() {
                sum.bytes += sample.usage.bytes;
                sum.inodes += sample.usage.inodes;
            }
            sum
        })
    }
}

impl Sandbox {
    pub(crate) fn shm(&self) -> PathBuf {
        self.run_dir.join("shm")
    }

    /// Control group that containers of the sandbox go under.
    pub(crate) fn cgroup_parent(&self) -> String {
        let given = self.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        match given.trim_matches('/') {
            "" => format!("/isopod/{}", self.id),
            given => format!("/{given}"),
        }
    }

    /// The parent group, if nobody gave one: then it is ours to remove.
    fn own_cgroup(&self) -> Option<String> {
        let group = self.cgroup_parent();
        (group == format!("/isopod/{}", self.id)).then_some(group)
    }
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).what(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn hostname(config: &PodSandboxConfig, metadata: &PodSandboxMetadata) -> String {
    // The kernel's limit; the kubelet shortens names itself.
    const HOSTNAME_BYTES_MAX: usize = 63;
    let name = if config.hostname.is_empty() { &metadata.name } else { &config.hostname };
    name.chars().take(HOSTNAME_BYTES_MAX).collect()
}

/// The kernel parameters of the sandbox's namespaces. One that is not of a namespace the sandbox has of its
/// own would change the node.
fn sysctls(config: &PodSandboxConfig, modes: &NamespaceOption) -> Result<Vec<(String, String)>, Error> {
    let mut sysctls = Vec::new();
    if !is_node(modes.network) {
        // Any user may bind low ports and send pings inside a pod, as with containerd's defaults.
        sysctls.push(("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()));
        sysctls.push(("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()));
    }
    for (name, value) in config.linux.iter().flat_map(|linux| &linux.sysctls) {
        let name = name.replace('/', ".");
        let (network, ipc) = (name.starts_with("net."), is_ipc_sysctl(&name));
        let own = (network && !is_node(modes.network)) || (ipc && !is_node(modes.ipc));
        if !own {
            return Err(Error::Invalid(format!("sysctl {name:?} is not of a namespace of the pod's own")));
        }
        sysctls.push((name, value.clone()));
    }
    Ok(sysctls)
}

fn is_ipc_sysctl(name: &str) -> bool {
    ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
        || name == "kernel.sem"
}

/// Files that containers get at paths under `/etc`, unless they mount something there themselves.
fn write_files(sandbox: &Sandbox, hostname: Option<&str>) -> Result<(), Error> {
    let write = |name: &str, content: &[u8]| {
        let path = sandbox.dir.join(name);
        std::fs::write(&path, content).what(|| format!("write {}", path.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, mode).what(|| format!("set the mode of {}", path.display()))
    };
    let resolv = match &sandbox.config.dns_config {
        Some(dns) => render_resolv_conf(dns)?,
        None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    write("resolv.conf", resolv.as_bytes())?;
    if let Some(hostname) = hostname {
        write("hostname", format!("{hostname}\n").as_bytes())?;
        write("hosts", b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    } else {
        write("hostname", &std::fs::read("/etc/hostname").unwrap_or_default())?;
        write("hosts", &std::fs::read("/etc/hosts").unwrap_or_default())?;
    }
    Ok(())
}

fn render_resolv_conf(dns: &DnsConfig) -> Result<String, Error> {
    let mut out = String::new();
    let lines = dns.servers.iter().map(|server| ("nameserver", server.clone()));
    let search = (!dns.searches.is_empty()).then(|| ("search", dns.searches.join(" ")));
    let options = (!dns.options.is_empty()).then(|| ("options", dns.options.join(" ")));
    for (keyword, value) in search.into_iter().chain(lines).chain(options) {
        if value.contains('\n') {
            return Err(Error::invalid("DNS configuration contains a line end"));
        }
        out.push_str(&format!("{keyword} {value}\n"));
    }
    Ok(out)
}

fn network_request(sandbox: &Sandbox, netns: &str) -> PodNetworkRequest {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    let port = |value: i32| u16::try_from(value).ok().filter(|port| *port > 0);
    let host_ports = sandbox
        .config
        .port_mappings
        .iter()
        .filter_map(|mapping| {
            Some(HostPort {
                protocol: Protocol::try_from(mapping.protocol).unwrap_or_default(),
                container_port: port(mapping.container_port)?,
                host_port: port(mapping.host_port)?,
                host_ip: mapping.host_ip.parse().ok(),
            })
        })
        .collect();
    PodNetworkRequest {
        netns_path: netns.to_owned(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        sandbox_id: sandbox.id.clone(),
        host_ports,
        annotations: sandbox.config.annotations.clone(),
    }
}
