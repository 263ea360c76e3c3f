//! What a server and a shim say to each other on the shim's unix socket.
//!
//! A message is its length (four bytes, big endian) and JSON. Descriptors travel with the first byte of a
//! message. A connection carries one request; `Watch`, `Exec` and `Attach` then keep it for what follows.
//! The two ends may be of different versions, since shims outlive servers: fields are only ever added, and
//! [`VERSION`] changes when an old shim could not serve a new server.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub(crate) const VERSION: u32 = 1;
/// Largest message: a request to start a container names paths, an exec request holds a command.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most descriptors with one message: stdin, stdout, stderr.
pub(crate) const FDS_MAX: usize = 3;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) call: Call,
}

/// What a server asks of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// All containers, then each change, until either end closes.
    Watch,
    /// Creates and starts a container; answered by `Started`.
    Start(Start),
    /// Sends a signal to the first process of a container, or to all of its processes.
    Signal { id: String, signal: i32, all: bool },
    /// Runs a process in a container; answered by `Started` and, when it ends, `Exited`.
    Exec(Exec),
    /// Connects to the streams of a running container; answered by `Attached`, then `Exited`.
    Attach(Streams),
    /// Opens the log file anew.
    ReopenLog { id: String },
    /// Forgets a container that ended, and removes what the OCI runtime left.
    Remove { id: String },
    /// Kills everything and ends.
    Shutdown,
}

/// How to start a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) id: String,
    /// Directory with `config.json`.
    pub(crate) bundle: String,
    /// Log file; empty for none.
    pub(crate) log_path: String,
    /// The container's control group.
    pub(crate) cgroup: String,
    /// User that the process runs as: owner of its streams.
    pub(crate) uid: u32,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    /// Close stdin when the first client that attached to it leaves.
    pub(crate) stdin_once: bool,
    /// The processes of the container may outlive its first: it has no process namespace of its own.
    pub(crate) shared_pids: bool,
    /// An OCI runtime to use instead of the built-in one.
    pub(crate) oci_runtime: Option<String>,
}

/// A process to run in a container. The descriptors of its streams come with the request, in the order
/// stdin, stdout, stderr; with a terminal there are none, and the terminal's comes with the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) args: Vec<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Kill the process when the connection closes: the caller's time is up.
    pub(crate) kill_on_close: bool,
}

/// Streams of a container to connect to. Descriptors to write output to come with the request; the one for
/// input (or the terminal) comes with the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) id: String,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Failed {
        message: String,
    },
    Started {
        pid: i32,
        at_nanos: i64,
    },
    Attached,
    Exited(Exit),
    /// A container as it is now.
    State(State),
    /// All containers there were when the watch began have been sent.
    Synced,
}

/// A container as its shim sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) started_at_nanos: i64,
    pub(crate) exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Exit code; 128 and the number of the signal that ended it.
    pub(crate) code: i32,
    pub(crate) at_nanos: i64,
    pub(crate) oom_killed: bool,
}

/// How a shim is to set up its sandbox: the content of the file it is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) id: String,
    /// Directory of the shim, in which it makes `shim.sock`.
    pub(crate) dir: String,
    /// Where to pin the network namespace; none for the node's network.
    pub(crate) netns: Option<String>,
    /// A new IPC namespace (else the node's).
    pub(crate) new_ipc: bool,
    /// Host name in a new UTS namespace; none for the node's.
    pub(crate) hostname: Option<String>,
    /// One process namespace for all containers.
    pub(crate) shared_pid_namespace: bool,
    /// Kernel parameters of the new namespaces.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Control group of the shim itself.
    pub(crate) cgroup: String,
}

/// What a shim prints when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pid: i32,
    /// First process of the shared process namespace.
    pub(crate) pause_pid: Option<i32>,
}

/// Bytes of a message.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(message).expect("messages are plain data");
    let mut bytes = u32::try_from(json.len()).expect("messages are small").to_be_bytes().to_vec();
    bytes.extend(json);
    bytes
}

/// Takes a whole message off the front of `buffer`, if one is there.
pub(crate) fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other(format!("message of {length} bytes is too long")));
    }
    let Some(json) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(json).map_err(io::Error::other)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Sends as much of `bytes` as the socket takes, with descriptors.
pub(crate) fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Receives what is there, with descriptors. No bytes means that the other end closed.
pub(crate) fn receive(socket: RawFd, buffer: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    let mut chunk = [0u8; 8192];
    let mut control = cmsg_space!([RawFd; FDS_MAX]);
    let (n, received) = {
        let mut slices = [IoSliceMut::new(&mut chunk)];
        let message =
            recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut received = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = control {
                received.extend(rights);
            }
        }
        (message.bytes, received)
    };
    for fd in received {
        fds.push(own(fd));
    }
    buffer.extend_from_slice(&chunk[..n]);
    Ok(n)
}

#[allow(unsafe_code, reason = "descriptors arrive as numbers")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let sent = Request { version: VERSION, call: Call::ReopenLog { id: "x".into() } };
        let bytes = encode(&sent);
        let mut buffer = Vec::new();
        for (i, byte) in bytes.iter().enumerate() {
            assert!(decode::<Request>(&mut buffer).unwrap().is_none(), "after {i} bytes");
            buffer.push(*byte);
        }
        assert!(matches!(decode::<Request>(&mut buffer).unwrap().unwrap().call, Call::ReopenLog { .. }));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error() {
        assert!(decode::<Request>(&mut vec![0xff; 8]).is_err());
    }
}
