//! The downward API: fields of the pod and resources of its containers as text.

use isopod_api::quantity::Quantity;
use isopod_podplan::{resources, spec};
use k8s_openapi::api::core::v1::{Node, ObjectFieldSelector, Pod, ResourceFieldSelector};

/// Addresses that the status may not hold yet when a container starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ips: Vec<String>,
}

/// The value of a field of the pod.
pub(crate) fn field(
    selector: &ObjectFieldSelector,
    pod: &Pod,
    addresses: &Addresses,
) -> Result<String, String> {
    let m = &pod.metadata;
    let s = spec::of(pod);
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let path = selector.field_path.as_str();
    if let Some((base, key)) = subscript(path) {
        let map = match base {
            "metadata.annotations" => &m.annotations,
            "metadata.labels" => &m.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&m.name),
        "metadata.namespace" => text(&m.namespace),
        "metadata.uid" => text(&m.uid),
        "metadata.labels" => lines(m.labels.as_ref()),
        "metadata.annotations" => lines(m.annotations.as_ref()),
        "spec.nodeName" => text(&s.node_name),
        "spec.serviceAccountName" => text(&s.service_account_name),
        "status.hostIP" => addresses.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => addresses.host_ips.join(","),
        "status.podIP" => addresses.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

/// `key="value"` lines, sorted, with Go's quoting.
fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let list: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quote(v))).collect();
    list.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource of a container, divided by the selector's divisor and rounded up. A limit that is
/// not set is what the node can give.
pub(crate) fn resource(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    container: &str,
    node: &Node,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(container);
    let (_, c) = spec::find(pod, name).ok_or_else(|| format!("container {name} not found"))?;
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let own = match kind {
        "limits" => resources::limits(&c),
        "requests" => resources::requests(&c),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let mut amount = own.get(resource).copied().unwrap_or(0);
    if amount == 0 && kind == "limits" && !resource.starts_with("hugepages-") {
        let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        amount = list.and_then(|l| l.get(resource)).map_or(0, |q| resources::amount(resource, q));
    }
    let divisor = selector.divisor.as_ref().map_or("1", |d| d.0.as_str());
    let divisor: Quantity = divisor.parse().map_err(|_| format!("divisor {divisor:?} is not a quantity"))?;
    let divisor = if resource == "cpu" { divisor.milli_value() } else { divisor.value() };
    let divisor = match (divisor, resource) {
        (0, "cpu") => 1000,
        (0, _) => 1,
        (d, _) => d,
    };
    Ok((amount as u64).div_ceil(divisor.unsigned_abs().max(1)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_yaml_ng::from_str(
            r#"
metadata: {name: p, namespace: ns, uid: u, labels: {b: "2", a: "x\"y"}}
spec:
  nodeName: n
  containers:
  - {name: c, resources: {limits: {memory: 100Mi}, requests: {cpu: 250m}}}
"#,
        )
        .unwrap()
    }

    #[test]
    fn fields() {
        let get = |path: &str| {
            let s = ObjectFieldSelector { api_version: None, field_path: path.into() };
            let a = Addresses { pod_ips: vec!["1.1.1.1".into(), "::1".into()], host_ips: vec![] };
            field(&s, &pod(), &a)
        };
        assert_eq!(get("metadata.labels").unwrap(), "a=\"x\\\"y\"\nb=\"2\"");
        assert_eq!(get("metadata.labels['b']").unwrap(), "2");
        assert_eq!(get("status.podIPs").unwrap(), "1.1.1.1,::1");
        assert!(get("spec.hostname").is_err());
    }

    #[test]
    fn resources_round_up() {
        let get = |resource: &str, divisor: &str| {
            let s = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
                container_name: None,
            };
            let node: Node =
                serde_json::from_value(serde_json::json!({"status": {"allocatable": {"cpu": "2"}}})).unwrap();
            super::resource(&s, &pod(), "c", &node).unwrap()
        };
        assert_eq!(get("requests.cpu", "1"), "1");
        assert_eq!(get("requests.cpu", "1m"), "250");
        assert_eq!(get("limits.memory", "1Mi"), "100");
        assert_eq!(get("limits.cpu", "0"), "2");
    }
}
