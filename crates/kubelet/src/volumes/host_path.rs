//! `hostPath` volumes: the checks of each type.
//!
//! What is checked is what was opened: a path is resolved once, and its descriptor is looked at. A container gets
//! that very file or directory, since the runtime is told its device and inode and mounts nothing else; see
//! [`isopod_cri::MOUNT_IDENTITIES`].

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Device and inode.
pub(crate) type Identity = (u64, u64);

/// Checks that `path` is of the type that the volume asks for, making it for the `OrCreate` types. Answers what was
/// found, or nothing for a volume that asks for no type.
///
/// # Errors
/// Upstream's text for the event.
pub(crate) fn prepare(path: &Path, kind: &str) -> Result<Option<Identity>, String> {
    let shown = path.display();
    let (wanted, name) = match kind {
        "" => return Ok(None),
        "Directory" | "DirectoryOrCreate" => (SFlag::S_IFDIR, "a directory"),
        "File" | "FileOrCreate" => (SFlag::S_IFREG, "a file"),
        "Socket" => (SFlag::S_IFSOCK, "a socket file"),
        "CharDevice" => (SFlag::S_IFCHR, "a character device"),
        "BlockDevice" => (SFlag::S_IFBLK, "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    let failed = || format!("hostPath type check failed: {shown} is not {name}");
    let found = match (hold(path), kind) {
        (Ok(found), _) => found,
        (Err(nix::Error::ENOENT), "DirectoryOrCreate") => {
            make_dir(path).map_err(|e| format!("create {shown}: {e}"))?
        }
        (Err(nix::Error::ENOENT), "FileOrCreate") => {
            make_file(path).map_err(|e| format!("create {shown}: {e}"))?
        }
        (Err(_), _) => return Err(failed()),
    };
    let stat = fstat(&found).map_err(|_| failed())?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == wanted {
        true => Ok(Some((stat.st_dev, stat.st_ino))),
        false => Err(failed()),
    }
}

fn hold(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes a directory, and its parents, whatever the process's mask; only one that was not there gets the mode.
fn make_dir(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            let made = hold(path)?;
            // The magic link leads to what was opened, also if the name leads elsewhere by now.
            let by_fd = format!("/proc/self/fd/{}", made.as_raw_fd());
            fs::set_permissions(by_fd, fs::Permissions::from_mode(0o755))?;
            Ok(made)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(hold(path)?),
        Err(e) => Err(e),
    }
}

/// As [`make_dir`], without parents.
fn make_file(path: &Path) -> io::Result<OwnedFd> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(made) => {
            made.set_permissions(fs::Permissions::from_mode(0o644))?;
            Ok(made.into())
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(hold(path)?),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn types() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, file, socket) = (tmp.path().join("d/e"), tmp.path().join("f"), tmp.path().join("s"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let ok = |path: &Path, kind: &str| prepare(path, kind).is_ok();
        assert!(ok(&dir, "") && !ok(&dir, "Directory") && !ok(&file, "File"));
        assert!(ok(&dir, "DirectoryOrCreate") && ok(&dir, "Directory") && ok(&dir, "DirectoryOrCreate"));
        assert!(ok(&file, "FileOrCreate") && ok(&file, "File") && ok(&file, "FileOrCreate"));
        assert!(!ok(&tmp.path().join("none/f"), "FileOrCreate"));
        assert!(!ok(&file, "DirectoryOrCreate") && !ok(&dir, "FileOrCreate") && !ok(&file, "Directory"));
        assert!(ok(&socket, "Socket") && !ok(&file, "Socket") && !ok(&socket, "File"));
        assert!(ok(Path::new("/dev/null"), "CharDevice") && !ok(Path::new("/dev/null"), "BlockDevice"));
        assert_eq!(prepare(&file, "Other").unwrap_err(), "Other is an invalid volume type");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&dir), mode(&file)), (0o755, 0o644));
        // What was there keeps its mode, and a link is what it leads to.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, tmp.path().join("l")).unwrap();
        let found = fs::metadata(&file).unwrap();
        assert_eq!(prepare(&tmp.path().join("l"), "FileOrCreate"), Ok(Some((found.dev(), found.ino()))));
        assert_eq!(mode(&file), 0o600);
    }
}
