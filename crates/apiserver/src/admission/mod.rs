//! Admission: the plugins of a server, in upstream's order.
//!
//! What a plugin decides stands in `isopod_rules::admission`, pure; here are the shells that bring it what it
//! needs, and the few plugins that ask the authorisers or write.

mod certificates;
mod escalation;
mod event_rate_limit;
mod pure;
mod resource_quota;

use std::sync::Arc;

use isopod_rules::admission::PLUGINS;

use crate::authz::Authorization;
use crate::layers::{Admission, Objects};

/// Configuration of admission.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Plugins that are off, by upstream's names. RBAC's own check is no plugin and cannot be turned off.
    pub disabled: Vec<String>,
}

/// Plugins with a shell of their own, by upstream's names.
const SHELLS: &[&str] = &[
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "EventRateLimit",
    "ResourceQuota",
];

/// The names of all plugins that there are, all of them on by default.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|plugin| plugin.name).chain(SHELLS.iter().copied())
}

/// The plugins, in the order they are asked.
pub fn layers(
    config: &Config,
    objects: &Arc<dyn Objects>,
    authorization: &Authorization,
) -> Vec<Arc<dyn Admission>> {
    let mut plugins: Vec<Arc<dyn Admission>> = Vec::new();
    for plugin in PLUGINS {
        plugins.push(Arc::new(pure::Pure::new(plugin, objects.clone())));
        match plugin.name {
            "NodeRestriction" => plugins.push(Arc::new(certificates::NodeRequests)),
            "DefaultTolerationSeconds" => plugins.push(Arc::new(event_rate_limit::EventRateLimit::default())),
            "RuntimeClass" => plugins.extend(certificates::all(&authorization.authorizers)),
            _ => {}
        }
    }
    plugins.push(Arc::new(resource_quota::ResourceQuota::new(objects.clone())));
    plugins.retain(|plugin| !config.disabled.iter().any(|name| name == plugin.name()));
    plugins.push(Arc::new(escalation::Escalation::new(authorization)));
    plugins
}
