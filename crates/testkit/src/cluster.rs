//! A cluster of the real binary on a host of its own.

use crate::command::{Finished, run, run_ok};
use crate::lan::{Host, Lan};
use crate::wait::until;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for a server to be ready: generous, since the machine may be busy.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// How a cluster is started.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// More flags for `isopod server`.
    pub flags: Vec<String>,
}

/// A running `isopod server`, with its directories and network. Dropping it removes everything.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    server: Option<Child>,
    flags: Vec<String>,
    /// The network that the host is in; more hosts can be added.
    pub lan: Lan,
    /// The server's host.
    pub host: Host,
    /// Everything the cluster keeps.
    pub directory: TempDir,
}

impl Cluster {
    /// Starts `binary` and waits until its node is Ready.
    pub fn start(binary: &Path, options: &ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(binary, options)?;
        cluster.launch()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Makes network and directories, without starting anything.
    pub fn prepare(binary: &Path, options: &ClusterOptions) -> Result<Self> {
        ensure!(is_root(), "this test runs containers and needs root");
        let mut lan = Lan::new()?;
        let host = lan.host()?;
        let directory =
            tempfile::Builder::new().prefix("isopod-test-").tempdir().context("temporary directory")?;
        Ok(Cluster {
            binary: binary.to_owned(),
            server: None,
            flags: options.flags.clone(),
            lan,
            host,
            directory,
        })
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }
    fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }
    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }
    fn place(&self) -> [std::ffi::OsString; 4] {
        ["--data-dir".into(), self.data_dir().into(), "--run-dir".into(), self.run_dir().into()]
    }

    /// Gives the server one more flag from its next start on.
    pub fn add_flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    /// Starts the server process.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log()).context("open the log")?;
        let mut command = self.host.command(&self.binary.to_string_lossy());
        command.arg("server").args(self.place()).arg("--node-name").arg("node-1").args(&self.flags);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the server")?;
        self.server = Some(child);
        Ok(())
    }

    /// Pid of the server.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the server does not run")?.id())
    }

    /// Waits until the node is Ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let agent = !self.flags.iter().any(|f| f == "--disable-agent");
        let begin = Instant::now();
        while begin.elapsed() < READY_TIME_MAX {
            if let Some(code) = self.server.as_mut().context("not started")?.try_wait()? {
                bail!("the server ended ({code}):\n{}", self.log_tail());
            }
            let ready = if agent {
                let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
                self.kubectl_try(&["get", "node", "node-1", "-o", path])?.out == "True"
            } else {
                self.kubectl_try(&["get", "--raw", "/readyz"])?.ok
            };
            if ready {
                return Ok(());
            }
        }
        bail!("not ready within {READY_TIME_MAX:?}:\n{}", self.log_tail())
    }

    /// Kills the server, as a power cut would end it; its containers go on.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the server does not run")?;
        server.kill().context("kill the server")?;
        server.wait().context("wait for the server")?;
        Ok(())
    }

    /// Asks the server to stop, and waits.
    pub fn terminate(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the server does not run")?;
        run_ok(Command::new("kill").arg(server.id().to_string()))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        until("the server stops", Duration::from_secs(30), || {
            server.try_wait()?.map(drop).with_context(|| format!("until {deadline:?}"))
        })
    }

    /// kubectl with the administrator's rights; an exit code is a value.
    pub fn kubectl_try(&self, arguments: &[&str]) -> Result<Finished> {
        run(&mut self.kubectl_command(arguments), None)
    }
    /// kubectl that must succeed; gives its output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.kubectl_try(arguments)?;
        ensure!(finished.ok, "kubectl {}\n{}{}", arguments.join(" "), finished.out, finished.err);
        Ok(finished.out)
    }
    /// `kubectl apply -f -` of a manifest.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let finished = run(&mut self.kubectl_command(&["apply", "-f", "-"]), Some(manifest))?;
        ensure!(finished.ok, "kubectl apply\n{}{}", finished.out, finished.err);
        Ok(finished.out)
    }
    /// A kubectl command, to be run by the caller.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.directory.path()).args(arguments);
        command
    }

    /// The binary, with the place of this cluster behind the subcommand.
    pub fn isopod(&self, subcommand: &[&str], arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command(&self.binary.to_string_lossy());
        command.arg(subcommand[0]).args(self.place()).args(&subcommand[1..]).args(arguments);
        command.env("HOME", self.directory.path()).env_remove("KUBECONFIG");
        run_ok(&mut command)
    }
    /// Imports an image archive.
    pub fn import(&self, archive: &Path) -> Result<String> {
        self.isopod(&["image", "import"], &[&archive.to_string_lossy()])
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt;
        m.uid() == 0
    })
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ends with\n{}", self.log_tail());
        }
        if let Some(mut server) = self.server.take() {
            let _ = run(Command::new("kill").arg(server.id().to_string()), None);
            let _ = crate::wait::eventually("stop", Duration::from_secs(15), || {
                server.try_wait().is_ok_and(|code| code.is_some())
            });
            let _ = server.kill();
            let _ = server.wait();
        }
        if let Err(error) = self.isopod(&["down", "--purge"], &[]) {
            eprintln!("purge of a test cluster failed: {error:#}");
        }
    }
}
