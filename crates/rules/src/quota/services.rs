//! What a service uses: itself, its node ports, its load balancer.

use isopod_api::Value;
use isopod_api::quantity::{Format, Quantity};

use super::{Amounts, one};

/// Names in `spec.hard` about services.
pub(super) const NAMES: &[&str] = &["services", "services.nodeports", "services.loadbalancers"];

pub(super) fn usage(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let zero = Quantity::default();
    let count = Quantity::from_value(i64::try_from(ports).unwrap_or(i64::MAX), Format::DecimalSi);
    let balanced = spec["type"] == "LoadBalancer";
    let node_ports = match spec["type"].as_str() {
        Some("NodePort") => count,
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] != false => count,
        _ => zero,
    };
    Amounts::from([
        ("services".into(), one()),
        ("services.nodeports".into(), node_ports),
        ("services.loadbalancers".into(), if balanced { one() } else { zero }),
    ])
}
