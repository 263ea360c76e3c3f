//! Commands run to their end.

use anyhow::{Context, Result, bail};
use std::io::Write;
use std::process::{Command, Stdio};

/// What a command left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Whether it exited with zero.
    pub ok: bool,
    /// Exit code, if it was not ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a command with `input` on its standard input; an exit code is a value, not an error.
pub fn run(command: &mut Command, input: Option<&str>) -> Result<Finished> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that does not read to the end closes its pipe; its exit code tells more than that.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {shown}"))?;
    Ok(Finished {
        ok: output.status.success(),
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must exit with zero; gives its output.
pub fn run_ok(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let finished = run(command, None)?;
    if !finished.ok {
        bail!("{shown} exited with {:?}\n{}{}", finished.code, finished.out, finished.err);
    }
    Ok(finished.out)
}
