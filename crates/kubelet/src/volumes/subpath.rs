//! Part of a volume as a mount of its own (`subPath`), held by a file descriptor from look-up to bind.
//!
//! The container may write the volume, so between a check of a path and its use a symlink could take the
//! place of a directory. Every step therefore goes by descriptor: the kernel resolves the sub-path inside the
//! volume's root (`openat2` with `RESOLVE_IN_ROOT`), and what it found is bound by `/proc/self/fd`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::mounts;

/// Refuses sub-paths that name anything but a way down.
pub(crate) fn check(sub_path: &str) -> Result<(), String> {
    let down =
        Path::new(sub_path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if down { Ok(()) } else { Err(format!("subPath {sub_path:?} must be relative and without \"..\"")) }
}

/// Binds `volume/sub_path` to `target` and returns `target`. Missing directories are made, with the owner and
/// group that the volume has, as upstream does.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    check(sub_path).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    if mounts::is_mount_point(target) {
        mounts::unmount_below(target).map_err(io::Error::other)?;
    }
    let found = open(volume, sub_path)?;
    let is_dir = SFlag::from_bits_truncate(fstat(&found)?.st_mode).contains(SFlag::S_IFDIR);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        drop(fs::OpenOptions::new().create(true).truncate(false).write(true).open(target)?);
    }
    let by_fd = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    mounts::bind(&by_fd, target).map_err(io::Error::other)?;
    Ok(target.to_owned())
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens the sub-path inside the volume; makes it as directories where it is missing.
fn open(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let root: OwnedFd = fs::File::open(volume)?.into();
    match openat2(&root, Path::new(sub_path), how(OFlag::O_PATH)) {
        Ok(fd) => return Ok(fd),
        Err(nix::Error::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let mode = Mode::from_bits_truncate(fstat(&root)?.st_mode & 0o7777) | Mode::S_IRWXU;
    let mut done = PathBuf::new();
    for part in Path::new(sub_path).components() {
        let parent = if done.as_os_str().is_empty() {
            openat2(&root, Path::new("."), how(OFlag::O_PATH | OFlag::O_DIRECTORY))?
        } else {
            openat2(&root, &done, how(OFlag::O_PATH | OFlag::O_DIRECTORY))?
        };
        match mkdirat(&parent, Path::new(part.as_os_str()), mode) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        done.push(part);
    }
    Ok(openat2(&root, Path::new(sub_path), how(OFlag::O_PATH))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_stay_inside() {
        let tmp = tempfile::tempdir().unwrap();
        let volume = tmp.path().join("vol");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(tmp.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("real", volume.join("in")).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("abs")).unwrap();
        assert!(open(&volume, "in").is_ok());
        assert!(open(&volume, "new/deep").is_ok() && volume.join("new/deep").is_dir());
        // `..` at the root of the volume stays there, so the link leads to a name that does not exist inside.
        assert!(open(&volume, "out").is_err());
        assert!(open(&volume, "abs/passwd").is_err());
        assert!(check("a/../b").is_err() && check("/a").is_err() && check("a/b").is_ok());
    }
}
