//! What every pod spec obeys, in a Pod or in the template of a workload, worded as upstream's
//! `pkg/apis/core/validation`.

mod affinity;
mod container;
mod dns;
mod env;
mod handler;
mod resources;
mod security;
mod spread;
mod volume;

use std::collections::BTreeSet;

use isopod_api::field::Error;
use isopod_api::{Value, names};

use super::check::At;
use super::meta;

pub(super) use affinity::{label_selector, node_selector};
pub(super) use dns::ip_address;
pub(super) use handler::port_or_name;
pub(super) use resources::{known_name as known_resource, quantity as resource_quantity};
pub(super) use spread::tolerations;
pub(super) use volume::{access_modes, claim_spec};

/// What the checks of a pod spec depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A Pod.
    Pod,
    /// A template of pods.
    Template,
}

/// Highest value of a 32-bit number.
pub(super) const INT32_MAX: i64 = i32::MAX as i64;

/// Validates a pod template: labels, annotations and spec.
pub(super) fn template(template: &At<'_>) {
    let metadata = template.field("metadata");
    for (field, validate) in [
        ("labels", meta::validate_labels as fn(Option<&Value>, &isopod_api::field::Path) -> _),
        ("annotations", meta::validate_annotations),
    ] {
        let map = metadata.field(field);
        metadata.report_all(validate(Some(map.value()), &map.path()));
    }
    let spec = template.field("spec");
    spec_rules(&spec, Owner::Template);
    if !spec.field("ephemeralContainers").is_empty() {
        spec.field("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template");
    }
}

/// Validates a pod spec.
pub(super) fn spec_rules(spec: &At<'_>, owner: Owner) {
    let volumes = volume::volumes(&spec.field("volumes"));
    container::containers(spec, &volumes);
    container::init_containers(spec, &volumes);
    container::ephemeral_containers(spec, &volumes);
    let restart_policies = ["Always", "OnFailure", "Never"];
    spec.field("restartPolicy").needs_one_of(&restart_policies);
    dns::policy_and_config(spec);
    let selector = spec.field("nodeSelector");
    spec.report_all(meta::validate_labels(Some(selector.value()), &selector.path()));
    security::pod(spec, owner);
    affinity::affinity(&spec.field("affinity"));
    spread::tolerations(&spec.field("tolerations"));
    spread::topology(&spec.field("topologySpreadConstraints"));
    for gate in spec.field("readinessGates").items() {
        gate.field("conditionType").must_follow(names::is_qualified_name);
    }
    scheduling_gates(&spec.field("schedulingGates"));
    spec.field("serviceAccountName").follows(names::is_dns1123_subdomain);
    spec.field("nodeName").follows(names::is_dns1123_subdomain);
    spec.field("activeDeadlineSeconds").within(1, INT32_MAX);
    spec.field("hostname").follows(names::is_dns1123_label);
    spec.field("subdomain").follows(names::is_dns1123_label);
    hostname_override(spec);
    dns::host_aliases(&spec.field("hostAliases"));
    spec.field("priorityClassName").follows(names::is_dns1123_subdomain);
    spec.field("runtimeClassName").follows(names::is_dns1123_subdomain);
    spec.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"]);
    for (name, amount) in spec.field("overhead").entries() {
        resources::container_resource(name, &amount);
    }
    resources::pod_level(spec);
    resource_claims(&spec.field("resourceClaims"));
    security::os(spec);
}

fn scheduling_gates(gates: &At<'_>) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.field("name").str();
        names::is_qualified_name(name).into_iter().for_each(|message| gate.invalid_as(name, message));
        if !seen.insert(name) {
            gate.report(Error::duplicate(&gate.path(), name));
        }
    }
}

fn hostname_override(spec: &At<'_>) {
    let hostname = spec.field("hostnameOverride");
    if !hostname.is_set() {
        return;
    }
    hostname.must_follow(names::is_dns1123_subdomain);
    if hostname.str().len() > 64 {
        hostname.invalid("must be no more than 64 characters");
    }
    if spec.field("setHostnameAsFQDN").is_true() {
        spec.field("setHostnameAsFQDN").forbidden("may not be set when `hostnameOverride` is set");
    }
    if spec.field("hostNetwork").is_true() {
        hostname.forbidden("may not be set when `hostNetwork` is true");
    }
}

fn resource_claims(claims: &At<'_>) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.field("name");
        name.needs(names::is_dns1123_label);
        name.unique(&mut seen);
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|key| claim.field(key));
        match sources.iter().filter(|s| s.is_set()).count() {
            0 => claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => {}
            _ => claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        sources.iter().for_each(|source| source.follows(names::is_dns1123_subdomain));
    }
}
