//! The same sessions over WebSocket: the first byte of a message names the channel.
//!
//! Channels of exec and attach: 0 stdin, 1 stdout, 2 stderr, 3 errors, 4 terminal sizes. Since version 5 the
//! message `255, n` closes the client's side of channel n. The base64 variants have the channel as a digit
//! and the rest encoded, in text messages. Port-forward without a tunnel has two channels a port.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::backend::{Backend, Command, Streams, TerminalSize};
use crate::command::{CHUNK_BYTES, Kind, LINGER, PIPE_BYTES, SIZES_MAX, parse_size, run};
use crate::{Error, status};

/// Versions of exec and attach over WebSocket, in no order: the client's first choice counts.
pub(crate) const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// Versions of port-forward over WebSocket.
pub(crate) const PORT_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// SPDY inside of binary messages: what kubectl speaks since 1.31.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Largest message of a client; kubectl sends up to 32 KiB, tunnels up to 64 KiB.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Messages that wait to be written.
const MESSAGES_MAX: usize = 16;
/// A silent connection is asked for a sign of life at this interval, so that what watches idle connections
/// on the way does not close it.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Any connection below.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

async fn open<S: Socket>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The end of a connection. Clients take one without a status for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

fn encode(base64: bool, channel: u8, bytes: &[u8]) -> Message {
    match base64 {
        false => {
            let mut message = Vec::with_capacity(bytes.len() + 1);
            message.push(channel);
            message.extend_from_slice(bytes);
            Message::binary(message)
        }
        true => Message::text(format!("{channel}{}", BASE64.encode(bytes))),
    }
}

fn decode(base64: bool, message: Message) -> Result<Option<(u8, Bytes)>, Error> {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return Ok(None),
    };
    let Some(first) = bytes.first().copied() else { return Ok(None) };
    if !base64 {
        return Ok(Some((first, bytes.slice(1..))));
    }
    let data = BASE64.decode(&bytes[1..]).map_err(|_| Error::protocol("a message is no base64"))?;
    match first.checked_sub(b'0') {
        Some(channel) => Ok(Some((channel, data.into()))),
        None => Err(Error::protocol("a message has no channel")),
    }
}

/// Writes messages in the order they come, and pings when none do.
async fn write_messages<S: Socket>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut messages: mpsc::Receiver<Message>,
) {
    loop {
        let message = match tokio::time::timeout(PING_INTERVAL, messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let _ = sink.send(goodbye()).await;
    let _ = sink.close().await;
}

async fn pump_out(mut from: DuplexStream, base64: bool, channel: u8, to: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.send(encode(base64, channel, &buffer[..n])).await.is_err() {
            return;
        }
    }
}

/// Serves an exec or attach.
pub(crate) async fn serve<S: Socket>(
    io: S,
    backend: Arc<dyn Backend>,
    kind: Kind,
    command: Command,
    protocol: &str,
) -> Result<(), Error> {
    let (base64, closes) = (protocol.contains("base64"), protocol.starts_with("v5."));
    let (sink, source) = open(io).await.split();
    let (messages, to_write) = mpsc::channel(MESSAGES_MAX);
    let writer = tokio::spawn(write_messages(sink, to_write));
    let (sizes, resize) = mpsc::channel(SIZES_MAX);
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, resize };
    let mut outputs = tokio::task::JoinSet::new();
    let mut stdin = None;
    if command.stdin {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        (stdin, streams.stdin) = (Some(ours), Some(Box::new(theirs) as crate::Input));
    }
    for (wanted, channel, slot) in
        [(command.stdout, STDOUT, &mut streams.stdout), (command.stderr, STDERR, &mut streams.stderr)]
    {
        if wanted {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            *slot = Some(Box::new(theirs));
            outputs.spawn(pump_out(ours, base64, channel, messages.clone()));
        }
    }
    // Some clients wait for a first message before they believe in the connection.
    for channel in [STDIN, STDOUT, STDERR, ERROR].into_iter().filter(|_| !protocol.starts_with('v')) {
        let _ = messages.send(encode(base64, channel, b"")).await;
    }
    let outcome = tokio::select! {
        outcome = run(&*backend, kind, &command, streams) => outcome,
        outcome = receive(source, base64, closes, stdin, sizes) => {
            // The client is gone; what it started sees its input end.
            writer.abort();
            return outcome;
        }
    };
    let _ = tokio::time::timeout(LINGER, async { while outputs.join_next().await.is_some() {} }).await;
    outputs.shutdown().await;
    let last = match protocol.starts_with('v') {
        true => status::of_exit(&outcome).to_string(),
        false => status::text_of_exit(&outcome),
    };
    if !last.is_empty() {
        let _ = messages.send(encode(base64, ERROR, last.as_bytes())).await;
    }
    drop(messages);
    let _ = tokio::time::timeout(LINGER, writer).await;
    Ok(())
}

