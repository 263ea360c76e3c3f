//! Three members on hosts of their own, and what can be done to them.

use crate::command::run_ok;
use crate::lan::{Host, Lan};
use anyhow::{Context, Result, bail, ensure};
use isopod_kv::Store;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Size of the disk that gets full.
const DISK_BYTES: u64 = 32 << 20;
/// The member whose disk gets full.
const SMALL: usize = 2;
/// How long members may take to agree on a leader, on a busy machine.
const ELECTION_MAX: Duration = Duration::from_secs(60);

/// Which way nothing passes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    Both,
    Inward,
    Outward,
}

struct Member {
    host: Host,
    directory: PathBuf,
    process: Option<Child>,
}

/// The members, the network and the directories. Dropping it ends and removes everything.
pub(super) struct Members {
    members: Vec<Member>,
    /// Where clients are.
    pub(super) clients: Host,
    /// How often each member was started.
    pub(super) runs: Arc<[AtomicU64; 3]>,
    /// Connections to ask who leads.
    stores: Vec<Arc<dyn Store>>,
    mounted: bool,
    directory: tempfile::TempDir,
    _lan: Lan,
}

impl Members {
    /// Starts three members.
    pub(super) fn start() -> Result<Members> {
        let mut lan = Lan::new()?;
        let clients = lan.host()?;
        let directory = tempfile::Builder::new().prefix("isopod-test-").tempdir()?;
        let mut all = Vec::new();
        for number in 0..3 {
            let host = lan.host()?;
            let place = directory.path().join(format!("m{number}"));
            std::fs::create_dir(&place)?;
            all.push(Member { host, directory: place, process: None });
        }
        let runs = Arc::new([const { AtomicU64::new(0) }; 3]);
        let mut members =
            Members { members: all, clients, runs, stores: Vec::new(), mounted: false, directory, _lan: lan };
        let place = members.members[SMALL].directory.display().to_string();
        run_ok(Command::new("mount").args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={DISK_BYTES}"),
            "tmpfs",
            &place,
        ]))?;
        members.mounted = true;
        for number in 0..3 {
            members.launch(number)?;
        }
        Ok(members)
    }

    /// Where clients reach the members.
    pub(super) fn client_urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}:{CLIENT_PORT}", member.host.address)).collect()
    }

    /// Connects to the members; needs a runtime.
    pub(super) fn connect(&mut self) -> Result<()> {
        for url in self.client_urls() {
            self.stores.push(isopod_kv::grpc::connect(&[url], None)?);
        }
        Ok(())
    }

    /// Starts a member that was killed.
    pub(super) fn launch(&mut self, number: usize) -> Result<()> {
        let peers: Vec<String> = (0..)
            .zip(&self.members)
            .map(|(number, member)| format!("m{number}=http://{}:{PEER_PORT}", member.host.address))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{number}.log")))?;
        let member = &mut self.members[number];
        ensure!(member.process.is_none(), "member {number} runs already");
        let client = format!("{}:{CLIENT_PORT}", member.host.address);
        let peer = format!("{}:{PEER_PORT}", member.host.address);
        let program = std::env::current_exe().context("this program")?;
        let mut command = member.host.command(&program.to_string_lossy());
        command.arg("member").arg(member.directory.join("data")).args([
            &format!("m{number}"),
            &client,
            &peer,
        ]);
        command.arg(peers.join(","));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Counted before it answers anything, so that no two runs share a number.
        self.runs[number].fetch_add(1, Ordering::SeqCst);
        member.process = Some(command.spawn().context("start a member")?);
        Ok(())
    }

    /// Sends a signal.
    pub(super) fn signal(&self, number: usize, signal: &str) -> Result<()> {
        let process = self.members[number].process.as_ref().context("the member does not run")?;
        run_ok(Command::new("kill").args([&format!("-{signal}"), &process.id().to_string()])).map(drop)
    }

    /// Ends a member as if its machine had lost it.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        let Some(mut process) = self.members[number].process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// The member that leads.
    pub(super) async fn leader(&self) -> Result<usize> {
        let end = Instant::now() + ELECTION_MAX;
        while Instant::now() < end {
            for number in 0..3 {
                let status = self.stores[number].status();
                let status = tokio::time::timeout(Duration::from_secs(1), status).await;
                let Ok(Ok(status)) = status else { continue };
                let own = status.header.map_or(0, |header| header.member_id);
                if status.leader == own && own != 0 {
                    return Ok(number);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("no leader within {ELECTION_MAX:?}\n{}", self.logs())
    }

    fn nft(&self, number: usize, line: &str) -> Result<()> {
        let mut command = self.members[number].host.command("nft");
        run_ok(command.args(line.split_whitespace())).map(drop)
    }

    /// Lets a member and the others hear nothing of each other.
    pub(super) fn cut(&self, number: usize, cut: Cut) -> Result<()> {
        self.nft(number, "add table inet isopodcut")?;
        for (chain, wanted) in
            [("input", !matches!(cut, Cut::Outward)), ("output", !matches!(cut, Cut::Inward))]
        {
            if wanted {
                self.nft(
                    number,
                    &format!("add chain inet isopodcut {chain} {{ type filter hook {chain} priority 0 ; }}"),
                )?;
                for side in ["sport", "dport"] {
                    self.nft(
                        number,
                        &format!("add rule inet isopodcut {chain} tcp {side} {PEER_PORT} drop"),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Lets them hear each other again.
    pub(super) fn join(&self, number: usize) -> Result<()> {
        self.nft(number, "delete table inet isopodcut")
    }

    fn filler(&self) -> PathBuf {
        self.members[SMALL].directory.join("filler")
    }

    /// Takes the rest of the small disk.
    pub(super) fn fill_disk(&self) -> Result<()> {
        use std::io::Write;
        let mut file = File::create(self.filler())?;
        let block = vec![1; 1 << 16];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
    }

    /// Gives it back.
    pub(super) fn free_disk(&self) -> Result<()> {
        std::fs::remove_file(self.filler()).context("free the disk")
    }

    /// The ends of the members' logs.
    pub(super) fn logs(&self) -> String {
        let tail = |number: usize| {
            let text = std::fs::read_to_string(self.directory.path().join(format!("m{number}.log")));
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("m{number}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        (0..3).map(tail).collect()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            // SIGKILL ends a stopped process as well.
            let _ = self.kill(number);
        }
        if self.mounted {
            let _ = run_ok(Command::new("umount").arg(&self.members[SMALL].directory));
        }
    }
}
