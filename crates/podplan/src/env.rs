//! Environment of a container: `$(VAR)` expansion, variables of Services, and their order.
//!
//! Order, as upstream: `envFrom` sources in turn, then `env` in turn (each sees those before it), then the
//! Services' variables that nothing above has set. A later setting of the same name wins.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Replaces `$(NAME)` by what `lookup` knows; `$$` is a literal `$`; what is unknown stays as it is.
#[must_use]
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Names that a `$(NAME)` in `text` refers to and that `lookup` does not know.
#[must_use]
pub fn missing(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let names = std::cell::RefCell::new(Vec::new());
    let _ = expand(text, |name| {
        let found = lookup(name);
        if found.is_none() {
            names.borrow_mut().push(name.to_owned());
        }
        found
    });
    names.into_inner()
}

/// An environment under construction.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// Sets a variable unless it is set.
    pub fn set_default(&mut self, name: &str, value: &str) {
        if !self.values.contains_key(name) {
            self.set(name, value.to_owned());
        }
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    /// Name and value pairs in the order of first setting.
    #[must_use]
    pub fn into_pairs(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .map(|name| {
                let value = self.values.remove(&name).unwrap_or_default();
                (name, value)
            })
            .collect()
    }
}

/// Variables that tell a container of Services: `FOO_SERVICE_HOST`, `FOO_SERVICE_PORT`, and the older
/// `FOO_PORT_80_TCP` kind. Headless Services have none.
#[must_use]
pub fn services<'a>(list: impl Iterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for s in list {
        let (Some(name), Some(spec)) = (&s.metadata.name, &s.spec) else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let prefix = variable(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for (i, p) in ports.iter().enumerate() {
            if let Some(port_name) = p.name.as_deref().filter(|n| !n.is_empty()) {
                let key = format!("{prefix}_SERVICE_PORT_{}", variable(port_name));
                out.insert(key, p.port.to_string());
            }
            let protocol = p.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), p.port);
            if i == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let link = format!("{prefix}_PORT_{}_{}", p.port, protocol.to_uppercase());
            out.insert(format!("{link}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{link}_PORT"), p.port.to_string());
            out.insert(format!("{link}_ADDR"), ip.to_owned());
            out.insert(link, url);
        }
    }
    out
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let vars = |n: &str| match n {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (input, want) in [
            ("$(A)", "1"),
            ("x-$(A)-$(A)", "x-1-1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(EMPTY)!", "!"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("é$(A)", "é1"),
        ] {
            assert_eq!(expand(input, vars), want, "{input}");
        }
        assert_eq!(missing("$(A)/$(B)", vars), ["B"]);
    }

    #[test]
    fn service_variables() {
        let s: Service = k8s_service("my-svc", "10.0.0.1", &[(Some("http"), 80)]);
        let got: Vec<String> =
            services([&s].into_iter()).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            got,
            [
                "MY_SVC_PORT=tcp://10.0.0.1:80",
                "MY_SVC_PORT_80_TCP=tcp://10.0.0.1:80",
                "MY_SVC_PORT_80_TCP_ADDR=10.0.0.1",
                "MY_SVC_PORT_80_TCP_PORT=80",
                "MY_SVC_PORT_80_TCP_PROTO=tcp",
                "MY_SVC_SERVICE_HOST=10.0.0.1",
                "MY_SVC_SERVICE_PORT=80",
                "MY_SVC_SERVICE_PORT_HTTP=80",
            ]
        );
        assert!(services([&k8s_service("h", "None", &[(None, 1)])].into_iter()).is_empty());
    }

    fn k8s_service(name: &str, ip: &str, ports: &[(Option<&str>, i32)]) -> Service {
        use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
        let mut s = Service::default();
        s.metadata.name = Some(name.into());
        let ports = ports
            .iter()
            .map(|(n, port)| ServicePort {
                name: n.map(str::to_owned),
                port: *port,
                ..ServicePort::default()
            })
            .collect();
        s.spec =
            Some(ServiceSpec { cluster_ip: Some(ip.into()), ports: Some(ports), ..ServiceSpec::default() });
        s
    }
}
