//! The process's own figures, from /proc, under the names that every exporter uses.

use std::sync::LazyLock;

use prometheus::{Gauge, register_gauge};

macro_rules! gauges {
    ($($name:ident = $metric:literal, $help:literal;)*) => {
        $(static $name: LazyLock<Gauge> = LazyLock::new(|| {
            register_gauge!($metric, $help).expect("a metric is registered once")
        });)*
    };
}

gauges! {
    CPU = "process_cpu_seconds_total", "Seconds of processor time used.";
    RESIDENT = "process_resident_memory_bytes", "Bytes of memory that are resident.";
    VIRTUAL = "process_virtual_memory_bytes", "Bytes of address space.";
    OPEN_FDS = "process_open_fds", "Open file descriptors.";
    MAX_FDS = "process_max_fds", "Most file descriptors that may be open.";
    START = "process_start_time_seconds", "When the process began, in seconds since 1970.";
}

/// Reads the figures. What cannot be read stays as it was.
pub(super) fn look() {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        if let (Some(ticks), Some(page), Some(figures)) = (ticks_per_second, page, Figures::parse(&stat)) {
            CPU.set(figures.cpu_ticks / ticks as f64);
            VIRTUAL.set(figures.virtual_bytes);
            RESIDENT.set(figures.resident_pages * page as f64);
            if let Some(boot) = boot_time() {
                START.set(boot + figures.start_ticks / ticks as f64);
            }
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        OPEN_FDS.set(files.count() as f64);
    }
    if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        MAX_FDS.set(soft as f64);
    }
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq)]
struct Figures {
    cpu_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Figures {
    fn parse(stat: &str) -> Option<Figures> {
        // The second field, the program's name, may contain anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        // Fields are counted from 1, and the first here is the third.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Figures {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 9 0 5000 1000000 250 1844";
        let figures =
            Figures { cpu_ticks: 42.0, start_ticks: 5000.0, virtual_bytes: 1e6, resident_pages: 250.0 };
        assert_eq!(Figures::parse(stat), Some(figures));
        assert_eq!(Figures::parse("7 (a) S 1"), None);
    }
}
