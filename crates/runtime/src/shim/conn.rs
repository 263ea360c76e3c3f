//! A connection from a server: requests come in, answers queue up, nothing blocks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{Reply, Request, decode, encode, receive, send};

/// Answers that may wait on one connection. A server reads all the time; one that does not is gone.
const QUEUE_MAX: usize = 4096;

/// A connection.
pub(crate) struct Conn {
    pub(crate) socket: UnixStream,
    input: Vec<u8>,
    /// Descriptors that came and belong to the next request.
    fds: Vec<OwnedFd>,
    output: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Gets every change of a container.
    pub(crate) watcher: bool,
    /// A process to kill when this connection closes.
    pub(crate) kill_on_close: Option<i32>,
    closed: bool,
}

impl Conn {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            input: Vec::new(),
            fds: Vec::new(),
            output: VecDeque::new(),
            watcher: false,
            kill_on_close: None,
            closed: false,
        })
    }

    /// Reads what is there; a whole request comes out with its descriptors.
    pub(crate) fn read(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        match receive(self.socket.as_raw_fd(), &mut self.input, &mut self.fds) {
            Ok(0) => self.closed = true,
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(_) => self.closed = true,
        }
        match decode(&mut self.input) {
            Ok(Some(request)) => Some((request, std::mem::take(&mut self.fds))),
            Ok(None) => None,
            Err(e) => {
                eprintln!("bad request: {e}");
                self.closed = true;
                None
            }
        }
    }

    /// Queues an answer and sends what the socket takes.
    pub(crate) fn reply(&mut self, reply: &Reply, fds: Vec<OwnedFd>) {
        if self.output.len() >= QUEUE_MAX {
            self.closed = true;
            return;
        }
        self.output.push_back((encode(reply), fds));
        self.write();
    }

    /// Sends what the socket takes.
    pub(crate) fn write(&mut self) {
        while let Some((bytes, fds)) = self.output.front_mut() {
            let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            match send(self.socket.as_raw_fd(), bytes, &raw) {
                Ok(n) => {
                    fds.clear();
                    bytes.drain(..n);
                    if bytes.is_empty() {
                        self.output.pop_front();
                    }
                }
                Err(nix::Error::EAGAIN) => return,
                Err(nix::Error::EINTR) => {}
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}
