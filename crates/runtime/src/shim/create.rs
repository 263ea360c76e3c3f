//! Creating a container: a child of the shim does it and reports, so that the shim itself stays as it is.
//!
//! The OCI runtime changes the process that calls it (out-of-memory score, dumpable flag, working directory,
//! memory), and it blocks; a child takes all that upon itself and ends. The container's first process is
//! made a sibling of that child, so the shim is its parent.
#![allow(unsafe_code, reason = "fork, and descriptors of the error pipe across exec")]

use std::ffi::CString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::device_filter;
use super::protocol::{Start, send};
use super::reasons;
use crate::cgroup::Cgroups;

/// What the child tells the shim; one packet each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The descriptor of the terminal comes with it.
    Terminal,
    /// The process runs its program.
    Running { pid: i32 },
    /// Nothing runs.
    Failed { message: String },
}

/// The streams that a new process gets.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Runs `work` in a child, which may report as it goes; its error becomes a last report. Answers where the reports
/// arrive, and the child.
pub(crate) fn in_child(work: impl FnOnce(&OwnedFd) -> Result<(), String>) -> std::io::Result<(OwnedFd, Pid)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the shim has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((ours, child)),
        ForkResult::Child => {
            drop(ours);
            let mut signals = nix::sys::signal::SigSet::empty();
            for restored in [nix::sys::signal::Signal::SIGCHLD, nix::sys::signal::Signal::SIGTERM] {
                signals.add(restored);
            }
            let _ = signals.thread_unblock();
            restore_signals();
            if let Err(message) = work(&theirs) {
                let _ = report(&theirs, &Report::Failed { message }, &[]);
            }
            // SAFETY: ends the child at once, without the shim's destructors.
            unsafe { nix::libc::_exit(0) }
        }
    }
}

/// Ignored signals stay ignored across exec: programs expect the defaults.
pub(crate) fn restore_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for ignored in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGINT] {
        // SAFETY: restores the default action.
        let _ = unsafe { signal(ignored, SigHandler::SigDfl) };
    }
}

/// Sends a report.
pub(crate) fn report(to: &impl AsRawFd, report: &Report, fds: &[RawFd]) -> Result<(), String> {
    let bytes = serde_json::to_vec(report).map_err(|e| e.to_string())?;
    send(to.as_raw_fd(), &bytes, fds).map(drop).map_err(|e| format!("report to the shim: {e}"))
}

/// Creates and starts a container with the built-in runtime; returns when its program runs.
pub(crate) fn create(start: &Start, stdio: Stdio, to: &OwnedFd, dir: &Path) -> Result<(), String> {
    let reasons = reasons::collect();
    build_and_start(start, stdio, to, dir).map_err(|message| {
        let reason = reasons.and_then(|mut file| reasons::first(&mut file));
        match reason {
            Some(reason) if !message.contains(&reason) => format!("{message}: {reason}"),
            _ => message,
        }
    })
}

fn build_and_start(start: &Start, stdio: Stdio, to: &OwnedFd, dir: &Path) -> Result<(), String> {
    let root = dir.join("oci");
    std::fs::create_dir_all(&root).map_err(|e| format!("create {}: {e}", root.display()))?;
    super::stage::stage(Path::new(&start.bundle), dir)?;
    // The socket's address is relative: absolute paths may be longer than addresses can be.
    std::env::set_current_dir(dir).map_err(|e| format!("enter {}: {e}", dir.display()))?;
    let console = match start.tty {
        true => {
            let name = format!("tty-{}", std::process::id());
            let listener = UnixListener::bind(&name).map_err(|e| format!("listen for the terminal: {e}"))?;
            Some((listener, dir.join(name)))
        }
        false => None,
    };
    let (status_in, status_out) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("make a pipe: {e}"))?;
    let executor = Program { status: status_out.as_raw_fd() };
    let mut builder = ContainerBuilder::new(start.id.clone(), SyscallType::Linux)
        .with_root_path(root)
        .map_err(|e| chain(&e))?
        .with_console_socket(console.as_ref().map(|(_, path)| path))
        .with_executor(executor);
    builder.stdin = stdio.stdin;
    builder.stdout = stdio.stdout;
    builder.stderr = stdio.stderr;
    let built = builder.as_init(&start.bundle).with_systemd(false).as_sibling(true).with_detach(true).build();
    let master = match &console {
        Some((listener, path)) => {
            let _ = std::fs::remove_file(path);
            built.is_ok().then(|| receive_terminal(listener)).transpose()?
        }
        None => None,
    };
    let mut container = built.map_err(|e| chain(&e))?;
    if let Some(master) = master {
        report(to, &Report::Terminal, &[master.as_raw_fd()])?;
    }
    filter_devices(start)?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or("the container has no process")?;
    container.start().map_err(|e| chain(&e))?;
    drop(status_out);
    match read_status(status_in) {
        None => report(to, &Report::Running { pid }, &[]),
        Some(message) => Err(message),
    }
}

