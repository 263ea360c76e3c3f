//! The shim: one small process per pod that holds the sandbox's namespaces and the containers' streams.
//!
//! It is the server's own program, executed again. It has one thread and no runtime, leaves the server's
//! session and control group, and outlives it: a server that starts finds its shims by their sockets and
//! takes its pods back.

mod conn;
mod container;
mod create;
mod device_filter;
mod exec;
mod external;
mod logs;
pub(crate) mod protocol;
mod reasons;
mod sandbox;
mod server;
mod stage;

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

pub(crate) use container::set_nonblocking;
use protocol::{Ready, Setup};
pub(crate) use stage::{STAGED, STAGING};

/// Name of a shim's socket in its directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// Name of the file in a shim's directory that a shim is started with.
pub(crate) const SETUP: &str = "setup.json";

/// Runs a shim: `args` are those after the word `shim`, and hold the shim's directory. The program's `main`
/// calls this before it starts any thread. Prints one line of JSON when ready, and goes on in the background.
pub fn main(args: &[String]) -> ExitCode {
    sandbox::close_inherited();
    let [dir] = args else {
        eprintln!("usage: shim DIRECTORY (isopod starts shims itself)");
        return ExitCode::from(2);
    };
    match run(Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{}", serde_json::json!({ "error": message }));
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<(), String> {
    let path = dir.join(SETUP);
    let bytes = std::fs::read(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let setup: Setup = serde_json::from_slice(&bytes).map_err(|e| format!("read {}: {e}", path.display()))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // The socket's address is relative: absolute paths may be longer than addresses can be.
    std::env::set_current_dir(dir).map_err(|e| format!("enter {}: {e}", dir.display()))?;
    sandbox::prepare(&setup).map_err(|e| e.to_string())?;
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).map_err(|e| format!("listen: {e}"))?;
    // Containers have their own masks; what the shim makes for them is made with explicit modes.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    sandbox::daemonize(&setup).map_err(|e| e.to_string())?;
    let log = File::options()
        .create(true)
        .append(true)
        .open("shim.log")
        .map_err(|e| format!("open shim.log: {e}"))?;
    dup2_stderr(&log).map_err(|e| format!("open shim.log: {e}"))?;
    if let Err(e) = sandbox::lower_oom_score() {
        eprintln!("not protected from the out-of-memory killer: {e}");
    }
    let pause = match setup.shared_pid_namespace {
        true => Some(sandbox::start_pause(dir).map_err(|e| e.to_string())?),
        false => None,
    };
    let shim = server::Shim::new(dir, listener, pause)?;
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let ready = Ready { pid, pause_pid: pause.map(nix::unistd::Pid::as_raw) };
    let ready = serde_json::to_string(&ready).map_err(|e| e.to_string())?;
    // The server may have died meanwhile. The next one finds this shim by its socket, and ends it.
    let _ = std::io::stdout().write_all(format!("{ready}\n").as_bytes());
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| format!("open /dev/null: {e}"))?;
    dup2_stdin(&null).map_err(|e| format!("open /dev/null: {e}"))?;
    dup2_stdout(&null).map_err(|e| format!("open /dev/null: {e}"))?;
    drop((null, log));
    shim.run();
    Ok(())
}
