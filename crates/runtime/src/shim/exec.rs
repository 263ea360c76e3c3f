//! Running a further process in a container.
//!
//! Written here rather than left to the OCI runtime: libcontainer runs such processes without the
//! container's seccomp filter. The order of the steps matters: control group and score while the node's
//! files are in sight; then all namespaces in one call; then a fork, since only children enter a process
//! namespace; then terminal, rights, filter, program.
#![allow(unsafe_code, reason = "namespaces, terminals and capabilities by system call")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, LinuxNamespaceType, Process, Spec};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat, makedev};
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, pipe2, setsid};

use super::create::{Report, Stdio, execute, read_status, report};
use super::protocol::Exec;
use crate::cgroup::Cgroups;

/// The container to run in.
pub(crate) struct Target<'a> {
    pub(crate) pid: i32,
    pub(crate) bundle: &'a str,
    pub(crate) cgroup: &'a str,
}

/// Runs in a child of the shim: starts the process, and reports.
pub(crate) fn exec(request: &Exec, target: &Target<'_>, stdio: Stdio, to: &OwnedFd) -> Result<(), String> {
    let spec = Spec::load(Path::new(target.bundle).join("config.json"))
        .map_err(|e| format!("read the container's configuration: {e}"))?;
    let process = spec.process().as_ref().ok_or("the container's configuration has no process")?;
    let cgroups = Cgroups::detect().map_err(|e| e.to_string())?;
    cgroups
        .join(target.cgroup, std::process::id())
        .map_err(|e| format!("enter the container's control group: {e}"))?;
    if let Some(score) = process.oom_score_adj() {
        // Lowering needs a privilege that the machine may not give; the process then keeps the shim's.
        let _ = File::options()
            .write(true)
            .open("/proc/self/oom_score_adj")
            .and_then(|mut file| file.write_all(score.to_string().as_bytes()));
    }
    for rlimit in process.rlimits().iter().flatten() {
        set_rlimit(rlimit)?;
    }
    enter_namespaces(&spec, target.pid)?;
    let (status_in, status_out) = pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("make a pipe: {e}"))?;
    // SAFETY: without a stack and with one thread, clone is fork; the child's parent is the shim.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        -1 => Err(format!("fork: {}", nix::Error::last())),
        0 => {
            drop(status_in);
            let message = match become_process(request, &spec, process, stdio, to) {
                Ok(never) => match never {},
                Err(message) => message,
            };
            let _ = File::from(status_out).write_all(message.as_bytes());
            // SAFETY: ends the child.
            unsafe { libc::_exit(127) }
        }
        pid => {
            drop(status_out);
            drop(stdio);
            match read_status(status_in) {
                None => report(to, &Report::Running { pid: i32::try_from(pid).unwrap_or(-1) }, &[]),
                Some(message) => Err(message),
            }
        }
    }
}

fn enter_namespaces(spec: &Spec, pid: i32) -> Result<(), String> {
    // SAFETY: a system call that makes a descriptor.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if pidfd < 0 {
        return Err(format!("the container is not running: {}", nix::Error::last()));
    }
    let number = i32::try_from(pidfd).unwrap_or(-1);
    // SAFETY: the descriptor was just made for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(number) };
    let mut flags = CloneFlags::empty();
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    for namespace in namespaces.into_iter().flatten() {
        flags |= match namespace.typ() {
            LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
            LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
            LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
            LinuxNamespaceType::Time => CloneFlags::empty(),
        };
    }
    setns(pidfd, flags).map_err(|e| format!("enter the container's namespaces: {e}"))
}

fn set_rlimit(rlimit: &libcontainer::oci_spec::runtime::PosixRlimit) -> Result<(), String> {
    use libcontainer::syscall::syscall::create_syscall;
    create_syscall().set_rlimit(rlimit).map_err(|e| format!("set limit: {e}"))
}

enum Never {}