async fn receive<S: Socket>(
    mut source: SplitStream<WebSocketStream<S>>,
    base64: bool,
    closes: bool,
    mut stdin: Option<DuplexStream>,
    sizes: mpsc::Sender<TerminalSize>,
) -> Result<(), Error> {
    while let Some(message) = source.next().await {
        match decode(base64, message?)? {
            Some((STDIN, bytes)) => {
                // An ended command takes no input, but its output may still be coming.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((RESIZE, bytes)) => {
                if let Some(size) = parse_size(&bytes) {
                    let _ = sizes.try_send(size);
                }
            }
            Some((CLOSE, bytes)) if closes => {
                if bytes.first() == Some(&STDIN) {
                    stdin = None;
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Serves port-forward by channels: for the n-th port, 2n carries data and 2n+1 errors.
pub(crate) async fn serve_ports<S: Socket>(
    io: S,
    backend: Arc<dyn Backend>,
    sandbox: String,
    ports: Vec<u16>,
    protocol: &str,
) -> Result<(), Error> {
    let base64 = protocol.contains("base64");
    let (sink, mut source) = open(io).await.split();
    let (messages, to_write) = mpsc::channel(MESSAGES_MAX);
    let writer = tokio::spawn(write_messages(sink, to_write));
    let mut inputs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (i, port) in ports.into_iter().enumerate() {
        let data = u8::try_from(2 * i).map_err(|_| Error::protocol("too many ports"))?;
        for channel in [data, data + 1] {
            let _ = messages.send(encode(base64, channel, &port.to_le_bytes())).await;
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (from_client, to_client) = tokio::io::split(ours);
        inputs.push(to_client);
        let (backend, sandbox, messages) = (backend.clone(), sandbox.clone(), messages.clone());
        tasks.spawn(async move {
            let forwarded = async {
                let mut port = backend.connect(&sandbox, port).await?;
                let mut theirs = theirs;
                tokio::io::copy_bidirectional(&mut port, &mut theirs).await?;
                Ok::<_, Error>(())
            };
            let sent = send_data(from_client, base64, data, messages.clone());
            if let (Err(e), ()) = tokio::join!(forwarded, sent) {
                let text = format!("error forwarding port {port} to pod {sandbox}: {e}");
                let _ = messages.send(encode(base64, data + 1, text.as_bytes())).await;
            }
        });
    }
    drop(messages);
    while let Some(message) = source.next().await {
        if let Some((channel, bytes)) = decode(base64, message?)?
            && channel % 2 == 0
            && let Some(input) = inputs.get_mut(usize::from(channel / 2))
        {
            let _ = input.write_all(&bytes).await;
        }
    }
    tasks.shutdown().await;
    writer.abort();
    Ok(())
}

async fn send_data(mut from: impl AsyncRead + Unpin, base64: bool, channel: u8, to: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.send(encode(base64, channel, &buffer[..n])).await.is_err() {
            return;
        }
    }
}

/// The byte stream inside of a tunnel's binary messages.
pub(crate) async fn tunnel<S: Socket>(io: S) -> DuplexStream {
    let (mut sink, mut source) = open(io).await.split();
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (mut from_inside, mut to_inside) = tokio::io::split(ours);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message
                && to_inside.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
        let _ = to_inside.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let message = match tokio::time::timeout(PING_INTERVAL, from_inside.read(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => Message::binary(Bytes::copy_from_slice(&buffer[..n])),
                Ok(_) => break,
                Err(_) => Message::Ping(Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
        let _ = sink.close().await;
    });
    theirs
}
