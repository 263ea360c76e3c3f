//! This server's member of the store, and its way into the group.

use super::{CLIENT_PORT, PEER_PORT};
use crate::config::Config;
use anyhow::{Context, Result, bail};
use isopod_etcd::member::{Bootstrap, Change};
use isopod_etcd::{Engine, Listeners, PeerTls};
use isopod_kv::grpc::{TlsConfig, channels, method, unary};
use isopod_kv::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, RangeRequest,
};
use isopod_pki::Pki;
use isopod_pki::tls::{Clients, ServingCertificate};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pause between two tries of something that needs the other members.
const RETRY: Duration = Duration::from_millis(500);
/// Waiting is told of this often.
const TELL: Duration = Duration::from_secs(10);
/// How long a server waits for others that join at the same time.
const JOIN_MAX: Duration = Duration::from_secs(300);
/// How long a learner may take until it has caught up. It receives the whole store meanwhile.
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

/// A member of the store that others speak with.
pub(crate) struct Member {
    pub(crate) engine: Arc<Engine>,
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}

fn client_tls(pki: &Pki) -> TlsConfig {
    let leaf = &pki.apiserver_etcd_client;
    TlsConfig {
        ca_pem: pki.etcd_ca.certificate_pem().as_bytes().to_vec(),
        identity: Some((leaf.certificate_pem.clone().into_bytes(), leaf.key_pem.clone().into_bytes())),
        server_name: None,
    }
}

async fn listen(address: IpAddr, port: u16, what: &str) -> Result<TcpListener> {
    let at = SocketAddr::new(address, port);
    TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at} for {what} of the store"))
}

impl Member {
    /// Opens this server's member, joins the group of `first` where there is none yet, and serves peers and clients
    /// until `shutdown`.
    pub(crate) async fn start(
        config: &Config,
        pki: &Pki,
        parts: &mut JoinSet<Result<()>>,
        shutdown: &CancellationToken,
    ) -> Result<Member> {
        let peers = listen(config.node_ip, PEER_PORT, "members").await?;
        let mut clients = vec![listen(config.node_ip, CLIENT_PORT, "clients").await?];
        clients.push(listen(Ipv4Addr::LOCALHOST.into(), CLIENT_PORT, "clients").await?);
        let directory = config.data_dir.join("etcd");
        let settings = isopod_etcd::Config {
            name: config.node_name.clone(),
            client_urls: vec![url(config.node_ip, CLIENT_PORT)],
            peer_urls: vec![url(config.node_ip, PEER_PORT)],
            ..isopod_etcd::Config::new(&directory)
        };
        let known =
            isopod_etcd::is_member(&directory).with_context(|| format!("read {}", directory.display()))?;
        let engine = match (&config.join, known) {
            (Some(join), false) => {
                let group = Group::of(&join.server, pki)?;
                let bootstrap = group.enter(&settings.peer_urls).await.context("join the store")?;
                isopod_etcd::open_member(settings, bootstrap)
            }
            _ => isopod_etcd::open(settings),
        };
        let engine = engine.context("open the store")?;
        serve(&engine, pki, peers, clients, parts, shutdown)?;
        let member = Member { engine };
        if let Some(join) = &config.join {
            member.become_voter(&Group::of(&join.server, pki)?, shutdown).await?;
        }
        member.wait_for_quorum(shutdown).await?;
        member.tell_peer_url(&url(config.node_ip, PEER_PORT)).await?;
        Ok(member)
    }

