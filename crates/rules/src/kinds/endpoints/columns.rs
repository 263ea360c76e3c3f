//! Tables of Endpoints and EndpointSlices.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, or, with_more};
use crate::kinds::shared::{at, int_at, list_at, str_at};

/// Most ports or addresses shown in a cell.
const SHOWN_MAX: usize = 3;

pub(super) const ENDPOINTS: &[Column] = &[Column::text("Endpoints", "Addresses and ports that serve.")];

pub(super) fn endpoints(endpoints: &Value, _: Timestamp) -> Vec<Value> {
    let subsets = list_at(endpoints, "subsets");
    if subsets.is_empty() {
        return vec!["<none>".into()];
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || list_at(subset, "addresses").iter().map(|address| str_at(address, "ip"));
        let ports = list_at(subset, "ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| host_port(ip, int_at(port, "port"))));
        }
    }
    vec![with_more(&all, SHOWN_MAX).into()]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    Column::text("AddressType", "Kind of the addresses."),
    Column::text("Ports", "Ports of every endpoint."),
    Column::text("Endpoints", "Addresses of the endpoints."),
];

pub(super) fn endpoint_slice(slice: &Value, _: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match (at(port, "port").and_then(Value::as_i64), at(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
        (None, None) => "*".to_owned(),
    };
    let ports: Vec<String> = list_at(slice, "ports").iter().map(port).collect();
    let addresses = list_at(slice, "endpoints").iter().flat_map(|e| list_at(e, "addresses"));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let shown = |all: &[String]| Value::from(or(&with_more(all, SHOWN_MAX), "<unset>"));
    vec![str_at(slice, "addressType").into(), shown(&ports), shown(&addresses)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now = Timestamp::UNIX_EPOCH;
        let address = |ip: &str| json!({"ip": ip});
        let object = json!({"subsets": [{"addresses": [address("10.0.0.1"), address("10.0.0.2")],
            "ports": [{"port": 80}, {"port": 443}]}, {"addresses": [address("::1")]}]});
        assert_eq!(endpoints(&object, now), ["10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 2 more..."]);
        assert_eq!(endpoints(&json!({}), now), ["<none>"]);
        let object = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
            "endpoints": [{"addresses": ["10.0.0.1"]}]});
        assert_eq!(endpoint_slice(&object, now), ["IPv4", "80,x,*", "10.0.0.1"]);
        assert_eq!(endpoint_slice(&json!({"addressType": "IPv4"}), now), ["IPv4", "<unset>", "<unset>"]);
    }
}
