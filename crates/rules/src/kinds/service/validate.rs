//! What Services obey, worded as upstream's `ValidateService`. What the API server allocates is not asked
//! for here, since that happens afterwards; what clients choose is.

use std::collections::BTreeSet;

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};
use serde_json::json;

use super::needs_health_check_port;
use crate::kinds::Context;
use crate::kinds::bounds::{cidr, domain_prefixed_path, reachable_ip};
use crate::kinds::check::{At, check, check_update};
use crate::kinds::meta;
use crate::kinds::podspec::{ip_address, port_or_name};

const ONCE_SET: &str = "may not change once set";
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// Where endpoints are hinted to, by its present and its former name.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// Who may reach a load balancer, from before there was a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Longest time that a client keeps to a pod, in seconds.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
/// Kubelets' own port, which must not be exposed by accident.
const KUBELET_PORT: i64 = 10250;

pub(super) fn service(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |service| {
        let spec = service.field("spec");
        annotations(&service);
        rules(&spec);
        let class = spec.field("loadBalancerClass");
        if class.is_set() {
            load_balancer_class(&class, &spec);
        }
    })
}

/// Annotations that are older or newer names of fields.
fn annotations(service: &At<'_>) {
    let annotations = service.field("metadata.annotations");
    let (mode, hints) = (annotations.entry(TOPOLOGY_MODE), annotations.entry(TOPOLOGY_HINTS));
    if mode.is_set() && hints.is_set() && mode.str() != hints.str() {
        mode.invalid(format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"));
    }
    let ranges = annotations.entry(SOURCE_RANGES);
    if !ranges.is_set() || !service.field("spec.loadBalancerSourceRanges").is_empty() {
        return;
    }
    if service.field("spec.type").str() != "LoadBalancer" {
        ranges.forbidden(LOAD_BALANCER_ONLY);
    }
    for range in ranges.str().split(',').map(str::trim).filter(|_| !ranges.str().trim().is_empty()) {
        cidr(range).into_iter().for_each(|message| ranges.invalid_as(range, message));
    }
}

fn is_headless(spec: &At<'_>) -> bool {
    spec.field("clusterIPs").texts().next() == Some("None") || spec.field("clusterIP").str() == "None"
}

fn rules(spec: &At<'_>) {
    let kind = spec.field("type");
    let headless = is_headless(spec);
    if spec.field("ports").is_empty() && !headless && kind.str() != "ExternalName" {
        spec.field("ports").required("");
    }
    match kind.str() {
        "ExternalName" => external_name(spec),
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {} services", kind.str());
            let addresses = spec.field("clusterIPs");
            match addresses.items().next() {
                Some(first) => first.invalid_as("None", detail),
                None => addresses.invalid_as("None", detail),
            }
        }
        _ => {}
    }
    kind.needs_one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    ports(spec, headless);
    let selector = spec.field("selector");
    spec.report_all(meta::validate_labels(Some(selector.value()), &selector.path()));
    affinity(spec);
    if kind.str() != "ExternalName" {
        addresses(spec);
    }
    spec.field("externalIPs").items().for_each(|ip| ip.must_follow(reachable_ip));
    load_balancer(spec);
    traffic(spec);
}

fn external_name(spec: &At<'_>) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let field = spec.field(field);
        if !field.is_empty() {
            field.forbidden("may not be set for ExternalName services");
        }
    }
    let name = spec.field("externalName");
    let host = name.str().strip_suffix('.').unwrap_or(name.str());
    if host.is_empty() {
        name.required("");
    } else {
        names::is_dns1123_subdomain(host).into_iter().for_each(|message| name.invalid(message));
    }
}

