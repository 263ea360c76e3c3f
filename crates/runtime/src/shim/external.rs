//! Creating a container with another OCI runtime (runc, crun, …), in a child of the shim.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio as Standard};

use super::create::{Report, Stdio, report};
use super::protocol::{Start, receive};

/// Creates and starts the container. The runtime exits, and the shim adopts the container's first process.
pub(crate) fn create(
    runtime: &str,
    start: &Start,
    stdio: Stdio,
    to: &OwnedFd,
    dir: &Path,
) -> Result<(), String> {
    let root = dir.join("oci");
    std::fs::create_dir_all(&root).map_err(|e| format!("create {}: {e}", root.display()))?;
    std::env::set_current_dir(dir).map_err(|e| format!("enter {}: {e}", dir.display()))?;
    let pid_file = root.join(format!("{}.pid", start.id));
    let mut command = Command::new(runtime);
    command.arg("--root").arg(&root).arg("create").arg("--bundle").arg(&start.bundle);
    command.arg("--pid-file").arg(&pid_file);
    let listener = match start.tty {
        true => {
            let name = format!("tty-{}", std::process::id());
            let listener = UnixListener::bind(&name).map_err(|e| format!("listen for the terminal: {e}"))?;
            command.arg("--console-socket").arg(&name);
            Some((listener, dir.join(name)))
        }
        false => None,
    };
    let stream = |fd: Option<OwnedFd>| fd.map_or_else(Standard::null, Standard::from);
    command
        .arg(&start.id)
        .stdin(stream(stdio.stdin))
        .stdout(stream(stdio.stdout))
        .stderr(stream(stdio.stderr));
    let status = command.status().map_err(|e| format!("run {runtime}: {e}"))?;
    if !status.success() {
        return Err(format!("{runtime} create: {status}; its message is in the container's log"));
    }
    if let Some((listener, path)) = listener {
        let (socket, _) = listener.accept().map_err(|e| format!("receive the terminal: {e}"))?;
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        receive(socket.as_raw_fd(), &mut bytes, &mut fds)
            .map_err(|e| format!("receive the terminal: {e}"))?;
        let _ = std::fs::remove_file(path);
        let terminal = fds.pop().ok_or("the runtime sent no terminal")?;
        report(to, &Report::Terminal, &[terminal.as_raw_fd()])?;
    }
    let pid = std::fs::read_to_string(&pid_file).map_err(|e| format!("read {}: {e}", pid_file.display()))?;
    let pid = pid.trim().parse().map_err(|e| format!("read {}: {e}", pid_file.display()))?;
    let _ = std::fs::remove_file(&pid_file);
    let output = Command::new(runtime)
        .arg("--root")
        .arg(&root)
        .arg("start")
        .arg(&start.id)
        .output()
        .map_err(|e| format!("run {runtime}: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    report(to, &Report::Running { pid }, &[])
}
