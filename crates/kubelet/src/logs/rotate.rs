//! Rotation of container logs, so that one container cannot fill the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1;
use isopod_podplan::observed::ContainerState;
use jiff::Timestamp;

use crate::container_config::log_path;
use crate::kubelet::Kubelet;
use crate::sandbox_config::log_directory;

/// How often sizes are looked at, as upstream does it. A look is one `stat` a running container.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rotates logs until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let mut timer = tokio::time::interval(INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        for p in kubelet.pods.list() {
            let logs = log_directory(&kubelet, &p.pod());
            for c in p.view().observed.containers {
                if c.state != ContainerState::Running {
                    continue;
                }
                let path = logs.join(log_path(&c.name, c.attempt));
                let size = fs::metadata(&path).map_or(0, |m| m.len());
                if size > kubelet.config.container_log_max_bytes
                    && let Err(error) = rotate(&kubelet, &path, &c.id).await
                {
                    tracing::warn!(path = %path.display(), %error, "rotate log");
                }
            }
        }
    }
}

async fn rotate(kubelet: &Kubelet, path: &Path, id: &str) -> io::Result<()> {
    // One place is the live file's.
    trim(path, kubelet.config.container_log_max_files - 2)?;
    let rotated = rotated_name(path, kubelet.now());
    fs::rename(path, &rotated)?;
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = kubelet.runtime.reopen_container_log(request).await {
        // The runtime goes on writing to the old file: it must keep its name.
        fs::rename(&rotated, path)?;
        return Err(io::Error::other(error.message));
    }
    Ok(())
}

fn rotated_name(path: &Path, now: Timestamp) -> PathBuf {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    name.into()
}

/// Rotated files of a log, the oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut out: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    out.sort();
    out
}

/// Removes all rotated files but the newest `keep`.
fn trim(path: &Path, keep: usize) -> io::Result<()> {
    let list = rotated(path);
    for old in &list[..list.len().saturating_sub(keep)] {
        fs::remove_file(old)?;
    }
    Ok(())
}

/// Removes a log with its rotated files.
pub(crate) fn remove_all(path: &Path) {
    for old in rotated(path).iter().map(PathBuf::as_path).chain([path]) {
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for n in ["0.log", "0.log.20260101-000000", "0.log.20260102-000000", "1.log.20260101-000000"] {
            fs::write(dir.path().join(n), "").unwrap();
        }
        trim(&path, 1).unwrap();
        assert_eq!(rotated(&path), [dir.path().join("0.log.20260102-000000")]);
        remove_all(&path);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let name = rotated_name(&path, Timestamp::from_second(0).unwrap());
        assert!(name.ends_with("0.log.19700101-000000"));
    }
}
