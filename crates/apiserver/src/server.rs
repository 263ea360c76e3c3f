//! The server: what lives as long as the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use isopod_api::identity::UserInfo;
use isopod_client::clock::{Clock, SystemClock};
use isopod_kv::Store;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::config::{Config, ConfigError};
use crate::flow::Flow;
use crate::layers::{Layers, Objects};
use crate::registry::Registry;
use crate::registry::objects::SystemObjects;
use crate::{authn, authz};

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates given for authentication cannot be used.
    #[error("authentication: {0}")]
    Authentication(#[from] isopod_pki::Error),
    /// The audit log cannot be kept.
    #[error(transparent)]
    Audit(#[from] crate::audit::Error),
    /// The store does not answer.
    #[error("the store cannot be watched")]
    Store,
    /// The objects every cluster has could not be made.
    #[error("starting up: {0}")]
    PostStart(isopod_api::status::Status),
}

/// The Kubernetes API server.
pub struct ApiServer {
    me: Weak<ApiServer>,
    pub(crate) config: Config,
    registry: Registry,
    layers: OnceLock<Layers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) flow: Flow,
    pub(crate) audit: Option<Audit>,
    pub(crate) leases: crate::leases::Leases,
    pub(crate) published: crate::discovery::Published,
    shutdown: CancellationToken,
    ready: AtomicBool,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiServer({:?})", self.registry)
    }
}

impl ApiServer {
    /// Makes a server on a store and starts following it. It answers requests at once; [`ApiServer::ready`]
    /// becomes true when [`ApiServer::start`] has done its work.
    pub async fn new(config: Config, store: Arc<dyn Store>) -> Result<Arc<ApiServer>, Error> {
        ApiServer::with_layers(config, store, |layers| layers).await
    }

    /// The same, with a say in the layers.
    pub async fn with_layers(
        config: Config,
        store: Arc<dyn Store>,
        change: impl FnOnce(Layers) -> Layers,
    ) -> Result<Arc<ApiServer>, Error> {
        config.validate()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let audit = config.audit.as_ref().map(|c| Audit::new(c, Arc::clone(&clock))).transpose()?;
        let registry =
            Registry::new(store, &config.storage_prefix, config.storage_json, config.encryption.as_ref());
        let server = Arc::new_cyclic(|me| ApiServer {
            me: Weak::clone(me),
            registry,
            layers: OnceLock::new(),
            clock,
            flow: Flow::new(config.seats),
            audit,
            leases: crate::leases::Leases::default(),
            published: crate::discovery::Published::default(),
            shutdown: CancellationToken::new(),
            ready: AtomicBool::new(false),
            config,
        });
        let objects: Arc<dyn Objects> = Arc::new(SystemObjects::new(&server));
        let authorization = authz::authorization(&server.config.authorization, &objects);
        let admission = crate::admission::layers(&server.config.admission, &objects, &authorization);
        let mut virtual_resources = authn::virtual_resources(&server.config.authentication, &objects);
        virtual_resources.extend(authorization.virtual_resources);
        let layers = Layers {
            authenticators: authn::layers(&server.config.authentication, &objects)?,
            authorizers: authorization.authorizers,
            admission,
            virtual_resources,
        };
        if server.layers.set(change(layers)).is_err() {
            unreachable!("the layers of a new server are not set");
        }
        let (started, has_started) = tokio::sync::oneshot::channel();
        let feed = Arc::clone(&server.registry.feed);
        tokio::spawn(feed.run(server.shutdown.clone(), started));
        has_started.await.map_err(|_| Error::Store)?;
        Ok(server)
    }

    /// Makes the objects every cluster has, and keeps those up that the server itself owns.
    pub async fn start(self: &Arc<Self>) -> Result<(), Error> {
        crate::poststart::run(self).await.map_err(Error::PostStart)?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the server has started up.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.shutdown.is_cancelled()
    }

    /// Ends watches, background work and, once requests are done, connections.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until the audit log of what has been answered is written. Blocks for at most some seconds.
    pub fn flush_audit(&self) {
        if let Some(audit) = &self.audit {
            audit.flush();
        }
    }

    /// Cancelled when the server stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// A client in this process that enters the same layers in the name of `user`.
    pub fn in_process(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        isopod_client::in_process(crate::net::in_process::Service::new(Arc::clone(self)), user)
    }

    /// The server itself, for work that may outlive a request.
    pub(crate) fn me(&self) -> Weak<ApiServer> {
        Weak::clone(&self.me)
    }

    /// The resources.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The layers.
    pub fn layers(&self) -> &Layers {
        self.layers.get().expect("the layers are set before the server is shared")
    }
}
