//! Mounts: what every container has, then those of its configuration, parents first.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use isopod_cri::MOUNT_IDENTITIES;
use isopod_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, Mount, MountPropagation};
use serde_json::{Value, json};

use super::{Input, Staged};
use crate::Error;
use crate::error::Context;

pub(super) fn mounts(
    input: &Input<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<(Vec<Value>, Vec<Staged>), Error> {
    // By target: a later mount at the same target replaces an earlier one.
    let mut mounts: BTreeMap<(usize, String), Value> = BTreeMap::new();
    let mut add = |target: &str, mount: Value| {
        mounts.insert((Path::new(target).components().count(), target.to_owned()), mount);
    };
    for (target, mount) in base(input, security) {
        add(target, mount);
    }
    for (target, source) in &input.files {
        let options: &[&str] = if security.readonly_rootfs {
            &["rbind", "rprivate", "ro"]
        } else {
            &["rbind", "rprivate", "rw"]
        };
        add(target, bind(target, source, options));
    }
    for (target, source) in &input.image_mounts {
        add(target, bind(target, source, &["rbind", "rprivate", "ro"]));
    }
    let identities = identities(input.container)?;
    // All or none: the namespace in which they are staged gets no mounts of the node's any more.
    let staging = input.staging.as_ref().filter(|_| !identities.is_empty());
    let mut staged = Vec::new();
    for mount in input.container.mounts.iter().filter(|mount| mount.image.is_none()) {
        let target = clean_target(&mount.container_path)?;
        let identity = identities.get(&mount.container_path).copied();
        let mut source = source(mount, &target, identity)?;
        if let Some(dir) = staging {
            let to = dir.join(staged.len().to_string());
            staged.push(Staged { source, target: to.clone(), identity });
            source = to;
        }
        add(&target, from_cri(mount, &target, &source)?);
    }
    Ok((mounts.into_values().collect(), staged))
}

/// What the kubelet found the sources of mounts to be when it checked them, by path in the container.
fn identities(container: &ContainerConfig) -> Result<BTreeMap<String, (u64, u64)>, Error> {
    match container.annotations.get(MOUNT_IDENTITIES) {
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Error::Invalid(format!("annotation {MOUNT_IDENTITIES}: {e}"))),
        None => Ok(BTreeMap::new()),
    }
}

/// The source of a mount on the node. One that is missing is made a directory, as containerd does, unless it was
/// checked before.
fn source(mount: &Mount, target: &str, identity: Option<(u64, u64)>) -> Result<PathBuf, Error> {
    if !mount.host_path.starts_with('/') {
        return Err(Error::Invalid(format!(
            "host path {:?} of mount {target} is not absolute",
            mount.host_path
        )));
    }
    let source = PathBuf::from(&mount.host_path);
    match std::fs::metadata(&source) {
        Ok(found) if identity.is_some_and(|wanted| wanted != (found.dev(), found.ino())) => {
            Err(Error::Precondition(format!("{} was replaced after it was checked", source.display())))
        }
        Ok(_) => Ok(source),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound || identity.is_some() => {
            Err(e).what(|| format!("read {}", source.display()))
        }
        Err(_) => {
            std::fs::create_dir_all(&source).what(|| format!("create {}", source.display()))?;
            Ok(source)
        }
    }
}

fn base(input: &Input<'_>, security: &LinuxContainerSecurityContext) -> Vec<(&'static str, Value)> {
    let access = if security.privileged { "rw" } else { "ro" };
    let entry = |target, kind: &str, source: &str, options: &[&str]| {
        (target, json!({"destination": target, "type": kind, "source": source, "options": options}))
    };
    let mut mounts = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let shm = bind("/dev/shm", &input.shm, &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"]);
    mounts.push(("/dev/shm", shm));
    mounts
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

fn from_cri(mount: &Mount, target: &str, source: &Path) -> Result<Value, Error> {
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::Invalid(format!("mount {target}: id-mapped mounts are not supported")));
    }
    let propagation = match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        _ => "rprivate",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, true) => {
            return Err(Error::Invalid(format!("mount {target}: recursive_read_only needs readonly")));
        }
        (false, false) => "rw",
    };
    Ok(bind(target, source, &["rbind", propagation, access]))
}

/// The target as an absolute path without `.` and `..`.
fn clean_target(path: &str) -> Result<String, Error> {
    let mut clean = String::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => {
                clean.push('/');
                clean.push_str(&part.to_string_lossy());
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Invalid(format!("mount target {path:?} contains ..")));
            }
        }
    }
    match clean.is_empty() {
        true => Err(Error::Invalid(format!("mount target {path:?} is the root"))),
        false => Ok(clean),
    }
}

/// The root must propagate for a mount below it to.
pub(super) fn rootfs_propagation(container: &ContainerConfig) -> Option<&'static str> {
    let asks = |kind: MountPropagation| container.mounts.iter().any(|m| m.propagation == kind as i32);
    if asks(MountPropagation::PropagationBidirectional) {
        Some("shared")
    } else if asks(MountPropagation::PropagationHostToContainer) {
        Some("slave")
    } else {
        None
    }
}