/// On control groups version 2 devices are filtered by a program; the container does not run yet.
fn filter_devices(start: &Start) -> Result<(), String> {
    let cgroups = Cgroups::detect().map_err(|e| e.to_string())?;
    let Some(dir) = cgroups.dir("", &start.cgroup).filter(|_| cgroups.is_v2()) else { return Ok(()) };
    let spec = Spec::load(Path::new(&start.bundle).join("config.json")).map_err(|e| chain(&e))?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    if device_filter::allows_all(rules) {
        return Ok(());
    }
    device_filter::attach(&dir, rules).map_err(|e| format!("filter devices of {}: {e}", dir.display()))
}

fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, String> {
    let (socket, _) = listener.accept().map_err(|e| format!("receive the terminal: {e}"))?;
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    super::protocol::receive(socket.as_raw_fd(), &mut bytes, &mut fds)
        .map_err(|e| format!("receive the terminal: {e}"))?;
    fds.pop().ok_or_else(|| "the container sent no terminal".to_owned())
}

/// What the new process said before it became its program: nothing if all went well.
pub(crate) fn read_status(status: OwnedFd) -> Option<String> {
    let mut text = String::new();
    match std::fs::File::from(status).read_to_string(&mut text) {
        Ok(0) => None,
        Ok(_) => Some(text),
        Err(e) => Some(format!("read the status of the new process: {e}")),
    }
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let shown = error.to_string();
        if !text.contains(&shown) {
            let _ = write!(text, ": {shown}");
        }
        cause = error.source();
    }
    text
}

/// Becomes the program of the container; if that fails, says so through a pipe that exec closes.
#[derive(Clone)]
struct Program {
    status: RawFd,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args =
            spec.process().as_ref().and_then(|p| p.args().as_ref()).ok_or(ExecutorError::InvalidArg)?;
        let message = execute(args, &std::env::var("PATH").unwrap_or_default());
        let bytes = message.as_bytes();
        // SAFETY: the descriptor is the pipe's end inherited from the child of the shim.
        unsafe { nix::libc::write(self.status, bytes.as_ptr().cast(), bytes.len()) };
        // SAFETY: ends this process, which shares nothing that needs cleaning.
        unsafe { nix::libc::_exit(127) }
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // Looking for the program before it runs proves nothing; `exec` reports what is wrong.
        Ok(())
    }
}

/// Executes `args[0]`, looked for in `path` unless it has a slash. Returns only to say why not, in the words
/// that clients of other runtimes know.
pub(crate) fn execute(args: &[String], path: &str) -> String {
    let Some(program) = args.first().filter(|p| !p.is_empty()) else {
        return "no command specified".to_owned();
    };
    let c_args: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let Ok(c_args) = c_args else { return "an argument contains a zero byte".to_owned() };
    if program.contains('/') {
        let error = execv(program, &c_args);
        return format!("exec: {program:?}: stat {program}: {}: unknown", describe(error));
    }
    let mut denied = false;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        match execv(&format!("{dir}/{program}"), &c_args) {
            nix::Error::ENOENT | nix::Error::ENOTDIR => {}
            nix::Error::EACCES => denied = true,
            error => return format!("exec: {program:?}: {}: unknown", describe(error)),
        }
    }
    match denied {
        true => format!("exec: {program:?}: permission denied: unknown"),
        false => format!("exec: {program:?}: executable file not found in $PATH: unknown"),
    }
}

fn execv(path: &str, args: &[CString]) -> nix::Error {
    let Ok(path) = CString::new(path) else { return nix::Error::EINVAL };
    match nix::unistd::execv(&path, args) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn describe(error: nix::Error) -> &'static str {
    match error {
        nix::Error::ENOENT => "no such file or directory",
        nix::Error::EACCES => "permission denied",
        nix::Error::ENOEXEC => "exec format error",
        other => other.desc(),
    }
}
