//! A container in its shim: its state, its log, and whoever is attached.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};

use super::create::Stdio;
use super::logs::{Log, Stream};
use super::protocol::{Exit, Start, State, Streams};

/// Output that may wait for a client that reads slowly; a client further behind is dropped, since the
/// container must not wait for it.
const SINK_BYTES_MAX: usize = 1024 * 1024;

/// A container.
pub(crate) struct Container {
    pub(crate) start: Start,
    pub(crate) state: State,
    pub(crate) log: Log,
    /// Where its output arrives; with a terminal, only the first, and it is the terminal.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    sinks: Vec<Sink>,
    /// Connections that wait for the end.
    pub(crate) attached: Vec<u64>,
}

/// A client's end of an output stream.
struct Sink {
    stream: Stream,
    fd: OwnedFd,
    waiting: VecDeque<u8>,
}

/// Our ends and the container's ends of the streams.
pub(crate) fn make_streams(start: &Start) -> io::Result<(Stdio, Stdio)> {
    let (mut ours, mut theirs) = (Stdio::default(), Stdio::default());
    if start.tty {
        return Ok((ours, theirs));
    }
    let pipe = || pipe2(OFlag::O_CLOEXEC);
    if start.stdin {
        let (read_end, write_end) = pipe()?;
        (theirs.stdin, ours.stdin) = (Some(read_end), Some(write_end));
    } else {
        theirs.stdin = Some(std::fs::File::open("/dev/null")?.into());
    }
    let (read_end, write_end) = pipe()?;
    (ours.stdout, theirs.stdout) = (Some(read_end), Some(write_end));
    let (read_end, write_end) = pipe()?;
    (ours.stderr, theirs.stderr) = (Some(read_end), Some(write_end));
    for fd in [&ours.stdin, &ours.stdout, &ours.stderr].into_iter().flatten() {
        set_nonblocking(fd)?;
    }
    Ok((ours, theirs))
}

pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Container {
    pub(crate) fn new(start: Start, pid: i32, ours: Stdio, terminal: Option<OwnedFd>, log: Log) -> Self {
        let state =
            State { id: start.id.clone(), pid, started_at_nanos: nanos(Timestamp::now()), exit: None };
        let (stdout, stdin) = match terminal {
            Some(terminal) => {
                let _ = set_nonblocking(&terminal);
                let stdin = terminal.try_clone().ok();
                (Some(terminal), stdin)
            }
            None => (ours.stdout, ours.stdin),
        };
        let stderr = ours.stderr;
        Self { start, state, log, stdout, stderr, stdin, sinks: Vec::new(), attached: Vec::new() }
    }

    /// Connects a client: takes its descriptors for output, and answers the one for input.
    pub(crate) fn attach(&mut self, streams: &Streams, fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
        let mut fds = fds.into_iter();
        for (wanted, stream) in [(streams.stdout, Stream::Stdout), (streams.stderr, Stream::Stderr)] {
            if wanted && let Some(fd) = fds.next() {
                set_nonblocking(&fd)?;
                self.sinks.push(Sink { stream, fd, waiting: VecDeque::new() });
            }
        }
        if self.start.tty {
            // For input, and to resize it.
            return self.stdin.iter().map(OwnedFd::try_clone).collect();
        }
        if !streams.stdin {
            return Ok(Vec::new());
        }
        match self.start.stdin_once {
            true => Ok(self.stdin.take().into_iter().collect()),
            false => self.stdin.iter().map(OwnedFd::try_clone).collect(),
        }
    }

    /// Moves output of a stream to the log and to clients. Answers whether more may come.
    pub(crate) fn pump(&mut self, stream: Stream) -> bool {
        let mut buffer = [0u8; 32 * 1024];
        let source = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let Some(fd) = source else { return false };
        match read(fd, &mut buffer) {
            Ok(n) if n > 0 => {
                let output = &buffer[..n];
                self.log.write(stream, output, Timestamp::now());
                self.sinks.retain_mut(|sink| sink.stream != stream || sink.push(output));
                true
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => false,
            // The end of a pipe, or of a terminal (EIO).
            Ok(_) | Err(_) => {
                self.log.flush(stream, Timestamp::now());
                match stream {
                    Stream::Stdout => self.stdout = None,
                    Stream::Stderr => self.stderr = None,
                }
                false
            }
        }
    }

    /// Descriptors of clients that have output waiting.
    pub(crate) fn waiting_sinks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.sinks.iter().filter(|sink| !sink.waiting.is_empty()).map(|sink| sink.fd.as_fd())
    }

    /// Gives clients what waits for them.
    pub(crate) fn flush_sinks(&mut self) {
        self.sinks.retain_mut(Sink::flush);
    }

    /// The container ended: takes the rest of its output, and closes everything.
    pub(crate) fn finish(&mut self, exit: Exit) {
        while self.pump(Stream::Stdout) {}
        while self.pump(Stream::Stderr) {}
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.log.flush(stream, Timestamp::now());
        }
        self.flush_sinks();
        (self.stdout, self.stderr, self.stdin) = (None, None, None);
        self.sinks.clear();
        self.state.exit = Some(exit);
    }
}

impl Sink {
    fn push(&mut self, output: &[u8]) -> bool {
        self.waiting.extend(output);
        self.flush() && self.waiting.len() <= SINK_BYTES_MAX
    }

    /// Answers whether the client is still there.
    fn flush(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match write(&self.fd, front) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(nix::Error::EAGAIN) => return true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("state", &self.state)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// Nanoseconds since 1970, which is how CRI says times.
pub(crate) fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
