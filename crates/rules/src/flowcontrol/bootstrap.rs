//! The FlowSchemas and PriorityLevelConfigurations that every cluster has, as of v1.36.
//!
//! `exempt` and `catch-all` are mandatory: whatever is made of them is made undone. The others are suggested: they
//! are kept as they are here for as long as their annotation says so, and an administrator may change them after
//! taking it away.

use isopod_api::Value;
use serde_json::json;

/// Says whether a suggested object is kept as it is here.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Names of the mandatory objects, of both kinds.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

fn object(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec})
}

/// The priority levels.
pub fn priority_levels() -> Vec<Value> {
    let queued = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        object(
            name,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue",
                    "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}}}}),
        )
    };
    vec![
        object(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        object(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}}),
        ),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

/// The flow schemas.
pub fn flow_schemas() -> Vec<Value> {
    let groups = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
    };
    let users = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
    };
    let accounts =
        || json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
    let all = || json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let everything = |subjects: Vec<Value>| {
        json!({"subjects": subjects, "resourceRules": [all()],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
    };
    let resources =
        |subjects: Vec<Value>, rules: &[Value]| json!({"subjects": subjects, "resourceRules": rules});
    let leases = |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]});
    let nodes = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"],
        "namespaces": ["*"], "clusterScope": true});
    let everybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let mut electors = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    electors.push(accounts());
    let probes = json!({"subjects": everybody(), "nonResourceRules": [
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let schema = |name: &str, level: &str, precedence: u32, by: &str, rule: Value| {
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
            "rules": [rule]});
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        object(name, spec)
    };
    let manager = || users(&["system:kube-controller-manager"]);
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            resources(electors, &[leases(&["get", "create", "update"])]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            resources(groups(&["system:nodes"]), &[nodes, leases(&["*"])]),
        ),
        schema("system-nodes", "system", 500, "ByUser", everything(groups(&["system:nodes"]))),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(manager())),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            everything(users(&["system:kube-scheduler"])),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(vec![accounts()]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(everybody())),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(everybody())),
    ]
}

/// What is to become of an object that should be as `expected`; `None`: nothing. An object that a person took over
/// (its annotation is not `true`, or it has none and was changed) stays, unless it is mandatory.
pub fn mended(current: &Value, expected: &Value) -> Option<Value> {
    let name = expected["metadata"]["name"].as_str().unwrap_or_default();
    let mandatory = MANDATORY.contains(&name);
    let kept = match current["metadata"]["annotations"][AUTO_UPDATE].as_str() {
        Some(says) => says == "true",
        None => current["metadata"]["generation"].as_i64().unwrap_or(1) == 1,
    };
    if !mandatory && !kept {
        return None;
    }
    let mut wanted = current.clone();
    wanted["spec"] = expected["spec"].clone();
    // A mandatory object keeps what somebody says in its annotation: it has no effect.
    if !mandatory || current["metadata"]["annotations"][AUTO_UPDATE].is_null() {
        wanted["metadata"]["annotations"][AUTO_UPDATE] = json!("true");
    }
    (wanted != *current).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_and_what_is_left_to_people() {
        let expected = &priority_levels()[2];
        assert_eq!(mended(expected, expected), None);
        let mut changed = expected.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(1);
        assert_eq!(mended(&changed, expected).as_ref(), Some(expected));
        changed["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(mended(&changed, expected), None);
        changed["metadata"]["annotations"] = json!({});
        changed["metadata"]["generation"] = json!(2);
        assert_eq!(mended(&changed, expected), None);
        let catch_all = &priority_levels()[1];
        let mut changed = catch_all.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(500);
        changed["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        let back = mended(&changed, catch_all).expect("mandatory");
        assert_eq!(back["spec"], catch_all["spec"]);
        assert_eq!(mended(&back, catch_all), None);
    }
}
