//! Which resources the API server serves now.

use std::collections::BTreeSet;

use isopod_reconcile::plan::Resource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use tracing::debug;

/// A served resource.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) resource: Resource,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Served {
    pub(crate) fn api_version(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.version.clone()
        } else {
            format!("{}/{}", self.resource.group, self.resource.version)
        }
    }
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }
}

/// Every resource in its preferred version, and the groups that could not be asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) resources: Vec<Served>,
    /// Every served (apiVersion, kind), in any version, as its preferred resource.
    pub(crate) failures: Vec<String>,
}

/// Asks in the aggregated form, and in the older one where that is not served.
pub(crate) async fn discover(client: &kube::Client) -> Result<Discovered, kube::Error> {
    match aggregated(client).await {
        Ok(found) if !found.resources.is_empty() => Ok(found),
        Ok(_) => legacy(client).await,
        Err(error @ kube::Error::Service(_)) => Err(error),
        Err(error) => {
            debug!(%error, "no aggregated discovery");
            legacy(client).await
        }
    }
}

async fn aggregated(client: &kube::Client) -> Result<Discovered, kube::Error> {
    let (core, groups) =
        tokio::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    let mut found = Discovered::default();
    for APIGroupDiscoveryList { items, .. } in [core, groups] {
        for group in items {
            add_group(&mut found, group);
        }
    }
    Ok(found)
}

fn add_group(found: &mut Discovered, group: APIGroupDiscovery) {
    let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        if version.freshness.as_deref() == Some("Stale") {
            found.failures.push(format!("{name}/{number}: stale GroupVersion discovery: {name}/{number}"));
            continue;
        }
        for resource in version.resources {
            let plural = resource.resource.unwrap_or_default();
            let kind = resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
            if plural.is_empty() || kind.is_empty() || !seen.insert(plural.clone()) {
                continue;
            }
            found.resources.push(Served {
                resource: Resource { group: name.clone(), version: number.clone(), plural },
                kind,
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
                verbs: resource.verbs,
            });
        }
    }
}

async fn legacy(client: &kube::Client) -> Result<Discovered, kube::Error> {
    let discovery = kube::Discovery::new(client.clone()).run().await?;
    let mut found = Discovered::default();
    for group in discovery.groups() {
        let mut seen = BTreeSet::new();
        let preferred = group.preferred_version_or_latest();
        let rest = group.versions().filter(|version| *version != preferred);
        for version in std::iter::once(preferred).chain(rest) {
            for (resource, capabilities) in group.versioned_resources(version) {
                if seen.insert(resource.plural.clone()) {
                    found.resources.push(Served {
                        resource: Resource {
                            group: resource.group,
                            version: resource.version,
                            plural: resource.plural,
                        },
                        kind: resource.kind,
                        namespaced: capabilities.scope == kube::discovery::Scope::Namespaced,
                        verbs: capabilities.operations,
                    });
                }
            }
        }
    }
    Ok(found)
}
