//! The shim's loop: one thread, one `poll`, nothing in it blocks.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::conn::Conn;
use super::container::{Container, make_streams, nanos};
use super::create::{Report, Stdio, create, in_child};
use super::exec::{Target, exec};
use super::logs::{Log, Stream};
use super::protocol::{Call, Exec, Exit, Reply, Request, Start, Streams, VERSION, receive};
use crate::cgroup::{Cgroups, pause};

/// Ends of processes that nobody claimed yet; an end may be seen before the report that names the process.
const UNCLAIMED_MAX: usize = 1024;

/// How long the ends of killed children are waited for; the server waits longer for the answer.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A shim at work.
pub(crate) struct Shim {
    dir: PathBuf,
    listener: UnixListener,
    signals: SignalFd,
    cgroups: Cgroups,
    pause: Option<Pid>,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    containers: BTreeMap<String, Container>,
    jobs: Vec<Job>,
    /// Connections that wait for the end of a process started by exec, by process.
    execs: BTreeMap<i32, u64>,
    unclaimed: Vec<(i32, Exit)>,
    finished: bool,
}

/// A child of the shim that starts a process.
struct Job {
    pid: Pid,
    reports: OwnedFd,
    conn: u64,
    terminal: Option<OwnedFd>,
    work: Work,
}

enum Work {
    Start { start: Start, ours: Stdio, log: Log },
    Exec { request: Exec },
}

/// What a descriptor in the poll set is.
#[derive(Clone)]
enum Token {
    Listener,
    Signals,
    Conn(u64),
    Job(usize),
    Output(String, Stream),
    Sinks(String),
}

