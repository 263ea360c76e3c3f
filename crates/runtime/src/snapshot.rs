//! Root file systems: an overlay of an image's layers and a container's own directory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::error::{Context, Error};

/// The kernel takes mount options in one page.
const OPTIONS_BYTES_MAX: usize = 4095;

/// The directories of a container's root file system.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    dir: PathBuf,
}

impl Snapshot {
    /// The snapshot in the container's directory.
    pub(crate) fn new(container_dir: &Path) -> Self {
        Self { dir: container_dir.to_owned() }
    }

    /// Where the root file system is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// What the container wrote.
    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Makes the directories and mounts the overlay. `layers` are names below `layers_root`, the top first.
    pub(crate) fn mount(&self, layers_root: &Path, layers: &[u64]) -> Result<(), Error> {
        for name in ["rootfs", "upper", "work"] {
            let dir = self.dir.join(name);
            std::fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.upper(), mode).what(|| "set the mode of the root".to_owned())?;
        overlay(layers_root, layers, Some(&self.dir), &self.rootfs())
    }

    /// Unmounts; succeeds if nothing is mounted.
    pub(crate) fn unmount(&self) -> Result<(), Error> {
        unmount(&self.rootfs())
    }
}

/// Mounts layers at `target`, writable if there is a directory with `upper` and `work`.
pub(crate) fn overlay(
    layers_root: &Path,
    layers: &[u64],
    writable: Option<&Path>,
    target: &Path,
) -> Result<(), Error> {
    let what = || format!("mount the root file system at {}", target.display());
    // Through a descriptor a layer's path is a few bytes however long the data directory's is.
    let root = File::open(layers_root).what(what)?;
    let number = root.as_raw_fd();
    let mut lower: Vec<String> =
        layers.iter().map(|layer| format!("/proc/self/fd/{number}/{layer}")).collect();
    let empty;
    let mut options = String::new();
    let dir = match writable {
        Some(dir) => Some((File::open(dir).what(what)?, dir)),
        None => None,
    };
    if lower.is_empty() {
        // An image without layers: overlayfs wants one.
        empty = layers_root.join("0");
        std::fs::create_dir_all(&empty).what(what)?;
        lower.push(format!("/proc/self/fd/{number}/0"));
    }
    if let Some((dir, _)) = &dir {
        let number = dir.as_raw_fd();
        options = format!(",upperdir=/proc/self/fd/{number}/upper,workdir=/proc/self/fd/{number}/work");
    } else if lower.len() == 1 {
        // Without an upper directory overlayfs wants two: the layer itself does as a bind mount.
        let source = layers_root.join(layers.first().map_or_else(|| "0".to_owned(), u64::to_string));
        mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).what(what)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        return mount(None::<&str>, target, None::<&str>, flags, None::<&str>).what(what);
    }
    let options = format!("lowerdir={}{options}", lower.join(":"));
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(Error::TooLarge(format!("{}: the image has too many layers", what())));
    }
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).what(what)
}

/// Unmounts everything at `target`; succeeds if nothing is mounted or it does not exist.
pub(crate) fn unmount(target: &Path) -> Result<(), Error> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(e) => return Err(e).what(|| format!("unmount {}", target.display())),
        }
    }
}

/// Makes a directory below `root`, whose symbolic links are followed as if `root` were `/`.
pub(crate) fn make_dir_inside(root: &Path, path: &str) -> Result<(), Error> {
    let what = || format!("make directory {path:?} in the container");
    let root_fd = OwnedFd::from(File::open(root).what(what)?);
    let mut dir = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => {
                let parent = open_inside(root_fd.as_fd(), &dir).what(what)?;
                match nix::sys::stat::mkdirat(&parent, part, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(nix::Error::EEXIST) => dir.push(part),
                    Err(e) => return Err(e).what(what),
                }
            }
            Component::ParentDir => drop(dir.pop()),
            _ => {}
        }
    }
    Ok(())
}

/// A path below a mounted image, checked to lie there.
pub(crate) fn inside(root: &Path, path: &str) -> Result<PathBuf, Error> {
    let mut out = root.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(Error::Invalid(format!("path {path:?} leaves the image"))),
        }
        let metadata = std::fs::symlink_metadata(&out).what(|| format!("read {path:?} in the image"))?;
        if metadata.file_type().is_symlink() {
            return Err(Error::Invalid(format!("path {path:?} goes through a symbolic link of the image")));
        }
    }
    Ok(out)
}

fn open_inside(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}
