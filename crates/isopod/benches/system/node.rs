//! What the node costs and how fast it starts pods.

use crate::{Report, load};
use anyhow::{Context, Result};
use isopod_testkit::Cluster;
use std::time::Duration;

/// Image of the pods that are started.
pub(crate) const IMAGE: &str = "bench.local/busybox:1";
/// Time over which an idle server is watched.
const IDLE_SECONDS: u64 = 60;
/// Time for the first work of a fresh server to be over.
const SETTLE_SECONDS: u64 = 10;

#[allow(clippy::disallowed_methods, reason = "measures what happens while nothing is done")]
fn wait(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Processor time of a process in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// A field of a `name: value` file of /proc, in its own unit.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.trim_start_matches(':').split_whitespace().next().context("a number")?.parse()?)
}

/// Memory, processor and disk of a server that has nothing to do.
pub(crate) fn idle(cluster: &Cluster, report: &mut Report) -> Result<()> {
    wait(SETTLE_SECONDS);
    let pid = cluster.pid()?;
    let (cpu, written) = (cpu_seconds(pid)?, field(&format!("/proc/{pid}/io"), "write_bytes")?);
    wait(IDLE_SECONDS);
    let cpu = (cpu_seconds(pid)? - cpu) / IDLE_SECONDS as f64 * 100.0;
    let written = (field(&format!("/proc/{pid}/io"), "write_bytes")? - written) * 3600 / IDLE_SECONDS;
    let memory = field(&format!("/proc/{pid}/status"), "VmRSS")?;
    report.add(
        "idle, resident memory",
        format!("{:.1} MiB", memory as f64 / 1024.0),
        "64 MiB (100 MiB here)",
    );
    report.add(format!("idle, CPU over {IDLE_SECONDS} s"), format!("{cpu:.2} % of a core"), "0.5 %");
    report.add("idle, disk writes", format!("{:.1} MB an hour", written as f64 / 1e6), "10 MB an hour");
    Ok(())
}

/// From the creation of a pod to the moment a client sees its container running.
pub(crate) fn pod_start(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let output = isopod_testkit::run_ok(load::command(cluster, "pods").arg(cluster.kubeconfig()))?;
    for line in output.lines() {
        let (what, figure) = line.split_once('\t').context("two columns")?;
        report.add(what, figure, if what.contains("p50") { "100 ms (300 ms here)" } else { "500 ms" });
    }
    Ok(())
}
