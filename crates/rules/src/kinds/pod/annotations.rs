//! Annotations of pods that the API server reads: who mirrors whom, the price of a deletion, old AppArmor profiles.

use isopod_api::field::{Error, Path};

use crate::kinds::check::At;

/// Names the pod on a node's disk that this one mirrors.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// How dear the pod is to its ReplicaSet: the cheapest goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Prefix of the annotations that named AppArmor profiles before there was a field.
const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

fn path(key: &str) -> Path {
    Path::new("metadata").child("annotations").key(key)
}

/// What holds for every pod.
pub(super) fn rules(pod: &At<'_>) {
    let mirror = pod.field("metadata.annotations").entry(MIRROR);
    if mirror.is_set() && pod.field("spec.nodeName").is_empty() {
        mirror.invalid("must set spec.nodeName if mirror pod annotation is set");
    }
}

/// The price of a deletion must be a number.
pub(super) fn deletion_cost(pod: &At<'_>) {
    let cost = pod.field("metadata.annotations").entry(DELETION_COST);
    if !is_cost(&cost) {
        cost.invalid("must be a 32bit integer");
    }
}

/// Signs and leading zeros aside, any 32-bit number, or none.
fn is_cost(cost: &At<'_>) -> bool {
    let text = cost.str();
    let canonical = text == "0" || text.starts_with(|c: char| c == '-' || ('1'..='9').contains(&c));
    !cost.is_set() || (canonical && text.parse::<i32>().is_ok())
}

/// What a change of the pod, by whatever subresource, may not do to them.
pub(super) fn changes(new: &At<'_>, old: &At<'_>) {
    let (now, was) = (new.field("metadata.annotations"), old.field("metadata.annotations"));
    for (key, value) in was.entries() {
        if now.entry(key).value() == value.value() {
            continue;
        }
        if key.starts_with(APPARMOR_PREFIX) {
            new.report(Error::forbidden(&path(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            new.report(Error::forbidden(&path(key), "may not remove or update mirror pod annotation"));
        }
    }
    for (key, _) in now.entries().filter(|(key, _)| !was.entry(key).is_set()) {
        if key.starts_with(APPARMOR_PREFIX) {
            new.report(Error::forbidden(&path(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            new.report(Error::forbidden(&path(key), "may not add mirror pod annotation"));
        }
    }
    // What was let in once stays.
    if is_cost(&was.entry(DELETION_COST)) {
        deletion_cost(new);
    }
}
