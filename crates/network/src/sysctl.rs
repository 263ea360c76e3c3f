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
