//! Resolver configuration of a pod, from its DNS policy, its own DNS settings and the node's resolv.conf.

use k8s_openapi::api::core::v1::Pod;

use crate::spec;

/// Most servers a resolver reads.
const MAX_SERVERS: usize = 3;
/// Most search domains, and their most characters together.
const MAX_SEARCHES: (usize, usize) = (32, 2048);

/// A resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Server addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf; lines that it does not know are passed over, as resolvers do.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    out.searches = words
                        .map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned())
                        .collect();
                }
                Some("options") => {
                    for w in words {
                        set_option(&mut out.options, w);
                    }
                }
                _ => {}
            }
        }
        out
    }

    fn clip(&mut self) {
        self.servers.truncate(MAX_SERVERS);
        self.searches.truncate(MAX_SEARCHES.0);
        while self.searches.join(" ").len() > MAX_SEARCHES.1 {
            self.searches.pop();
        }
    }
}

/// The resolver of a pod. `host` is the node's; `cluster` the addresses of the cluster's DNS.
#[must_use]
pub fn resolver(pod: &Pod, host: &Resolver, cluster: &[String], domain: &str) -> Resolver {
    let s = spec::of(pod);
    let policy = match s.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if spec::host_network(pod) => "Default",
        "ClusterFirst" | "ClusterFirstWithHostNet" if cluster.is_empty() => "Default",
        other => other,
    };
    let mut out = match policy {
        "None" => Resolver::default(),
        "Default" => host.clone(),
        _ => cluster_first(pod, host, cluster, domain),
    };
    if let Some(own) = &s.dns_config {
        extend(&mut out.servers, own.nameservers.iter().flatten());
        extend(&mut out.searches, own.searches.iter().flatten());
        for o in own.options.iter().flatten() {
            let Some(name) = &o.name else { continue };
            let text = o.value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}:{v}"));
            set_option(&mut out.options, &text);
        }
    }
    out.clip();
    out
}

fn cluster_first(pod: &Pod, host: &Resolver, cluster: &[String], domain: &str) -> Resolver {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    extend(&mut searches, host.searches.iter());
    let mut options = host.options.clone();
    set_option(&mut options, "ndots:5");
    Resolver { servers: cluster.to_vec(), searches, options }
}

fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for m in more {
        if !list.contains(m) {
            list.push(m.clone());
        }
    }
}

fn set_option(list: &mut Vec<String>, option: &str) {
    let name = option.split(':').next().unwrap_or(option);
    match list.iter_mut().find(|o| o.split(':').next() == Some(name)) {
        Some(o) => option.clone_into(o),
        None => list.push(option.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption};

    #[test]
    fn policies() {
        let host =
            Resolver::parse("# x\nnameserver 9.9.9.9\nsearch corp.example.\noptions timeout:1 ndots:2\n");
        let show = |r: &Resolver| {
            format!("{}|{}|{}", r.servers.join(" "), r.searches.join(" "), r.options.join(" "))
        };
        let dns = ["10.43.0.10".to_owned()];
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("ns".into());
        let mut rows = vec![];
        for policy in ["ClusterFirst", "Default", "None"] {
            pod.spec.get_or_insert_default().dns_policy = Some(policy.into());
            rows.push(show(&resolver(&pod, &host, &dns, "cluster.local")));
        }
        pod.spec.get_or_insert_default().dns_config = Some(PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into()]),
            searches: Some(vec!["x.y".into()]),
            options: Some(vec![PodDNSConfigOption { name: Some("ndots".into()), value: Some("1".into()) }]),
        });
        rows.push(show(&resolver(&pod, &host, &dns, "cluster.local")));
        assert_eq!(
            rows,
            [
                "10.43.0.10|ns.svc.cluster.local svc.cluster.local cluster.local corp.example|timeout:1 ndots:5",
                "9.9.9.9|corp.example|timeout:1 ndots:2",
                "||",
                "1.1.1.1|x.y|ndots:1",
            ]
        );
    }
}
