//! The server as a process: its pid file, and whether it runs.
//!
//! The pid file holds the pid and the process's start time, so that a pid taken over by another process after a
//! crash is not mistaken for ours.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the pid file in the data directory.
const PID_FILE: &str = "server.pid";

/// A process, by what identifies it for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    start: u64,
}

/// Ticks after boot at which a process started, unless it is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may contain anything, so count from its closing bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(PID_FILE)
}

impl Process {
    fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// The running server of a data directory.
    pub(crate) fn of(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path(data_dir)).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, start: start.parse().ok()? };
        process.alive().then_some(process)
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Option<u64> {
        memory(self.pid)
    }

    /// Asks the process to stop and waits; after `patience` it is killed.
    pub(crate) fn stop(&self, patience: Duration) {
        self.signal_and_wait(Signal::SIGTERM, patience);
        if self.alive() {
            self.signal_and_wait(Signal::SIGKILL, Duration::from_secs(5));
        }
    }

    fn signal_and_wait(&self, signal: Signal, patience: Duration) {
        // A process that ended between the look and the signal is what was wanted.
        let _ = kill(Pid::from_raw(self.pid), signal);
        let until = Instant::now() + patience;
        while self.alive() && Instant::now() < until {
            pause(Duration::from_millis(10));
        }
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Waits; the commands around the server have no runtime of their own.
#[allow(clippy::disallowed_methods, reason = "a command line that polls, without a runtime")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Writes the pid file of this process.
pub(crate) fn write_pid_file(data_dir: &Path) -> Result<()> {
    let pid = i32::try_from(std::process::id()).context("pid")?;
    let start = start_time(pid).context("read /proc/self/stat")?;
    let file = path(data_dir);
    isopod_pki::write_private(&file, format!("{pid} {start}\n").as_bytes())
        .with_context(|| format!("write {}", file.display()))
}

/// Removes the pid file.
pub(crate) fn remove_pid_file(data_dir: &Path) {
    let _ = std::fs::remove_file(path(data_dir));
}
