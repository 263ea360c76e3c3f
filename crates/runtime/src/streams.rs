//! Exec, attach and port-forward with streams: what the streaming server does to containers.
#![allow(unsafe_code, reason = "the size of a terminal is set by system call")]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::OptionFuture;
use isopod_cri::{BoxedIo, Error as CriError, StreamingDial};
use isopod_streaming::{
    Answer, Backend, Command, Error as StreamError, Input, Output, PortStream, Session, Streams, TerminalSize,
};
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::unistd::pipe2;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use crate::client::Replies;
use crate::error::{Context, Error};
use crate::processes::output_pipe;
use crate::runtime::{Inner, Runtime};
use crate::shim::protocol::{Exec, Streams as Wanted};

/// Output may come for so long after a process ended, from children that keep its streams open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// A port inside a pod is near: it accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 32 * 1024;

/// The runtime as the streaming server sees it. Weak, since the runtime holds the server.
pub(crate) struct Processes(pub(crate) Weak<Inner>);

fn failed(error: impl std::fmt::Display) -> StreamError {
    StreamError::Backend(error.to_string())
}

impl Processes {
    fn inner(&self) -> Result<Arc<Inner>, StreamError> {
        self.0.upgrade().ok_or_else(|| failed("the runtime is shutting down"))
    }
}

impl Backend for Processes {
    fn exec<'a>(&'a self, command: &'a Command, streams: Streams) -> Answer<'a, i32> {
        Box::pin(async move {
            let inner = self.inner()?;
            if command.tty {
                inner.exec_terminal(command, streams).await.map_err(failed)
            } else {
                inner.exec_pipes(command, streams).await.map_err(failed)
            }
        })
    }

    fn attach<'a>(&'a self, command: &'a Command, streams: Streams) -> Answer<'a, ()> {
        Box::pin(async move { self.inner()?.attach(command, streams).await.map_err(failed) })
    }

    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn PortStream>> {
        Box::pin(async move {
            let stream = self.inner()?.connect(sandbox, port).await.map_err(failed)?;
            Ok(Box::new(stream) as Box<dyn PortStream>)
        })
    }
}

#[async_trait]
impl StreamingDial for Runtime {
    async fn dial(&self, _url: &str) -> Result<BoxedIo, CriError> {
        Ok(Box::new(self.inner.streaming()?.dial()))
    }
}

/// A terminal as seen from outside.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> Result<Self, Error> {
        crate::shim::set_nonblocking(&fd).what(|| "use the terminal".to_owned())?;
        // SAFETY: the descriptor is owned, so it stays open and the same for as long as it is registered.
        let registered = unsafe { AsyncFd::register(fd) };
        registered.map(Self).map_err(std::io::Error::from).what(|| "use the terminal".to_owned())
    }

    /// Nothing more comes when this answers zero.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            let Ok(mut guard) = self.0.readable().await else { return 0 };
            match guard.try_io(|fd| nix::unistd::read(fd.get_ref(), buffer).map_err(std::io::Error::from)) {
                Ok(outcome) => return outcome.unwrap_or(0),
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            if let Ok(outcome) =
                guard.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(std::io::Error::from))
            {
                bytes = &bytes[outcome?..];
            }
        }
        Ok(())
    }

    fn resize(&self, size: TerminalSize) {
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request takes a pointer to a winsize that it reads. A terminal that is gone needs no size.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }

    /// Follows the client's size and input until the client has no more input.
    async fn feed(&self, stdin: Option<Input>, mut sizes: mpsc::Receiver<TerminalSize>) {
        let input = async {
            let Some(mut stdin) = stdin else { return };
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(n) = stdin.read(&mut buffer).await {
                if n == 0 || self.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        };
        let resizes = async {
            while let Some(size) = sizes.recv().await {
                self.resize(size);
            }
        };
        tokio::join!(input, resizes);
    }
}

