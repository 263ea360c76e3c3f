//! Running commands in containers.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use isopod_cri::v1::ExecSyncResponse;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::error::{Context, Error};
use crate::runtime::{Container, Inner};
use crate::shim::protocol::Exec;

/// Output of a command that is kept; what goes beyond is read and dropped. A gRPC message holds both streams.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A command's children may keep its output open after its end; nobody waits for them longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A pipe that we read and a process writes.
pub(crate) fn output_pipe() -> Result<(Receiver, OwnedFd), Error> {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).what(|| "make a pipe".to_owned())?;
    let receiver = Receiver::from_owned_fd(read_end).what(|| "make a pipe".to_owned())?;
    Ok((receiver, write_end))
}

async fn collect(mut pipe: Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => return kept,
            Ok(n) => {
                let room = OUTPUT_BYTES_MAX - kept.len();
                kept.extend_from_slice(&chunk[..n.min(room)]);
            }
        }
    }
}

impl Inner {
    /// Runs a command and answers its output; `timeout` in seconds, zero for none.
    pub(crate) async fn exec_sync(
        &self,
        container: &Container,
        args: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse, Error> {
        if args.is_empty() {
            return Err(Error::invalid("no command specified"));
        }
        if !container.is_running() {
            return Err(Error::Precondition(format!("container {} is not running", container.id)));
        }
        let (stdout, stdout_fd) = output_pipe()?;
        let (stderr, stderr_fd) = output_pipe()?;
        let exec = Exec {
            id: container.id.clone(),
            args: args.clone(),
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
            kill_on_close: true,
        };
        let (stdout, stderr) = (tokio::spawn(collect(stdout)), tokio::spawn(collect(stderr)));
        let run = async {
            let fds = [stdout_fd.as_raw_fd(), stderr_fd.as_raw_fd()];
            let mut replies = container.sandbox.shim.exec(exec, &fds).await?;
            drop((stdout_fd, stderr_fd));
            replies.exited().await
        };
        let exit = match u64::try_from(timeout) {
            Ok(seconds) if seconds > 0 => {
                // Leaving closes the connection, whereupon the shim kills the process.
                tokio::time::timeout(Duration::from_secs(seconds), run).await.map_err(|_| {
                    Error::Timeout(format!("command {args:?} timed out: timeout {seconds}s exceeded"))
                })?
            }
            _ => run.await,
        };
        let exit = match exit {
            Ok(exit) => exit,
            Err(e) => {
                stdout.abort();
                stderr.abort();
                return Err(Error::Shim(format!("failed to exec in container: {e}")));
            }
        };
        let drained = |task: tokio::task::JoinHandle<Vec<u8>>| async {
            tokio::time::timeout(DRAIN_TIMEOUT, task).await.ok().and_then(Result::ok).unwrap_or_default()
        };
        let (stdout, stderr) = tokio::join!(drained(stdout), drained(stderr));
        Ok(ExecSyncResponse { stdout, stderr, exit_code: exit.code })
    }
}
