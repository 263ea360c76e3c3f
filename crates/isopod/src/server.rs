//! `isopod server`: control plane and node in one process.

use crate::cli::ServerArgs;
use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::{agent, data_dir, process, server_log};
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Time that the parts have to stop after they were asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// Time to wait for another server's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Keeps a second server off the same data.
fn lock(config: &Config) -> Result<Flock<File>> {
    let path = config.data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    // A server that was just killed holds its lock until the kernel has taken it apart.
    let until = Instant::now() + LOCK_PATIENCE;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < until => {
                file = back;
                process::pause(Duration::from_millis(20));
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("data directory {} is in use by another server", config.data_dir.display())
            }
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
}

/// Waits for the signal to stop.
pub(crate) async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Runs until a signal or until a part fails.
pub(crate) async fn run(args: ServerArgs) -> Result<()> {
    let config = Config::load(args)?;
    if config.agent && !nix::unistd::geteuid().is_root() {
        bail!("running containers needs root (--disable-agent runs the control plane alone)");
    }
    data_dir::prepare(&config.data_dir)?;
    let _lock = lock(&config)?;
    process::write_pid_file(&config.data_dir)?;
    let shutdown = CancellationToken::new();
    let _cancel = shutdown.clone().drop_guard();
    tokio::spawn(server_log::keep_bounded(config.data_dir.clone(), shutdown.clone()));
    crate::cluster::prepare(&config).await?;
    let mut plane = ControlPlane::start(&config, &shutdown).await?;
    if config.agent {
        agent::start(&config, &mut plane, &shutdown).await?;
    }
    let failed = tokio::select! {
        signal = stop_signal() => {
            signal?;
            info!("stopping");
            None
        }
        ended = plane.parts.join_next() => Some(ended),
    };
    shutdown.cancel();
    let stopped = async { while plane.parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIME_MAX, stopped).await.is_err() {
        warn!("some parts did not stop within {STOP_TIME_MAX:?}");
    }
    plane.api.stop();
    plane.api.flush_audit();
    process::remove_pid_file(&config.data_dir);
    match failed {
        None => Ok(()),
        Some(Some(Ok(Ok(())))) | Some(None) => bail!("a part ended unasked"),
        Some(Some(Ok(Err(error)))) => Err(error),
        Some(Some(Err(panic))) => Err(panic).context("a part panicked"),
    }
}
