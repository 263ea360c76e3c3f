//! The log of a server that `isopod up` has started. The server itself keeps it from filling the disk: at
//! [`BYTES_MAX`] it begins a new file, and it keeps [`OLD_FILES_MAX`] old ones.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Size from which a new file is begun.
const BYTES_MAX: u64 = 32 << 20;
/// Files beside the one that is written: `server.log.1` is the newest of them.
const OLD_FILES_MAX: u32 = 2;
/// How often the size is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where the log is.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.log")
}

/// Opens the log to append to it.
pub(crate) fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Begins new files as needed while the server runs, if its standard error is the log: a server in the
/// foreground, or under a supervisor, writes elsewhere.
pub(crate) async fn keep_bounded(data_dir: PathBuf, shutdown: CancellationToken) {
    let path = path(&data_dir);
    if !is_stderr(&path) {
        return;
    }
    let mut turns = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = rotate(&path, BYTES_MAX, redirect) {
            warn!(error = format!("{error:#}"), "begin a new log");
        }
    }
}

fn is_stderr(path: &Path) -> bool {
    let (Ok(log), Ok(stderr)) = (std::fs::metadata(path), nix::sys::stat::fstat(std::io::stderr())) else {
        return false;
    };
    log.is_file() && log.dev() == stderr.st_dev && log.ino() == stderr.st_ino
}

/// What is written from now on goes to the file.
fn redirect(log: &File) -> Result<()> {
    nix::unistd::dup2_stdout(log).context("redirect the standard output")?;
    nix::unistd::dup2_stderr(log).context("redirect the standard error")
}

/// Begins a new file if the log has reached its size, and answers whether it did.
fn rotate(path: &Path, bytes_max: u64, redirect: impl Fn(&File) -> Result<()>) -> Result<bool> {
    if std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len() < bytes_max {
        return Ok(false);
    }
    let old = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    for n in (1..OLD_FILES_MAX).rev() {
        // The first times there is none.
        let _ = std::fs::rename(old(n), old(n + 1));
    }
    std::fs::rename(path, old(1)).with_context(|| format!("rename {}", path.display()))?;
    redirect(&open(path)?)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::cell::RefCell;
    use std::io::Write;

    #[test]
    fn the_newest_files_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let path = path(tmp.path());
        let log = RefCell::new(open(&path).unwrap());
        let follow = |file: &File| {
            *log.borrow_mut() = file.try_clone()?;
            Ok(())
        };
        for n in 0..40 {
            writeln!(log.borrow_mut(), "line {n:02}").unwrap();
            rotate(&path, 80, follow).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(tmp.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["server.log", "server.log.1", "server.log.2"]);
        // Ten lines fill a file; nothing is lost between files, and each is its owner's alone.
        let read = |suffix: &str| std::fs::read_to_string(format!("{}{suffix}", path.display())).unwrap();
        assert!(read(".2").starts_with("line 20\n") && read(".1").ends_with("line 39\n"));
        assert_eq!((read(".1").lines().count(), read("").as_str()), (10, ""));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn another_standard_error_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        drop(open(&path(tmp.path())).unwrap());
        assert!(!is_stderr(&path(tmp.path())));
    }
}
