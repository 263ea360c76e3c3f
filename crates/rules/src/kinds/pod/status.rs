//! Updates of a pod's status.

use isopod_api::Value;
use isopod_api::field::ErrorList;
use isopod_api::object::child_mut;

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
        if before.field("qosClass").is_set() {
            status.field("qosClass").unchanged(&before.field("qosClass"));
        }
        status.field("nominatedNodeName").follows(isopod_api::names::is_dns1123_subdomain);
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
        addresses(&status);
    })
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
    for list in ["podIPs", "hostIPs"] {
        let list = status.field(list);
        list.items().for_each(|item| item.field("ip").must_follow(ip_address));
        let ips: Vec<&str> = list.list().iter().map(|item| str_at(item, "ip")).collect();
        let one_family = ips.len() == 2 && ips[0].contains(':') == ips[1].contains(':');
        if ips.len() > 2 || one_family {
            list.invalid("may specify no more than one IP for each IP family");
        }
    }
}
