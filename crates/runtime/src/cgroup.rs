//! Control groups, version 1 (legacy and hybrid) and 2, by files: what the runtime and its shims do beyond
//! what the OCI runtime does when it creates a container.
//!
//! A group is named by its path below the mount of each controller (`/kubepods/burstable/pod…/…`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error};

/// Where control groups are mounted on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Version 1 controllers by name; empty on version 2.
    pub v1: BTreeMap<String, PathBuf>,
    /// The version 2 mount, which on a hybrid machine has no controllers.
    pub v2: Option<PathBuf>,
}

/// Resource use of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the group was made, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use with page cache, bytes.
    pub memory_usage_bytes: u64,
    /// Memory in use without the cache that can be dropped at once, bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// Limit of memory, bytes; none if unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Swap in use, bytes.
    pub swap_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Limits that can be changed while a container runs. Zero and empty leave a limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, 2 to 262144.
    pub cpu_shares: u64,
    /// Microseconds of CPU time in each period; negative means unlimited.
    pub cpu_quota: i64,
    /// Length of a period in microseconds.
    pub cpu_period: u64,
    /// CPUs, as a list.
    pub cpus: String,
    /// Memory nodes, as a list.
    pub mems: String,
    /// Bytes; negative means unlimited.
    pub memory: i64,
    /// Bytes of memory and swap together; negative means unlimited.
    pub memory_swap: i64,
    /// Files of version 2 by name.
    pub unified: BTreeMap<String, String>,
}

/// How long a group may stay busy after its processes were killed.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);

