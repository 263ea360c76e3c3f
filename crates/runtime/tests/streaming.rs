//! Exec, attach and port-forward on real containers, by the protocol that kubectl speaks.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use futures::{SinkExt, StreamExt};
use isopod_cri::v1::*;
use isopod_cri::{BoxedIo, RuntimeService, StreamingDial};
use support::{Node, container};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

async fn connect(node: &Node, url: &str, protocol: &str) -> WebSocketStream<BoxedIo> {
    let mut io = node.runtime.dial(url).await.unwrap();
    let path = url.strip_prefix("http://runtime").unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: runtime\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// What arrives on each channel until the end, or until `until` is in the output.
async fn read(ws: &mut WebSocketStream<BoxedIo>, until: &str) -> [String; 4] {
    let mut out: [String; 4] = Default::default();
    let all = async {
        while let Some(Ok(message)) = ws.next().await {
            if let Message::Binary(bytes) = message {
                out[usize::from(bytes[0])].push_str(&String::from_utf8_lossy(&bytes[1..]));
            }
            if !until.is_empty() && out[1].contains(until) {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), all).await.expect("output arrives");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_attach() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "while read line; do echo got $line; done; echo end; exit 4");
    (config.stdin, config.stdin_once) = (true, true);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let exec = async |tty: bool, stdin: bool, script: &str| {
        let request = ExecRequest {
            container_id: id.clone(),
            cmd: vec!["sh".into(), "-c".into(), script.into()],
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        let url = node.runtime.exec(request).await.unwrap().url;
        connect(&node, &url, "v5.channel.k8s.io").await
    };
    let mut ws = exec(false, true, "cat; echo err >&2; exit 9").await;
    ws.send(Message::binary(b"\0some input".to_vec())).await.unwrap();
    ws.send(Message::binary(vec![255, 0])).await.unwrap();
    let [_, out, err, status] = read(&mut ws, "").await;
    assert_eq!((out.as_str(), err.as_str()), ("some input", "err\n"));
    assert!(status.contains(r#"{"message":"9","reason":"ExitCode"}"#), "{status}");

    let mut ws = exec(true, true, "tty; while read x; do stty size; done").await;
    assert!(read(&mut ws, "\r\n").await[1].starts_with("/dev/pts/"));
    ws.send(Message::binary(b"\x04{\"Width\":123,\"Height\":45}".to_vec())).await.unwrap();
    // The size and the input come by different ways: ask until it is there, and wait for each answer, since the
    // terminal echoes the question much faster than the shell answers it.
    let mut seen = String::new();
    for _ in 0..100 {
        ws.send(Message::binary(b"\0\n".to_vec())).await.unwrap();
        seen.push_str(&read(&mut ws, " ").await[1]);
        if seen.contains("45 123") {
            break;
        }
    }
    assert!(seen.contains("45 123"), "{seen}");
    ws.send(Message::binary(b"\0\x04".to_vec())).await.unwrap();
    assert!(read(&mut ws, "").await[3].contains("\"Success\""));

    let mut ws = exec(false, false, "nothere").await;
    assert!(read(&mut ws, "").await[3].contains(r#""message":"127""#));

    let request =
        AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = node.runtime.attach(request).await.unwrap().url;
    let mut ws = connect(&node, &url, "v4.channel.k8s.io").await;
    ws.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
    assert_eq!(read(&mut ws, "got hello\n").await[1], "got hello\n");
    // Leaving closes the input of a container that has it once.
    drop(ws);
    assert_eq!(node.wait_exit(&id).await.exit_code, 4);
    assert_eq!(node.log("main.log"), ["stdout F got hello", "stdout F end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_terminal() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "tty; read x; stty size; echo bye");
    (config.stdin, config.tty) = (true, true);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = node.runtime.attach(request).await.unwrap().url;
    let mut ws = connect(&node, &url, "v5.channel.k8s.io").await;
    ws.send(Message::binary(b"\x04{\"Width\":99,\"Height\":33}".to_vec())).await.unwrap();
    ws.send(Message::binary(b"\0\n".to_vec())).await.unwrap();
    assert!(read(&mut ws, "").await[1].ends_with("bye\r\n"));
    node.wait_exit(&id).await;
    // The echo of the input may come before it.
    let log = node.log("main.log");
    assert!(log.iter().any(|line| line == "stdout F /dev/pts/0"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    // Loopback is down in a sandbox without a network: the container brings it up.
    let mut config = container("main", "busybox ip link set lo up; exec nc -l -p 8080 -e cat");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.privileged = true;
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let listening = async {
        while !node.exec(&id, "cat /proc/net/tcp /proc/net/tcp6").await.0.contains(":1F90 ") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), listening).await.expect("the server listens");
    let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080] };
    let url = node.runtime.port_forward(request).await.unwrap().url;
    let mut ws = connect(&node, &url, "v4.channel.k8s.io").await;
    ws.send(Message::binary(b"\0echo".to_vec())).await.unwrap();
    let mut data = Vec::new();
    while !data.ends_with(b"echo") {
        if let Message::Binary(bytes) = ws.next().await.unwrap().unwrap()
            && bytes[0] == 0
        {
            data.extend_from_slice(&bytes[1..]);
        }
    }
    assert_eq!(data, [&8080u16.to_le_bytes()[..], b"echo"].concat());
}
