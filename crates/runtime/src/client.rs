//! The server's side of the talk with shims.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, Interest};
use tokio::net::UnixStream;

use crate::error::{Context, Error};
use crate::shim::protocol::{Call, Exec, Exit, Ready, Reply, Request, Setup, Start, Streams, VERSION};
use crate::shim::protocol::{decode, encode, receive, send};
use crate::shim::{SETUP, SOCKET};

/// Longest answer of a starting shim.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A shim, known by the directory of its socket.
#[derive(Debug, Clone)]
pub(crate) struct ShimClient {
    dir: PathBuf,
}

/// A connection on which answers arrive.
#[derive(Debug)]
pub(crate) struct Replies {
    socket: UnixStream,
    buffer: Vec<u8>,
    /// Descriptors that came with answers.
    pub(crate) fds: Vec<OwnedFd>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Ready(Ready),
    Failed { error: String },
}

impl ShimClient {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Starts the shim of a new sandbox, and returns when it serves.
    pub(crate) async fn launch(exe: &Path, args: &[String], setup: &Setup) -> Result<(Self, Ready), Error> {
        let client = Self::new(Path::new(&setup.dir));
        let path = client.dir.join(SETUP);
        let bytes = serde_json::to_vec(setup).map_err(Error::invalid)?;
        std::fs::write(&path, bytes).what(|| format!("write {}", path.display()))?;
        let mut child = tokio::process::Command::new(exe)
            .args(args)
            .arg(&client.dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .what(|| format!("start {}", exe.display()))?;
        let mut text = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = tokio::io::BufReader::new(stdout.take(ANSWER_BYTES_MAX));
            lines.read_line(&mut text).await.what(|| "read the answer of the shim".to_owned())?;
        }
        child.wait().await.what(|| "wait for the shim".to_owned())?;
        match serde_json::from_str(text.trim()) {
            Ok(Answer::Ready(ready)) => Ok((client, ready)),
            Ok(Answer::Failed { error }) => Err(Error::Shim(format!("set up the sandbox: {error}"))),
            Err(_) => Err(Error::Shim(format!("the shim answered {text:?}"))),
        }
    }

    async fn request(&self, call: Call, fds: &[RawFd]) -> Result<Replies, Error> {
        let what = || format!("reach the shim in {}", self.dir.display());
        // Through a descriptor the address is short however long the state directory's path is.
        let dir = std::fs::File::open(&self.dir).what(what)?;
        let address = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        let socket = UnixStream::connect(address).await.what(what)?;
        let bytes = encode(&Request { version: VERSION, call });
        let mut sent = 0;
        while sent < bytes.len() {
            let fds = if sent == 0 { fds } else { &[] };
            sent += socket
                .async_io(Interest::WRITABLE, || {
                    send(socket.as_raw_fd(), &bytes[sent..], fds).map_err(std::io::Error::from)
                })
                .await
                .what(what)?;
        }
        Ok(Replies { socket, buffer: Vec::new(), fds: Vec::new() })
    }

    /// A request that is answered at once.
    async fn call(&self, call: Call) -> Result<Reply, Error> {
        self.request(call, &[]).await?.next().await?.checked()
    }

    /// All containers, and then every change.
    pub(crate) async fn watch(&self) -> Result<Replies, Error> {
        self.request(Call::Watch, &[]).await
    }

    /// Starts a container; answers its process and the time.
    pub(crate) async fn start(&self, start: Start) -> Result<(i32, i64), Error> {
        match self.call(Call::Start(start)).await? {
            Reply::Started { pid, at_nanos } => Ok((pid, at_nanos)),
            other => Err(unexpected(&other)),
        }
    }

    /// Signals a container.
    pub(crate) async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        self.call(Call::Signal { id: id.to_owned(), signal, all }).await.map(drop)
    }

    /// Opens a container's log anew.
    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.call(Call::ReopenLog { id: id.to_owned() }).await.map(drop)
    }

    /// Forgets a container that ended.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Error> {
        self.call(Call::Remove { id: id.to_owned() }).await.map(drop)
    }

    /// Ends the shim and everything in the sandbox.
    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        self.call(Call::Shutdown).await.map(drop)
    }

    /// Runs a process; the descriptors are those of its streams. With a terminal, its descriptor comes back.
    pub(crate) async fn exec(&self, exec: Exec, fds: &[RawFd]) -> Result<Replies, Error> {
        let mut replies = self.request(Call::Exec(exec), fds).await?;
        match replies.next().await?.checked()? {
            Reply::Started { .. } => Ok(replies),
            other => Err(unexpected(&other)),
        }
    }

    /// Attaches to a container; a descriptor for its input comes back.
    pub(crate) async fn attach(&self, streams: Streams, fds: &[RawFd]) -> Result<Replies, Error> {
        let mut replies = self.request(Call::Attach(streams), fds).await?;
        match replies.next().await?.checked()? {
            Reply::Attached => Ok(replies),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Shim(format!("unexpected answer of the shim: {reply:?}"))
}

impl Reply {
    fn checked(self) -> Result<Self, Error> {
        match self {
            Self::Failed { message } => Err(Error::Shim(message)),
            other => Ok(other),
        }
    }
}

impl Replies {
    /// The next answer. An error means that the shim is gone.
    pub(crate) async fn next(&mut self) -> Result<Reply, Error> {
        let gone = |e: std::io::Error| Error::Shim(format!("the shim is gone: {e}"));
        loop {
            if let Some(reply) = decode(&mut self.buffer).map_err(gone)? {
                return Ok(reply);
            }
            let Self { socket, buffer, fds } = self;
            let n = socket
                .async_io(Interest::READABLE, || {
                    receive(socket.as_raw_fd(), buffer, fds).map_err(std::io::Error::from)
                })
                .await
                .map_err(gone)?;
            if n == 0 {
                return Err(gone(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Waits for the end of the process.
    pub(crate) async fn exited(&mut self) -> Result<Exit, Error> {
        loop {
            match self.next().await?.checked()? {
                Reply::Exited(exit) => return Ok(exit),
                Reply::Done | Reply::Attached | Reply::Started { .. } => {}
                other => return Err(unexpected(&other)),
            }
        }
    }
}

/// Runs blocking work off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::Shim(format!("blocking task: {e}"))),
    }
}
