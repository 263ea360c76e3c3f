//! The node in this process.
use crate::config::Config;
use crate::control_plane::ControlPlane;
use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;
pub(crate) async fn start(_c: &Config, _p: &mut ControlPlane, _s: &CancellationToken) -> Result<()> {
    bail!("x")
}
pub(crate) async fn stop_everything(_d: &std::path::Path, _r: &std::path::Path, _purge: bool) -> Result<()> {
    Ok(())
}
