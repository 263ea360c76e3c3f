//! The server on loopback, asked by `dig`.

use crate::config::Config;
use crate::forward::Forwarder;
use crate::resolve::Resolver;
use crate::server;
use crate::zone::{Endpoint, Kind, Service, Zone};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// An upstream server: knows `example.org`, has a long answer for `long.example`, is silent on `silent.example`.
async fn upstream(asked: Arc<AtomicUsize>) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(at).await.unwrap();
    tokio::spawn({
        let asked = asked.clone();
        async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                asked.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = upstream_answer(&buffer[..length], 512) {
                    udp.send_to(&answer, client).await.unwrap();
                }
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut request = vec![0; length.into()];
            stream.read_exact(&mut request).await.unwrap();
            let answer = upstream_answer(&request, 65_535).unwrap();
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    at
}

fn upstream_answer(request: &[u8], limit: usize) -> Option<Vec<u8>> {
    let request = Message::from_vec(request).unwrap();
    let name = request.queries[0].name.clone();
    let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
    answer.add_queries(request.queries.clone());
    let a = |last: u8| Record::from_rdata(name.clone(), 60, RData::A(Ipv4Addr::new(192, 0, 2, last).into()));
    match name.to_ascii().to_ascii_lowercase().as_str() {
        "example.org." => answer.add_answer(a(1)),
        "long.example." => answer.add_answers((1..=200).map(a)),
        "silent.example." => return None,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            &mut answer
        }
    };
    crate::resolve::encode(answer, limit)
}

struct Server {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Server {
    async fn start() -> Self {
        let mut config = Config::new("node-1", vec![[127, 0, 0, 1].into()]);
        config.port = 0;
        let zone = Arc::new(Zone::new(config.zone_settings()));
        let put = |name: &str, kind: Kind| {
            zone.set_service("ns", name, Some(Service { namespace: "ns".into(), name: name.into(), kind }));
        };
        put("web", Kind::Cluster(vec![[10, 43, 0, 80].into()], vec![]));
        put("away", Kind::External("example.org".into()));
        put("inside", Kind::External("web.ns.svc.cluster.local".into()));
        put("loop", Kind::External("loop.ns.svc.cluster.local".into()));
        let endpoint =
            |n: u8| Endpoint { hostname: format!("pod-{n}"), ip: [10, 42, 0, n].into(), ports: vec![] };
        put("many", Kind::Headless((1..=200).map(endpoint).collect()));
        let asked = Arc::new(AtomicUsize::new(0));
        let forwarder = Forwarder::to(&[upstream(asked.clone()).await]);
        let sockets = server::bind(&config).await.unwrap();
        let at = sockets.addresses()[0];
        let stop = CancellationToken::new();
        tokio::spawn(sockets.serve(Arc::new(Resolver::new(zone, forwarder)), stop.clone()));
        Self { at, asked, stop }
    }

