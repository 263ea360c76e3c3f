//! Forwarding queries for names outside the cluster.
//!
//! Each try has a socket of its own, connected to the server: the kernel picks a random port, and only that server
//! can answer. An answer must carry the query's random id and question.

use crate::cache::{Cache, Question};
use crate::config::Config;
use crate::metrics::METRICS;
use crate::resolv_conf;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Most queries under way. A server that does not answer must not pile up memory and sockets.
const CONCURRENT_MAX: usize = 1000;

/// How long one server may take, and how long all tries together: clients give up after 5 s.
const TRY_TIMEOUT: Duration = Duration::from_millis(2000);
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4500);

/// UDP payload we accept from servers: what passes unfragmented nearly everywhere (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD_BYTES: u16 = 1232;

/// How often `resolv.conf` is looked at for changes.
const REREAD: Duration = Duration::from_secs(5);

struct Servers {
    list: Arc<[SocketAddr]>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

/// Why a query could not be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no upstream server: resolv.conf names none but this server")]
    NoServer,
    #[error("too many queries under way")]
    Busy,
    #[error("no upstream server answered")]
    Unanswered,
}

/// The forwarder.
pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    own: Vec<IpAddr>,
    servers: Mutex<Servers>,
    slots: Semaphore,
    cache: Cache,
}

impl Forwarder {
    /// Forwards to the servers of the configured file, never to `own`.
    pub(crate) fn new(config: &Config, own: &[SocketAddr]) -> Self {
        Self {
            resolv_conf: config.resolv_conf.clone(),
            own: own.iter().map(SocketAddr::ip).chain(config.service_ip).collect(),
            servers: Mutex::new(Servers { list: Arc::from([]), modified: None, looked: None }),
            slots: Semaphore::new(CONCURRENT_MAX),
            cache: Cache::default(),
        }
    }

    /// Forwards to fixed servers, for tests.
    #[cfg(test)]
    pub(crate) fn to(servers: &[SocketAddr]) -> Self {
        let forever = Instant::now() + Duration::from_secs(86_400);
        Self {
            resolv_conf: PathBuf::new(),
            own: vec![],
            servers: Mutex::new(Servers { list: Arc::from(servers), modified: None, looked: Some(forever) }),
            slots: Semaphore::new(CONCURRENT_MAX),
            cache: Cache::default(),
        }
    }

    /// An answer from the cache.
    pub(crate) fn cached(&self, name: &Name, wanted: RecordType, dnssec: bool) -> Option<Message> {
        let found = self.cache.get(&question(name, wanted, dnssec));
        if found.is_some() {
            METRICS.cache_hits.inc();
        }
        found
    }

    /// Asks upstream. `stream`: the client can take answers of any length.
    pub(crate) async fn ask(
        &self,
        name: &Name,
        wanted: RecordType,
        dnssec: bool,
        stream: bool,
    ) -> Result<Message, ForwardError> {
        let _slot = self.slots.try_acquire().map_err(|_| ForwardError::Busy)?;
        let servers = self.servers();
        if servers.is_empty() {
            return Err(ForwardError::NoServer);
        }
        let answer = timeout(TOTAL_TIMEOUT, self.try_servers(&servers, name, wanted, dnssec, stream));
        let answer = answer.await.ok().flatten().ok_or(ForwardError::Unanswered)?;
        self.cache.put(question(name, wanted, dnssec), &answer);
        Ok(answer)
    }

    /// Each server in turn, twice over. A server that fails is passed over; what it said is used if all fail.
    async fn try_servers(
        &self,
        servers: &[SocketAddr],
        name: &Name,
        wanted: RecordType,
        dnssec: bool,
        stream: bool,
    ) -> Option<Message> {
        let mut failure = None;
        for server in servers.iter().chain(servers) {
            METRICS.forwarded.inc();
            let query = query(name, wanted, dnssec);
            let mut answer = timeout(TRY_TIMEOUT, over_udp(*server, &query)).await.ok().and_then(Result::ok);
            if stream && answer.as_ref().is_some_and(|a| a.metadata.truncation) {
                let whole = timeout(TRY_TIMEOUT, over_tcp(*server, &query)).await;
                answer = whole.ok().and_then(Result::ok).or(answer);
            }
            match answer {
                Some(a)
                    if matches!(a.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused) =>
                {
                    failure = Some(a);
                }
                Some(answer) => return Some(answer),
                None => {}
            }
        }
        failure
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut servers = self.servers.lock();
        let now = Instant::now();
        if servers.looked.is_some_and(|looked| looked + REREAD > now) {
            return servers.list.clone();
        }
        servers.looked = Some(now);
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|m| m.modified()).ok();
        if modified.is_none() || modified != servers.modified {
            match std::fs::read_to_string(&self.resolv_conf) {
                Ok(text) => {
                    servers.list = resolv_conf::servers(&text, &self.own).into();
                    servers.modified = modified;
                    tracing::info!(servers = ?servers.list, "upstream DNS servers");
                }
                Err(error) => {
                    tracing::warn!(file = %self.resolv_conf.display(), error = %error, "cannot read");
                }
            }
        }
        servers.list.clone()
    }
}

fn question(name: &Name, wanted: RecordType, dnssec: bool) -> Question {
    (name.to_ascii().to_ascii_lowercase(), wanted, dnssec)
}

fn query(name: &Name, wanted: RecordType, dnssec: bool) -> Message {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), wanted));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_BYTES).set_version(0).set_dnssec_ok(dnssec);
    query.set_edns(edns);
    query
}

/// Whether `answer` is one to `query`.
fn matches(query: &Message, answer: &Message) -> bool {
    answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && match (&query.queries[..], &answer.queries[..]) {
            ([asked], [answered]) => {
                asked.query_type == answered.query_type
                    && asked.query_class == answered.query_class
                    && asked.name == answered.name
            }
            // Some servers leave the question out of an error.
            (_, []) => answer.metadata.response_code != ResponseCode::NoError,
            _ => false,
        }
}

fn invalid(error: impl ToString) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())
}

async fn over_udp(server: SocketAddr, query: &Message) -> std::io::Result<Message> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query.to_vec().map_err(invalid)?).await?;
    let mut buffer = vec![0; usize::from(UDP_PAYLOAD_BYTES).max(4096)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if matches(query, &answer) => return Ok(answer),
            // A stray or forged datagram: go on waiting for the real one.
            _ => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = query.to_vec().map_err(invalid)?;
    let length = u16::try_from(bytes.len()).map_err(invalid)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(invalid)?;
    if matches(query, &answer) { Ok(answer) } else { Err(invalid("an answer to another question")) }
}
