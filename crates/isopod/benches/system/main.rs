//! `make bench`: the figures of the whole system next to their budgets. Nothing here passes or fails by time.
//!
//! The server is the release binary in a network namespace of its own; the load comes from this program, re-executed in
//! the same namespace, on the same machine.

mod load;
mod node;

use anyhow::{Context, Result};
use isopod_testkit::{Cluster, ClusterOptions, busybox};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One line of the report.
struct Figure {
    what: String,
    measured: String,
    budget: &'static str,
}

/// The report.
#[derive(Default)]
pub(crate) struct Report(Vec<Figure>);

impl Report {
    pub(crate) fn add(&mut self, what: impl Into<String>, measured: impl Into<String>, budget: &'static str) {
        let figure = Figure { what: what.into(), measured: measured.into(), budget };
        println!("{:<58} {:>28}   budget {}", figure.what, figure.measured, figure.budget);
        self.0.push(figure);
    }
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_isopod"))
}

fn start_times(report: &mut Report) -> Result<()> {
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    for _ in 0..5 {
        let mut cluster = Cluster::prepare(binary(), &ClusterOptions::default())?;
        for times in [&mut cold, &mut warm] {
            let begin = Instant::now();
            cluster.launch()?;
            wait_ready_by_watch(&mut cluster)?;
            times.push(begin.elapsed());
            cluster.terminate()?;
        }
    }
    report.add(
        "start to node Ready, empty data directory (median of 5)",
        millis(median(&mut cold)),
        "1 s (2 s here)",
    );
    report.add("start to node Ready, warm (median of 5)", millis(median(&mut warm)), "0.5 s");
    Ok(())
}

/// kubectl's own start takes longer than the server's, so readiness is read by this program's client.
fn wait_ready_by_watch(cluster: &mut Cluster) -> Result<()> {
    let kubeconfig = cluster.kubeconfig();
    isopod_testkit::run_ok(load::command(cluster, "ready").arg(kubeconfig)).map(drop)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

fn size(report: &mut Report) -> Result<()> {
    // What cargo builds for tests and benchmarks keeps its symbols; what `make build` makes does not.
    let stripped = tempfile::NamedTempFile::new()?;
    isopod_testkit::run_ok(std::process::Command::new("strip").arg("-o").arg(stripped.path()).arg(binary()))?;
    let bytes = std::fs::metadata(stripped.path()).context("the binary")?.len();
    report.add("binary, static", format!("{:.1} MB", bytes as f64 / 1e6), "40 MB");
    Ok(())
}

fn with_images() -> Result<Cluster> {
    let cluster = Cluster::start(binary(), &ClusterOptions::default())?;
    cluster.import(&busybox(node::IMAGE)?.write(cluster.directory.path())?)?;
    Ok(cluster)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "inside") {
        let kubeconfig = PathBuf::from(arguments.get(3).context("a kubeconfig")?);
        return load::inside(&arguments[2], &kubeconfig);
    }
    let mut report = Report::default();
    println!("isopod on {} cores; server and client share them", std::thread::available_parallelism()?);
    size(&mut report)?;
    start_times(&mut report)?;
    let cluster = with_images()?;
    node::idle(&cluster, &mut report)?;
    node::pod_start(&cluster, &mut report)?;
    load::rates(&cluster, &mut report)?;
    Ok(())
}
