//! What Ingresses, IngressClasses, NetworkPolicies, IPAddresses and ServiceCIDRs obey.

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::bounds::{cidr, domain_prefixed_path};
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::{ip_address, label_selector, port_or_name};
use crate::kinds::service::load_balancer_ingress;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn ingress(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |ingress| {
        ingress_spec(&ingress.field("spec"));
        let annotation = ingress.field("metadata.annotations").entry(CLASS_ANNOTATION);
        if annotation.is_set() && ingress.field("spec.ingressClassName").is_set() {
            annotation.invalid("can not be set when the class field is also set");
        }
    })
}

pub(super) fn ingress_update(new: &Value, _: &Value, _: &Context<'_>) -> ErrorList {
    check(new, |ingress| ingress_spec(&ingress.field("spec")))
}

pub(super) fn ingress_status(new: &Value, _: &Value, _: &Context<'_>) -> ErrorList {
    check(new, |ingress| load_balancer_ingress(&ingress.field("status.loadBalancer.ingress")))
}

fn ingress_spec(spec: &At<'_>) {
    let (rules, default) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        spec.invalid_as(rules.value().clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if default.is_set() {
        backend(&default);
    }
    for rule in rules.items() {
        host(&rule.field("host"));
        let http = rule.field("http");
        if http.is_set() {
            if http.field("paths").is_empty() {
                http.field("paths").required("");
            }
            http.field("paths").items().for_each(|path| one_path(&path));
        }
    }
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().for_each(|h| {
            if h.str().contains('*') {
                h.must_follow(names::is_wildcard_dns1123_subdomain);
            } else {
                h.must_follow(names::is_dns1123_subdomain);
            }
        });
        tls.field("secretName").follows(names::is_dns1123_subdomain);
    }
    let class = spec.field("ingressClassName");
    if class.is_set() {
        class.must_follow(names::is_dns1123_subdomain);
    }
}

fn host(host: &At<'_>) {
    if host.is_empty() {
        return;
    }
    if host.str().parse::<std::net::IpAddr>().is_ok() {
        host.invalid("must be a DNS name, not an IP address");
    } else if host.str().contains('*') {
        host.must_follow(names::is_wildcard_dns1123_subdomain);
    } else {
        host.must_follow(names::is_dns1123_subdomain);
    }
}

fn one_path(entry: &At<'_>) {
    let (path, kind) = (entry.field("path"), entry.field("pathType"));
    match kind.str() {
        "" => kind.required("pathType must be specified"),
        "Exact" | "Prefix" => {
            if !path.str().starts_with('/') {
                path.invalid_as(path.str(), "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.str().contains(sequence) {
                    path.invalid(format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if path.str().ends_with(suffix) {
                    path.invalid(format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.str().starts_with('/') {
                path.invalid("must be an absolute path");
            }
        }
        _ => kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&entry.field("backend"));
}

fn backend(backend: &At<'_>) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => backend.invalid_as("", "cannot set both resource and service backends"),
        (false, false) => backend.required("resource or service backend is required"),
        (false, true) => {
            resource.field("kind").needs_text();
            resource.field("name").needs_text();
        }
        (true, false) => {
            service.field("name").needs(names::is_dns1035_label);
            let (name, number) = (service.field("port.name"), service.field("port.number"));
            match (name.is_empty(), number.int().unwrap_or(0)) {
                (false, n) if n != 0 => service.invalid_as("", "cannot set both port name & port number"),
                (false, _) => name.must_follow(names::is_port_name),
                (true, 0) => service.required("port name or number is required"),
                (true, _) => number.within(1, 65535),
            }
        }
    }
}

pub(super) fn ingress_class(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |class| class_spec(&class.field("spec")))
}

fn class_spec(spec: &At<'_>) {
    let controller = spec.field("controller");
    controller.needs(domain_prefixed_path);
    if controller.str().len() > 250 {
        controller.report(Error::too_long(&controller.path(), 250));
    }
    let parameters = spec.field("parameters");
    if !parameters.is_set() {
        return;
    }
    parameters.field("kind").needs(names::is_path_segment_name);
    parameters.field("name").needs(names::is_path_segment_name);
    parameters.field("apiGroup").follows(names::is_dns1123_subdomain);
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    match scope.str() {
        "" => scope.required(""),
        "Cluster" if namespace.is_set() => namespace.forbidden("`parameters.scope` is set to 'Cluster'"),
        "Cluster" => {}
        "Namespace" if namespace.is_empty() => namespace.required("`parameters.scope` is set to 'Namespace'"),
        "Namespace" => namespace.must_follow(names::is_dns1123_label),
        _ => scope.one_of(&["Cluster", "Namespace"]),
    }
}

pub(super) fn ingress_class_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        class_spec(&new.field("spec"));
        new.field("spec.controller").unchanged(&old.field("spec.controller"));
    })
}

