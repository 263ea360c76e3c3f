//! TaintNodesByCondition: a new node takes no pods until it was seen ready.

use isopod_api::status::Status;
use serde_json::json;

use super::value::{list, push, text};
use super::{Operation, Plugin, Request, View};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) static PLUGIN: Plugin = Plugin {
    name: "TaintNodesByCondition",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Create && group.is_empty() && resource == "nodes" && subresource.is_empty()
    },
    admit: Some(admit),
    ..Plugin::NONE
};

fn admit(request: &mut Request<'_>, _view: &View) -> Result<(), Status> {
    let tainted = list(request.object, "/spec/taints")
        .iter()
        .any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule");
    if !tainted {
        if request.object["spec"].is_null() {
            request.object["spec"] = json!({});
        }
        push(&mut request.object["spec"], "taints", json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn tainted_once() {
        let mut change = Change::create("nodes", json!({"metadata": {"name": "n"}}));
        for _ in 0..2 {
            assert_eq!(change.verdict(&PLUGIN), "ok");
            assert_eq!(change.object["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        }
    }
}
