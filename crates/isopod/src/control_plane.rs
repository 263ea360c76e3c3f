//! The control plane in one process: store, API server, controllers, scheduler.
//!
//! The parts meet where they would meet over the wire: the API server sees a `Store`, everyone else sees the API
//! server through a client with an identity of their own, to which authorisation applies.

use crate::cluster;
use crate::config::{Config, OutsideEtcd};
use crate::parts::certificate_signer::Authorities;
use crate::parts::token_signer::Signer;
use anyhow::{Context, Result};
use ipnet::IpNet;
use isopod_api::identity::{GROUP_MASTERS, GROUP_NODES, UserInfo};
use isopod_apiserver::ApiServer;
use isopod_apiserver::authn::ServiceAccountTokens;
use isopod_apiserver::registry::encryption;
use isopod_client::{Clock, Informers, SystemClock};
use isopod_kv::Store;
use isopod_pki::tls::{Clients, ServingCertificate};
use isopod_pki::{Leaf, Pki};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How often certificates are looked at; they are renewed long before they expire.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(12 * 60 * 60);

/// Pause before a part that lost its lease asks for it again.
const LEAD_AGAIN: Duration = Duration::from_secs(1);

/// A running control plane.
pub(crate) struct ControlPlane {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) pki: Arc<Pki>,
    /// What the components of this process read, each kind once.
    pub(crate) informers: Informers,
    /// Replaced when it is renewed.
    pub(crate) kubelet_serving: Arc<ServingCertificate>,
    /// Ends when any part fails.
    pub(crate) parts: JoinSet<Result<()>>,
}

/// What the certificates have to say about this machine.
pub(crate) fn pki_config(config: &Config) -> isopod_pki::Config {
    let mut names = vec![config.node_name.clone()];
    let mut addresses = vec![config.node_ip];
    if !config.bind_address.is_unspecified() {
        addresses.push(config.bind_address);
    }
    for san in &config.tls_san {
        match san.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(san.clone()),
        }
    }
    isopod_pki::Config {
        directory: config.data_dir.join("pki"),
        node_name: config.node_name.clone(),
        server_names: names,
        node_addresses: addresses,
        service_address: config.kubernetes_service_ip(),
        cluster_domain: config.cluster_domain.clone(),
    }
}

async fn store(
    config: &Config,
    pki: &Pki,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) -> Result<Arc<dyn Store>> {
    match &config.etcd {
        Some(etcd) => outside_store(etcd).await,
        None if cluster::is_clustered(config) => {
            Ok(cluster::Member::start(config, pki, parts, shutdown).await?.engine)
        }
        None => {
            let directory = config.data_dir.join("etcd");
            let engine = isopod_etcd::open(isopod_etcd::Config {
                name: config.node_name.clone(),
                // Nobody reaches this store to clear an alarm.
                clear_no_space: true,
                ..isopod_etcd::Config::new(directory)
            })
            .context("open the store")?;
            Ok(engine)
        }
    }
}

async fn outside_store(etcd: &OutsideEtcd) -> Result<Arc<dyn Store>> {
    crate::parts::etcd_client(&etcd.servers, etcd.ca.as_deref(), etcd.cert.as_deref(), etcd.key.as_deref())
        .await
}

fn tokens(config: &Config, pki: &Pki) -> Result<ServiceAccountTokens> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    ServiceAccountTokens::new(
        &issuer,
        &[],
        &pki.service_account_key_pem,
        std::slice::from_ref(&pki.service_account_public_key_pem),
    )
    .context("service account keys")
}

fn api_config(config: &Config, pki: &Pki) -> Result<isopod_apiserver::Config> {
    let tokens = tokens(config, pki)?;
    let mut api = isopod_apiserver::Config::new(config.node_ip, config.https_port, config.service_cidr);
    api.kubelet_tls = Some(isopod_pki::tls::client_config(
        pki.serving_ca.certificate_pem(),
        Some(&pki.apiserver_kubelet_client),
        &["http/1.1"],
    )?);
    api.authentication.client_ca_pem = pki.client_ca.certificate_pem().to_owned();
    api.authentication.front_proxy_ca_pem = pki.front_proxy_ca.certificate_pem().to_owned();
    api.authentication.front_proxy_names = vec!["front-proxy-client".into()];
    api.authentication.service_accounts = Some(Arc::new(tokens));
    api.authentication.bootstrap_tokens = true;
    // Another file that the flags name takes its place.
    if config.api.encryption_provider_config.is_none() {
        let own = encryption::parse(&pki.encryption_config).context("pki/encryption-config.yaml")?;
        api.encryption = Some(Arc::new(own));
    }
    config.api.apply(&mut api, Some(&config.data_dir.join("log/audit/audit.log")))?;
    Ok(api)
}

