//! Cgroups of pods and of their classes of service, on cgroup v1 (every controller's hierarchy) and v2.
//!
//! Containers' cgroups are the runtime's; it gets the pod's as parent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use isopod_podplan::cgroup::{self, Limits};
use isopod_podplan::resources;
use k8s_openapi::api::core::v1::Pod;

const ROOT: &str = "/sys/fs/cgroup";
const V1: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// How this machine has its cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// Root directory by controller; several names may lead to one directory.
    V1(BTreeMap<&'static str, PathBuf>),
    V2(PathBuf),
}

/// The cgroups that this kubelet makes.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    base: String,
    pids: i64,
}

impl Cgroups {
    /// Finds out how the machine has its cgroups; `base` is the cgroup to live below.
    pub(crate) fn detect(base: &str, pids: i64) -> Self {
        let root = Path::new(ROOT);
        let layout = if root.join("cgroup.controllers").exists() {
            Layout::V2(root.to_owned())
        } else {
            Layout::V1(V1.iter().map(|c| (*c, root.join(c))).filter(|(_, p)| p.is_dir()).collect())
        };
        Self { layout, base: base.trim_end_matches('/').to_owned(), pids }
    }

    /// Whether the machine has the unified hierarchy.
    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2(_))
    }

    /// The name of a pod's cgroup, as the runtime is given it.
    pub(crate) fn name(&self, pod: &Pod) -> String {
        format!("{}{}", self.base, cgroup::of_pod(pod))
    }

    fn dirs(&self, name: &str) -> Vec<(&'static str, PathBuf)> {
        let relative = format!("{}{name}", self.base);
        let relative = relative.trim_start_matches('/');
        match &self.layout {
            Layout::V1(roots) => roots.iter().map(|(c, p)| (*c, p.join(relative))).collect(),
            Layout::V2(root) => vec![("unified", root.join(relative))],
        }
    }

    /// Makes the cgroups above pods'.
    pub(crate) fn set_up(&self) -> io::Result<()> {
        for name in [cgroup::ROOT, "/kubepods/burstable", "/kubepods/besteffort"] {
            self.make(name)?;
        }
        self.write("/kubepods/besteffort", &Limits { shares: cgroup::shares(0), ..Limits::default() })
    }

    fn make(&self, name: &str) -> io::Result<()> {
        for (controller, dir) in self.dirs(name) {
            if let (Layout::V2(_), Some(parent)) = (&self.layout, dir.parent()) {
                fs::create_dir_all(parent)?;
                enable_controllers(parent);
            }
            fs::create_dir_all(&dir)?;
            if controller == "cpuset" {
                inherit_cpuset(&dir)?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, l: &Limits) -> io::Result<()> {
        for (controller, dir) in self.dirs(name) {
            match controller {
                "cpu" => {
                    put(&dir, "cpu.shares", &l.shares.to_string())?;
                    if l.quota_us > 0 {
                        put(&dir, "cpu.cfs_period_us", &cgroup::QUOTA_PERIOD_US.to_string())?;
                        put(&dir, "cpu.cfs_quota_us", &l.quota_us.to_string())?;
                    }
                }
                "memory" if l.memory_bytes > 0 => {
                    put(&dir, "memory.limit_in_bytes", &l.memory_bytes.to_string())?;
                }
                "unified" => {
                    put(&dir, "cpu.weight", &cgroup::weight(l.shares).to_string())?;
                    if l.quota_us > 0 {
                        put(&dir, "cpu.max", &format!("{} {}", l.quota_us, cgroup::QUOTA_PERIOD_US))?;
                    }
                    if l.memory_bytes > 0 {
                        put(&dir, "memory.max", &l.memory_bytes.to_string())?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the cgroup of a pod, with its limits.
    pub(crate) fn create(&self, pod: &Pod) -> io::Result<()> {
        let name = cgroup::of_pod(pod);
        self.make(&name)?;
        self.write(&name, &cgroup::pod_limits(pod))?;
        if self.pids > 0 {
            for (controller, dir) in self.dirs(&name) {
                if matches!(controller, "pids" | "unified") {
                    put(&dir, "pids.max", &self.pids.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Gives a class's cgroup the weight of what its pods ask for together.
    pub(crate) fn weigh<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        let milli: i64 = pods
            .filter(|p| resources::qos_of(p) == "Burstable")
            .map(|p| resources::pod_requests(p).get("cpu").copied().unwrap_or(0))
            .sum();
        let limits = Limits { shares: cgroup::shares(milli), ..Limits::default() };
        if let Err(error) = self.write("/kubepods/burstable", &limits) {
            tracing::debug!(%error, "weight of burstable pods");
        }
    }

    /// Removes the cgroup of a pod, with what a runtime left below it. Processes in it are gone by then.
    pub(crate) fn remove(&self, pod: &Pod) -> io::Result<()> {
        for (_, dir) in self.dirs(&cgroup::of_pod(pod)) {
            remove(&dir)?;
        }
        Ok(())
    }

    /// Removes cgroups of pods that `known` does not know.
    pub(crate) fn remove_orphans(&self, known: impl Fn(&str) -> bool) {
        for class in [cgroup::ROOT, "/kubepods/burstable", "/kubepods/besteffort"] {
            for (_, dir) in self.dirs(class) {
                for e in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
                    let name = e.file_name().to_string_lossy().into_owned();
                    let Some(uid) = name.strip_prefix("pod") else { continue };
                    if !known(uid)
                        && let Err(error) = remove(&e.path())
                    {
                        tracing::debug!(uid, %error, "remove orphaned cgroup");
                    }
                }
            }
        }
    }
}

fn put(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    match fs::write(&path, value) {
        // A controller that the machine lacks limits nothing; the pod runs all the same.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("write {value:?} to {}: {e}", path.display()))),
        Ok(()) => Ok(()),
    }
}

fn enable_controllers(parent: &Path) {
    for c in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
        // Each by itself, since one that is missing refuses them all.
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{c}"));
    }
}

/// A new v1 cpuset has no CPU and no memory node; it takes its parent's.
fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
        if !own.trim().is_empty() {
            continue;
        }
        if let Some(parent) = dir.parent() {
            let value = fs::read_to_string(parent.join(file)).unwrap_or_default();
            put(dir, file, value.trim())?;
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for e in entries {
        let e = e?;
        if e.file_type()?.is_dir() {
            remove(&e.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("remove cgroup {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}
