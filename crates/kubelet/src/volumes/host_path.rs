//! `hostPath` volumes: the checks of each type.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks that `path` is of the type that the volume asks for, making it for the `OrCreate` types.
///
/// # Errors
/// Upstream's text for the event.
pub(crate) fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let meta = fs::metadata(path);
    let exists = meta.is_ok();
    let is = |f: fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| f(&m.file_type()));
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match kind {
        "" => Ok(()),
        "Directory" if is(fs::FileType::is_dir) => Ok(()),
        "Directory" => fail("a directory"),
        "DirectoryOrCreate" if is(fs::FileType::is_dir) => Ok(()),
        "DirectoryOrCreate" if exists => fail("a directory"),
        "DirectoryOrCreate" => make_dir(path).map_err(|e| format!("create {}: {e}", path.display())),
        "File" if is(fs::FileType::is_file) => Ok(()),
        "File" => fail("a file"),
        "FileOrCreate" if is(fs::FileType::is_file) => Ok(()),
        "FileOrCreate" if exists => fail("a file"),
        "FileOrCreate" => make_file(path).map_err(|e| format!("create {}: {e}", path.display())),
        "Socket" if is(FileTypeExt::is_socket) => Ok(()),
        "Socket" => fail("a socket file"),
        "CharDevice" if is(FileTypeExt::is_char_device) => Ok(()),
        "CharDevice" => fail("a character device"),
        "BlockDevice" if is(FileTypeExt::is_block_device) => Ok(()),
        "BlockDevice" => fail("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn make_file(path: &Path) -> std::io::Result<()> {
    drop(fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, file) = (tmp.path().join("d"), tmp.path().join("f"));
        assert!(prepare(&dir, "").is_ok() && prepare(&dir, "Directory").is_err());
        assert!(prepare(&dir, "DirectoryOrCreate").is_ok() && prepare(&dir, "Directory").is_ok());
        assert!(prepare(&file, "File").is_err() && prepare(&file, "FileOrCreate").is_ok());
        assert!(prepare(&file, "DirectoryOrCreate").is_err());
        assert!(prepare(&file, "Socket").is_err() && prepare(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(prepare(&file, "Other").is_err());
    }
}