/// The API server's certificate followed by its authority's: who has only the authority's hash, as a server that
/// joins, needs to see it.
fn with_authority(pki: &Pki) -> Leaf {
    let certificate_pem = format!("{}{}", pki.apiserver.certificate_pem, pki.serving_ca.certificate_pem());
    Leaf { certificate_pem, key_pem: pki.apiserver.key_pem.clone() }
}

/// Runs a part that leads by a lease, again after it has lost it: another server leads meanwhile.
async fn lead_again<F, E>(
    what: &str,
    shutdown: &CancellationToken,
    mut run: impl FnMut() -> F,
    lost: impl Fn(&E) -> bool,
) -> Result<()>
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    loop {
        match run().await {
            Err(error) if lost(&error) && !shutdown.is_cancelled() => {
                tracing::warn!(%error, "{what} leads no more");
            }
            ended => return ended.with_context(|| what.to_owned()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LEAD_AGAIN) => {}
        }
    }
}

/// The identity of a component that speaks in-process.
fn component(name: &str) -> UserInfo {
    UserInfo::authenticated(name, &[])
}

impl ControlPlane {
    /// Starts everything. Listens before anything is written, so that an occupied port leaves the data untouched.
    pub(crate) async fn start(config: &Config, shutdown: &CancellationToken) -> Result<Self> {
        let address = SocketAddr::new(config.bind_address, config.https_port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (--bind-address, --https-port)"))?;
        let pki = isopod_pki::ensure(&pki_config(config), SystemClock.now()).context("certificates")?;
        let mut parts = JoinSet::new();
        let store = store(config, &pki, &mut parts, shutdown).await?;
        let api = ApiServer::new(api_config(config, &pki)?, store).await.context("start the API server")?;
        let serving = ServingCertificate::new(&with_authority(&pki))?;
        let hint = format!("{}{}", pki.client_ca.certificate_pem(), pki.front_proxy_ca.certificate_pem());
        let clients = Clients::Optional { hint_pem: hint };
        let tls = isopod_pki::tls::server_config(serving.clone(), &clients, &["h2", "http/1.1"])?;

        let (server, stop) = (api.clone(), shutdown.clone());
        parts.spawn(async move {
            server.serve(listener, tls, stop).await;
            Ok(())
        });
        api.start().await.context("start the API server")?;
        info!(%address, "API server is ready");
        let reader = api.in_process(component("system:kube-controller-manager"));
        let mut plane = ControlPlane {
            informers: Informers::new(reader, shutdown.clone()),
            kubelet_serving: ServingCertificate::new(&pki.kubelet_serving)?,
            pki: Arc::new(pki),
            api,
            parts,
        };
        plane.write_kubeconfig(config)?;
        plane.run_controllers(config, shutdown)?;
        plane.renew_certificates(config, serving, shutdown);
        Ok(plane)
    }

    fn write_kubeconfig(&self, config: &Config) -> Result<()> {
        let text = isopod_pki::kubeconfig(
            crate::user_kubeconfig::NAME,
            &config.local_url(),
            self.pki.serving_ca.certificate_pem(),
            "isopod-admin",
            &isopod_pki::Credentials::Certificate(&self.pki.admin),
        );
        isopod_pki::write_private(&config.kubeconfig, text.as_bytes())
            .with_context(|| format!("write {}", config.kubeconfig.display()))?;
        crate::status::remember_kubeconfig(&config.data_dir, &config.kubeconfig)
    }

    /// A client with the identity of a node's kubelet.
    pub(crate) fn kubelet_client(&self, node: &str) -> kube::Client {
        self.api.in_process(UserInfo::authenticated(format!("system:node:{node}"), &[GROUP_NODES]))
    }
    /// A client that may do everything, for what the server itself does at start.
    pub(crate) fn admin_client(&self) -> kube::Client {
        self.api.in_process(UserInfo::authenticated("isopod:server", &[GROUP_MASTERS]))
    }
    /// A client with a component's identity, such as `system:kube-proxy`.
    pub(crate) fn client(&self, user: &str) -> kube::Client {
        self.api.in_process(component(user))
    }

    /// Starts scheduler and controllers: at once where this server is alone, by leases where others may lead.
    fn run_controllers(&mut self, config: &Config, shutdown: &CancellationToken) -> Result<()> {
        let identity = cluster::is_clustered(config).then(|| config.node_name.clone());
        let (client, informers) = (self.client("system:kube-scheduler"), self.informers.clone());
        let scheduler = isopod_scheduler::Config {
            leader_elect: identity.clone().map(isopod_scheduler::LeaderElection::new),
            ..isopod_scheduler::Config::default()
        };
        let stop = shutdown.clone();
        self.parts.spawn(async move {
            let run =
                || isopod_scheduler::run(scheduler.clone(), client.clone(), informers.clone(), stop.clone());
            let lost = |error: &isopod_scheduler::Error| matches!(error, isopod_scheduler::Error::LostLease);
            lead_again("kube-scheduler", &stop, run, lost).await
        });
        let api = self.api.clone();
        let clients: isopod_controller_manager::Clients = Arc::new(move |name: &str| {
            api.in_process(match name {
                "kube-controller-manager" => component("system:kube-controller-manager"),
                controller => UserInfo::service_account("kube-system", controller, ""),
            })
        });
        let informers = self.informers.clone();
        let mut manager = controller_config(config, &self.pki)?;
        manager.leader_elect = identity.map(isopod_controller_manager::LeaderElection::new);
        let stop = shutdown.clone();
        self.parts.spawn(async move {
            let run = || {
                let (config, clients) = (manager.clone(), clients.clone());
                isopod_controller_manager::run(config, clients, informers.clone(), stop.clone())
            };
            let lost = |error: &isopod_controller_manager::Error| {
                matches!(error, isopod_controller_manager::Error::LostLease)
            };
            lead_again("kube-controller-manager", &stop, run, lost).await
        });
        Ok(())
    }

    /// Renews certificates in time; a new serving certificate is used at once.
    fn renew_certificates(
        &mut self,
        config: &Config,
        serving: Arc<ServingCertificate>,
        shutdown: &CancellationToken,
    ) {
        let (pki_config, stop) = (pki_config(config), shutdown.clone());
        let kubelet = self.kubelet_serving.clone();
        self.parts.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(CERTIFICATE_CHECK) => {}
                }
                let pki = isopod_pki::ensure(&pki_config, SystemClock.now()).context("renew certificates")?;
                if !pki.changed.is_empty() {
                    info!(renewed = ?pki.changed, "certificates renewed");
                    serving.replace(&with_authority(&pki))?;
                    kubelet.replace(&pki.kubelet_serving)?;
                }
            }
        });
    }
}

fn controller_config(config: &Config, pki: &Pki) -> Result<isopod_controller_manager::Config> {
    let range = |net: &IpNet| vec![*net];
    let signer = Signer::new(tokens(config, pki)?);
    let authorities = Authorities {
        client: Some(pki.client_ca.clone()),
        kubelet_client: Some(pki.client_ca.clone()),
        kubelet_serving: Some(pki.serving_ca.clone()),
    };
    Ok(isopod_controller_manager::Config {
        allocate_node_cidrs: true,
        cluster_cidrs: range(&config.cluster_cidr),
        service_cidrs: range(&config.service_cidr),
        root_ca: Some(pki.serving_ca.certificate_pem().to_owned()),
        node_monitor_grace_period: config.node_monitor_grace_period,
        token_signer: Some(Arc::new(signer)),
        certificate_signer: Some(Arc::new(authorities)),
        ..isopod_controller_manager::Config::default()
    })
}
