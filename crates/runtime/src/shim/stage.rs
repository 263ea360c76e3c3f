//! Sources of mounts, put in place by descriptor.
//!
//! The OCI runtime mounts by path, so between the kubelet's check of a `hostPath` and its mount somebody who may
//! write there could put a link in its place. Here each source is opened once; what was opened is compared with
//! what the kubelet found, cloned by that descriptor, and put where nobody else can reach: in a mount namespace
//! that only the making of this container sees, on a tmpfs of it. Clones stay peers of the mounts they are of,
//! so that propagation works in both directions as if they had been mounted from the node.
#![allow(unsafe_code, reason = "open_tree and move_mount have no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, fstat};

use crate::spec::Staged;

/// Name, in a bundle, of the list of what is to be staged.
pub(crate) const STAGED: &str = "staged.json";
/// Name, in a shim's directory, of the directory where it is put.
pub(crate) const STAGING: &str = "m";

/// As `linux/mount.h` has them.
const OPEN_TREE_CLONE: i32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: i32 = 4;

/// Puts in place what the bundle asks for. The calling process gets a mount namespace of its own if that is
/// anything; it must have one thread, and is to make the container.
pub(crate) fn stage(bundle: &Path, shim_dir: &Path) -> Result<(), String> {
    let bytes = match std::fs::read(bundle.join(STAGED)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("read {STAGED}: {e}")),
    };
    let staged: Vec<Staged> = serde_json::from_slice(&bytes).map_err(|e| format!("read {STAGED}: {e}"))?;
    // While the mounts are still the node's: only such clones propagate to them.
    let trees = staged.iter().map(clone_checked).collect::<Result<Vec<_>, _>>()?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("make a mount namespace: {e}"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(|e| format!("keep mounts from the node: {e}"))?;
    let dir = shim_dir.join(STAGING);
    std::fs::create_dir_all(&dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("isopod"), &dir, Some("tmpfs"), flags, Some("mode=0700"))
        .map_err(|e| format!("mount {}: {e}", dir.display()))?;
    for (staged, (tree, is_dir)) in staged.iter().zip(trees) {
        let target = &staged.target;
        let made = if is_dir { std::fs::create_dir(target) } else { File::create(target).map(drop) };
        made.map_err(|e| format!("create {}: {e}", target.display()))?;
        attach(&tree, target).map_err(|e| format!("mount {}: {e}", staged.source.display()))?;
    }
    Ok(())
}

/// A detached clone of the mounts at the source, and whether it is a directory.
fn clone_checked(staged: &Staged) -> Result<(OwnedFd, bool), String> {
    let shown = staged.source.display();
    let found = open(&staged.source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| format!("open {shown}: {e}"))?;
    let stat = fstat(&found).map_err(|e| format!("look at {shown}: {e}"))?;
    if staged.identity.is_some_and(|wanted| wanted != (stat.st_dev, stat.st_ino)) {
        return Err(format!("{shown} was replaced after it was checked"));
    }
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE | libc::AT_EMPTY_PATH;
    // SAFETY: the descriptor is open, and the path is an empty C string.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, found.as_raw_fd(), c"".as_ptr(), flags) };
    let tree = nix::Error::result(tree).map_err(|e| format!("clone the mounts at {shown}: {e}"))?;
    let tree = i32::try_from(tree).map_err(|e| e.to_string())?;
    // SAFETY: the descriptor was just made for us.
    Ok((unsafe { OwnedFd::from_raw_fd(tree) }, stat.st_mode & libc::S_IFMT == libc::S_IFDIR))
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(target.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: both descriptors are valid, and both paths are C strings.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            AT_FDCWD.as_raw_fd(),
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    nix::Error::result(outcome).map(drop).map_err(|e| e.to_string())
}
