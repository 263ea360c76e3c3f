//! Exec and attach over SPDY: one stream for errors, one for each of the streams, one for terminal sizes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::backend::{Backend, Command, Streams, TerminalSize};
use crate::spdy::{Connection, Reader, Stream, Writer};
use crate::{Error, status};

/// The client must have opened its streams within this time, as in upstream.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes in flight between client and backend, for each stream.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;
/// Bytes read from the backend at a time.
pub(crate) const CHUNK_BYTES: usize = 32 * 1024;
/// Sizes that wait to be applied; only the last one matters, older ones are dropped when full.
pub(crate) const SIZES_MAX: usize = 16;
/// Outputs are written for so long after the command has ended; a client that does not read is gone.
pub(crate) const LINGER: Duration = Duration::from_secs(30);

/// Versions of the protocol that are spoken over SPDY.
pub(crate) const PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// Whether this is an exec or an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Attach,
}

/// Runs the command with the backend.
pub(crate) async fn run(
    backend: &dyn Backend,
    kind: Kind,
    command: &Command,
    streams: Streams,
) -> Result<i32, Error> {
    match kind {
        Kind::Exec => backend.exec(command, streams).await,
        Kind::Attach => backend.attach(command, streams).await.map(|()| 0),
    }
}

/// A size on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Parses a message of the resize stream.
pub(crate) fn parse_size(bytes: &[u8]) -> Option<TerminalSize> {
    let size: Size = serde_json::from_slice(bytes).ok()?;
    Some(TerminalSize { width: size.width, height: size.height })
}

#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

async fn open_streams(
    connection: &mut Connection,
    command: &Command,
    wants_resize: bool,
) -> Result<Opened, Error> {
    let mut opened = Opened::default();
    loop {
        let complete = opened.error.is_some()
            && opened.stdin.is_some() == command.stdin
            && opened.stdout.is_some() == command.stdout
            && opened.stderr.is_some() == command.stderr
            && opened.resize.is_some() == wants_resize;
        if complete {
            return Ok(opened);
        }
        let stream = connection
            .accept()
            .await
            .ok_or_else(|| Error::protocol("the client went away before it opened its streams"))?;
        let slot = match stream.headers.get("streamType") {
            Some("error") => &mut opened.error,
            Some("stdin") if command.stdin => &mut opened.stdin,
            Some("stdout") if command.stdout => &mut opened.stdout,
            Some("stderr") if command.stderr => &mut opened.stderr,
            Some("resize") if wants_resize => &mut opened.resize,
            other => return Err(Error::protocol(format!("unexpected stream of type {other:?}"))),
        };
        if slot.replace(stream).is_some() {
            return Err(Error::protocol("a stream was opened twice"));
        }
    }
}

/// Serves an exec or attach.
pub(crate) async fn serve(
    mut connection: Connection,
    backend: Arc<dyn Backend>,
    kind: Kind,
    command: Command,
    protocol: &str,
) -> Result<(), Error> {
    let version_3 = !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    let wants_resize = command.tty && version_3;
    let opened = tokio::time::timeout(STREAMS_TIMEOUT, open_streams(&mut connection, &command, wants_resize))
        .await
        .map_err(|_| Error::Timeout("the client did not open its streams"))??;
    let Opened { error, stdin, stdout, stderr, resize } = opened;
    let mut error = error.ok_or_else(|| Error::protocol("no error stream"))?.writer;
    let (sizes, resizes) = mpsc::channel(SIZES_MAX);
    let mut tasks = tokio::task::JoinSet::new();
    let mut outputs = tokio::task::JoinSet::new();
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, resize: resizes };
    if let Some(stream) = stdin {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        streams.stdin = Some(Box::new(theirs));
        tasks.spawn(pump_in(stream.reader, ours));
    }
    for (stream, slot) in [(stdout, &mut streams.stdout), (stderr, &mut streams.stderr)] {
        if let Some(stream) = stream {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            *slot = Some(Box::new(theirs));
            outputs.spawn(pump_out(ours, stream.writer));
        }
    }
    if let Some(mut stream) = resize {
        tasks.spawn(async move {
            while let Some(bytes) = stream.reader.next().await {
                if let Some(size) = parse_size(&bytes) {
                    let _ = sizes.try_send(size);
                }
            }
        });
    }
    let outcome = tokio::select! {
        outcome = run(&*backend, kind, &command, streams) => outcome,
        // Any further stream is an error; none means that the client went away.
        extra = connection.accept() => match extra {
            Some(_) => Err(Error::protocol("the client opened a stream too many")),
            None => return Ok(()),
        },
    };
    let _ = tokio::time::timeout(LINGER, async { while outputs.join_next().await.is_some() {} }).await;
    let last = match protocol {
        "v4.channel.k8s.io" => status::of_exit(&outcome).to_string(),
        _ => status::text_of_exit(&outcome),
    };
    if !last.is_empty() {
        error.write(last.into()).await?;
    }
    error.finish().await?;
    drop(error);
    tasks.shutdown().await;
    outputs.shutdown().await;
    let _ = tokio::time::timeout(LINGER, connection.close()).await;
    Ok(())
}

/// From the client to the backend.
pub(crate) async fn pump_in(mut from: Reader, mut to: DuplexStream) {
    while let Some(bytes) = from.next().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// From the backend to the client.
pub(crate) async fn pump_out(mut from: DuplexStream, mut to: Writer) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
            break;
        }
    }
    let _ = to.finish().await;
}
