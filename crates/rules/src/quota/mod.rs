//! Resource quotas: what objects use, which quotas they fall under, and whether there is room.
//!
//! Pure, and shared by the admission plugin, which reserves, and the controller, which counts anew.

mod check;
mod claims;
pub mod pods;
mod scopes;
mod services;

use std::collections::BTreeMap;

use isopod_api::Value;
use isopod_api::quantity::Quantity;

pub use check::{Refusal, reserve, unreserve};
pub use scopes::matches_scopes;

/// Amounts by name of resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a resource list; what cannot be parsed is left out, since validation has seen to it.
pub fn amounts(list: &Value) -> Amounts {
    let parse = |(name, amount): (&String, &Value)| {
        let amount = match amount {
            Value::String(text) => text.parse().ok()?,
            Value::Number(number) => number.to_string().parse().ok()?,
            _ => return None,
        };
        Some((name.clone(), amount))
    };
    list.as_object().into_iter().flatten().filter_map(parse).collect()
}

/// A resource list.
pub fn to_value(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect())
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = sum.entry(name.clone()).or_default();
        *sum = if sum.is_zero() { *amount } else { sum.add(*amount) };
    }
}

/// What `more` has beyond `less`; may be negative.
pub fn subtract(more: &Amounts, less: &Amounts) -> Amounts {
    let mut difference = more.clone();
    for (name, amount) in less {
        let have = difference.get(name).copied().unwrap_or_default();
        difference.insert(name.clone(), have.sub(*amount));
    }
    difference
}

fn one() -> Quantity {
    Quantity::from_value(1, isopod_api::quantity::Format::DecimalSi)
}

/// `count/<resource>.<group>`, as every resource can be counted.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Resources of the core group that a quota may also name without `count/`.
const PLAIN: &[&str] = &["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// What an object uses, by every name a quota may have for it.
pub fn usage(group: &str, resource: &str, object: &Value) -> Amounts {
    let mut usage = Amounts::from([(count_name(group, resource), one())]);
    if group.is_empty() {
        match resource {
            "pods" => usage.extend(pods::usage(object)),
            "services" => usage.extend(services::usage(object)),
            "persistentvolumeclaims" => usage.extend(claims::usage(object)),
            plain if PLAIN.contains(&plain) => {
                usage.insert(plain.to_owned(), one());
            }
            _ => {}
        }
    }
    usage
}

/// Which resource (group and plural) an amount in `spec.hard` counts; `None` when it is of no known form.
pub fn counted_resource(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        return Some(counted.split_once('.').map_or(("", counted), |(resource, group)| (group, resource)));
    }
    if services::NAMES.contains(&name) {
        return Some(("", "services"));
    }
    if claims::is_name(name) {
        return Some(("", "persistentvolumeclaims"));
    }
    if pods::is_name(name) {
        return Some(("", "pods"));
    }
    PLAIN.iter().find(|plain| **plain == name).map(|plain| ("", *plain))
}

/// What `objects` of one resource use of what a quota limits, as far as its scopes choose them.
pub fn total<'a>(
    quota_spec: &Value,
    group: &str,
    resource: &str,
    objects: impl IntoIterator<Item = &'a Value>,
) -> Amounts {
    let hard = amounts(&quota_spec["hard"]);
    let mut total = Amounts::new();
    for name in hard.keys().filter(|name| counted_resource(name) == Some((group, resource))) {
        total.insert(name.clone(), Quantity::default());
    }
    for object in objects {
        if matches_scopes(quota_spec, group, resource, object) {
            let mut used = usage(group, resource, object);
            used.retain(|name, _| total.contains_key(name));
            add(&mut total, &used);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn show(amounts: &Amounts) -> String {
        check::pretty(amounts)
    }

    #[test]
    fn names_lead_to_resources() {
        let cases = [
            ("pods", Some(("", "pods"))),
            ("requests.cpu", Some(("", "pods"))),
            ("requests.nvidia.com/gpu", Some(("", "pods"))),
            ("limits.memory", Some(("", "pods"))),
            ("hugepages-2Mi", Some(("", "pods"))),
            ("services.nodeports", Some(("", "services"))),
            ("requests.storage", Some(("", "persistentvolumeclaims"))),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
            ("count/deployments.apps", Some(("apps", "deployments"))),
            ("count/pods", Some(("", "pods"))),
            ("secrets", Some(("", "secrets"))),
            ("nonsense", None),
        ];
        for (name, expected) in cases {
            assert_eq!(counted_resource(name), expected, "{name}");
        }
    }

    #[test]
    fn totals_by_scope() {
        let pod = |cpu: &str, deadline: Value| {
            json!({"spec": {"activeDeadlineSeconds": deadline,
                "containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
        };
        let pods = [pod("1", json!(null)), pod("500m", json!(5)), pod("250m", json!(null))];
        let total = |scopes: Value| {
            let spec = json!({"hard": {"pods": "9", "requests.cpu": "9", "secrets": "1"}, "scopes": scopes});
            show(&total(&spec, "", "pods", &pods))
        };
        assert_eq!(total(json!([])), "pods=3,requests.cpu=1750m");
        assert_eq!(total(json!(["Terminating"])), "pods=1,requests.cpu=500m");
        assert_eq!(total(json!(["NotTerminating"])), "pods=2,requests.cpu=1250m");
    }
}
