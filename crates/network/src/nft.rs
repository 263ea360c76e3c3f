//! Running `nft`.

use crate::Error;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest one transaction may take. Loading ten thousand elements takes under a second; a process that hangs holds
/// up pod starts.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Most of nft's complaint that is passed on.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// Applies `script` as one transaction.
pub(crate) async fn apply(script: &str) -> Result<(), Error> {
    run(&["-f", "-"], script).await.map(drop)
}

/// Runs `nft` with `args` and `input`; answers what it printed.
pub(crate) async fn run(args: &[&str], input: &str) -> Result<String, Error> {
    let fail = |error: std::io::Error| {
        Error::Nft(match error.kind() {
            std::io::ErrorKind::NotFound => "the program is not installed (Debian package nftables)".into(),
            _ => error.to_string(),
        })
    };
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    let feed = async move {
        // A process that has failed already reads no more; its exit code tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(TIMEOUT, both).await {
        Ok(output) => output.map_err(fail)?,
        Err(_) => return Err(Error::Nft(format!("no answer in {} s", TIMEOUT.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    Err(Error::Nft(format!("{}: {message}", output.status)))
}
