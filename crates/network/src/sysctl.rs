//! Kernel settings under `/proc/sys`, of the network namespace of the calling thread.

use crate::Error;
use std::io;
use std::path::Path;

/// Sets `net/…` to `value` unless it is that already (so that a read-only `/proc/sys` with right values is fine).
pub(crate) fn set(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    let current = std::fs::read_to_string(&path)?;
    if current.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value)
}

/// [`set`], naming the file on failure.
pub(crate) fn require(name: &str, value: &str) -> Result<(), Error> {
    set(name, value).map_err(Error::io("set", Path::new("/proc/sys").join(name)))
}

/// Whether `net/…` has `value`, or could be given it. Changes nothing.
pub(crate) fn settable(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::OpenOptions::new().write(true).open(&path).map(drop)
}