impl Cgroups {
    /// Finds the mounts in `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let mounts = std::fs::read_to_string(path).what(|| format!("read {path}"))?;
        let found = Self::parse(&mounts);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(Error::Precondition("no control groups are mounted at /sys/fs/cgroup".to_owned()));
        }
        Ok(found)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self { v1: BTreeMap::new(), v2: None };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',') {
                        if CONTROLLERS.contains(&option) || option.starts_with("name=") {
                            found.v1.entry(option.to_owned()).or_insert_with(|| mount_point.into());
                        }
                    }
                }
                (Some("cgroup2"), _) if found.v2.is_none() => found.v2 = Some(mount_point.into()),
                _ => {}
            }
        }
        found
    }

    /// Whether version 2 has the controllers.
    pub fn is_v2(&self) -> bool {
        self.v1.keys().all(|name| name.starts_with("name="))
    }

    /// The directory of a group for a controller.
    pub fn dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let group = group.trim_start_matches('/');
        if self.is_v2() {
            return Some(self.v2.as_ref()?.join(group));
        }
        Some(self.v1.get(controller)?.join(group))
    }

    fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let group = group.trim_start_matches('/');
        let mut dirs: Vec<PathBuf> = self.v1.values().map(|mount| mount.join(group)).collect();
        dirs.extend(self.v2.iter().map(|mount| mount.join(group)));
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// Moves the calling process out of the reach of a supervisor that ends services by control group: into
    /// `group` of the hierarchies that supervisors use, unless the process is in the root there already.
    ///
    /// Other hierarchies stay as they are, since each move costs a grace period of the kernel.
    pub(crate) fn leave_service(&self, group: &str) -> Result<(), Error> {
        let path = "/proc/self/cgroup";
        let own = std::fs::read_to_string(path).what(|| format!("read {path}"))?;
        for (mount, own_group) in self.supervised(&own) {
            if own_group == "/" {
                continue;
            }
            let dir = mount.join(group.trim_start_matches('/'));
            std::fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
            let procs = dir.join("cgroup.procs");
            std::fs::write(&procs, "0").what(|| format!("write {}", procs.display()))?;
        }
        Ok(())
    }

    /// The hierarchies of supervisors, and the group that `/proc/self/cgroup` says for each.
    fn supervised<'a>(&self, own: &'a str) -> Vec<(PathBuf, &'a str)> {
        let mut found = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
            let mount = match controllers {
                "" => self.v2.clone(),
                name if name.starts_with("name=") => self.v1.get(name).cloned(),
                _ => None,
            };
            found.extend(mount.map(|mount| (mount, group)));
        }
        found
    }

    /// Moves a process into the group, where it exists.
    pub fn join(&self, group: &str, pid: u32) -> io::Result<()> {
        for dir in self.dirs(group) {
            match std::fs::write(dir.join("cgroup.procs"), pid.to_string()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the group exists.
    pub fn exists(&self, group: &str) -> bool {
        self.dirs(group).iter().any(|dir| dir.exists())
    }

    /// Processes of the group and of the groups below it.
    pub fn pids(&self, group: &str) -> Vec<i32> {
        fn collect(dir: &Path, pids: &mut Vec<i32>) {
            let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    collect(&entry.path(), pids);
                }
            }
        }
        let mut pids = Vec::new();
        if let Some(dir) = self.dir("pids", group).or_else(|| self.dir("memory", group)) {
            collect(&dir, &mut pids);
        }
        pids
    }

    /// Sends SIGKILL to every process of the group.
    pub fn kill(&self, group: &str) {
        if self.is_v2()
            && let Some(dir) = self.dir("", group)
            && std::fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.pids(group) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Kills what is left in the group, and removes it with the groups below it.
    pub fn remove(&self, group: &str) -> Result<(), Error> {
        if group.trim_matches('/').is_empty() {
            return Err(Error::Invalid("the root control group is not removed".to_owned()));
        }
        // A killed process leaves its group when it is reaped, by whoever is its parent: on a busy machine that
        // takes a while.
        let until = std::time::Instant::now() + REMOVE_PATIENCE;
        for attempt in 0u32.. {
            let mut busy = None;
            for dir in self.dirs(group) {
                if let Err(e) = remove_tree(&dir) {
                    busy = Some((dir, e));
                }
            }
            match busy {
                None => return Ok(()),
                Some((dir, e))
                    if std::time::Instant::now() > until || e.kind() != io::ErrorKind::ResourceBusy =>
                {
                    return Err(e).what(|| format!("remove {}", dir.display()));
                }
                Some(_) => {
                    self.kill(group);
                    pause(Duration::from_millis(u64::from(attempt.min(10)) + 1));
                }
            }
        }
        Ok(())
    }

    /// How many processes of the group the kernel killed for want of memory.
    pub fn oom_kills(&self, group: &str) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(dir) = self.dir("memory", group) else { return 0 };
        let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        field(&text, "oom_kill").unwrap_or(0)
    }

    /// Resource use of a group.
    pub fn stats(&self, group: &str) -> Result<Stats, Error> {
        let missing = || Error::NotFound(format!("no control group {group}"));
        let memory = self.dir("memory", group).ok_or_else(missing)?;
        if !memory.exists() {
            return Err(missing());
        }
        Ok(if self.is_v2() { stats_v2(&memory) } else { self.stats_v1(group, &memory) })
    }

    fn stats_v1(&self, group: &str, memory: &Path) -> Stats {
        let mut stats = Stats::default();
        if let Some(dir) = self.dir("cpuacct", group) {
            stats.cpu_nanos = number(&dir.join("cpuacct.usage")).unwrap_or(0);
        }
        if let Some(dir) = self.dir("pids", group) {
            stats.pids = number(&dir.join("pids.current")).unwrap_or(0);
        }
        let text = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
        stats.memory_usage_bytes = number(&memory.join("memory.usage_in_bytes")).unwrap_or(0);
        let inactive = field(&text, "total_inactive_file").unwrap_or(0);
        stats.working_set_bytes = stats.memory_usage_bytes.saturating_sub(inactive);
        stats.rss_bytes = field(&text, "total_rss").unwrap_or(0);
        stats.page_faults = field(&text, "total_pgfault").unwrap_or(0);
        stats.major_page_faults = field(&text, "total_pgmajfault").unwrap_or(0);
        stats.swap_bytes = field(&text, "total_swap").unwrap_or(0);
        // "Unlimited" is the largest number of pages.
        stats.memory_limit_bytes =
            number(&memory.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 62);
        stats
    }

    /// Applies limits to a group.
    pub fn update(&self, group: &str, limits: &Limits) -> Result<(), Error> {
        let files = if self.is_v2() { limits.files_v2() } else { limits.files_v1() };
        for (controller, name, value) in files {
            let Some(dir) = self.dir(controller, group) else {
                return Err(Error::Precondition(format!("the controller {controller} is not available")));
            };
            let path = dir.join(name);
            std::fs::write(&path, &value).what(|| format!("write {value} to {}", path.display()))?;
        }
        Ok(())
    }
}

const CONTROLLERS: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

