//! The table of Services.

use std::collections::BTreeSet;

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, labels, or};
use crate::kinds::shared::{at, int_at, list_at, str_at};

pub(super) const SERVICE: &[Column] = &[
    Column::text("Type", "How the service is reached."),
    Column::text("Cluster-IP", "Address inside the cluster."),
    Column::text("External-IP", "Addresses outside the cluster."),
    Column::text("Port(s)", "Ports, and the nodes' ports for them."),
    Column::text("Selector", "Labels by which pods are selected.").wide(),
];

pub(super) fn service(service: &Value, _: Timestamp) -> Vec<Value> {
    let address = list_at(service, "spec.clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    vec![
        str_at(service, "spec.type").into(),
        address.into(),
        external(service).into(),
        or(&ports(service), "<none>").into(),
        labels(at(service, "spec.selector")),
    ]
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let (number, protocol) = (int_at(port, "port"), str_at(port, "protocol"));
        match int_at(port, "nodePort") {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    list_at(service, "spec.ports").iter().map(port).collect::<Vec<_>>().join(",")
}

fn external(service: &Value) -> String {
    let given: Vec<&str> = list_at(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match str_at(service, "spec.type") {
        "ClusterIP" | "NodePort" => or(&given.join(","), "<none>"),
        "LoadBalancer" => {
            let all: Vec<&str> = load_balancer(service).into_iter().chain(given).collect();
            or(&all.join(","), "<pending>")
        }
        "ExternalName" => str_at(service, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or names of the load balancer, sorted, each once.
pub(in crate::kinds) fn load_balancer(object: &Value) -> BTreeSet<&str> {
    let points = list_at(object, "status.loadBalancer.ingress").iter();
    let name =
        |point| Some(str_at(point, "ip")).filter(|ip| !ip.is_empty()).unwrap_or(str_at(point, "hostname"));
    points.map(name).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let ports =
            json!([{"port": 80, "protocol": "TCP"}, {"port": 443, "nodePort": 30443, "protocol": "TCP"}]);
        let lb = json!({"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}, {"hostname": "lb.example.com"}]}});
        for (spec, status, want) in [
            (
                json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": ports, "selector": {"a": "b"}}),
                json!({}),
                ["ClusterIP", "10.0.0.1", "<none>", "80/TCP,443:30443/TCP", "a=b"],
            ),
            (
                json!({"type": "LoadBalancer", "clusterIPs": ["None"]}),
                json!({}),
                ["LoadBalancer", "None", "<pending>", "<none>", "<none>"],
            ),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["1.1.1.1"]}),
                lb,
                ["LoadBalancer", "<none>", "5.6.7.8,lb.example.com,1.1.1.1", "<none>", "<none>"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "x.org"}),
                json!({}),
                ["ExternalName", "<none>", "x.org", "<none>", "<none>"],
            ),
        ] {
            assert_eq!(service(&json!({"spec": spec, "status": status}), Timestamp::UNIX_EPOCH), want);
        }
    }
}
