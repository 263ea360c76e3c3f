//! The CRI configuration of a container: command, environment, mounts, limits, security.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use isopod_cri::v1;
use isopod_podplan::env::{expand, missing};
use isopod_podplan::spec;
use isopod_podplan::{cgroup, hosts, resources};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::kubelet::Kubelet;
use crate::volumes::{Mounted, host_path, subpath};
use crate::{environment, labels, security};

/// What a container is made of besides the pod.
pub(crate) struct Request<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) image: &'a v1::Image,
    pub(crate) image_ref: &'a str,
    pub(crate) volumes: &'a Mounted,
    /// Id of the container whose processes are to be seen.
    pub(crate) target_id: Option<String>,
}

/// Where a container's termination message lies on the node.
pub(crate) fn message_file(kubelet: &Kubelet, uid: &str, container: &str, attempt: u32) -> PathBuf {
    kubelet.config.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
}

/// The log of a container instance, relative to the pod's log directory.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// The configuration.
///
/// # Errors
/// The text for a `CreateContainerConfigError`.
pub(crate) async fn make(kubelet: &Kubelet, r: &Request<'_>) -> Result<v1::ContainerConfig, String> {
    let (pod, c) = (r.pod, r.container);
    security::verify_non_root(pod, c, r.image)?;
    let env = environment::of(kubelet, pod, c).await?;
    let lookup = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|w| expand(w, lookup)).collect()
    };
    let mounts = mounts(kubelet, r, &lookup)?;
    let mut annotations = labels::annotations(pod, c, r.attempt);
    annotations.extend(identities(r)?);
    let log_dir = crate::sandbox_config::log_directory(kubelet, pod).join(&c.name);
    fs::create_dir_all(&log_dir).map_err(|e| format!("create {}: {e}", log_dir.display()))?;
    let context = security::container(pod, c, r.image, r.target_id.clone(), kubelet.config.seccomp_default);
    let user_image = c.image.clone().unwrap_or_default();
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: c.name.clone(), attempt: r.attempt }),
        image: Some(v1::ImageSpec {
            image: r.image_ref.to_owned(),
            user_specified_image: user_image,
            ..v1::ImageSpec::default()
        }),
        command: words(&c.command),
        args: words(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        mounts,
        labels: labels::of_container(pod, c),
        annotations,
        log_path: log_path(&c.name, r.attempt),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(limits(kubelet, pod, c)),
            security_context: Some(context),
        }),
        stop_signal: stop_signal(c),
        envs: env.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() }).collect(),
        ..v1::ContainerConfig::default()
    })
}

fn stop_signal(c: &Container) -> i32 {
    let name = c.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    v1::Signal::from_str_name(name).map_or(0, |s| s as i32)
}

fn limits(kubelet: &Kubelet, pod: &Pod, c: &Container) -> v1::LinuxContainerResources {
    let l = cgroup::container_limits(c);
    let node = kubelet.node();
    let capacity = node.status.as_ref().and_then(|s| s.capacity.as_ref());
    let memory = capacity.and_then(|l| l.get("memory")).map_or(0, |q| resources::amount("memory", q));
    v1::LinuxContainerResources {
        cpu_period: if l.quota_us > 0 { cgroup::QUOTA_PERIOD_US } else { 0 },
        cpu_quota: l.quota_us.max(0),
        cpu_shares: l.shares,
        memory_limit_in_bytes: l.memory_bytes,
        oom_score_adj: cgroup::oom_score_adj(pod, c, memory),
        // No swap beyond the memory limit.
        memory_swap_limit_in_bytes: l.memory_bytes,
        ..v1::LinuxContainerResources::default()
    }
}

fn mounts(
    kubelet: &Kubelet,
    r: &Request<'_>,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, String> {
    let mut out = Vec::new();
    for (i, m) in r.container.volume_mounts.iter().flatten().enumerate() {
        out.push(volume_mount(kubelet, r, m, i, lookup)?);
    }
    let uid = r.pod.metadata.uid.as_deref().unwrap_or_default();
    let taken = |path: &str| {
        r.container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
    };
    if !taken("/etc/hosts") {
        out.push(plain(etc_hosts(kubelet, r.pod)?, "/etc/hosts".into(), false));
    }
    let message_path = r.container.termination_message_path.as_deref().unwrap_or_default();
    if !message_path.is_empty() {
        let file = message_file(kubelet, uid, &r.container.name, r.attempt);
        make_writable(&file).map_err(|e| format!("create {}: {e}", file.display()))?;
        out.push(plain(file, message_path.to_owned(), false));
    }
    Ok(out)
}

