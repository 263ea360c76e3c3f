//! Group ownership of volumes (`fsGroup`).
//!
//! Every file gets the group, group read and write (or read only), and directories the set-group-id bit, so
//! that new files inherit the group. With `OnRootMismatch` the walk is left out when the root fits already;
//! the root is changed last, so that a walk cut short is done again.
//!
//! A container may write the volume while the walk runs, so nothing is changed by a path that was looked at
//! before: directories are opened from the volume's root by `openat2` without symbolic links, and every change
//! is made through the descriptor that was examined. What is swapped meanwhile is left alone. As a deliberate
//! difference from upstream, what is mounted inside a volume is not walked into.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, fchownat};

const RW: u32 = 0o660;
const RO: u32 = 0o440;
const EXEC_DIR: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// Gives `root` and everything below to `gid`. Symbolic links in the path of `root` itself are followed, since
/// it is the node's or the administrator's.
pub(crate) fn apply(root: &Path, gid: u32, read_only: bool, on_root_mismatch: bool) -> io::Result<()> {
    let mask = if read_only { RO } else { RW };
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let stat = fstat(&root)?;
    if on_root_mismatch {
        let want = mask | EXEC_DIR | SET_GID;
        if stat.st_gid == gid && stat.st_mode & want == want {
            return Ok(());
        }
    }
    if kind(&stat) == SFlag::S_IFDIR {
        walk(root.as_fd(), gid, mask)?;
    }
    change(root.as_fd(), gid, mask)
}

/// Changes everything below `root`, one directory open at a time: volumes may be deeper than a process may have
/// descriptors. As with any path, one longer than the kernel takes is an error.
fn walk(root: BorrowedFd<'_>, gid: u32, mask: u32) -> io::Result<()> {
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let Some(dir) = open_dir(root, &path)? else { continue };
        // The magic link leads to this very directory, wherever its name leads by now.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
            let name = entry?.file_name();
            let Some(found) = open_entry(dir.as_fd(), &name)? else { continue };
            if kind(&fstat(&found)?) == SFlag::S_IFDIR {
                pending.push(path.join(name));
            } else {
                change(found.as_fd(), gid, mask)?;
            }
        }
        if path != Path::new(".") {
            change(dir.as_fd(), gid, mask)?;
        }
    }
    Ok(())
}

/// A directory below the root; none if it is gone, or something else by now.
fn open_dir(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
        );
    loop {
        return match openat2(root, path, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP | nix::Error::EXDEV) => Ok(None),
            // A rename ran at the same time.
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

fn open_entry(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(nix::Error::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Changes the file that the descriptor stands for, and no other.
fn change(file: BorrowedFd<'_>, gid: u32, mask: u32) -> io::Result<()> {
    let stat = fstat(file)?;
    fchownat(file, "", None, Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)?;
    let more = match kind(&stat) {
        // A symbolic link has no mode of its own.
        SFlag::S_IFLNK => return Ok(()),
        SFlag::S_IFDIR => SET_GID | EXEC_DIR,
        _ => 0,
    };
    // What was examined is not a link, so the magic link ends here.
    let by_fd = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(by_fd, fs::Permissions::from_mode((stat.st_mode | mask | more) & 0o7777))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn seen(path: &Path) -> (u32, u32) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.gid(), meta.mode() & 0o7777)
    }

    /// Needs root, as the kubelet does.
    #[test]
    fn everything_below_gets_the_group() {
        let tmp = tempfile::tempdir().unwrap();
        let volume = tmp.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/f"), "").unwrap();
        fs::set_permissions(volume.join("a/b/f"), fs::Permissions::from_mode(0o4700)).unwrap();
        fs::write(tmp.path().join("outside"), "").unwrap();
        fs::set_permissions(tmp.path().join("outside"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("../outside", volume.join("link")).unwrap();
        apply(&volume, 2000, false, false).unwrap();
        assert_eq!(seen(&volume), (2000, 0o2775));
        assert_eq!(seen(&volume.join("a/b")), (2000, 0o2775));
        assert_eq!(seen(&volume.join("a/b/f")), (2000, 0o4760));
        assert_eq!(seen(&volume.join("link")).0, 2000);
        assert_eq!(seen(&tmp.path().join("outside")), (0, 0o600));
        // The root fits: nothing is looked at.
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        apply(&volume, 2000, false, true).unwrap();
        assert_eq!(seen(&volume.join("a")), (2000, 0o700));
        apply(&volume, 2001, true, true).unwrap();
        assert_eq!(seen(&volume.join("a")), (2001, 0o2750));
    }

    /// A container swaps a directory for a symbolic link all the while: nothing outside changes.
    #[test]
    fn a_swapped_directory_leads_nowhere() {
        let tmp = tempfile::tempdir().unwrap();
        let (volume, outside) = (tmp.path().join("volume"), tmp.path().join("outside"));
        for dir in [volume.join("d"), outside.clone()] {
            fs::create_dir_all(&dir).unwrap();
            for i in 0..50 {
                fs::write(dir.join(i.to_string()), "").unwrap();
                fs::set_permissions(dir.join(i.to_string()), fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        symlink(&outside, volume.join("l")).unwrap();
        let (done, swaps) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                let (d, l) = (volume.join("d"), volume.join("l"));
                while !done.load(Ordering::Relaxed) {
                    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &d, nix::fcntl::AT_FDCWD, &l, exchange)
                        .unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
            let mut walks = 0;
            while (walks < 300 || swaps.load(Ordering::Relaxed) < 3000) && std::time::Instant::now() < until {
                apply(&volume, 2000 + walks % 2, false, false).unwrap();
                walks += 1;
            }
            done.store(true, Ordering::Relaxed);
            assert!(walks >= 300, "the walk and the swaps ran side by side");
        });
        assert_eq!(seen(&outside).0, 0);
        for i in 0..50 {
            assert_eq!(seen(&outside.join(i.to_string())), (0, 0o600), "{i}");
        }
    }
}
