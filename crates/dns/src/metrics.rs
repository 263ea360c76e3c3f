//! Metrics, under CoreDNS's names, in the process's default registry, and a port to read them from.

use prometheus::{Encoder, IntCounter, register_int_counter};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest request head that is read, and how long a client may take over it.
const HEAD_BYTES_MAX: usize = 8192;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// All metrics of the server.
pub(crate) struct Metrics {
    pub(crate) requests: IntCounter,
    pub(crate) forwarded: IntCounter,
    pub(crate) forward_failures: IntCounter,
    pub(crate) cache_hits: IntCounter,
}

/// The process's metrics of the DNS server.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter =
        |name: &str, help: &str| register_int_counter!(name, help).expect("a metric registered once");
    Metrics {
        requests: counter("coredns_dns_requests_total", "Requests"),
        forwarded: counter("coredns_forward_requests_total", "Queries sent to upstream servers"),
        forward_failures: counter(
            "coredns_forward_failures_total",
            "Queries that no upstream server answered",
        ),
        cache_hits: counter("coredns_cache_hits_total", "Queries answered from the cache"),
    }
});

/// Serves `/metrics` on every address until `shutdown`; one connection at a time, which is plenty for a scraper.
pub(crate) async fn serve(addresses: Vec<SocketAddr>, shutdown: &CancellationToken) {
    let mut tasks = tokio::task::JoinSet::new();
    for at in addresses {
        tasks.spawn(async move {
            let listener = match TcpListener::bind(at).await {
                Ok(listener) => listener,
                Err(error) => return tracing::warn!(address = %at, error = %error, "no port for DNS metrics"),
            };
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // A slow or rude client gets nothing.
                        let _ = timeout(HEAD_TIMEOUT, respond(stream)).await;
                    }
                    Err(_) => tokio::time::sleep(HEAD_TIMEOUT).await,
                }
            }
        });
    }
    shutdown.cancelled().await;
    tasks.shutdown().await;
}

async fn respond(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(());
        }
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            length => head.extend_from_slice(&chunk[..length]),
        }
    }
    let encoder = prometheus::TextEncoder::new();
    let mut body = Vec::new();
    let (status, content_type) = if head.starts_with(b"GET /metrics ") {
        match encoder.encode(&prometheus::gather(), &mut body) {
            Ok(()) => ("200 OK", encoder.format_type()),
            Err(_) => ("500 Internal Server Error", "text/plain"),
        }
    } else {
        ("404 Not Found", "text/plain")
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}
