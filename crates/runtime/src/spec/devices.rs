//! Devices, and what this node can do: read once, since it does not change while the runtime runs.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use caps::{CapSet, CapsHashSet};
use isopod_cri::v1::{ContainerConfig, LinuxContainerSecurityContext};
use serde_json::{Value, json};

use crate::Error;
use crate::cgroup::Cgroups;
use crate::error::Context;

/// What the node has and the runtime may use.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Capabilities that the runtime can give.
    pub(crate) capabilities: CapsHashSet,
    /// Control groups count swap.
    pub(crate) swap_accounting: bool,
    /// Control groups are of version 2.
    pub(crate) cgroup_v2: bool,
    /// There is a controller of huge pages.
    pub(crate) hugetlb: bool,
    /// The kernel filters system calls.
    pub(crate) seccomp: bool,
    /// Our own out-of-memory score.
    pub(crate) oom_score: i32,
}

impl Node {
    /// Looks at the node.
    pub(crate) fn detect(cgroups: &Cgroups) -> Result<Self, Error> {
        let capabilities = caps::read(None, CapSet::Permitted)
            .map_err(|e| Error::Precondition(format!("read own capabilities: {e}")))?;
        let memory = cgroups.dir("memory", "/");
        let swap_accounting = match (&memory, cgroups.is_v2()) {
            (Some(dir), false) => dir.join("memory.memsw.limit_in_bytes").exists(),
            // The root group of version 2 has no swap files; groups have them if the kernel counts swap.
            (_, true) => Path::new("/proc/swaps").exists(),
            (None, false) => false,
        };
        let hugetlb = match cgroups.is_v2() {
            true => {
                let controllers = cgroups.dir("", "/").map(|dir| dir.join("cgroup.controllers"));
                controllers
                    .and_then(|path| std::fs::read_to_string(path).ok())
                    .is_some_and(|names| names.split_whitespace().any(|name| name == "hugetlb"))
            }
            false => cgroups.v1.contains_key("hugetlb"),
        };
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Ok(Self {
            capabilities,
            swap_accounting,
            cgroup_v2: cgroups.is_v2(),
            hugetlb,
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
            oom_score: score.trim().parse().unwrap_or(0),
        })
    }

    /// The out-of-memory score nearest to the wanted one that this node lets us set: lowering it takes
    /// CAP_SYS_RESOURCE.
    pub(crate) fn attainable_oom_score(&self, wanted: i64) -> i64 {
        match self.capabilities.contains(&caps::Capability::CAP_SYS_RESOURCE) {
            true => wanted,
            false => wanted.max(i64::from(self.oom_score)),
        }
    }
}

/// A device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    path: String,
    kind: char,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Device {
    fn at(host: &Path, target: &str) -> Result<Self, Error> {
        let what = || format!("read device {}", host.display());
        let metadata = std::fs::metadata(host).what(what)?;
        let kind = match metadata.file_type() {
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            _ => return Err(Error::Invalid(format!("{} is not a device", host.display()))),
        };
        Ok(Self {
            path: target.to_owned(),
            kind,
            major: nix::sys::stat::major(metadata.rdev()),
            minor: nix::sys::stat::minor(metadata.rdev()),
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    fn node(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }
}

/// The devices that a configuration asks for, with the access to them.
fn wanted(container: &ContainerConfig) -> Result<Vec<(Device, String)>, Error> {
    let mut devices = Vec::new();
    for device in &container.devices {
        let host =
            std::fs::canonicalize(&device.host_path).what(|| format!("read device {}", device.host_path))?;
        if host.is_dir() {
            devices_below(&host, &device.container_path, 0, &mut |found| {
                devices.push((found, device.permissions.clone()));
            });
        } else {
            devices.push((Device::at(&host, &device.container_path)?, device.permissions.clone()));
        }
    }
    Ok(devices)
}

fn devices_below(dir: &Path, target: &str, depth: usize, found: &mut impl FnMut(Device)) {
    // What lies in these is not the machine's hardware, or is made anew in each container.
    const SKIPPED: &[&str] =
        &["pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev", "console"];
    const DEPTH_MAX: usize = 4;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else { continue };
        let target = format!("{target}/{name}");
        if SKIPPED.contains(&name.as_str()) {
        } else if kind.is_dir() && depth < DEPTH_MAX {
            devices_below(&entry.path(), &target, depth + 1, found);
        } else if (kind.is_char_device() || kind.is_block_device())
            && let Ok(device) = Device::at(&entry.path(), &target)
        {
            found(device);
        }
    }
}

/// Device nodes to make; those that every container has are made by the OCI runtime.
pub(super) fn nodes(
    container: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    _node: &Node,
) -> Result<Vec<Value>, Error> {
    const STANDARD: &[&str] =
        &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];
    let mut nodes = Vec::new();
    if security.privileged {
        devices_below(Path::new("/dev"), "/dev", 0, &mut |device| {
            if !STANDARD.contains(&device.path.as_str()) {
                nodes.push(device.node());
            }
        });
    } else {
        nodes.extend(wanted(container)?.iter().map(|(device, _)| device.node()));
    }
    Ok(nodes)
}

/// What may be done with devices: nothing but with those given, and with those every container has.
pub(super) fn rules(
    container: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    _node: &Node,
) -> Result<Vec<Value>, Error> {
    if security.privileged {
        return Ok(vec![json!({"allow": true, "access": "rwm"})]);
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    let allow = |kind: char, major: u64, minor: Option<u64>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind.to_string(), "major": major, "access": access});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    for minor in [3, 5, 7, 8, 9] {
        rules.push(allow('c', 1, Some(minor), "rwm"));
    }
    rules.push(allow('c', 5, Some(0), "rwm"));
    rules.push(allow('c', 5, Some(1), "rwm"));
    rules.push(allow('c', 5, Some(2), "rwm"));
    rules.push(allow('c', 136, None, "rwm"));
    for (device, access) in wanted(container)? {
        if access.bytes().any(|b| !b"rwm".contains(&b)) {
            return Err(Error::Invalid(format!("device permissions {access:?} are not of r, w and m")));
        }
        let access = if access.is_empty() { "rwm" } else { &access };
        rules.push(allow(device.kind, device.major, Some(device.minor), access));
    }
    Ok(rules)
}
