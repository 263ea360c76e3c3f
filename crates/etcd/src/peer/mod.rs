//! Members on the network: who is where, what is said to them, what they say.
//!
//! A member keeps one connection to each of the others, on which its messages go in order as the body of one HTTP/2
//! request; snapshots are requests of their own on connections of their own, so that they hold nothing up. What comes
//! back is only the end: answers travel on the other member's connection.
//!
//! Whoever connects says who it is, whom it means, of which group and of which version of this protocol; strangers are
//! turned away. Frames are bounded, and one that does not decode ends its connection. Messages that cannot be sent are
//! dropped, as Raft expects.

mod address;
mod client;
mod frame;
mod network;
mod server;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use address::Address;
pub use client::discover;

use crate::engine::Engine;
use network::Network;

/// Version of what members say to each other. Members of different versions do not speak.
const PROTOCOL_VERSION: &str = "1";
/// The request whose body is messages.
const MESSAGES_PATH: &str = "/isopod/peer/messages";
/// The request whose body is a snapshot.
const SNAPSHOT_PATH: &str = "/isopod/peer/snapshot";
/// Who belongs to the group, for a member that is to join.
const MEMBERS_PATH: &str = "/isopod/peer/members";
/// Headers of a request: who says it, to whom, of which group, in which version.
const FROM: &str = "x-isopod-from";
const TO: &str = "x-isopod-to";
const CLUSTER: &str = "x-isopod-cluster";
const VERSION: &str = "x-isopod-peer-version";

/// TLS between members.
#[derive(Clone)]
pub struct PeerTls {
    /// For those that connect; decides about their certificates.
    pub server: Arc<rustls::ServerConfig>,
    /// For connecting to others; brings this member's certificate.
    pub client: Arc<rustls::ClientConfig>,
}

/// The members of a group.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct GroupInfo {
    /// The group's ID.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Its members.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<isopod_kv::Member>,
}

/// Speaks with the other members until `shutdown`. To be called once for an engine.
pub async fn serve_peers(
    engine: Arc<Engine>,
    listeners: Vec<TcpListener>,
    tls: Option<PeerTls>,
    shutdown: CancellationToken,
) {
    let client = tls.as_ref().map(|tls| tls.client.clone());
    let network = Network::new(engine.shared().clone(), client, shutdown.clone());
    engine.set_transport(network);
    let mut tasks = tokio::task::JoinSet::new();
    let server = server::Server::new(engine, tls.map(|tls| tls.server), shutdown.clone());
    for listener in listeners {
        tasks.spawn(server.clone().accept(listener));
    }
    shutdown.cancelled().await;
    while tasks.join_next().await.is_some() {}
}