pub(super) fn network_policy(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |policy| {
        let spec = policy.field("spec");
        label_selector(&spec.field("podSelector"));
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.field(direction).items() {
                rule.field("ports").items().for_each(|port| policy_port(&port));
                rule.field(peers).items().for_each(|peer| policy_peer(&peer));
            }
        }
        let types = spec.field("policyTypes");
        if types.len() > 2 {
            return types.invalid("may not specify more than two policyTypes");
        }
        types.items().for_each(|kind| kind.one_of(&["Egress", "Ingress"]));
    })
}

fn policy_port(port: &At<'_>) {
    port.field("protocol").one_of(&["SCTP", "TCP", "UDP"]);
    let (first, last) = (port.field("port"), port.field("endPort"));
    if first.is_set() {
        port_or_name(&first);
    }
    let Some(end) = last.int() else { return };
    match first.int() {
        None if first.is_set() => last.invalid("may not be specified when `port` is non-numeric"),
        None => last.required("must be specified when `endPort` is specified"),
        Some(start) if end < start => last.invalid("must be greater than or equal to `port`"),
        Some(_) => last.within(1, 65535),
    }
}

fn policy_peer(peer: &At<'_>) {
    let (block, selectors) =
        (peer.field("ipBlock"), ["podSelector", "namespaceSelector"].map(|s| peer.field(s)));
    let selects = selectors.iter().any(At::is_set);
    selectors.iter().for_each(label_selector);
    if block.is_set() {
        ip_block(&block);
    }
    match (block.is_set(), selects) {
        (false, false) => peer.required("must specify a peer"),
        (true, true) => peer.forbidden("may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(block: &At<'_>) {
    let range = block.field("cidr");
    range.needs(cidr);
    let Ok(net) = range.str().parse::<ipnet::IpNet>() else { return };
    for except in block.field("except").items() {
        except.must_follow(cidr);
        if let Ok(inner) = except.str().parse::<ipnet::IpNet>()
            && (!net.contains(&inner) || net.prefix_len() >= inner.prefix_len())
        {
            except.invalid("must be a strict subset of `cidr`");
        }
    }
}

pub(super) fn ip_name(name: &str, _: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Err(_) => ip_address(name),
        Ok(ip) if ip.to_string() != name => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Ok(_) => Vec::new(),
    }
}

pub(super) fn ip(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |address| {
        let parent = address.field("spec.parentRef");
        if !parent.is_set() {
            return parent.required("");
        }
        parent.field("group").follows(names::is_dns1123_subdomain);
        parent.field("resource").needs(names::is_path_segment_name);
        parent.field("name").needs(names::is_path_segment_name);
        parent.field("namespace").follows(names::is_path_segment_name);
    })
}

pub(super) fn ip_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = ip(new, context);
    errors.extend(check_update(new, old, |new, old| {
        new.field("spec.parentRef").unchanged(&old.field("spec.parentRef"));
    }));
    errors
}

pub(super) fn service_cidr(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |object| {
        let ranges = object.field("spec.cidrs");
        match ranges.len() {
            0 => return ranges.required("at least one CIDR required"),
            1 => {}
            2 => {
                let families: Vec<bool> = ranges.texts().map(|r| r.contains(':')).collect();
                if families.first() == families.last() {
                    ranges.invalid("may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64");
                }
            }
            _ => return ranges.invalid("may only hold up to 2 values"),
        }
        for range in ranges.items() {
            range.must_follow(cidr);
            if let Ok(net) = range.str().parse::<ipnet::IpNet>()
                && net.trunc().to_string() != range.str()
            {
                range.invalid(format!("must be in canonical form ({:?})", net.trunc().to_string()));
            }
        }
    })
}

pub(super) fn service_cidr_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = service_cidr(new, context);
    errors.extend(check_update(new, old, |new, old| {
        let (now, was) = (new.field("spec.cidrs"), old.field("spec.cidrs"));
        // A second family can be added.
        if !(was.len() == 1 && now.len() == 2 && now.list()[0] == was.list()[0]) {
            now.unchanged(&was);
        }
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    const CONTEXT: Context<'_> = Context::TEST;

    #[test]
    fn ingresses() {
        assert_eq!(
            texts(&ingress(&json!({"spec": {}}), &CONTEXT)),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
        let backend = json!({"service": {"name": "a", "port": {"number": 80}}});
        let object = json!({"spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [
            {"path": "a//b", "pathType": "Prefix", "backend": backend}, {"backend": {}}]}}]}});
        assert_eq!(
            texts(&ingress(&object, &CONTEXT)),
            [
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
                "spec.rules[0].http.paths[1].backend: Required value: resource or service backend is required",
            ]
        );
    }

    #[test]
    fn network_policies() {
        let object = json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 70}],
            "from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}});
        assert_eq!(
            texts(&network_policy(&object, &CONTEXT)),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ]
        );
    }
}
