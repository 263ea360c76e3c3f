//! Quality of service: what a pod is promised, by the CPU and memory of its containers.

use isopod_api::Value;
use isopod_api::quantity::Quantity;

use crate::kinds::shared::{at, list_at};

/// `Guaranteed`, `Burstable` or `BestEffort`.
///
/// Requests and limits of the pod as a whole decide alone where they are given.
pub fn qos_class(pod: &Value) -> &'static str {
    let whole = at(pod, "spec.resources").filter(|r| r.get("requests").or(r.get("limits")).is_some());
    let spec = match whole {
        Some(resources) => vec![Some(resources)],
        None => {
            let containers =
                list_at(pod, "spec.containers").iter().chain(list_at(pod, "spec.initContainers"));
            containers.map(|container| at(container, "resources")).collect()
        }
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in spec {
        let amount = |kind: &str, resource: &str| {
            let amount = resources?.get(kind)?.get(resource)?.as_str()?.parse::<Quantity>().ok()?;
            Some(amount).filter(|amount| !amount.is_zero())
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": all, "limits": all}))), "Guaranteed");
        let mut whole = pod(json!({}));
        whole["spec"]["resources"] = json!({"limits": all});
        assert_eq!(qos_class(&whole), "Guaranteed");
    }
}