fn ports(spec: &At<'_>, headless: bool) {
    let (mut seen, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let all = spec.field("ports");
    let kind = spec.field("type");
    for port in all.items() {
        let name = port.field("name");
        if !name.is_empty() {
            name.must_follow(names::is_dns1123_label);
            name.unique(&mut seen);
        } else if all.len() > 1 {
            name.required("");
        }
        let number = port.field("port").int().unwrap_or(0);
        names::is_port_number(number).into_iter().for_each(|m| port.field("port").invalid_as(number, m));
        let protocol = port.field("protocol");
        protocol.needs_one_of(&["SCTP", "TCP", "UDP"]);
        if port.field("targetPort").is_set() && !(headless && port.field("targetPort").int() == Some(0)) {
            port_or_name(&port.field("targetPort"));
        }
        port.field("appProtocol").follows(names::is_qualified_name);
        if kind.str() == "LoadBalancer" && number == KUBELET_PORT {
            let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            port.invalid_as(number, detail);
        }
        let node_port = port.field("nodePort");
        if let Some(n) = node_port.int().filter(|n| *n != 0) {
            if kind.str() == "ClusterIP" {
                node_port.forbidden("may not be used when `type` is 'ClusterIP'");
            }
            node_port.within(1, 65535);
            if !node_ports.insert((protocol.str(), n)) {
                node_port.duplicate();
            }
        }
        if !numbers.insert((protocol.str(), number)) {
            port.report(Error::duplicate(&port.path(), json!({"port": number, "protocol": protocol.str()})));
        }
    }
}

fn affinity(spec: &At<'_>) {
    let (affinity, config) = (spec.field("sessionAffinity"), spec.field("sessionAffinityConfig"));
    affinity.needs_one_of(&["ClientIP", "None"]);
    match affinity.str() {
        "ClientIP" => {
            let seconds = config.field("clientIP").field("timeoutSeconds");
            match seconds.int() {
                None => seconds.required("when session affinity type is ClientIP"),
                Some(s) if s <= 0 || s > AFFINITY_SECONDS_MAX => {
                    seconds.invalid(format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"));
                }
                Some(_) => {}
            }
        }
        "None" if config.is_set() => {
            config.forbidden("must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn addresses(spec: &At<'_>) {
    let (first, all) = (spec.field("clusterIP"), spec.field("clusterIPs"));
    let list: Vec<&str> = all.texts().collect();
    if let Some(primary) = list.first()
        && first.str() != *primary
    {
        all.invalid("first value must match `clusterIP`");
    }
    if list.is_empty() && !matches!(first.str(), "" | "None") {
        first.must_follow(ip_address);
    }
    for ip in all.items().filter(|ip| ip.str() != "None") {
        ip.must_follow(ip_address);
    }
    if list.len() > 1 && list.contains(&"None") {
        all.invalid("'None' must be the first and only value");
    }
    if list.len() > 2 {
        all.invalid("may only hold up to 2 values");
    } else if list.len() == 2 && list[0].contains(':') == list[1].contains(':') {
        all.invalid("may specify no more than one IP for each IP family");
    }
    let (families, policy) = (spec.field("ipFamilies"), spec.field("ipFamilyPolicy"));
    policy.one_of(&["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut seen = BTreeSet::new();
    for family in families.items() {
        family.one_of(&["IPv4", "IPv6"]);
        family.unique(&mut seen);
    }
    if policy.str() == "SingleStack" {
        for (many, what) in [(families.len() > 1, "ipFamilies"), (list.len() > 1, "clusterIPs")] {
            if many {
                policy.invalid(format!(
                    "must be RequireDualStack or PreferDualStack when multiple {what} are specified"
                ));
            }
        }
    }
    for (i, (ip, family)) in list.iter().zip(families.texts()).enumerate() {
        if *ip != "None" && (family == "IPv6") != ip.contains(':') {
            let at = all.path().index(i);
            all.report(Error::invalid(
                &at,
                *ip,
                format!("expected an {family} value as indicated by `ipFamilies[{i}]`"),
            ));
        }
    }
}

fn load_balancer(spec: &At<'_>) {
    let balanced = spec.field("type").str() == "LoadBalancer";
    let ranges = spec.field("loadBalancerSourceRanges");
    // Clients know the field by this name in faults.
    let path = spec.path().child("LoadBalancerSourceRanges");
    if !balanced && !ranges.is_empty() {
        ranges.report(Error::forbidden(&path, LOAD_BALANCER_ONLY));
    }
    for (i, range) in ranges.texts().enumerate() {
        for message in cidr(range.trim()) {
            ranges.report(Error::invalid(&path.index(i), range.trim(), message));
        }
    }
    let allocate = spec.field("allocateLoadBalancerNodePorts");
    if !balanced && allocate.is_set() {
        allocate.forbidden(LOAD_BALANCER_ONLY);
    }
}

fn load_balancer_class(class: &At<'_>, spec: &At<'_>) {
    if spec.field("type").str() != "LoadBalancer" {
        class.forbidden(LOAD_BALANCER_ONLY);
        return;
    }
    if class.str().contains('/') {
        class.must_follow(domain_prefixed_path);
    } else {
        class.must_follow(names::is_qualified_name);
    }
}

fn traffic(spec: &At<'_>) {
    let external = matches!(spec.field("type").str(), "LoadBalancer" | "NodePort")
        || (spec.field("type").str() == "ClusterIP" && !spec.field("externalIPs").is_empty());
    let policy = spec.field("externalTrafficPolicy");
    match (external, policy.is_empty()) {
        (true, true) => policy.required(""),
        (false, false) => policy.invalid("may only be set for externally-accessible services"),
        (true, false) => policy.one_of(&["Cluster", "Local"]),
        (false, true) => {}
    }
    let health = spec.field("healthCheckNodePort");
    let wanted = spec.field("type").str() == "LoadBalancer" && policy.str() == "Local";
    if health.int().unwrap_or(0) != 0 && !wanted {
        health
            .invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    } else if health.int().unwrap_or(0) != 0 {
        health.within(1, 65535);
    }
    spec.field("internalTrafficPolicy").one_of(&["Cluster", "Local"]);
    spec.field("trafficDistribution").one_of(&["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

pub(super) fn service_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        annotations(&new);
        rules(&spec);
        let both_have = [&spec, &before].iter().all(|s| s.field("type").str() != "ExternalName");
        let headless = (is_headless(&spec), is_headless(&before));
        if both_have && headless != (true, true) {
            allocation_stays(&spec, &before, "clusterIPs", "clusterIP");
        }
        if both_have && headless == (false, false) {
            allocation_stays(&spec, &before, "ipFamilies", "ipFamily");
        }
        class_stays(&spec, &before);
        if needs_health_check_port(new.value()) && needs_health_check_port(old.value()) {
            let (health, was) = (spec.field("healthCheckNodePort"), before.field("healthCheckNodePort"));
            if was.int().unwrap_or(0) != 0 && health.value() != was.value() {
                health.forbidden("field is immutable");
            }
        }
    })
}

/// The first of what was allocated stays; a second may come, and go with the policy that says so.
fn allocation_stays(new: &At<'_>, old: &At<'_>, list: &'static str, what: &str) {
    let (now, was) = (new.field(list), old.field(list));
    let (ours, before): (Vec<&str>, Vec<&str>) = (now.texts().collect(), was.texts().collect());
    let wrong = |i: usize, detail: &str| {
        now.report(Error::invalid(&now.path().index(i), now.value().clone(), detail))
    };
    if ours.len() == before.len() {
        (0..ours.len()).filter(|i| ours[*i] != before[*i]).for_each(|i| wrong(i, ONCE_SET));
        return;
    }
    if ours.is_empty() {
        return wrong(0, &format!("primary {what} can not be unset"));
    }
    if before.first().is_some_and(|primary| *primary != ours[0]) {
        wrong(0, ONCE_SET);
    }
    let policy = new.field("ipFamilyPolicy");
    if ours.len() == 1 && before.len() > 1 && policy.str() != "SingleStack" {
        policy.invalid(format!("must be set to 'SingleStack' when releasing the secondary {what}"));
    }
}

fn class_stays(new: &At<'_>, old: &At<'_>) {
    let (class, before) = (new.field("loadBalancerClass"), old.field("loadBalancerClass"));
    let balanced = |spec: &At<'_>| spec.field("type").str() == "LoadBalancer";
    if balanced(new) && balanced(old) && class.value() != before.value() {
        class.invalid(ONCE_SET);
    } else if class.is_set() {
        load_balancer_class(&class, new);
    }
}

pub(super) fn service_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, _| {
        let ingress = new.field("status.loadBalancer.ingress");
        if new.field("spec.type").str() != "LoadBalancer" && !ingress.is_empty() {
            ingress.forbidden("may only be used when `spec.type` is \"LoadBalancer\"");
        }
        load_balancer_ingress(&ingress);
    })
}

/// Addresses and names of a load balancer.
pub(in crate::kinds) fn load_balancer_ingress(ingress: &At<'_>) {
    for point in ingress.items() {
        point.field("ip").follows(ip_address);
        let host = point.field("hostname");
        host.follows(names::is_dns1123_subdomain);
        if host.str().parse::<std::net::IpAddr>().is_ok() {
            host.invalid("must be a DNS name, not an IP address");
        }
        point.field("ipMode").one_of(&["Proxy", "VIP"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;

    const CONTEXT: Context<'_> = Context::TEST;

    fn with(spec: Value) -> Value {
        let mut object = json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}});
        isopod_api::patch::merge_patch(&mut object, &json!({"spec": spec}));
        object
    }

    #[test]
    fn new_services() {
        for (spec, want) in [
            (json!({}), vec![]),
            (json!({"ports": []}), vec!["spec.ports: Required value"]),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": null}), vec![]),
            (
                json!({"ports": [{"port": 0, "protocol": "TCP"}, {"name": "A", "port": 80, "protocol": "X", "nodePort": 5}]}),
                vec![
                    "spec.ports[0].name: Required value",
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[1].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "spec.ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                ],
            ),
            (
                json!({"type": "ExternalName", "clusterIPs": ["10.0.0.1"]}),
                vec![
                    "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                    "spec.externalName: Required value",
                ],
            ),
            (json!({"type": "NodePort"}), vec!["spec.externalTrafficPolicy: Required value"]),
            (
                json!({"sessionAffinity": "ClientIP", "loadBalancerClass": "x", "externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Cluster"}),
                vec![
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Required value: when session affinity type is ClientIP",
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ],
            ),
            (
                json!({"healthCheckNodePort": 5, "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "x"]}),
                vec![
                    "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                    "spec.LoadBalancerSourceRanges[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    "spec.healthCheckNodePort: Invalid value: 5: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
        ] {
            // The path of a fault joins the fields that were stepped through.
            assert_eq!(texts(&service(&with(spec), &CONTEXT)), want);
        }
    }

    #[test]
    fn changed_services() {
        let ips = |ip: &str| with(json!({"clusterIP": ip, "clusterIPs": [ip]}));
        assert_eq!(
            texts(&service_update(&ips("10.0.0.2"), &ips("10.0.0.1"), &CONTEXT)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
        assert_eq!(service_update(&ips("10.0.0.1"), &ips("10.0.0.1"), &CONTEXT), vec![]);
        let dual = |ips: Value, families: Value, policy: &str| {
            with(
                json!({"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy}),
            )
        };
        let both = dual(json!(["10.0.0.1", "fd00::1"]), json!(["IPv4", "IPv6"]), "PreferDualStack");
        let one = |policy| dual(json!(["10.0.0.1"]), json!(["IPv4"]), policy);
        assert_eq!(service_update(&both, &one("SingleStack"), &CONTEXT), vec![]);
        assert_eq!(service_update(&one("SingleStack"), &both, &CONTEXT), vec![]);
        assert_eq!(
            texts(&service_update(&one("PreferDualStack"), &both, &CONTEXT)),
            [
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary clusterIP",
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary ipFamily",
            ]
        );
        assert_eq!(
            texts(&service_update(&with(json!({})), &ips("10.0.0.1"), &CONTEXT)),
            ["spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"]
        );
        let balanced = |port: i64| {
            with(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}),
            )
        };
        assert_eq!(
            texts(&service_update(&balanced(2), &balanced(1), &CONTEXT)),
            ["spec.healthCheckNodePort: Forbidden: field is immutable"]
        );
    }
}
