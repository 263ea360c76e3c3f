//! Private files: atomic writes with owner-only access.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(io("create directory", path))
}

/// Writes a file of mode 0600 so that after a crash either the old or the new content is there, whole.
///
/// # Errors
/// When the directory is not writable or the disk is full; the old content is then untouched.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = write_synced(&temporary, content).and_then(|()| {
        fs::rename(&temporary, path).map_err(io("rename into place", path))?;
        sync_parent(path)
    });
    if written.is_err() {
        // Best effort: the error that matters is the one reported.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", path)(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // `create_new` refuses a link that somebody put in the way.
    let mut file =
        options.write(true).create_new(true).mode(FILE_MODE).open(path).map_err(io("create", path))?;
    file.write_all(content).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io("sync directory", parent))
}

/// The content, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// The text, or `None` when there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let corrupt = |_| Error::Corrupt { path: path.to_owned(), reason: "it is not text".into() };
    read(path)?.map(String::from_utf8).transpose().map_err(corrupt)
}