    async fn dig(&self, question: &str) -> String {
        let output = Command::new("dig")
            .args([format!("@{}", self.at.ip()), "-p".into(), self.at.port().to_string()])
            .args(["+time=6", "+tries=1"])
            .args(question.split_whitespace())
            .output()
            .await
            .expect("dig (Debian package bind9-dnsutils)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Status, flags and the records of the answer.
    async fn check(&self, question: &str, status: &str, answers: &[&str]) {
        let text = self.dig(question).await;
        assert!(text.contains(&format!("status: {status},")), "{question}: {text}");
        let short: Vec<String> = text
            .split(";; ANSWER SECTION:\n")
            .nth(1)
            .map(|section| {
                section
                    .lines()
                    .take_while(|l| !l.is_empty())
                    .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect()
            })
            .unwrap_or_default();
        assert_eq!(short, answers, "{question}: {text}");
    }
}

#[tokio::test]
async fn answers() {
    let server = Server::start().await;
    let web = "web.ns.svc.cluster.local. 5 IN A 10.43.0.80";
    server.check("web.ns.svc.cluster.local", "NOERROR", &[web]).await;
    server.check("+tcp web.ns.svc.cluster.local", "NOERROR", &[web]).await;
    server.check("+noedns web.ns.svc.cluster.local", "NOERROR", &[web]).await;
    server.check("web.ns.svc.cluster.local AAAA", "NOERROR", &[]).await;
    server.check("none.ns.svc.cluster.local", "NXDOMAIN", &[]).await;
    let text = server.dig("web.ns.svc.cluster.local").await;
    assert!(text.contains("flags: qr aa rd ra;"), "{text}");
    let text = server.dig("none.ns.svc.cluster.local").await;
    assert!(text.contains("SOA\tns.dns.cluster.local. hostmaster.cluster.local."), "{text}");

    // What is not ours, aliases inside and outside, and one that names itself.
    server.check("example.org", "NOERROR", &["example.org. 60 IN A 192.0.2.1"]).await;
    server.check("none.example", "NXDOMAIN", &[]).await;
    let alias = "away.ns.svc.cluster.local. 5 IN CNAME example.org.";
    server.check("away.ns.svc.cluster.local CNAME", "NOERROR", &[alias]).await;
    server.check("away.ns.svc.cluster.local", "NOERROR", &[alias, "example.org. 60 IN A 192.0.2.1"]).await;
    let inside = "inside.ns.svc.cluster.local. 5 IN CNAME web.ns.svc.cluster.local.";
    server.check("inside.ns.svc.cluster.local", "NOERROR", &[inside, web]).await;
    assert!(server.dig("loop.ns.svc.cluster.local").await.contains("status: SERVFAIL"));

    // Only the first question for a name went upstream, in whatever case it was asked.
    let before = server.asked.load(Ordering::SeqCst);
    server.check("EXAMPLE.org", "NOERROR", &["example.org. 60 IN A 192.0.2.1"]).await;
    assert_eq!(server.asked.load(Ordering::SeqCst), before);
    server.stop.cancel();
}

#[tokio::test]
async fn length_and_oddities() {
    let server = Server::start().await;
    let cut = server.dig("+ignore +noedns many.ns.svc.cluster.local").await;
    assert!(cut.contains("flags: qr aa tc rd ra;"), "{cut}");
    let count = |text: &str| text.lines().filter(|l| l.contains("\tIN\tA\t")).count();
    assert!((1..=32).contains(&count(&cut)), "{cut}");
    // Without +ignore dig comes again by TCP.
    assert_eq!(count(&server.dig("many.ns.svc.cluster.local").await), 200);
    assert_eq!(count(&server.dig("long.example").await), 200);
    assert!(server.dig("silent.example").await.contains("status: SERVFAIL"));
    assert!(server.dig("version.bind CH TXT").await.contains("status: REFUSED"));
    assert!(
        server.dig("+noednsnegotiation +edns=1 web.ns.svc.cluster.local").await.contains("status: BADVERS")
    );
    assert!(server.dig("+opcode=status web.ns.svc.cluster.local").await.contains("status: NOTIMP"));

    // Garbage gets an error or nothing, and does not disturb the next client.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at).await.unwrap();
    let mut buffer = [0; 512];
    socket.send(&[0x12, 0x34, 0x01, 0x00, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0xff]).await.unwrap();
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, ResponseCode::FormErr);
    for bytes in [&[][..], &[1], &[0; 12], &[0xff; 600]] {
        socket.send(bytes).await.unwrap();
    }
    server
        .check("web.ns.svc.cluster.local", "NOERROR", &["web.ns.svc.cluster.local. 5 IN A 10.43.0.80"])
        .await;
    server.stop.cancel();
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::new("node-1", vec![[127, 0, 0, 1].into()]);
    config.port = taken.local_addr().unwrap().port();
    config.fallback_port = None;
    assert!(server::bind(&config).await.is_err());
    config.fallback_port = Some(0);
    assert_ne!(server::bind(&config).await.unwrap().addresses()[0].port(), config.port);
}
