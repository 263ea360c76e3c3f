//! DenyServiceExternalIPs: a service gets no new external addresses, by which it could take others' traffic
//! (CVE-2020-8554).

use isopod_api::status::Status;

use super::value::list;
use super::{Operation, Plugin, Request, View};

pub(super) static PLUGIN: Plugin = Plugin {
    name: "DenyServiceExternalIPs",
    handles: |operation, group, resource, subresource| {
        group.is_empty()
            && resource == "services"
            && subresource.is_empty()
            && matches!(operation, Operation::Create | Operation::Update)
    },
    validate: Some(validate),
    ..Plugin::NONE
};

fn validate(request: &mut Request<'_>, _view: &View) -> Result<(), Status> {
    let old = list(request.old, "/spec/externalIPs");
    if list(request.object, "/spec/externalIPs").iter().all(|address| old.contains(address)) {
        return Ok(());
    }
    Err(request.forbidden("Use of external IPs is denied by admission control"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn old_ones_may_stay() {
        let service =
            |addresses: Value| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": addresses}});
        let verdict =
            |old: Value, new: Value| Change::update("services", service(old), service(new)).verdict(&PLUGIN);
        assert_eq!(verdict(json!(["1.2.3.4", "5.6.7.8"]), json!(["1.2.3.4"])), "ok");
        assert!(verdict(json!([]), json!(["1.2.3.4"])).contains("Use of external IPs is denied"));
        assert_eq!(Change::create("services", service(json!(null))).verdict(&PLUGIN), "ok");
    }
}
