//! Whether this machine can run containers, and how to mend what is missing.

use std::path::Path;

use nix::unistd::geteuid;

use crate::cgroup::Cgroups;
use crate::snapshot::{overlay, unmount};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is there.
    Good,
    /// Containers run, but something of them does not work as asked.
    Degraded,
    /// Containers do not run.
    Missing,
}

/// A check of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// The outcome.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// How to mend it; empty if there is nothing to mend.
    pub hint: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Good, found: found.into(), hint: String::new() }
    }

    fn bad(name: &'static str, level: Level, found: impl Into<String>, hint: &str) -> Self {
        Self { name, level, found: found.into(), hint: hint.to_owned() }
    }
}

/// Checks the machine for a runtime whose data will lie in `root`.
pub fn checks(root: &Path) -> Vec<Check> {
    vec![privileges(), kernel(), cgroups(), namespaces(), overlayfs(root), seccomp(), capabilities()]
}

fn privileges() -> Check {
    match geteuid().is_root() {
        true => Check::good("privileges", "running as root"),
        false => Check::bad(
            "privileges",
            Level::Missing,
            format!("running as user {}", geteuid()),
            "run as root; a control plane alone (--disable-agent) needs no root",
        ),
    }
}

/// `close_range` with its close-on-exec flag is the newest of what is needed.
const KERNEL_MIN: (u32, u32) = (5, 11);

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= KERNEL_MIN {
        true => Check::good("kernel", release),
        false => {
            Check::bad("kernel", Level::Missing, release, "Linux 5.11 or newer is needed; Debian 12 has 6.1")
        }
    }
}

fn cgroups() -> Check {
    let name = "control groups";
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(e) => {
            let hint = "mount them: mount -t cgroup2 none /sys/fs/cgroup";
            return Check::bad(name, Level::Missing, e.to_string(), hint);
        }
    };
    let controllers: Vec<String> = match (cgroups.is_v2(), &cgroups.v2) {
        (true, Some(mount)) => std::fs::read_to_string(mount.join("cgroup.controllers"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        _ => cgroups.v1.keys().cloned().collect(),
    };
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|c| !controllers.iter().any(|known| known == c))
        .collect();
    let version = if cgroups.is_v2() { "version 2" } else { "version 1" };
    match missing.is_empty() {
        true => Check::good(name, format!("{version}: {}", controllers.join(" "))),
        false => Check::bad(
            name,
            Level::Missing,
            format!("{version} without {}", missing.join(", ")),
            "enable the controllers; for memory, boot with cgroup_enable=memory",
        ),
    }
}

fn namespaces() -> Check {
    let missing: Vec<&str> = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    match missing.is_empty() {
        true => Check::good("namespaces", "cgroup ipc mnt net pid uts"),
        false => Check::bad(
            "namespaces",
            Level::Missing,
            format!("the kernel has no {} namespaces", missing.join(", ")),
            "use a kernel with CONFIG_NAMESPACES and its kinds",
        ),
    }
}

/// Mounts an overlay where the images will be: not every file system can be the upper one.
fn overlayfs(root: &Path) -> Check {
    let name = "overlayfs";
    let base = root.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let attempt = || -> Result<(), String> {
        let dir = tempfile::tempdir_in(base).map_err(|e| e.to_string())?;
        for sub in ["l/1", "upper", "work", "rootfs"] {
            std::fs::create_dir_all(dir.path().join(sub)).map_err(|e| e.to_string())?;
        }
        let target = dir.path().join("rootfs");
        overlay(&dir.path().join("l"), &[1], Some(dir.path()), &target).map_err(|e| e.to_string())?;
        unmount(&target).map_err(|e| e.to_string())
    };
    match attempt() {
        Ok(()) => Check::good(name, format!("works in {}", base.display())),
        Err(e) => Check::bad(
            name,
            Level::Missing,
            e,
            "load the module (modprobe overlay), or put --data-dir on ext4 or xfs",
        ),
    }
}

fn seccomp() -> Check {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::good("seccomp", "filters of system calls are available")
        }
        _ => Check::bad(
            "seccomp",
            Level::Degraded,
            "the kernel does not filter system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER; containers run unconfined without it",
        ),
    }
}

fn capabilities() -> Check {
    let name = "capabilities";
    let own = caps::read(None, caps::CapSet::Permitted).unwrap_or_default();
    // What setting up containers takes.
    let needed = [
        caps::Capability::CAP_SYS_ADMIN,
        caps::Capability::CAP_NET_ADMIN,
        caps::Capability::CAP_SYS_CHROOT,
        caps::Capability::CAP_MKNOD,
        caps::Capability::CAP_SETUID,
        caps::Capability::CAP_SETGID,
        caps::Capability::CAP_SETPCAP,
        caps::Capability::CAP_CHOWN,
        caps::Capability::CAP_DAC_OVERRIDE,
        caps::Capability::CAP_KILL,
    ];
    let missing: Vec<String> = needed.iter().filter(|c| !own.contains(c)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let found = format!("without {}", missing.join(", "));
        return Check::bad(name, Level::Missing, found, "run as root outside of a restricted container");
    }
    match own.contains(&caps::Capability::CAP_SYS_RESOURCE) {
        true => Check::good(name, "all that are needed"),
        false => Check::bad(
            name,
            Level::Degraded,
            "without CAP_SYS_RESOURCE",
            "guaranteed pods and shims are not protected from the out-of-memory killer; run with all of root's \
             capabilities to protect them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_containers() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for check in checks(&dir.path().join("not/yet/there")) {
            assert_ne!(check.level, Level::Missing, "{check:?}");
            assert_eq!(check.level == Level::Good, check.hint.is_empty());
        }
    }
}
