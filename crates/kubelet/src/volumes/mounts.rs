//! Mounting and unmounting below a pod's directory.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mount that could not be made or undone.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}")]
pub(crate) struct MountError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn fail(what: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> MountError {
    let path = path.to_owned();
    move |e| MountError { what, path, source: e.into() }
}

/// Mounts a tmpfs, unless one is there already.
pub(crate) fn tmpfs(path: &Path, size_bytes: Option<u64>) -> Result<(), MountError> {
    if is_mount_point(path) {
        return Ok(());
    }
    let options = match size_bytes {
        Some(size) => format!("mode=0755,size={size}"),
        None => "mode=0755".to_owned(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(fail("mount tmpfs on", path))
}

/// Makes what is at `from` visible at `to` as well.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), MountError> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(fail("bind to", to))
}

/// Whether something is mounted at exactly that path.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    below(path).iter().any(|p| p == path)
}

/// Mount points at or below a path, the deepest first.
pub(crate) fn below(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut out: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(root))
        .collect();
    out.reverse();
    out.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    out
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Unmounts everything at or below a path. What is busy is detached: it goes when its last user does.
pub(crate) fn unmount_below(root: &Path) -> Result<(), MountError> {
    for path in below(root) {
        match umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(_) => umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(fail("unmount", &path))?,
        }
    }
    Ok(())
}

/// Removes a directory tree that holds no mount; refuses if one is left, since it might be the user's data.
pub(crate) fn remove_tree(root: &Path) -> io::Result<()> {
    if let Some(left) = below(root).first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match std::fs::remove_dir_all(root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