    /// Waits until the group answers: a server that starts alone after all were down needs another one.
    async fn wait_for_quorum(&self, shutdown: &CancellationToken) -> Result<()> {
        let mut told = tokio::time::Instant::now();
        loop {
            match self.engine.range(&RangeRequest::key("health")).await {
                Ok(_) => return Ok(()),
                Err(error) if told.elapsed() > TELL => {
                    told = tokio::time::Instant::now();
                    info!(%error, "waiting for a majority of the store's members");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => bail!("stopped while waiting for the store's other members"),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Lets the group know where this member is, where that has changed: a store that was alone has no peer URL.
    async fn tell_peer_url(&self, peer_url: &str) -> Result<()> {
        let id = self.engine.member_id();
        let Some(mut own) = self.engine.members().into_iter().find(|member| member.id == id) else {
            bail!("this server was removed from its cluster: purge its data directory to join again");
        };
        if own.peer_urls != [peer_url] {
            own.peer_urls = vec![peer_url.to_owned()];
            self.engine.change_membership(Change::Update(own)).await.context("update the member list")?;
        }
        Ok(())
    }

    /// Has the group promote this member once it has caught up.
    async fn become_voter(&self, group: &Group, shutdown: &CancellationToken) -> Result<()> {
        let id = self.engine.member_id();
        let learns = || self.engine.members().iter().any(|member| member.id == id && member.is_learner);
        let until = tokio::time::Instant::now() + CATCH_UP_MAX;
        while learns() || self.engine.members().is_empty() {
            match group.promote(id).await {
                Ok(()) => info!("this server is a full member of the cluster"),
                Err(error) if tokio::time::Instant::now() > until => {
                    return Err(error).context("become a full member of the cluster");
                }
                Err(error) => tracing::debug!(%error, "not promoted yet"),
            }
            tokio::select! {
                () = shutdown.cancelled() => bail!("stopped while joining the cluster"),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        Ok(())
    }
}

fn serve(
    engine: &Arc<Engine>,
    pki: &Pki,
    peers: TcpListener,
    clients: Vec<TcpListener>,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let only_ours = Clients::Required { ca_pem: pki.etcd_ca.certificate_pem().to_owned() };
    let server = |leaf| isopod_pki::tls::server_config(ServingCertificate::new(leaf)?, &only_ours, &["h2"]);
    let peer_tls = PeerTls {
        server: server(&pki.etcd_peer)?,
        client: isopod_pki::tls::client_config(pki.etcd_ca.certificate_pem(), Some(&pki.etcd_peer), &["h2"])?,
    };
    let client_tls = server(&pki.etcd_server)?;
    let (member, stop) = (engine.clone(), shutdown.clone());
    parts.spawn(async move {
        isopod_etcd::serve_peers(member, vec![peers], Some(peer_tls), stop).await;
        Ok(())
    });
    let (member, stop) = (engine.clone(), shutdown.clone());
    let listeners = Listeners { client: clients, metrics: Vec::new() };
    parts.spawn(async move {
        isopod_etcd::serve(member, listeners, Some(client_tls), stop).await.context("serve the store")
    });
    let (member, stop) = (engine.clone(), shutdown.clone());
    parts.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = member.removed().cancelled() => bail!("this server was removed from its cluster"),
        }
    });
    Ok(())
}

/// The members that are there already, by their client URLs.
struct Group {
    urls: Vec<String>,
    tls: TlsConfig,
}

impl Group {
    /// Reached through the member of the server that is joined.
    fn of(server: &str, pki: &Pki) -> Result<Self> {
        let url: http::Uri = server.parse().context("--server is not a URL")?;
        let host = url.host().context("--server names no host")?;
        Ok(Group { urls: vec![format!("https://{host}:{CLIENT_PORT}")], tls: client_tls(pki) })
    }

    async fn call<Q, R>(&self, path: &'static str, request: Q) -> Result<R, isopod_kv::Error>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut last = isopod_kv::Error::Stopped;
        for channel in channels(&self.urls, Some(&self.tls))? {
            match unary(&channel, path, request.clone()).await {
                Err(error) if error.is_unavailable() => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// Adds this server as a learner, unless an earlier try has; how its member begins.
    async fn enter(&self, peer_urls: &[String]) -> Result<Bootstrap> {
        let request = MemberListRequest { linearizable: true };
        let list: MemberListResponse = self.call(method::MEMBER_LIST, request).await?;
        let mut members = list.members;
        let mut header = list.header;
        let mut own = members.iter().find(|member| member.peer_urls == peer_urls).map(|member| member.id);
        if own.is_none() {
            let added = self.add_learner(peer_urls).await?;
            own = added.member.map(|member| member.id);
            (members, header) = (added.members, added.header);
        } else {
            warn!("the cluster knows a member with this server's address already: going on as that one");
        }
        Ok(Bootstrap::Join {
            cluster_id: header.context("an answer without a header")?.cluster_id,
            member_id: own.context("an answer without the member")?,
            members,
        })
    }

    /// Adds a learner; waits its turn while another server joins, since a group has one learner at a time.
    async fn add_learner(&self, peer_urls: &[String]) -> Result<MemberAddResponse, isopod_kv::Error> {
        let until = tokio::time::Instant::now() + JOIN_MAX;
        let request = MemberAddRequest { peer_urls: peer_urls.to_vec(), is_learner: true };
        loop {
            match self.call(method::MEMBER_ADD, request.clone()).await {
                Err(isopod_kv::Error::TooManyLearners | isopod_kv::Error::Unhealthy)
                    if tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn promote(&self, id: u64) -> Result<(), isopod_kv::Error> {
        let _: MemberPromoteResponse = self.call(method::MEMBER_PROMOTE, MemberPromoteRequest { id }).await?;
        Ok(())
    }
}
