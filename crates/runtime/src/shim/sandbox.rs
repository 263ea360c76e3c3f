//! Setting up the sandbox: the shim's own namespaces are the pod's, and the shim leaves its server.
#![allow(unsafe_code, reason = "clone with flags and descriptor hygiene have no safe wrapper")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use super::protocol::Setup;
use crate::cgroup::Cgroups;
use crate::error::{Context, Error};

/// Closes every descriptor that the server may have left open in us.
pub(crate) fn close_inherited() {
    // SAFETY: runs before this process has opened any descriptor of its own beyond stdio.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
}

/// Enters new namespaces and prepares them.
pub(crate) fn prepare(setup: &Setup) -> Result<(), Error> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, setup.netns.is_some());
    flags.set(CloneFlags::CLONE_NEWIPC, setup.new_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, setup.hostname.is_some());
    unshare(flags).what(|| "make namespaces".to_owned())?;
    if let Some(path) = &setup.netns {
        pin_netns(Path::new(path))?;
    }
    if let Some(hostname) = &setup.hostname {
        nix::unistd::sethostname(hostname).what(|| format!("set host name {hostname}"))?;
    }
    for (name, value) in &setup.sysctls {
        // Names are dotted; a slash stands for a dot inside a component (an interface name).
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if name.contains("..") || name.starts_with('/') {
            return Err(Error::Invalid(format!("sysctl name {name:?} is not valid")));
        }
        std::fs::write(&path, value).what(|| format!("set sysctl {name}={value}"))?;
    }
    Ok(())
}

fn pin_netns(path: &Path) -> Result<(), Error> {
    let what = || format!("pin the network namespace at {}", path.display());
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path).what(what)?;
    let source: Option<&str> = Some("/proc/self/ns/net");
    mount(source, path, None::<&str>, MsFlags::MS_BIND, None::<&str>).what(what)
}

/// Leaves the server: own session, own control group, no controlling terminal, adopted by the machine's init.
/// Returns in the process that goes on; the process that was started prints its answer and ends.
pub(crate) fn daemonize(setup: &Setup) -> Result<(), Error> {
    // SAFETY: the process has one thread.
    match unsafe { fork() }.what(|| "fork".to_owned())? {
        // The child answers on stdout, which it shares with us.
        ForkResult::Parent { .. } => std::process::exit(0),
        ForkResult::Child => {}
    }
    setsid().what(|| "start a session".to_owned())?;
    if let Ok(cgroups) = Cgroups::detect() {
        // Without a group of its own the shim still works, but dies with a server that a supervisor kills
        // by control group.
        if let Err(e) = cgroups.leave_service(&setup.cgroup) {
            eprintln!("stay in the control group of the server: {e}");
        }
    }
    nix::sys::prctl::set_child_subreaper(true).what(|| "adopt orphans".to_owned())?;
    // SAFETY: no handler is installed, the signals are only ignored.
    unsafe {
        for ignored in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGINT] {
            signal(ignored, SigHandler::SigIgn).what(|| "ignore signals".to_owned())?;
        }
    }
    Ok(())
}

/// Sends a signal by number: real-time signals have no names.
pub(crate) fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    if pid <= 1 {
        return Err(nix::Error::ESRCH);
    }
    // SAFETY: a system call on numbers.
    nix::Error::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Protects the shim from the out-of-memory killer, where the machine lets us.
pub(crate) fn lower_oom_score() -> Result<(), std::io::Error> {
    File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(b"-998")
}

/// Starts the first process of a shared process namespace: it reaps, and holds the namespace.
pub(crate) fn start_pause(dir: &Path) -> Result<Pid, Error> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: without a stack and with one thread, clone is fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(nix::Error::last()).what(|| "start the process namespace".to_owned()),
        0 => pause(dir),
        pid => Ok(Pid::from_raw(i32::try_from(pid).expect("the kernel answers a process id"))),
    }
}

fn pause(dir: &Path) -> ! {
    // Now, and again below: a change of user clears it.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    close_inherited();
    if let Err(e) = confine(dir) {
        eprintln!("confine the first process of the pod: {e}");
        std::process::exit(1);
    }
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let _ = children.thread_block();
    loop {
        let reaped = || waitpid(None, Some(WaitPidFlag::WNOHANG));
        while reaped().is_ok_and(|status| status != WaitStatus::StillAlive) {}
        let _ = children.wait();
    }
}

/// Containers of the pod see this process: it gets an empty root and no rights, so that `/proc/1/root` is
/// nothing to be had even for a privileged container.
fn confine(dir: &Path) -> Result<(), Error> {
    let null =
        File::options().read(true).write(true).open("/dev/null").what(|| "open /dev/null".to_owned())?;
    // The server waits for the end of the shim's standard output.
    nix::unistd::dup2_stdin(&null).what(|| "close streams".to_owned())?;
    nix::unistd::dup2_stdout(&null).what(|| "close streams".to_owned())?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .what(|| "make mounts private".to_owned())?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some("size=0k,mode=555"))
        .what(|| format!("mount an empty root at {}", dir.display()))?;
    nix::unistd::chdir(dir).what(|| format!("enter {}", dir.display()))?;
    nix::unistd::pivot_root(".", ".").what(|| "change root".to_owned())?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).what(|| "leave the old root".to_owned())?;
    let nobody = 65534;
    nix::unistd::setgroups(&[]).what(|| "drop groups".to_owned())?;
    let gid = nix::unistd::Gid::from_raw(nobody);
    nix::unistd::setresgid(gid, gid, gid).what(|| "drop group".to_owned())?;
    let uid = nix::unistd::Uid::from_raw(nobody);
    nix::unistd::setresuid(uid, uid, uid).what(|| "drop user".to_owned())?;
    nix::sys::prctl::set_dumpable(false).what(|| "refuse tracing".to_owned())?;
    nix::sys::prctl::set_name(c"pause").what(|| "set name".to_owned())?;
    // The change of user has cleared it, had it been set before.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).what(|| "follow the shim".to_owned())
}
