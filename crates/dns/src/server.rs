//! Sockets: UDP and TCP.

use crate::Error;
use crate::config::Config;
use crate::resolve::{Resolver, Step, encode};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Most TCP connections at a time for each address; a client that comes while all are taken waits in the backlog.
const CONNECTIONS_MAX: usize = 256;

/// How long a TCP client may be silent, or leave an answer unread.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest UDP request. A query with EDNS options is some hundred bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// Longest TCP answer: what its length field can say.
const STREAM_BYTES_MAX: usize = u16::MAX as usize;

/// Pause after a socket error that may last, such as a lack of descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Tries to bind an address that is not there yet (the bridge has just been made), and the pause between them.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// Bound sockets.
pub(crate) struct Sockets(Vec<(Arc<UdpSocket>, TcpListener)>);

/// Binds UDP and TCP on every address, all on one port.
pub(crate) async fn bind(config: &Config) -> Result<Sockets, Error> {
    match bind_port(&config.listen, config.port).await {
        Err(Error::Listen(at, error)) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let Some(port) = config.fallback_port else { return Err(Error::Listen(at, error)) };
            tracing::warn!(address = %at, port, "another program listens there; using another port");
            bind_port(&config.listen, port).await
        }
        other => other,
    }
}

async fn bind_port(ips: &[IpAddr], port: u16) -> Result<Sockets, Error> {
    let mut sockets = Vec::new();
    for ip in ips {
        let mut tries = 0;
        let pair = loop {
            match bind_pair(SocketAddr::new(*ip, port)).await {
                Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable && tries < BIND_TRIES => {
                    tries += 1
                }
                other => break other.map_err(|error| Error::Listen(SocketAddr::new(*ip, port), error))?,
            }
            tokio::time::sleep(BIND_PAUSE).await;
        };
        sockets.push(pair);
    }
    Ok(Sockets(sockets))
}

async fn bind_pair(at: SocketAddr) -> std::io::Result<(Arc<UdpSocket>, TcpListener)> {
    let tcp = TcpListener::bind(at).await?;
    // With port 0 both get the same.
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((Arc::new(udp), tcp))
}

impl Sockets {
    /// The bound addresses.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, resolver: Arc<Resolver>, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.0 {
            tasks.spawn(serve_udp(udp, resolver.clone()));
            tasks.spawn(serve_tcp(tcp, resolver.clone()));
        }
        shutdown.cancelled().await;
        tasks.shutdown().await;
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error to an earlier answer surfaces here, at once and once.
            Err(error) => {
                tracing::debug!(error = %error, "receiving");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let (step, limit) = resolver.begin(&buffer[..length]);
        match step {
            Step::Ignore => {}
            Step::Done(answer) => {
                if let Some(bytes) = encode(answer, limit) {
                    // A full send buffer loses the answer, and the client asks again.
                    let _ = socket.try_send_to(&bytes, client);
                }
            }
            // The number of tasks is bounded by the forwarder, which refuses past its limit without waiting.
            Step::Forward(pending) => {
                let (socket, resolver) = (socket.clone(), resolver.clone());
                tokio::spawn(async move {
                    let answer = resolver.finish(pending, false).await;
                    if let Some(bytes) = encode(answer, limit) {
                        let _ = socket.send_to(&bytes, client).await;
                    }
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let resolver = resolver.clone();
                tokio::spawn(async move {
                    // Whatever ends a connection, the client sees it end.
                    let _ = converse(stream, &resolver).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(error = %error, "accepting");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, resolver: &Resolver) -> std::io::Result<()> {
    loop {
        let length = timeout(IDLE_TIMEOUT, stream.read_u16()).await??;
        let mut request = vec![0; usize::from(length)];
        timeout(IDLE_TIMEOUT, stream.read_exact(&mut request)).await??;
        let answer = match resolver.begin(&request).0 {
            Step::Ignore => return Ok(()),
            Step::Done(answer) => answer,
            Step::Forward(pending) => resolver.finish(pending, true).await,
        };
        let Some(bytes) = encode(answer, STREAM_BYTES_MAX) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await??;
    }
}