/// Copies output to the client until it ends, and lets the client see the end.
async fn copy_out(mut from: Receiver, to: Option<Output>) {
    let Some(mut to) = to else { return };
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// Copies input until it ends; the pipe is closed then.
async fn copy_in(from: Option<Input>, to: Option<Sender>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

/// Waits for the end of a process while its streams are copied, and then for the rest of its output.
async fn until_exit(
    mut replies: Replies,
    input: impl Future<Output = ()>,
    output: impl Future<Output = ()>,
) -> Result<i32, Error> {
    tokio::pin!(input, output);
    let (mut input_done, mut output_done) = (false, false);
    let exit = loop {
        tokio::select! {
            exit = replies.exited() => break exit?,
            () = &mut input, if !input_done => input_done = true,
            () = &mut output, if !output_done => output_done = true,
        }
    };
    if !output_done {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, output).await;
    }
    Ok(exit.code)
}

impl Inner {
    async fn exec_pipes(&self, command: &Command, streams: Streams) -> Result<i32, Error> {
        let container = self.container(&command.container)?;
        let mut theirs: Vec<OwnedFd> = Vec::new();
        let mut to_stdin = None;
        if command.stdin {
            let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).what(|| "make a pipe".to_owned())?;
            theirs.push(read_end);
            to_stdin = Some(Sender::from_owned_fd(write_end).what(|| "make a pipe".to_owned())?);
        }
        let mut output = |wanted: bool| -> Result<Option<Receiver>, Error> {
            if !wanted {
                return Ok(None);
            }
            let (receiver, fd) = output_pipe()?;
            theirs.push(fd);
            Ok(Some(receiver))
        };
        let (stdout, stderr) = (output(command.stdout)?, output(command.stderr)?);
        let exec = Exec {
            id: container.id.clone(),
            args: command.args.clone(),
            tty: false,
            stdin: command.stdin,
            stdout: command.stdout,
            stderr: command.stderr,
            kill_on_close: false,
        };
        let numbers: Vec<_> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let replies = container.sandbox.shim.exec(exec, &numbers).await?;
        drop(theirs);
        let outputs = async {
            let stdout = OptionFuture::from(stdout.map(|pipe| copy_out(pipe, streams.stdout)));
            let stderr = OptionFuture::from(stderr.map(|pipe| copy_out(pipe, streams.stderr)));
            tokio::join!(stdout, stderr);
        };
        until_exit(replies, copy_in(streams.stdin, to_stdin), outputs).await
    }

    async fn exec_terminal(&self, command: &Command, streams: Streams) -> Result<i32, Error> {
        let container = self.container(&command.container)?;
        let exec = Exec {
            id: container.id.clone(),
            args: command.args.clone(),
            tty: true,
            stdin: false,
            stdout: false,
            stderr: false,
            kill_on_close: false,
        };
        let mut replies = container.sandbox.shim.exec(exec, &[]).await?;
        let terminal =
            replies.fds.pop().ok_or_else(|| Error::Shim("the shim sent no terminal".to_owned()))?;
        let terminal = Terminal::new(terminal)?;
        let output = async {
            let Some(mut stdout) = streams.stdout else { return };
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let n = terminal.read(&mut buffer).await;
                if n == 0 || stdout.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
            let _ = stdout.shutdown().await;
        };
        until_exit(replies, terminal.feed(streams.stdin, streams.resize), output).await
    }

    async fn attach(&self, command: &Command, streams: Streams) -> Result<(), Error> {
        let container = self.container(&command.container)?;
        let tty = container.config.read().tty;
        let wanted = Wanted {
            id: container.id.clone(),
            stdin: command.stdin,
            stdout: command.stdout,
            stderr: command.stderr && !tty,
        };
        let mut theirs = Vec::new();
        let mut output = |wanted: bool| -> Result<Option<Receiver>, Error> {
            if !wanted {
                return Ok(None);
            }
            let (receiver, fd) = output_pipe()?;
            theirs.push(fd);
            Ok(Some(receiver))
        };
        let (stdout, stderr) = (output(wanted.stdout)?, output(wanted.stderr)?);
        let numbers: Vec<_> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let mut replies = container.sandbox.shim.attach(wanted, &numbers).await?;
        drop(theirs);
        let to_container = replies.fds.pop();
        let outputs = async {
            let stdout = OptionFuture::from(stdout.map(|pipe| copy_out(pipe, streams.stdout)));
            let stderr = OptionFuture::from(stderr.map(|pipe| copy_out(pipe, streams.stderr)));
            tokio::join!(stdout, stderr);
        };
        if tty {
            let terminal = to_container.ok_or_else(|| Error::Shim("the shim sent no terminal".to_owned()))?;
            let terminal = Terminal::new(terminal)?;
            let stdin = streams.stdin.filter(|_| command.stdin);
            until_exit(replies, terminal.feed(stdin, streams.resize), outputs).await?;
        } else {
            let to_stdin = to_container
                .map(Sender::from_owned_fd)
                .transpose()
                .what(|| "use the input of the container".to_owned())?;
            until_exit(replies, copy_in(streams.stdin, to_stdin), outputs).await?;
        }
        Ok(())
    }

    /// Connects to a port on the loopback interface of a sandbox.
    pub(crate) async fn connect(&self, sandbox: &str, port: u16) -> Result<tokio::net::TcpStream, Error> {
        let sandbox = self.sandbox(sandbox)?;
        if !sandbox.is_ready() {
            return Err(Error::Precondition(format!("sandbox {} is not running", sandbox.id)));
        }
        let netns = sandbox.record.lock().netns.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own: one that has entered a namespace must do nothing else afterwards.
        std::thread::Builder::new()
            .name("port-forward".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || drop(sender.send(connect_in(netns.as_deref(), port))))
            .what(|| "start a thread".to_owned())?;
        let stream = receiver.await.map_err(|_| Error::Shim("the connecting thread ended".to_owned()))??;
        tokio::net::TcpStream::from_std(stream).what(|| "use the connection".to_owned())
    }

    /// The URL of a session.
    pub(crate) fn session_url(&self, session: Session) -> Result<String, CriError> {
        self.streaming()?.url(session).ok_or_else(|| {
            CriError::resource_exhausted("too many streaming sessions were asked for and not begun")
        })
    }
}

fn connect_in(netns: Option<&str>, port: u16) -> Result<std::net::TcpStream, Error> {
    if let Some(path) = netns {
        let file = std::fs::File::open(path).what(|| format!("open {path}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).what(|| format!("enter {path}"))?;
    }
    let connect = |ip: std::net::IpAddr| {
        std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIMEOUT)
    };
    let stream = connect(std::net::Ipv4Addr::LOCALHOST.into())
        .or_else(|e| connect(std::net::Ipv6Addr::LOCALHOST.into()).map_err(|_| e))
        .what(|| format!("connect to localhost:{port} inside the pod"))?;
    stream.set_nonblocking(true).what(|| "use the connection".to_owned())?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
