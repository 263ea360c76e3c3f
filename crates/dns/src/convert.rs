//! From API objects to the zone's records. Pure.

use crate::zone::{Endpoint, Kind, Port, Service};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::IpAddr;
use std::sync::Arc;

/// Label with which a slice names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `namespace/name` of the Service a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref()?))
}

fn protocol(word: Option<&str>) -> &'static str {
    match word {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
}

fn number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or(0)
}

/// The Service as the zone sees it; `None` while it has no address.
pub(crate) fn service(object: &core::Service, slices: &[Arc<EndpointSlice>]) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        Kind::External(spec.external_name.clone()?)
    } else if is_headless(spec) {
        Kind::Headless(slices.iter().flat_map(|slice| endpoints(slice)).collect())
    } else {
        let mut texts: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
        if texts.is_empty() {
            texts.extend(spec.cluster_ip.iter());
        }
        let ips: Vec<IpAddr> = texts.iter().filter_map(|ip| ip.parse().ok()).collect();
        if ips.is_empty() {
            return None;
        }
        let port = |p: &core::ServicePort| Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: protocol(p.protocol.as_deref()),
            port: number(p.port),
        };
        Kind::Cluster(ips, spec.ports.iter().flatten().map(port).collect())
    };
    Some(Service { namespace: object.metadata.namespace.clone()?, name: object.metadata.name.clone()?, kind })
}

fn is_headless(spec: &core::ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.iter().flatten().any(|ip| ip == "None")
}

/// The ready endpoints of a slice. (`publishNotReadyAddresses` has been seen to by whoever wrote the slice: it says
/// ready then.)
fn endpoints(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: protocol(p.protocol.as_deref()),
            port: p.port.map_or(0, number),
        })
        .collect();
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    ready
        .flat_map(|e| e.addresses.iter().map(move |address| (e, address)))
        .filter_map(|(e, address)| {
            let ip: IpAddr = address.parse().ok()?;
            let named = e.hostname.as_ref().filter(|name| !name.is_empty());
            let hostname =
                named.map_or_else(|| address.replace(['.', ':'], "-"), |name| name.to_ascii_lowercase());
            Some(Endpoint { hostname, ip, ports: ports.clone() })
        })
        .collect()
}
