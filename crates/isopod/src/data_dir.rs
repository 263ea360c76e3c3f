//! The data directory is its owner's alone: what lies in it are keys, and the state of the cluster.

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Names that a data directory of ours has.
const OURS: &[&str] = &["etcd", "kubelet", "lock", "manifests", "pki", "runtime", "server.log"];
/// What a fresh file system has.
const NOBODYS: &[&str] = &["lost+found"];

/// Makes a directory that only its owner may enter; one that is there stays as it is.
pub(crate) fn private_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make {}", path.display()))
}

/// Makes the directory with mode 0700, or takes what others may do from one that is there.
///
/// One that belongs to another user, or that others may enter and that holds something else than our data, is
/// refused and left as it is: it may be `/tmp`.
pub(crate) fn prepare(path: &Path) -> Result<()> {
    private_directory(path)?;
    let metadata = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own {
        bail!(
            "data directory {0} belongs to user {owner}, and isopod runs as user {own}: choose another, or give \
             it over (chown {own} {0})",
            path.display()
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if !is_ours(path)? {
        bail!(
            "data directory {0} has mode {mode:04o} and holds files that are not isopod's: choose another, or \
             close it to others (chmod 0700 {0})",
            path.display()
        );
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("restrict {}", path.display()))
}

/// Whether the directory is empty, or has something of ours.
fn is_ours(path: &Path) -> Result<bool> {
    let mut empty = true;
    for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let name = entry.with_context(|| format!("list {}", path.display()))?.file_name();
        if OURS.iter().any(|known| name == *known) {
            return Ok(true);
        }
        empty &= NOBODYS.iter().any(|known| name == *known);
    }
    Ok(empty)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn closed_to_others_or_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let open = |name: &str, entry: Option<&str>| {
            let path = tmp.path().join(name);
            std::fs::create_dir(&path).unwrap();
            if let Some(entry) = entry {
                std::fs::create_dir(path.join(entry)).unwrap();
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let fresh = tmp.path().join("a/b");
        prepare(&fresh).unwrap();
        assert_eq!(mode(&fresh), 0o700);
        for (name, entry) in [("empty", None), ("old", Some("pki")), ("disk", Some("lost+found"))] {
            let path = open(name, entry);
            prepare(&path).unwrap();
            assert_eq!(mode(&path), 0o700, "{name}");
        }
        let foreign = open("foreign", Some("photos"));
        let error = prepare(&foreign).unwrap_err().to_string();
        assert!(error.contains("has mode 0755 and holds files that are not isopod's"), "{error}");
        assert_eq!(mode(&foreign), 0o755);
        if geteuid().is_root() {
            let theirs = open("theirs", None);
            std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
            let error = prepare(&theirs).unwrap_err().to_string();
            assert!(error.contains("belongs to user 12345, and isopod runs as user 0"), "{error}");
            assert_eq!(mode(&theirs), 0o755);
        }
    }
}
