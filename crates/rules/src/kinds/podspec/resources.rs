//! Requests and limits of resources.

use std::collections::BTreeMap;

use isopod_api::field::Error;
use isopod_api::names;
use isopod_api::quantity::Quantity;

use crate::kinds::check::{At, NOT_NEGATIVE};

const HUGE_PAGES: &str = "hugepages-";
/// Resources of containers that are not named by a domain.
const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// All resources that are not named by a domain, for containers, quotas and volumes.
const KNOWN: &[&str] = &[
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
];
/// Resources that are counted.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether pods may together be promised more of it than there is.
fn overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// An amount of a resource.
pub(in crate::kinds) fn quantity(name: &str, amount: &At<'_>) {
    let Some(quantity) = amount.quantity() else { return };
    if quantity.signum() < 0 {
        amount.invalid(NOT_NEGATIVE);
    }
    if (is_extended(name) || COUNTED.contains(&name)) && quantity.milli_value() % 1000 != 0 {
        amount.invalid("must be an integer");
    }
}

/// A name that says what it is by itself or by its domain.
pub(in crate::kinds) fn known_name(name: &str, amount: &At<'_>) {
    let wrong = names::is_qualified_name(name);
    let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES);
    if wrong.is_empty()
        && !name.contains('/')
        && !huge
        && ![STANDARD, KNOWN, COUNTED].iter().any(|list| list.contains(&name))
    {
        amount.invalid_as(name, "must be a standard resource type or fully qualified");
    }
    wrong.into_iter().for_each(|message| amount.invalid_as(name, message));
}

/// An amount of a resource that containers can ask for.
pub(super) fn container_resource(name: &str, amount: &At<'_>) {
    known_name(name, amount);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !name.starts_with(HUGE_PAGES) {
            amount.invalid_as(name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        amount.invalid_as(name, "doesn't follow extended resource name standard");
    }
    quantity(name, amount);
    let size = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
    if let (Some(size), Some(quantity)) = (size, amount.quantity())
        && size.value() > 0
        && quantity.value() % size.value() != 0
    {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        amount.invalid_as(quantity.to_string(), detail);
    }
}

/// Requests, limits and claims of a container.
pub(in crate::kinds) fn requirements(resources: &At<'_>, pod_claims: &At<'_>) {
    if !resources.is_set() {
        return;
    }
    bounds(resources);
    let mut seen = std::collections::BTreeSet::new();
    for claim in resources.field("claims").items() {
        let name = claim.field("name");
        if name.needs_text() {
            let key = format!("{}/{}", name.str(), claim.field("request").str());
            if !seen.insert(key) {
                claim.duplicate();
            } else if !pod_claims.list().iter().any(|c| c.get("name") == Some(name.value())) {
                name.not_found();
            }
        }
    }
}

fn bounds(resources: &At<'_>) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    let all = || limits.entries().chain(requests.entries());
    for (name, amount) in all() {
        container_resource(name, &amount);
    }
    for (name, amount) in requests.entries() {
        let Some(request) = amount.quantity() else { continue };
        match limits.entry(name).quantity() {
            Some(limit) if request != limit && !overcommitted(name) => {
                requests.invalid_as(request.to_string(), format!("must be equal to {name} limit of {limit}"));
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                requests.invalid_as(request.to_string(), detail);
            }
            None if !overcommitted(name) => {
                limits.required("Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let any = |wanted: fn(&str) -> bool| all().any(|(name, _)| wanted(name));
    if any(|name| name.starts_with(HUGE_PAGES)) && !any(|name| matches!(name, "cpu" | "memory")) {
        resources.forbidden("HugePages require cpu or memory");
    }
}

/// Resources of the pod as a whole.
pub(super) fn pod_level(spec: &At<'_>) {
    let resources = spec.field("resources");
    if !resources.is_set() {
        return;
    }
    for (name, amount) in resources.field("limits").entries().chain(resources.field("requests").entries()) {
        if !matches!(name, "cpu" | "memory") && !name.starts_with(HUGE_PAGES) {
            let supported = ["cpu", "hugepages-", "memory"];
            amount.report(Error::not_supported(&amount.path(), name, &supported));
        }
    }
    bounds(&resources);
    for (name, sum) in requests_of_containers(spec) {
        let request = resources.field("requests").entry(name);
        if let Some(amount) = request.quantity().filter(|amount| *amount < sum) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            request.invalid_as(amount.to_string(), detail);
        }
    }
}

fn requests_of_containers<'v>(spec: &At<'v>) -> BTreeMap<&'v str, Quantity> {
    let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
    for container in spec.field("containers").items() {
        for (name, amount) in container.field("resources.requests").entries() {
            let sum = sums.entry(name).or_default();
            *sum = sum.add(amount.quantity().unwrap_or_default());
        }
    }
    sums
}
