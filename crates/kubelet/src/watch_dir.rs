//! Changes of a directory or file by inotify, as a future.
//!
//! What changed is not told: callers look at everything anew, as everywhere in the kubelet.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Room for some dozens of events with names.
const BUFFER: usize = 4096;

/// A watch on one path.
pub(crate) struct DirWatch(Receiver);

impl DirWatch {
    /// Watches `path` for the events of `flags` from now on.
    pub(crate) fn new(path: &Path, flags: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(path, flags)?;
        // An inotify descriptor is polled and read like the reading end of a pipe.
        let file = File::from(inotify.as_fd().try_clone_to_owned()?);
        Ok(Self(Receiver::from_file_unchecked(file)?))
    }

    /// Waits for the next change, and takes what has come.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut buffer) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Forgets changes that have come already.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0; BUFFER];
        while self.0.try_read(&mut buffer).is_ok() {}
    }
}
