//! What a session is to do, and who does it.

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::Error;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Run a command in a container.
    Exec(Command),
    /// Attach to a container; `args` are empty.
    Attach(Command),
    /// Forward ports of a sandbox. The ports matter only to WebSocket clients without a tunnel.
    PortForward {
        /// The sandbox.
        sandbox: String,
        /// Ports, in the order of the client's channels.
        ports: Vec<u16>,
    },
}

/// A command, or an attachment, with the streams that the client wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// The container.
    pub container: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// A terminal: stdin, stdout and stderr are one.
    pub tty: bool,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants error output.
    pub stderr: bool,
}

/// The size of a client's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Input from a client.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Output to a client.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to a port: anything that can be read and written.
pub trait PortStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PortStream for T {}

/// The streams of a command.
pub struct Streams {
    /// Ends when the client closes it or goes away.
    pub stdin: Option<Input>,
    /// To be shut down when all was written.
    pub stdout: Option<Output>,
    /// None with a terminal.
    pub stderr: Option<Output>,
    /// Sizes of the client's terminal as they change.
    pub resize: mpsc::Receiver<TerminalSize>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

/// The answer of a backend.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Runs commands and reaches ports. A future that is dropped means that the client went away.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command to its end, and answers its exit code.
    fn exec<'a>(&'a self, command: &'a Command, streams: Streams) -> Answer<'a, i32>;

    /// Attaches to a container until it ends or the client's input does what ends it.
    fn attach<'a>(&'a self, command: &'a Command, streams: Streams) -> Answer<'a, ()>;

    /// Connects to a port inside a sandbox.
    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn PortStream>>;
}