impl Shim {
    pub(crate) fn new(dir: &Path, listener: UnixListener, pause: Option<Pid>) -> Result<Self, String> {
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        mask.thread_block().map_err(|e| format!("block signals: {e}"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|e| format!("receive signals: {e}"))?;
        Ok(Self {
            dir: dir.to_owned(),
            listener,
            signals,
            cgroups: Cgroups::detect().map_err(|e| e.to_string())?,
            pause,
            conns: BTreeMap::new(),
            next_conn: 0,
            containers: BTreeMap::new(),
            jobs: Vec::new(),
            execs: BTreeMap::new(),
            unclaimed: Vec::new(),
            finished: false,
        })
    }

    /// Serves until told to end.
    pub(crate) fn run(mut self) {
        while !self.finished {
            for token in self.wait() {
                self.handle(token);
            }
            self.drop_closed();
        }
        // What was answered last must arrive.
        for conn in self.conns.values_mut() {
            let _ = conn.socket.set_nonblocking(false);
            conn.write();
        }
    }

    fn wait(&self) -> Vec<Token> {
        let mut tokens = vec![Token::Listener, Token::Signals];
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::new(fd, flags));
        };
        for (id, conn) in &self.conns {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, conn.wants_write());
            add(Token::Conn(*id), conn.socket.as_fd(), flags);
        }
        for (i, job) in self.jobs.iter().enumerate() {
            add(Token::Job(i), job.reports.as_fd(), PollFlags::POLLIN);
        }
        for (id, container) in &self.containers {
            for (stream, fd) in [(Stream::Stdout, &container.stdout), (Stream::Stderr, &container.stderr)] {
                if let Some(fd) = fd {
                    add(Token::Output(id.clone(), stream), fd.as_fd(), PollFlags::POLLIN);
                }
            }
            for fd in container.waiting_sinks() {
                add(Token::Sinks(id.clone()), fd, PollFlags::POLLOUT);
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Vec::new(),
            Err(e) => {
                eprintln!("poll: {e}");
                return Vec::new();
            }
        }
        let ready = fds.iter().zip(&tokens).filter(|(fd, _)| fd.any().unwrap_or(true));
        let mut ready: Vec<Token> = ready.map(|(_, token)| token.clone()).collect();
        // Jobs are removed from their list while handled: the last one first keeps the numbers right.
        ready.sort_by_key(|token| match token {
            Token::Job(i) => std::cmp::Reverse(*i + 1),
            _ => std::cmp::Reverse(0),
        });
        ready
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => {
                while let Ok((socket, _)) = self.listener.accept() {
                    if let Ok(conn) = Conn::new(socket) {
                        self.conns.insert(self.next_conn, conn);
                        self.next_conn += 1;
                    }
                }
            }
            Token::Signals => self.signals(),
            Token::Conn(id) => {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                conn.write();
                if let Some((request, fds)) = conn.read() {
                    self.request(id, request, fds);
                }
            }
            Token::Job(i) => self.job(i),
            Token::Output(id, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.pump(stream);
                }
            }
            Token::Sinks(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.flush_sinks();
                }
            }
        }
    }

    fn drop_closed(&mut self) {
        let closed: Vec<u64> = self.conns.iter().filter(|(_, c)| c.is_closed()).map(|(id, _)| *id).collect();
        for id in closed {
            let Some(conn) = self.conns.remove(&id) else { continue };
            if let Some(pid) = conn.kill_on_close
                && self.execs.contains_key(&pid)
            {
                // It leads a process group of its own.
                let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    fn reply(&mut self, conn: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.reply(reply, fds);
        }
    }

    fn fail(&mut self, conn: u64, message: impl std::fmt::Display) {
        self.reply(conn, &Reply::Failed { message: message.to_string() }, Vec::new());
    }

    fn request(&mut self, conn: u64, request: Request, fds: Vec<OwnedFd>) {
        if request.version != VERSION {
            return self
                .fail(conn, format!("the shim speaks protocol {VERSION}, the server {}", request.version));
        }
        match request.call {
            Call::Watch => self.watch(conn),
            Call::Start(start) => self.start(conn, start),
            Call::Exec(request) => self.exec(conn, request, fds),
            Call::Attach(streams) => self.attach(conn, &streams, fds),
            Call::Signal { id, signal, all } => match self.signal(&id, signal, all) {
                Ok(()) => self.reply(conn, &Reply::Done, Vec::new()),
                Err(message) => self.fail(conn, message),
            },
            Call::ReopenLog { id } => match self.containers.get_mut(&id).map(|c| c.log.reopen()) {
                Some(Ok(())) => self.reply(conn, &Reply::Done, Vec::new()),
                Some(Err(e)) => self.fail(conn, format!("open the log: {e}")),
                None => self.fail(conn, format!("no container {id}")),
            },
            Call::Remove { id } => {
                if self.containers.get(&id).is_some_and(|c| c.state.exit.is_none()) {
                    return self.fail(conn, format!("container {id} is running"));
                }
                self.containers.remove(&id);
                let _ = std::fs::remove_dir_all(self.dir.join("oci").join(&id));
                self.reply(conn, &Reply::Done, Vec::new());
            }
            Call::Shutdown => {
                self.end_children();
                self.reply(conn, &Reply::Done, Vec::new());
                self.finished = true;
            }
        }
    }

    /// Kills containers, also those that are being made, and waits for the ends of all children: whoever asked
    /// for it takes away what they work in.
    fn end_children(&self) {
        let until = std::time::Instant::now() + END_PATIENCE;
        // Once, since an id that was reaped may become another process's.
        for job in &self.jobs {
            let _ = kill(job.pid, Signal::SIGKILL);
        }
        loop {
            for container in self.containers.values().filter(|c| c.state.exit.is_none()) {
                self.cgroups.kill(&container.start.cgroup);
                let _ = kill(Pid::from_raw(container.state.pid), Signal::SIGKILL);
            }
            for job in &self.jobs {
                if let Work::Start { start, .. } = &job.work {
                    self.cgroups.kill(&start.cgroup);
                }
            }
            if let Some(pause) = self.pause {
                let _ = kill(pause, Signal::SIGKILL);
            }
            loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::StillAlive) if std::time::Instant::now() < until => break,
                    Ok(WaitStatus::StillAlive) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            pause(Duration::from_millis(2));
        }
    }

    fn watch(&mut self, id: u64) {
        let states: Vec<_> = self.containers.values().map(|c| c.state.clone()).collect();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.watcher = true;
        for state in states {
            conn.reply(&Reply::State(state), Vec::new());
        }
        conn.reply(&Reply::Synced, Vec::new());
    }

    fn start(&mut self, conn: u64, start: Start) {
        let starting =
            |job: &Job| matches!(&job.work, Work::Start { start: other, .. } if other.id == start.id);
        if self.containers.contains_key(&start.id) || self.jobs.iter().any(starting) {
            return self.fail(conn, format!("container {} was started before", start.id));
        }
        let log = match Log::open(&start.log_path) {
            Ok(log) => log,
            Err(e) => return self.fail(conn, format!("open the log {}: {e}", start.log_path)),
        };
        let (ours, theirs) = match make_streams(&start) {
            Ok(streams) => streams,
            Err(e) => return self.fail(conn, format!("make the streams: {e}")),
        };
        for pipe in [&theirs.stdout, &theirs.stderr].into_iter().flatten() {
            // So that a program may open /dev/stdout by name.
            let _ = nix::unistd::fchown(pipe, Some(nix::unistd::Uid::from_raw(start.uid)), None);
        }
        let dir = self.dir.clone();
        let child = in_child(|to| match &start.oci_runtime {
            Some(runtime) => super::external::create(runtime, &start, theirs, to, &dir),
            None => create(&start, theirs, to, &dir),
        });
        match child {
            Ok((reports, pid)) => {
                let work = Work::Start { start, ours, log };
                self.jobs.push(Job { pid, reports, conn, terminal: None, work });
            }
            Err(e) => self.fail(conn, format!("fork: {e}")),
        }
    }

    fn exec(&mut self, conn: u64, request: Exec, fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get(&request.id).filter(|c| c.state.exit.is_none()) else {
            return self.fail(conn, format!("container {} is not running", request.id));
        };
        let target = Target {
            pid: container.state.pid,
            bundle: &container.start.bundle,
            cgroup: &container.start.cgroup,
        };
        let mut fds = fds.into_iter();
        let mut take = |wanted: bool| if wanted { fds.next() } else { None };
        let stdio =
            Stdio { stdin: take(request.stdin), stdout: take(request.stdout), stderr: take(request.stderr) };
        match in_child(|to| exec(&request, &target, stdio, to)) {
            Ok((reports, pid)) => {
                self.jobs.push(Job { pid, reports, conn, terminal: None, work: Work::Exec { request } });
            }
            Err(e) => self.fail(conn, format!("fork: {e}")),
        }
    }

    fn attach(&mut self, conn: u64, streams: &Streams, fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(&streams.id).filter(|c| c.state.exit.is_none()) else {
            return self.fail(conn, format!("container {} is not running", streams.id));
        };
        match container.attach(streams, fds) {
            Ok(input) => {
                container.attached.push(conn);
                self.reply(conn, &Reply::Attached, input);
            }
            Err(e) => self.fail(conn, format!("attach: {e}")),
        }
    }

    fn signal(&self, id: &str, signal: i32, all: bool) -> Result<(), String> {
        let container = self.containers.get(id).ok_or_else(|| format!("no container {id}"))?;
        if container.state.exit.is_some() {
            return Ok(());
        }
        if all {
            if signal == Signal::SIGKILL as i32 {
                self.cgroups.kill(&container.start.cgroup);
            } else {
                for pid in self.cgroups.pids(&container.start.cgroup) {
                    let _ = super::sandbox::send_signal(pid, signal);
                }
            }
        }
        match super::sandbox::send_signal(container.state.pid, signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(e) => Err(format!("signal container {id}: {e}")),
        }
    }

    /// A report of a child arrived.
    fn job(&mut self, i: usize) {
        let Some(job) = self.jobs.get_mut(i) else { return };
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let report = match receive(job.reports.as_raw_fd(), &mut bytes, &mut fds) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
            Ok(0) | Err(_) => {
                Report::Failed { message: "the process ended before it ran its program".into() }
            }
            Ok(_) => serde_json::from_slice(&bytes)
                .unwrap_or_else(|e| Report::Failed { message: format!("report: {e}") }),
        };
        match report {
            Report::Terminal => job.terminal = fds.pop(),
            Report::Failed { message } => {
                let job = self.jobs.swap_remove(i);
                if let Work::Start { start, .. } = &job.work {
                    self.cgroups.kill(&start.cgroup);
                    let _ = std::fs::remove_dir_all(self.dir.join("oci").join(&start.id));
                }
                self.fail(job.conn, message);
            }
            Report::Running { pid } => {
                let job = self.jobs.swap_remove(i);
                self.running(job, pid);
            }
        }
    }

    fn running(&mut self, job: Job, pid: i32) {
        let mut started = Reply::Started { pid, at_nanos: nanos(Timestamp::now()) };
        match job.work {
            Work::Start { start, ours, log } => {
                let id = start.id.clone();
                let container = Container::new(start, pid, ours, job.terminal, log);
                if let Reply::Started { at_nanos, .. } = &mut started {
                    *at_nanos = container.state.started_at_nanos;
                }
                self.containers.insert(id.clone(), container);
                self.reply(job.conn, &started, Vec::new());
                self.publish(&id);
            }
            Work::Exec { request } => {
                self.execs.insert(pid, job.conn);
                match self.conns.get_mut(&job.conn) {
                    Some(conn) => {
                        conn.kill_on_close = request.kill_on_close.then_some(pid);
                        conn.reply(&started, job.terminal.into_iter().collect());
                    }
                    None if request.kill_on_close => {
                        let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
                    }
                    None => {}
                }
            }
        }
        if let Some(i) = self.unclaimed.iter().position(|(other, _)| *other == pid) {
            let (_, exit) = self.unclaimed.swap_remove(i);
            self.ended(pid, exit);
        }
    }

    fn signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            // A shim ends by request only: a stray SIGTERM must not take a pod down.
            if info.ssi_signo == Signal::SIGCHLD as u32 {
                self.reap();
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.ended(pid.as_raw(), Exit { code, at_nanos: nanos(Timestamp::now()), oom_killed: false });
        }
    }

    fn ended(&mut self, pid: i32, mut exit: Exit) {
        if let Some(conn) = self.execs.remove(&pid) {
            return self.reply(conn, &Reply::Exited(exit), Vec::new());
        }
        let found = self.containers.iter().find(|(_, c)| c.state.pid == pid && c.state.exit.is_none());
        let Some(id) = found.map(|(id, _)| id.clone()) else {
            if !self.jobs.is_empty() && self.unclaimed.len() < UNCLAIMED_MAX {
                self.unclaimed.push((pid, exit));
            } else if self.jobs.is_empty() {
                self.unclaimed.clear();
            }
            return;
        };
        let Some(container) = self.containers.get_mut(&id) else { return };
        exit.oom_killed = self.cgroups.oom_kills(&container.start.cgroup) > 0;
        if container.start.shared_pids {
            self.cgroups.kill(&container.start.cgroup);
        }
        container.finish(exit.clone());
        for conn in std::mem::take(&mut container.attached) {
            self.reply(conn, &Reply::Exited(exit.clone()), Vec::new());
        }
        self.publish(&id);
    }

    /// Tells watchers how a container is now.
    fn publish(&mut self, id: &str) {
        let Some(state) = self.containers.get(id).map(|c| c.state.clone()) else { return };
        for conn in self.conns.values_mut().filter(|conn| conn.watcher) {
            conn.reply(&Reply::State(state.clone()), Vec::new());
        }
    }
}
