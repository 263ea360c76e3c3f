//! Sessions from the HTTP request to the last byte, with the clients' side written out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use isopod_streaming::spdy::{Frame, FrameReader, FrameWriter, Headers};
use isopod_streaming::{Answer, Backend, Command, PortStream, Session, StreamingServer, Streams};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Echoes its input in upper case, says something on stderr, tells the last size, and ends with code 3.
struct Echo;

impl Backend for Echo {
    fn exec<'a>(&'a self, command: &'a Command, mut streams: Streams) -> Answer<'a, i32> {
        Box::pin(async move {
            let mut input = Vec::new();
            if let Some(mut stdin) = streams.stdin {
                stdin.read_to_end(&mut input).await?;
            }
            let mut stdout = streams.stdout.ok_or_else(|| std::io::Error::other("no stdout"))?;
            stdout.write_all(&input.to_ascii_uppercase()).await?;
            if let Ok(size) = streams.resize.try_recv() {
                stdout.write_all(format!(" {}x{}", size.width, size.height).as_bytes()).await?;
            }
            stdout.shutdown().await?;
            if let Some(mut stderr) = streams.stderr {
                stderr.write_all(command.args.join(" ").as_bytes()).await?;
                stderr.shutdown().await?;
            }
            Ok(3)
        })
    }

    fn attach<'a>(&'a self, command: &'a Command, streams: Streams) -> Answer<'a, ()> {
        Box::pin(async move { self.exec(command, streams).await.map(drop) })
    }

    fn connect<'a>(&'a self, _sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn PortStream>> {
        Box::pin(async move {
            if port == 1 {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
            }
            let (ours, theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut read_half, mut write_half) = tokio::io::split(ours);
                let mut bytes = Vec::new();
                let _ = read_half.read_to_end(&mut bytes).await;
                bytes.reverse();
                let _ = write_half.write_all(&bytes).await;
                let _ = write_half.shutdown().await;
            });
            Ok(Box::new(theirs) as Box<dyn PortStream>)
        })
    }
}

fn server() -> StreamingServer {
    StreamingServer::new(Arc::new(Echo), "http://runtime")
}

fn exec(tty: bool) -> Session {
    Session::Exec(Command {
        container: "c".into(),
        args: vec!["the".into(), "args".into()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    })
}

fn forward(ports: Vec<u16>) -> Session {
    Session::PortForward { sandbox: "pod".into(), ports }
}

/// Sends the request and reads the head of the answer.
async fn upgrade(
    server: &StreamingServer,
    url: &str,
    headers: &str,
) -> (BufReader<DuplexStream>, Vec<String>) {
    let path = url.strip_prefix("http://runtime").unwrap();
    let mut io = server.dial();
    let request = format!("POST {path} HTTP/1.1\r\nHost: runtime\r\nConnection: Upgrade\r\n{headers}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut io = BufReader::new(io);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        io.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => return (io, head),
            line => head.push(line.to_ascii_lowercase()),
        }
    }
}

const WEBSOCKET: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn websocket(session: Session, protocol: &str) -> WebSocketStream<BufReader<DuplexStream>> {
    let server = server();
    let url = server.url(session).unwrap();
    let headers = format!("{WEBSOCKET}Sec-WebSocket-Protocol: unknown, {protocol}\r\n");
    let (io, head) = upgrade(&server, &url, &headers).await;
    assert!(head[0].starts_with("http/1.1 101"), "{head:?}");
    assert!(head.contains(&format!("sec-websocket-protocol: {}", protocol.to_ascii_lowercase())), "{head:?}");
    assert!(head.contains(&"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=".to_owned()), "{head:?}");
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

async fn channels(mut ws: WebSocketStream<BufReader<DuplexStream>>) -> Vec<(u8, String)> {
    let mut out: Vec<(u8, String)> = Vec::new();
    while let Some(Ok(message)) = ws.next().await {
        if let Message::Binary(bytes) = message {
            let text = String::from_utf8_lossy(&bytes[1..]).into_owned();
            match out.iter_mut().find(|(channel, _)| *channel == bytes[0]) {
                Some((_, known)) => known.push_str(&text),
                None => out.push((bytes[0], text)),
            }
        }
    }
    out.sort();
    out
}

const EXIT_3: &str = r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#;

#[tokio::test]
async fn exec_over_websocket_version_5() {
    let mut ws = websocket(exec(false), "v5.channel.k8s.io").await;
    ws.send(Message::binary(b"\0hel".to_vec())).await.unwrap();
    ws.send(Message::binary(b"\0lo".to_vec())).await.unwrap();
    ws.send(Message::binary(vec![255, 0])).await.unwrap();
    let expected = [(1, "HELLO"), (2, "the args"), (3, EXIT_3)].map(|(c, t)| (c, t.to_owned()));
    assert_eq!(channels(ws).await, expected);
}

#[tokio::test]
async fn sizes_of_a_terminal() {
    let mut ws = websocket(exec(true), "v5.channel.k8s.io").await;
    ws.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.unwrap();
    ws.send(Message::binary(vec![255, 0])).await.unwrap();
    assert_eq!(channels(ws).await[0], (1, " 80x24".to_owned()));
}

async fn spdy(
    session: Session,
    protocol: &str,
) -> (
    FrameReader<tokio::io::ReadHalf<BufReader<DuplexStream>>>,
    FrameWriter<tokio::io::WriteHalf<BufReader<DuplexStream>>>,
) {
    let server = server();
    let url = server.url(session).unwrap();
    let headers = format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n");
    let (io, head) = upgrade(&server, &url, &headers).await;
    assert!(head[0].starts_with("http/1.1 101"), "{head:?}");
    assert!(head.contains(&format!("x-stream-protocol-version: {protocol}")), "{head:?}");
    let (read_half, write_half) = tokio::io::split(io);
    (FrameReader::new(read_half), FrameWriter::new(write_half))
}

fn syn(id: u32, pairs: &[(&str, &str)]) -> Frame {
    let headers = Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
    Frame::SynStream { id, fin: false, headers }
}

fn data(id: u32, fin: bool, bytes: &'static [u8]) -> Frame {
    Frame::Data { id, fin, bytes: bytes.into() }
}

async fn collect(
    reader: &mut FrameReader<impl tokio::io::AsyncRead + Unpin>,
    streams: usize,
) -> std::collections::BTreeMap<u32, String> {
    let mut out = std::collections::BTreeMap::new();
    let mut finished = 0;
    while finished < streams {
        match reader.next().await.unwrap() {
            Some(Frame::Data { id, fin, bytes }) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                out.entry(id).or_insert_with(String::new).push_str(&text);
                finished += usize::from(fin);
            }
            Some(_) => {}
            None => break,
        }
    }
    out
}

