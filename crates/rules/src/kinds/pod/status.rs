//! Updates of a pod's status.

use std::collections::BTreeSet;

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::object::child_mut;
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check_update};
use crate::kinds::podspec::ip_address;
use crate::kinds::shared::{at, str_at};

/// Kubelets write statuses; owners and the class of service are not theirs to change.
pub(super) fn prepare(new: &mut Value, old: &Value, _: &Context<'_>) {
    let owners = at(old, "metadata.ownerReferences").cloned();
    let meta = child_mut(new, "metadata");
    match owners {
        Some(owners) => meta.insert("ownerReferences".to_owned(), owners),
        None => meta.remove("ownerReferences"),
    };
    if str_at(new, "status.qosClass").is_empty()
        && let Some(class) = at(old, "status.qosClass")
    {
        child_mut(new, "status").insert("qosClass".to_owned(), class.clone());
    }
}

pub(super) fn validate(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let (status, before) = (new.field("status"), old.field("status"));
        super::annotations::changes(&new, &old);
        conditions(&status);
        claims(&new);
        if before.field("qosClass").is_set() {
            status.field("qosClass").unchanged(&before.field("qosClass"));
        }
        status.field("nominatedNodeName").follows(names::is_dns1123_subdomain);
        if new.field("spec.restartPolicy").str() != "Always" {
            let on_failure = new.field("spec.restartPolicy").str() == "OnFailure";
            for (list, specs) in
                [("containerStatuses", "spec.containers"), ("initContainerStatuses", "spec.initContainers")]
            {
                let sidecars = list == "initContainerStatuses";
                stays_ended(
                    &status.field(list),
                    &before.field(list),
                    &new.field(specs),
                    on_failure,
                    sidecars,
                );
            }
        }
        // Ephemeral containers are never restarted.
        let list = "ephemeralContainerStatuses";
        stays_ended(&status.field(list), &before.field(list), &new.field("spec.none"), false, false);
        addresses(&status);
    })
}

/// Conditions of others' making have qualified names.
fn conditions(status: &At<'_>) {
    for (i, condition) in status.field("conditions").items().enumerate() {
        let kind = condition.field("type").str();
        if matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            continue;
        }
        let path = Path::new("metadata").child("conditions").index(i).child("Type");
        for message in names::is_qualified_name(kind) {
            status.report(Error::invalid(&path, kind, message));
        }
    }
}

/// Claims made for the pod are those it asks for, each once.
fn claims(pod: &At<'_>) {
    let asked = pod.field("spec.resourceClaims").list();
    let mut seen = BTreeSet::new();
    for status in pod.field("status.resourceClaimStatuses").items() {
        let name = status.field("name");
        if !asked.iter().any(|claim| str_at(claim, "name") == name.str()) {
            name.invalid("must match the name of an entry in `spec.resourceClaims`");
        }
        name.unique(&mut seen);
        status.field("resourceClaimName").follows(names::is_dns1123_subdomain);
    }
}

/// A container that has ended for good does not run again.
fn stays_ended(new: &At<'_>, old: &At<'_>, specs: &At<'_>, on_failure: bool, init: bool) {
    for before in old.items() {
        let Some(code) = before.field("state.terminated.exitCode").int() else { continue };
        let name = before.field("name").str();
        let spec = specs.list().iter().find(|c| str_at(c, "name") == name);
        // Failed init containers are retried; containers with a policy of their own follow that.
        if (code != 0 && (on_failure || init)) || spec.is_some_and(|c| !str_at(c, "restartPolicy").is_empty())
        {
            continue;
        }
        for after in new.items().filter(|after| after.field("name").str() == name) {
            let state = after.field("state");
            if state.is_set() && !state.field("terminated").is_set() {
                state.forbidden("may not be transitioned to non-terminated state");
            }
        }
    }
}

fn addresses(status: &At<'_>) {
    let first = status.field("hostIPs").items().next();
    if let Some(first) =
        first.map(|host| host.field("ip")).filter(|ip| ip.str() != status.field("hostIP").str())
    {
        first.invalid("must be equal to `hostIP`");
    }
    for list in ["podIPs", "hostIPs"] {
        let list = status.field(list);
        for item in list.items() {
            let ip = item.field("ip").str();
            ip_address(ip).into_iter().for_each(|message| item.invalid_as(ip, message));
        }
        let ips: Vec<&str> = list.list().iter().map(|item| str_at(item, "ip")).collect();
        let one_family = ips.len() == 2 && ips[0].contains(':') == ips[1].contains(':');
        if ips.len() > 2 || one_family {
            list.invalid("may specify no more than one IP for each IP family");
        }
        let mut seen = BTreeSet::new();
        for item in list.items().filter(|item| !seen.insert(item.field("ip").str())) {
            item.duplicate();
        }
    }
}
