//! DefaultTolerationSeconds: a pod that says nothing else stays five minutes on a node that is not ready or not
//! reachable.

use isopod_api::Value;
use isopod_api::status::Status;
use serde_json::json;

use super::value::{items, push, text};
use super::{Operation, Plugin, Request, View};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) static PLUGIN: Plugin = Plugin {
    name: "DefaultTolerationSeconds",
    handles: |operation, group, resource, subresource| {
        group.is_empty()
            && resource == "pods"
            && subresource.is_empty()
            && matches!(operation, Operation::Create | Operation::Update)
    },
    admit: Some(admit),
    ..Plugin::NONE
};

fn admit(request: &mut Request<'_>, _view: &View) -> Result<(), Status> {
    let Some(spec) = request.object.get_mut("spec") else { return Ok(()) };
    for taint in TAINTS {
        if !items(spec, "tolerations").iter().any(|toleration| tolerates(toleration, taint)) {
            let toleration = json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            });
            push(spec, "tolerations", toleration);
        }
    }
    Ok(())
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
    (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn added_unless_tolerated() {
        let count = |tolerations: Value| {
            let mut change = Change::create("pods", json!({"spec": {"tolerations": tolerations}}));
            assert_eq!(change.verdict(&PLUGIN), "ok");
            items(&change.object["spec"], "tolerations").len()
        };
        assert_eq!(count(json!(null)), 2);
        assert_eq!(count(json!([{"operator": "Exists"}])), 1);
        assert_eq!(count(json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}])), 2);
        assert_eq!(count(json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoSchedule"}])), 3);
    }
}