#[tokio::test]
async fn exec_over_spdy() {
    let (mut reader, mut writer) = spdy(exec(false), "v4.channel.k8s.io").await;
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        writer.write(&syn(id, &[("streamType", kind)])).await.unwrap();
    }
    writer.write(&data(3, false, b"hel")).await.unwrap();
    writer.write(&data(3, true, b"lo")).await.unwrap();
    let out = collect(&mut reader, 3).await;
    assert_eq!((out[&1].as_str(), out[&5].as_str(), out[&7].as_str()), (EXIT_3, "HELLO", "the args"));
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn port_forward_over_spdy() {
    let (mut reader, mut writer) = spdy(forward(vec![]), "portforward.k8s.io").await;
    for (id, kind, port, request) in
        [(1, "error", "80", "0"), (3, "data", "80", "0"), (5, "error", "1", "1"), (7, "data", "1", "1")]
    {
        writer
            .write(&syn(id, &[("streamType", kind), ("port", port), ("requestID", request)]))
            .await
            .unwrap();
    }
    writer.write(&data(3, true, b"abc")).await.unwrap();
    let out = collect(&mut reader, 3).await;
    assert_eq!(out[&3], "cba");
    assert!(out[&5].starts_with("error forwarding port 1 to pod pod: "), "{out:?}");
}

#[tokio::test]
async fn port_forward_through_a_tunnel() {
    let mut ws = websocket(forward(vec![]), "SPDY/3.1+portforward.k8s.io").await;
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes);
    for (id, kind) in [(1, "error"), (3, "data")] {
        writer.write(&syn(id, &[("streamType", kind), ("port", "80"), ("requestID", "0")])).await.unwrap();
    }
    writer.write(&data(3, true, b"abc")).await.unwrap();
    // However the client cuts the stream into messages.
    for piece in bytes.chunks(7) {
        ws.send(Message::binary(piece.to_vec())).await.unwrap();
    }
    let (mut inside, outside) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        while let Some(Ok(message)) = ws.next().await {
            if let Message::Binary(bytes) = message {
                inside.write_all(&bytes).await.unwrap();
            }
        }
    });
    let mut reader = FrameReader::new(outside);
    assert_eq!(collect(&mut reader, 2).await[&3], "cba");
}

#[tokio::test]
async fn port_forward_by_channels() {
    let mut ws = websocket(forward(vec![80]), "v4.channel.k8s.io").await;
    for channel in [0u8, 1] {
        let message = ws.next().await.unwrap().unwrap();
        assert_eq!(message, Message::binary(vec![channel, 80, 0]));
    }
    ws.close(None).await.unwrap();
}

#[tokio::test]
async fn refused() {
    let server = server();
    let url = server.url(exec(false)).unwrap();
    let (_, head) = upgrade(&server, &url, "").await;
    assert!(head[0].starts_with("http/1.1 400"), "{head:?}");
    let (_, head) = upgrade(&server, "http://runtime/exec/wrong", WEBSOCKET).await;
    assert!(head[0].starts_with("http/1.1 404"), "{head:?}");
    let headers = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9.channel.k8s.io\r\n";
    let (_, head) = upgrade(&server, &url, headers).await;
    assert!(head[0].starts_with("http/1.1 403"), "{head:?}");
    // The token is spent.
    let (_, head) = upgrade(&server, &url, WEBSOCKET).await;
    assert!(head[0].starts_with("http/1.1 404"), "{head:?}");
}
