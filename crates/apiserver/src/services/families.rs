//! Address families of Services: which a Service gets, from what it asks and what the cluster has.

use std::net::IpAddr;

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use serde_json::json;

/// Name of a family as `spec.ipFamilies` has it.
pub(crate) fn name(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// Sets `ipFamilyPolicy` and `ipFamilies`. `cluster` are the families of the cluster, primary first.
pub(crate) fn settle(service: &mut Value, cluster: &[&'static str]) -> Result<(), Error> {
    let spec = &service["spec"];
    let path = Path::new("spec");
    let asked_ips = texts(&spec["clusterIPs"]);
    let headless = spec["clusterIP"] == "None" || asked_ips.first().is_some_and(|ip| ip == "None");
    let selectorless = spec["selector"].as_object().is_none_or(|s| s.is_empty());
    let mut families = texts(&spec["ipFamilies"]);
    let mut policy = spec["ipFamilyPolicy"].as_str().map(str::to_owned);
    let other = |family: &str| if family == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();
    for family in &families {
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            let at = path.child("ipFamilies").index(0);
            return Err(Error::not_supported(&at, family.as_str(), &["IPv4", "IPv6"]));
        }
    }
    if headless && selectorless {
        // Endpoints of such a Service are whatever somebody writes: no family is excluded.
        let policy = policy.get_or_insert_with(|| "RequireDualStack".to_owned()).clone();
        if families.is_empty() {
            families.push(cluster[0].to_owned());
        }
        if families.len() == 1 && policy != "SingleStack" {
            families.push(other(&families[0]));
        }
    } else {
        for ip in asked_ips.iter().filter(|ip| *ip != "None").skip(families.len()) {
            if let Ok(ip) = ip.parse::<IpAddr>() {
                families.push(name(ip.is_ipv6()).to_owned());
            }
        }
        let two = families.len() > 1;
        let policy =
            policy.get_or_insert_with(|| if two { "RequireDualStack" } else { "SingleStack" }.to_owned());
        if policy == "RequireDualStack" && cluster.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            return Err(Error::invalid(&path.child("ipFamilyPolicy"), policy.as_str(), detail));
        }
        if families.is_empty() {
            families.push(cluster[0].to_owned());
        }
        if families.len() == 1 && policy != "SingleStack" && cluster.len() > 1 {
            families.push(other(&families[0]));
        }
        if policy == "SingleStack" && families.len() > 1 {
            let detail = "may only hold one value when ipFamilyPolicy is SingleStack";
            return Err(Error::invalid(&path.child("ipFamilies"), json!(families), detail));
        }
        if let Some(at) = families.iter().position(|f| !cluster.contains(&f.as_str())) {
            let detail = "not configured on this cluster";
            return Err(Error::invalid(&path.child("ipFamilies").index(at), families[at].as_str(), detail));
        }
    }
    let spec = child_mut(service, "spec");
    spec.insert("ipFamilies".to_owned(), json!(families));
    spec.insert("ipFamilyPolicy".to_owned(), json!(policy));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, cluster: &[&'static str], want: Result<(&str, &[&str]), &str>) {
        let mut service = json!({"spec": spec});
        let got = settle(&mut service, cluster).map_err(|e| e.to_string());
        match want {
            Ok((policy, families)) => {
                assert_eq!(got, Ok(()));
                assert_eq!(service["spec"]["ipFamilyPolicy"], policy);
                assert_eq!(service["spec"]["ipFamilies"], json!(families));
            }
            Err(text) => assert_eq!(got, Err(text.to_owned())),
        }
    }

    #[test]
    fn families() {
        let (single, dual) = (&["IPv4"][..], &["IPv4", "IPv6"][..]);
        check(json!({"selector": {"a": "b"}}), single, Ok(("SingleStack", &["IPv4"])));
        check(json!({"clusterIP": "None"}), single, Ok(("RequireDualStack", &["IPv4", "IPv6"])));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), single, Ok(("PreferDualStack", &["IPv4"])));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), dual, Ok(("PreferDualStack", &["IPv4", "IPv6"])));
        check(json!({"clusterIPs": ["fd00::1"]}), dual, Ok(("SingleStack", &["IPv6"])));
        check(
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            single,
            Err(
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
        );
    }
}