impl Limits {
    fn files_v1(&self) -> Vec<(&'static str, String, String)> {
        let mut files = Vec::new();
        let mut set =
            |controller, name: &str, value: String| files.push((controller, name.to_owned(), value));
        if self.cpu_shares > 0 {
            set("cpu", "cpu.shares", self.cpu_shares.to_string());
        }
        if self.cpu_period > 0 {
            set("cpu", "cpu.cfs_period_us", self.cpu_period.to_string());
        }
        if self.cpu_quota != 0 {
            set("cpu", "cpu.cfs_quota_us", self.cpu_quota.max(-1).to_string());
        }
        if !self.cpus.is_empty() {
            set("cpuset", "cpuset.cpus", self.cpus.clone());
        }
        if !self.mems.is_empty() {
            set("cpuset", "cpuset.mems", self.mems.clone());
        }
        if self.memory != 0 {
            set("memory", "memory.limit_in_bytes", self.memory.max(-1).to_string());
        }
        files
    }

    fn files_v2(&self) -> Vec<(&'static str, String, String)> {
        let mut files = Vec::new();
        let mut set = |name: &str, value: String| files.push(("", name.to_owned(), value));
        if self.cpu_shares > 0 {
            set("cpu.weight", weight_of_shares(self.cpu_shares).to_string());
        }
        if self.cpu_quota != 0 || self.cpu_period > 0 {
            let period = if self.cpu_period > 0 { self.cpu_period } else { 100_000 };
            let quota = if self.cpu_quota > 0 { self.cpu_quota.to_string() } else { "max".to_owned() };
            set("cpu.max", format!("{quota} {period}"));
        }
        if !self.cpus.is_empty() {
            set("cpuset.cpus", self.cpus.clone());
        }
        if !self.mems.is_empty() {
            set("cpuset.mems", self.mems.clone());
        }
        let bytes = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if self.memory != 0 {
            set("memory.max", bytes(self.memory));
        }
        if self.memory_swap != 0 {
            // Version 2 counts swap alone.
            let swap = if self.memory_swap < 0 { -1 } else { (self.memory_swap - self.memory.max(0)).max(0) };
            set("memory.swap.max", bytes(swap));
        }
        for (name, value) in &self.unified {
            set(name, value.clone());
        }
        files
    }
}

/// The weight of version 2 for shares of version 1, as the OCI runtimes map them since 2025: so that the default
/// of one, 1024, is the default of the other, 100.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10,000"
    )]
    let weight = {
        let l = (shares as f64).log2();
        10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
    };
    weight
}

fn stats_v2(dir: &Path) -> Stats {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let memory = text("memory.stat");
    let usage = number(&dir.join("memory.current")).unwrap_or(0);
    Stats {
        cpu_nanos: field(&text("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
        memory_usage_bytes: usage,
        working_set_bytes: usage.saturating_sub(field(&memory, "inactive_file").unwrap_or(0)),
        rss_bytes: field(&memory, "anon").unwrap_or(0),
        page_faults: field(&memory, "pgfault").unwrap_or(0),
        major_page_faults: field(&memory, "pgmajfault").unwrap_or(0),
        memory_limit_bytes: number(&dir.join("memory.max")),
        swap_bytes: number(&dir.join("memory.swap.current")).unwrap_or(0),
        pids: number(&dir.join("pids.current")).unwrap_or(0),
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Waits on the calling thread. Used by shims, which have no other work then, and on blocking threads.
pub(crate) fn pause(time: Duration) {
    let millis = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
    let _ = nix::poll::poll(&mut [], millis);
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_each_layout() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 25 0:27 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                      32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::parse(hybrid);
        assert!(!found.is_v2());
        assert_eq!(found.dir("cpuacct", "/a/b"), Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into()));
        assert_eq!(found.dirs("/a").len(), 4);
        let unified =
            Cgroups::parse("24 19 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(unified.is_v2());
        assert_eq!(unified.dir("memory", "/a/b"), Some("/sys/fs/cgroup/a/b".into()));
    }

    #[test]
    fn limits_in_each_version() {
        let limits = Limits {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory: 1 << 20,
            memory_swap: 1 << 20,
            ..Limits::default()
        };
        let show = |files: Vec<(&str, String, String)>| {
            files.into_iter().map(|(_, name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            show(limits.files_v1()),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=1048576"
        );
        assert_eq!(
            show(limits.files_v2()),
            "cpu.weight=100 cpu.max=50000 100000 memory.max=1048576 memory.swap.max=0"
        );
    }
}
