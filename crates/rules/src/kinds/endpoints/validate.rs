//! What Endpoints and EndpointSlices obey.

use std::collections::BTreeSet;
use std::net::IpAddr;

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::bounds::reachable_ip;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::ip_address;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const ZONE_HINTS_MAX: usize = 8;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn endpoints(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |endpoints| {
        for subset in endpoints.field("subsets").items() {
            let lists = ["addresses", "notReadyAddresses"].map(|list| subset.field(list));
            if lists.iter().all(|list| list.is_empty()) {
                subset.required("must specify `addresses` or `notReadyAddresses`");
            }
            for address in lists.iter().flat_map(|list| list.items()) {
                let ip = address.field("ip");
                if ip.is_empty() {
                    ip.must_follow(ip_address)
                } else {
                    ip.must_follow(reachable_ip)
                }
                address.field("hostname").follows(names::is_dns1123_label);
                address.field("nodeName").follows(names::is_dns1123_subdomain);
            }
            let ports = subset.field("ports");
            for port in ports.items() {
                let name = port.field("name");
                if name.is_empty() && ports.len() > 1 {
                    name.required("");
                }
                name.follows(names::is_dns1123_label);
                let number = port.field("port").int().unwrap_or(0);
                names::is_port_number(number)
                    .into_iter()
                    .for_each(|m| port.field("port").invalid_as(number, m));
                port.field("protocol").needs_one_of(PROTOCOLS);
                port.field("appProtocol").follows(names::is_qualified_name);
            }
        }
    })
}

pub(super) fn slice(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |slice| {
        let kind = slice.field("addressType");
        kind.needs_one_of(&["FQDN", "IPv4", "IPv6"]);
        let endpoints = slice.field("endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            endpoints.report(Error::too_many(&endpoints.path(), endpoints.len(), ENDPOINTS_MAX));
        }
        endpoints.items().for_each(|endpoint| one_endpoint(&endpoint, kind.str()));
        ports(&slice.field("ports"));
    })
}

fn one_endpoint(endpoint: &At<'_>, kind: &str) {
    let addresses = endpoint.field("addresses");
    match addresses.len() {
        0 => addresses.required("must contain at least 1 address"),
        n if n > ADDRESSES_MAX => addresses.report(Error::too_many(&addresses.path(), n, ADDRESSES_MAX)),
        _ => {}
    }
    for address in addresses.items() {
        match (kind, address.str().parse::<IpAddr>()) {
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => address.must_follow(reachable_ip),
            ("IPv4", _) => address.invalid("must be a valid IPv4 address"),
            ("IPv6", _) => address.invalid("must be a valid IPv6 address"),
            _ => address.must_follow(names::is_dns1123_subdomain),
        }
    }
    endpoint.field("nodeName").follows(names::is_dns1123_subdomain);
    endpoint.field("zone").follows(names::is_label_value);
    endpoint.field("hostname").follows(names::is_dns1123_label);
    let zones = endpoint.field("hints.forZones");
    if zones.len() > ZONE_HINTS_MAX {
        zones.report(Error::too_many(&zones.path(), zones.len(), ZONE_HINTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for zone in zones.items() {
        zone.field("name").needs(names::is_label_value);
        zone.field("name").unique(&mut seen);
    }
}

fn ports(ports: &At<'_>) {
    if ports.len() > PORTS_MAX {
        ports.report(Error::too_many(&ports.path(), ports.len(), PORTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        name.follows(names::is_dns1123_label);
        if !seen.insert(name.str()) {
            name.report(Error::duplicate(&name.path(), name.str()));
        }
        port.field("protocol").needs_one_of(PROTOCOLS);
        port.field("port").within(1, 65535);
        port.field("appProtocol").follows(names::is_qualified_name);
    }
}

pub(super) fn slice_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = slice(new, context);
    errors.extend(check_update(new, old, |new, old| {
        new.field("addressType").unchanged(&old.field("addressType"));
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let context = Context::TEST;
        let object = json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}, {"name": "b", "port": 0, "protocol": "TCP"}]}, {}]});
        assert_eq!(
            texts(&endpoints(&object, &context)),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
        let object = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {"addresses": []}], "ports": [{"protocol": "TCP"}, {"name": "", "protocol": "TCP"}]});
        assert_eq!(
            texts(&slice(&object, &context)),
            [
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"\"",
            ]
        );
    }
}
