//! The whole system with real clients: the release binary, unmodified kubectl, images built from Debian's packages.
//!
//! Each test has a cluster in a network namespace of its own. They run one after the other, since the machine may have
//! two cores and what is measured is behaviour, not endurance.

mod bad_input;
mod control_plane;
mod durability;
mod images;
mod lifecycle;
mod network;
mod nodes;
mod parts;
mod pods;
mod security;
mod servers;
mod workloads;

use isopod_testkit::{Cluster, ClusterOptions, busybox};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds the machine for one test.
fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_isopod"))
}

/// Name of the busybox image in test clusters.
const BUSYBOX: &str = "test.local/busybox:1";
/// The same content under another tag, for updates.
const BUSYBOX_2: &str = "test.local/busybox:2";

/// A cluster that has the busybox images.
fn cluster() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(binary(), &ClusterOptions::default())?;
    for name in [BUSYBOX, BUSYBOX_2] {
        let mut image = busybox(name)?;
        image.env.push(format!("IMAGE_NAME={name}"));
        cluster.import(&image.write(cluster.directory.path())?)?;
    }
    Ok(cluster)
}

/// A control plane alone.
fn control_plane() -> anyhow::Result<Cluster> {
    let options = ClusterOptions { flags: vec!["--disable-agent".into()] };
    Cluster::start(binary(), &options)
}
