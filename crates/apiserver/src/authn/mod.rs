//! Authentication: who sends a request.

use std::sync::Arc;

use crate::layers::{Authenticator, Objects};

/// Configuration of authentication.
#[derive(Clone, Debug, Default)]
pub struct Config {}

/// The authenticators, in the order they are asked. `objects` reads what is stored (service accounts).
pub fn layers(_config: &Config, _objects: &Arc<dyn Objects>) -> Vec<Arc<dyn Authenticator>> {
    Vec::new()
}
