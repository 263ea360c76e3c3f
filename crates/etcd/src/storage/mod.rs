//! The disk as the engine sees it: a directory of flat files, with every operation whose order matters after a
//! crash made explicit.
//!
//! [`DiskStorage`] is a real directory. [`SimStorage`] is one in memory that forgets on a crash what was not
//! synced, in all the ways a disk may: the engine's crash tests run on it.

mod disk;
mod sim;

use std::io;

pub use disk::DiskStorage;
pub use sim::{Fault, SimStorage};

/// A directory of files.
pub trait Storage: Send + Sync + 'static {
    /// Names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file, or opens and empties it. Durable only after [`File::sync`] and [`Storage::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Renames a file over whatever has the new name. Durable only after [`Storage::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable only after [`Storage::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// The path that names a file in messages.
    fn path(&self, name: &str) -> String;
}

/// An open file.
pub trait File: Send {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads until `buffer` is full or the file ends; the number of bytes read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `data`.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Reserves space up to a length, filled with zeros, so that later writes neither fail for lack of it nor
    /// change metadata. A storage that cannot may do nothing.
    fn allocate(&mut self, length: u64) -> io::Result<()>;

    /// Cuts the file to a length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Makes the content durable. After an error nothing is known of what was written since the last success, and
    /// asking again proves nothing: the kernel may have dropped the pages.
    fn sync(&mut self) -> io::Result<()>;
}

/// Whether an error says that the disk is full, or the user's quota of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
