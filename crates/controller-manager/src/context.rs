//! What every control loop is given.

use std::sync::Arc;

use isopod_client::{Clock, Informers};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// Makes the client of a controller from its service account's name (`deployment-controller`, …), so that each
/// controller acts with its own least privilege.
pub type Clients = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// Shared by all control loops.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) clients: Clients,
    pub(crate) informers: Informers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn client(&self, name: &str) -> kube::Client {
        (self.clients)(name)
    }
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
