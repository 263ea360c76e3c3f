//! Group ownership of volumes (`fsGroup`).
//!
//! Every file gets the group, group read and write (or read only), and directories the set-group-id bit, so
//! that new files inherit the group. With `OnRootMismatch` the walk is left out when the root fits already.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const RW: u32 = 0o660;
const RO: u32 = 0o440;
const EXEC_DIR: u32 = 0o110;

/// Gives `root` and everything below to `gid`.
pub(crate) fn apply(root: &Path, gid: u32, read_only: bool, on_root_mismatch: bool) -> io::Result<()> {
    let mask = if read_only { RO } else { RW };
    if on_root_mismatch {
        let meta = fs::symlink_metadata(root)?;
        let want = mask | EXEC_DIR | 0o2000;
        if meta.gid() == gid && meta.mode() & want == want {
            return Ok(());
        }
    }
    walk(root, gid, mask)
}

fn walk(path: &Path, gid: u32, mask: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(gid))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = meta.mode() | mask;
    if meta.is_dir() {
        mode |= 0o2000 | EXEC_DIR;
        for e in fs::read_dir(path)? {
            walk(&e?.path(), gid, mask)?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}
