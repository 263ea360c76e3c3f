//! Removing everything, without a server: what `down --purge` and the end of a test do.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::containers::unmount_all;
use crate::error::Error;
use crate::images::remove_tree;
use crate::record::{ContainerRecord, SandboxRecord, bundles, directories, load};
use crate::snapshot::unmount;

/// Kills every container and shim of the runtime with these directories, unmounts what it mounted, and
/// removes its control groups, its state and its data. No server may be running on them.
pub fn purge(root: &Path, state: &Path) -> Result<(), Error> {
    stop_all(root, state)?;
    remove_tree(root)
}

/// As [`purge`], but images stay.
pub fn stop_all(root: &Path, state: &Path) -> Result<(), Error> {
    let cgroups = Cgroups::detect()?;
    // One that cannot be removed must not spare the others.
    let mut failed = Ok(());
    if root.join("containers").exists() {
        for dir in directories(&root.join("containers"))? {
            if let Ok((record, _)) = load::<ContainerRecord, isopod_cri::v1::ContainerConfig>(&dir) {
                cgroups.kill(&record.cgroup);
                failed = failed.and(cgroups.remove(&record.cgroup));
            }
            unmount_all(&dir)?;
        }
    }
    end_shims(&state.join("s"));
    if root.join("sandboxes").exists() {
        for dir in directories(&root.join("sandboxes"))? {
            let loaded = load::<SandboxRecord, isopod_cri::v1::PodSandboxConfig>(&dir);
            if let Ok((record, _)) = loaded {
                failed = failed.and(cgroups.remove(&format!("/isopod/{}", record.id)));
            }
        }
    }
    for entry in std::fs::read_dir(state.join("netns")).into_iter().flatten().flatten() {
        unmount(&entry.path())?;
    }
    if state.join("s").exists() {
        for dir in directories(&state.join("s"))? {
            unmount(&dir.join("shm"))?;
        }
    }
    unmount(&bundles(state))?;
    for dir in [&root.join("containers"), &root.join("sandboxes"), state] {
        remove_tree(dir)?;
    }
    // Shared with other runtimes on this machine: they go with the last.
    for group in ["/isopod", "/isopod-shim"] {
        if cgroups.pids(group).is_empty() {
            let _ = cgroups.remove(group);
        }
    }
    failed
}

/// Kills the shims whose directories lie in `dir`: also those that no record knows yet.
fn end_shims(dir: &Path) {
    let shims: Vec<i32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // A shim works in its directory, and nothing else does.
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir) && cwd != dir)
        })
        .collect();
    for pid in &shims {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    // They must be gone before their mounts are.
    for _ in 0..200 {
        if shims.iter().all(|pid| has_ended(*pid)) {
            return;
        }
        crate::cgroup::pause(std::time::Duration::from_millis(5));
    }
}

/// A zombie holds nothing any more.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}
