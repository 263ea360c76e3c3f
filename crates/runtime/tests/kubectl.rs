//! The real kubectl against the streaming server, over WebSocket and over SPDY. What it needs of an API server
//! besides (discovery, the pod) is written out here.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use isopod_cri::v1::*;
use isopod_cri::{RuntimeService, StreamingDial};
use serde_json::{Value, json};
use support::{Node, container};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

struct Api {
    node: Node,
    sandbox: String,
    container: String,
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    let body = Full::from(value.to_string());
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

impl Api {
    fn document(&self, path: &str) -> Value {
        let pods = |name: &str, kind: &str, verbs: &[&str]| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
        match path {
            "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
            "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
            "/api/v1" => json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                pods("pods", "Pod", &["get"]), pods("pods/exec", "PodExecOptions", &["create", "get"]),
                pods("pods/attach", "PodAttachOptions", &["create", "get"]),
                pods("pods/portforward", "PodPortForwardOptions", &["create", "get"]),
            ]}),
            _ => json!({
                "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "pod", "namespace": "default", "uid": "1"},
                "spec": {"containers": [{"name": "main", "image": "x", "stdin": true, "ports": [{"containerPort": 8080}]}]},
                "status": {"phase": "Running", "containerStatuses": [{"name": "main", "ready": true, "state": {"running": {}}}]},
            }),
        }
    }

    async fn handle(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let has = |name: &str| {
            query.split('&').any(|pair| pair == format!("{name}=true") || pair == format!("{name}=1"))
        };
        let url = if path.ends_with("/exec") {
            let cmd = url_decode(&query, "command");
            let request = ExecRequest {
                container_id: self.container.clone(),
                cmd,
                tty: has("tty"),
                stdin: has("stdin"),
                stdout: has("stdout"),
                stderr: has("stderr") && !has("tty"),
            };
            self.node.runtime.exec(request).await.unwrap().url
        } else if path.ends_with("/attach") {
            let request = AttachRequest {
                container_id: self.container.clone(),
                stdin: has("stdin"),
                tty: false,
                stdout: has("stdout"),
                stderr: has("stderr"),
            };
            self.node.runtime.attach(request).await.unwrap().url
        } else if path.ends_with("/portforward") {
            let request = PortForwardRequest { pod_sandbox_id: self.sandbox.clone(), port: vec![] };
            self.node.runtime.port_forward(request).await.unwrap().url
        } else {
            return json_response(&self.document(&path));
        };
        let backend = self.node.runtime.dial(&url).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(backend)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let upgrade = hyper::upgrade::on(&mut request);
        let target = url.strip_prefix("http://runtime").unwrap();
        let mut inner =
            Request::builder().method(request.method()).uri(target).body(Full::<Bytes>::default()).unwrap();
        *inner.headers_mut() = request.headers().clone();
        let response = sender.send_request(inner).await.unwrap();
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        tokio::spawn(async move {
            let (client, server) = tokio::join!(upgrade, hyper::upgrade::on(response));
            if let (Ok(client), Ok(server)) = (client, server) {
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
            }
        });
        answer
    }
}

fn url_decode(query: &str, name: &str) -> Vec<String> {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                other => other,
            });
        }
        String::from_utf8(out).unwrap()
    };
    query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(decode).collect()
}

fn kubectl(address: &str, websockets: bool, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    let on = websockets.to_string();
    command
        .args(["--server", &format!("http://{address}"), "--kubeconfig", "/dev/null"])
        .args(args)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", &on)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", &on)
        .env("HOME", std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(mut command: Command, input: &[u8]) -> (String, String, i32) {
    let mut child = command.spawn().expect("kubectl is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let limit = std::time::Duration::from_secs(30);
    let output = tokio::time::timeout(limit, child.wait_with_output()).await.expect("kubectl ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_attach_and_port_forward() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container(
        "main",
        "busybox ip link set lo up; busybox nc -ll -p 8080 -e cat & while read line; do echo got $line; done; exec sleep 1000",
    );
    (config.stdin, config.stdin_once) = (true, false);
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let container = node.create(&sandbox, config).await;
    node.start(&container).await;
    let api = Arc::new(Api { node, sandbox, container });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = api.clone();
    let server = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let api = served.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request| {
                    let api = api.clone();
                    async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    for websockets in [true, false] {
        let args = ["exec", "-i", "pod", "--", "sh", "-c", "cat; echo err >&2; exit 3"];
        let (out, err, code) = output(kubectl(&address, websockets, &args), b"input\n").await;
        assert_eq!((out.as_str(), code), ("input\n", 3), "{err}");
        assert!(err.contains("err\n") && err.contains("exit code 3"), "{err}");
        // More than any buffer on the way, both ways.
        let input = vec![b'x'; 3_000_000];
        let (out, err, code) =
            output(kubectl(&address, websockets, &["exec", "-i", "pod", "--", "wc", "-c"]), &input).await;
        assert_eq!((out.as_str(), err.as_str(), code), ("3000000\n", "", 0));
        let args = ["exec", "pod", "--", "sh", "-c", "head -c 3000000 /dev/zero"];
        let (out, err, code) = output(kubectl(&address, websockets, &args), b"").await;
        assert_eq!((out.len(), err.as_str(), code), (3_000_000, "", 0));
        attach(&address, websockets).await;
        forward(&address, websockets).await;
    }
    server.abort();
}

async fn attach(address: &str, websockets: bool) {
    let mut child = kubectl(address, websockets, &["attach", "-i", "pod"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let line = format!("hello {websockets}");
    stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, stdout.read_line(&mut answer)).await.expect("output arrives").unwrap();
    assert_eq!(answer, format!("got {line}\n"));
    child.kill().await.unwrap();
}

async fn forward(address: &str, websockets: bool) {
    let mut child = kubectl(address, websockets, &["port-forward", "pod", ":8080"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, stdout.read_line(&mut line)).await.expect("kubectl listens").unwrap();
    let local = line.split_whitespace().nth(2).unwrap().to_owned();
    for round in 0..5 {
        let mut socket = tokio::net::TcpStream::connect(&local).await.unwrap();
        let sent = format!("round {round} {}", "x".repeat(200_000)).into_bytes();
        let (mut read_half, mut write_half) = socket.split();
        let mut received = vec![0; sent.len()];
        let both = async { tokio::join!(write_half.write_all(&sent), read_half.read_exact(&mut received)) };
        let (written, read) = tokio::time::timeout(limit, both).await.expect("data comes back");
        written.unwrap();
        read.unwrap();
        assert!(received == sent);
    }
    child.kill().await.unwrap();
}
