//! From a CRI container configuration to an OCI runtime configuration (`config.json`).
//!
//! Pure but for looking at the node's devices and its own privileges, which come in as [`Node`].

mod devices;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;

use isopod_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use devices::Node;
pub(crate) use resources::limits;

use crate::Error;
use crate::images::{ImageConfig, User};

/// All that a configuration is made of.
pub(crate) struct Input<'a> {
    pub(crate) container: &'a ContainerConfig,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: &'a User,
    pub(crate) node: &'a Node,
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) namespaces: Namespaces,
    /// Files of the sandbox to mount by target, unless the container mounts something there itself.
    pub(crate) files: BTreeMap<&'static str, PathBuf>,
    pub(crate) shm: PathBuf,
    /// Mounts whose source is a mounted image: target and source.
    pub(crate) image_mounts: Vec<(String, PathBuf)>,
    /// Where the shim puts sources of mounts by descriptor; none if another OCI runtime does the mounting.
    pub(crate) staging: Option<PathBuf>,
}

/// A source of a mount that the shim puts at `target`, in a mount namespace of its own, before the OCI runtime
/// looks there. See `shim/stage.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    /// Device and inode that the source must have.
    pub(crate) identity: Option<(u64, u64)>,
}

/// Where the namespaces of a container come from; none means the node's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    pub(crate) network: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: PidNamespace,
    /// A control group namespace of its own: on version 2, unless privileged.
    pub(crate) new_cgroup: bool,
}

/// Which process namespace a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// One of its own.
    #[default]
    New,
    /// The node's.
    Node,
    /// That of a process.
    Of(i32),
}

/// The security context of a container, or the default one.
pub(crate) fn security(container: &ContainerConfig) -> LinuxContainerSecurityContext {
    container.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// The mode that a container asks for its process namespace.
pub(crate) fn pid_mode(container: &ContainerConfig) -> NamespaceMode {
    let options = security(container).namespace_options.unwrap_or_default();
    NamespaceMode::try_from(options.pid).unwrap_or_default()
}

/// Makes the configuration, and says what is to be staged for it.
pub(crate) fn build(input: &Input<'_>) -> Result<(Value, Vec<Staged>), Error> {
    let security = security(input.container);
    let mut namespaces = vec![json!({"type": "mount"})];
    for (kind, path) in [
        ("network", &input.namespaces.network),
        ("ipc", &input.namespaces.ipc),
        ("uts", &input.namespaces.uts),
    ] {
        if let Some(path) = path {
            namespaces.push(json!({"type": kind, "path": path}));
        }
    }
    match input.namespaces.pid {
        PidNamespace::New => namespaces.push(json!({"type": "pid"})),
        PidNamespace::Of(pid) => {
            namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}))
        }
        PidNamespace::Node => {}
    }
    if input.namespaces.new_cgroup {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let (mounts, staged) = mounts::mounts(input, &security)?;
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": input.cgroup,
        "resources": resources::resources(input.container, &security, input.node)?,
        "devices": devices::nodes(input.container, &security, input.node)?,
        "maskedPaths": security::masked_paths(&security),
        "readonlyPaths": security::readonly_paths(&security),
    });
    if let Some(propagation) = mounts::rootfs_propagation(input.container) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if let Some(profile) = seccomp::profile(&security, input.node)? {
        linux["seccomp"] = profile;
    }
    let spec = json!({
        "ociVersion": "1.2.0",
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "process": process::process(input, &security)?,
        "mounts": mounts,
        "annotations": annotations(input),
        "linux": linux,
    });
    Ok((spec, staged))
}

/// What hooks and other OCI runtimes know a container of a pod by.
fn annotations(input: &Input<'_>) -> BTreeMap<&'static str, String> {
    let pod = input.sandbox.metadata.clone().unwrap_or_default();
    let container = input.container.metadata.clone().unwrap_or_default();
    BTreeMap::from([
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", container.name),
        ("io.kubernetes.cri.sandbox-name", pod.name),
        ("io.kubernetes.cri.sandbox-namespace", pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", pod.uid),
    ])
}