/// What host paths that ask for a type are at this moment: the runtime mounts nothing else in their place.
fn identities(r: &Request<'_>) -> Result<Option<(String, String)>, String> {
    let mut found = BTreeMap::new();
    for m in r.container.volume_mounts.iter().flatten() {
        let whole = m.sub_path.as_deref().unwrap_or_default().is_empty()
            && m.sub_path_expr.as_deref().unwrap_or_default().is_empty();
        if let (true, Some(kind), Some(path)) =
            (whole, r.volumes.host_types.get(&m.name), r.volumes.paths.get(&m.name))
        {
            found.insert(absolute(&m.mount_path), host_path::prepare(path, kind)?);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&found).map_err(|e| e.to_string())?;
    Ok(Some((isopod_cri::MOUNT_IDENTITIES.to_owned(), text)))
}

fn plain(host: PathBuf, container_path: String, readonly: bool) -> v1::Mount {
    v1::Mount {
        container_path,
        host_path: host.to_string_lossy().into_owned(),
        readonly,
        ..v1::Mount::default()
    }
}

/// An empty file that any user of the container may write.
fn make_writable(file: &Path) -> std::io::Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    let f = fs::OpenOptions::new().create(true).truncate(true).write(true).open(file)?;
    f.set_permissions(fs::Permissions::from_mode(0o666))
}

fn volume_mount(
    kubelet: &Kubelet,
    r: &Request<'_>,
    m: &VolumeMount,
    index: usize,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<v1::Mount, String> {
    if let Some(image) = r.volumes.images.get(&m.name) {
        return Ok(image_mount(m, image, &expanded_sub_path(m, lookup)?));
    }
    let volume = r
        .volumes
        .paths
        .get(&m.name)
        .ok_or_else(|| format!("volume {:?} of the mount at {} is not mounted", m.name, m.mount_path))?;
    let sub = expanded_sub_path(m, lookup)?;
    let host = if sub.is_empty() {
        volume.clone()
    } else {
        let uid = r.pod.metadata.uid.as_deref().unwrap_or_default();
        let target = kubelet
            .config
            .pod_dir(uid)
            .join("volume-subpaths")
            .join(&m.name)
            .join(&r.container.name)
            .join(index.to_string());
        subpath::bind(volume, &sub, &target).map_err(|e| {
            format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                m.name, r.container.name
            )
        })?
    };
    let propagation = match m.mount_propagation.as_deref() {
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    let readonly = m.read_only == Some(true) || is_read_only_kind(r.pod, &m.name);
    let recursive = readonly && m.recursive_read_only.as_deref() == Some("Enabled");
    Ok(v1::Mount {
        propagation: propagation as i32,
        recursive_read_only: recursive,
        ..plain(host, absolute(&m.mount_path), readonly)
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn expanded_sub_path(m: &VolumeMount, lookup: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let Some(text) = m.sub_path_expr.as_deref().filter(|e| !e.is_empty()) else {
        return Ok(m.sub_path.clone().unwrap_or_default());
    };
    match missing(text, lookup).first() {
        Some(name) => Err(format!("missing value for {name:?} in subPathExpr {text:?}")),
        None => Ok(expand(text, lookup)),
    }
}

/// A mount that the runtime makes from an image; always read-only.
fn image_mount(m: &VolumeMount, image: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: absolute(&m.mount_path),
        readonly: true,
        image: Some(v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        ..v1::Mount::default()
    }
}

/// Volumes whose content is the kubelet's: a container's write would be lost or would mislead.
fn is_read_only_kind(pod: &Pod, volume: &str) -> bool {
    spec::of(pod).volumes.iter().flatten().any(|v| {
        v.name == volume
            && (v.config_map.is_some()
                || v.secret.is_some()
                || v.downward_api.is_some()
                || v.projected.is_some())
    })
}

/// Writes the pod's hosts file and answers where it lies.
fn etc_hosts(kubelet: &Kubelet, pod: &Pod) -> Result<PathBuf, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let path = kubelet.config.pod_dir(uid).join("etc-hosts");
    let host_file = if spec::host_network(pod) {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    let ips = kubelet.addresses(uid).pod_ips;
    let text = hosts::file(pod, &ips, &kubelet.config.cluster_domain, &host_file);
    let fail = |e: std::io::Error| format!("write {}: {e}", path.display());
    // Written in place, since running containers hold a mount of this very file.
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(path);
    }
    fs::write(&path, text).map_err(fail)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(fail)?;
    Ok(path)
}