fn become_process(
    request: &Exec,
    spec: &Spec,
    process: &Process,
    stdio: Stdio,
    to: &OwnedFd,
) -> Result<Never, String> {
    setsid().map_err(|e| format!("start a session: {e}"))?;
    let user = process.user();
    if request.tty {
        terminal(user.uid(), to)?;
    } else {
        streams(stdio, user.uid())?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    let at_first = enter(process.cwd());
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let filter = || match seccomp {
        Some(seccomp) => libcontainer::seccomp::initialize_seccomp(seccomp)
            .map(drop)
            .map_err(|e| format!("set the seccomp filter: {e}")),
        None => Ok(()),
    };
    if !no_new_privileges {
        // Allowed only while privileged.
        filter()?;
    }
    take_rights(process)?;
    if let Err(e) = at_first {
        // A directory of another machine may be closed to root and open to the user.
        enter(process.cwd())
            .map_err(|_| format!("chdir to cwd ({:?}) set in config.json failed: {e}", process.cwd()))?;
    }
    verify_working_dir()?;
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(|e| format!("forbid new privileges: {e}"))?;
        filter()?;
    }
    let path = set_environment(process, request.tty);
    // SAFETY: marks every descriptor beyond stdio to be closed by exec; they stay usable until then.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Err(execute(&request.args, &path))
}

/// Enters a directory of the container. The container may have put links in its way: those of procfs, which
/// lead to whatever descriptors this process has, are not followed, and all others end inside of the root.
fn enter(dir: &Path) -> nix::Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    fchdir(openat2(root, dir, how)?)
}

/// The kernel says no path from the root for a directory outside of it.
fn verify_working_dir() -> Result<(), String> {
    match nix::unistd::getcwd() {
        Ok(dir) if dir.is_absolute() => Ok(()),
        _ => Err("the working directory is outside of the container's root".to_owned()),
    }
}

/// Opens the container's null device. The container owns `/dev`: what is there is checked to be the real one
/// before it is opened, since opening another device may do something.
fn open_null() -> Result<OwnedFd, String> {
    let failed = |e: nix::Error| format!("open /dev/null: {e}");
    let found = open("/dev/null", OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed)?;
    let stat = fstat(&found).map_err(failed)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != makedev(1, 3) {
        return Err("open /dev/null: it is not the null device".to_owned());
    }
    let number = found.as_raw_fd();
    // Where the container has hidden procfs, what was examined cannot be opened, and nothing else is.
    let null =
        open(format!("/proc/self/fd/{number}").as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(failed)?;
    match fstat(&null) {
        Ok(opened) if opened.st_rdev == stat.st_rdev && opened.st_ino == stat.st_ino => Ok(null),
        _ => Err("open /dev/null: it is not the null device".to_owned()),
    }
}

fn streams(stdio: Stdio, uid: u32) -> Result<(), String> {
    let null = open_null()?;
    let failed = |e: nix::Error| format!("connect the streams: {e}");
    for pipe in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        // So that a program may open /dev/stdout by name.
        let _ = nix::unistd::fchown(pipe, Some(Uid::from_raw(uid)), None);
    }
    dup2_stdin(stdio.stdin.as_ref().unwrap_or(&null).as_fd()).map_err(failed)?;
    dup2_stdout(stdio.stdout.as_ref().unwrap_or(&null).as_fd()).map_err(failed)?;
    dup2_stderr(stdio.stderr.as_ref().unwrap_or(&null).as_fd()).map_err(failed)
}

