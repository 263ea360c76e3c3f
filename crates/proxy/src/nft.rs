//! Running `nft`: one process a transaction, bounded in time.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest one transaction may take. Ten thousand Services load in under a second.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most of nft's complaint that is passed on.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// Why `nft` did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not there.
    #[error("the program nft is not installed (Debian package nftables)")]
    Missing,
    /// It could not be run.
    #[error("cannot run nft")]
    Run(#[source] std::io::Error),
    /// It did not end in time.
    #[error("nft gave no answer in {} s", TIMEOUT.as_secs())]
    Timeout,
    /// It refused.
    #[error("nft refused: {0}")]
    Refused(String),
}

impl From<std::io::Error> for NftError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::Missing } else { Self::Run(error) }
    }
}

/// Applies `script` as one transaction.
pub(crate) async fn apply(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).await.map(drop)
}

/// Lists one of our maps or chains.
pub(crate) async fn list(kind: &str, family: &str, name: &str) -> Result<String, NftError> {
    run(&["list", kind, family, isopod_servicerules::TABLE, name], "").await
}

/// Finds out whether we can program nftables; answers the program's version.
pub(crate) async fn probe() -> Result<String, NftError> {
    let version = run(&["--version"], "").await?;
    // `--check` builds the transaction and has the kernel look at it without committing.
    let table = isopod_servicerules::TABLE;
    run(&["--check", "-f", "-"], &format!("add table ip {table}-probe\n")).await?;
    Ok(version.trim().to_owned())
}

async fn run(args: &[&str], input: &str) -> Result<String, NftError> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let feed = async move {
        // A process that has failed already reads no more; its exit code tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(TIMEOUT, both).await.map_err(|_| NftError::Timeout)??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    Err(NftError::Refused(format!("{}: {message}", output.status)))
}