/// Makes a terminal in the container's own devpts and reports it. The container owns `/dev`, so what is
/// opened there is checked to be the real thing.
fn terminal(uid: u32, to: &OwnedFd) -> Result<(), String> {
    const DEVPTS_MAGIC: libc::c_long = 0x1cd1;
    let failed = |what: &str, e: nix::Error| format!("make a terminal: {what}: {e}");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = open("/dev/pts/ptmx", flags, Mode::empty()).map_err(|e| failed("open /dev/pts/ptmx", e))?;
    let fs = nix::sys::statfs::fstatfs(&master).map_err(|e| failed("check /dev/pts/ptmx", e))?;
    if fs.filesystem_type().0 != DEVPTS_MAGIC {
        return Err("make a terminal: /dev/pts/ptmx is not on devpts".to_owned());
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the request takes a pointer to an int that it reads.
    nix::Error::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })
        .map_err(|e| failed("unlock", e))?;
    // SAFETY: the request takes open flags by value and answers a new descriptor.
    let peer = nix::Error::result(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    })
    .map_err(|e| failed("open the other end", e))?;
    // SAFETY: the descriptor was just made for us.
    let peer = unsafe { OwnedFd::from_raw_fd(peer) };
    // SAFETY: makes the terminal the controlling one of the session just started.
    nix::Error::result(unsafe { libc::ioctl(peer.as_raw_fd(), libc::TIOCSCTTY, 0) })
        .map_err(|e| failed("take control", e))?;
    let _ = nix::unistd::fchown(&peer, Some(Uid::from_raw(uid)), None);
    dup2_stdin(peer.as_fd()).map_err(|e| failed("connect", e))?;
    dup2_stdout(peer.as_fd()).map_err(|e| failed("connect", e))?;
    dup2_stderr(peer.as_fd()).map_err(|e| failed("connect", e))?;
    report(to, &Report::Terminal, &[master.as_raw_fd()])
}

/// Takes the user, the groups and the capabilities of the container's process.
fn take_rights(process: &Process) -> Result<(), String> {
    let user = process.user();
    let none = Capabilities::default();
    let wanted = process.capabilities().as_ref();
    let set = |select: fn(&libcontainer::oci_spec::runtime::LinuxCapabilities) -> &Option<Capabilities>| {
        let of_spec = wanted.and_then(|caps| select(caps).as_ref()).unwrap_or(&none);
        of_spec.iter().map(CapabilityExt::to_cap).collect::<CapsHashSet>()
    };
    let bounding = set(|caps| caps.bounding());
    for capability in caps::all() {
        if !bounding.contains(&capability) && bounded(capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(|e| format!("drop {capability}: {e}"))?;
        }
    }
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups).map_err(|e| format!("set groups: {e}"))?;
    let (gid, uid) = (Gid::from_raw(user.gid()), Uid::from_raw(user.uid()));
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| format!("set group {gid}: {e}"))?;
    nix::sys::prctl::set_keepcaps(true).map_err(|e| format!("keep capabilities: {e}"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| format!("set user {uid}: {e}"))?;
    nix::sys::prctl::set_keepcaps(false).map_err(|e| format!("keep capabilities: {e}"))?;
    let apply = |kind: CapSet, caps_of_kind: &CapsHashSet| {
        caps::set(None, kind, caps_of_kind).map_err(|e| format!("set {kind:?} capabilities: {e}"))
    };
    // Effective must shrink before permitted, and inheritable must be within what is permitted.
    let (permitted, inheritable) = (set(|caps| caps.permitted()), set(|caps| caps.inheritable()));
    let effective: CapsHashSet = set(|caps| caps.effective()).intersection(&permitted).copied().collect();
    apply(CapSet::Effective, &effective)?;
    apply(CapSet::Inheritable, &inheritable)?;
    apply(CapSet::Permitted, &permitted)?;
    for capability in set(|caps| caps.ambient()) {
        // The container's own start checked them; what is not permitted cannot be ambient.
        let _ = caps::raise(None, CapSet::Ambient, capability);
    }
    Ok(())
}

/// Whether the kernel knows the capability and we may still lose it.
fn bounded(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false)
}

/// Replaces the environment, and answers the search path.
fn set_environment(process: &Process, tty: bool) -> String {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    let mut wanted: Vec<(&str, &str)> =
        process.env().iter().flatten().filter_map(|entry| entry.split_once('=')).collect();
    if tty && !wanted.iter().any(|(name, _)| *name == "TERM") {
        wanted.push(("TERM", "xterm"));
    }
    for name in names {
        // SAFETY: the process has one thread.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in wanted.iter().filter(|(name, _)| !name.is_empty()) {
        // SAFETY: the process has one thread.
        unsafe { std::env::set_var(name, value) };
    }
    std::env::var("PATH").unwrap_or_default()
}
