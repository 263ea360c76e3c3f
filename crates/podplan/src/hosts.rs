//! Names of a pod, and the `/etc/hosts` that the kubelet writes for its containers.

use k8s_openapi::api::core::v1::Pod;

use crate::spec;

const BODY: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                    fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// Longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 64;

/// Host name and domain of a pod; the domain is empty without a subdomain.
#[must_use]
pub fn names(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let s = spec::of(pod);
    if let Some(name) = &s.hostname_override {
        return (name.clone(), String::new());
    }
    let own = s.hostname.as_deref().filter(|h| !h.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let name: String = name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = match s.subdomain.as_deref() {
        Some(sub) if !sub.is_empty() => format!("{sub}.{namespace}.svc.{cluster_domain}"),
        _ => String::new(),
    };
    (name, domain)
}

/// The host name that the sandbox's kernel is told: empty for host-network pods, the full name on request.
///
/// # Errors
/// The text for the event, where the full name is too long for the kernel.
pub fn kernel_name(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    if spec::host_network(pod) && spec::of(pod).hostname_override.is_none() {
        return Ok(String::new());
    }
    let (name, domain) = names(pod, cluster_domain);
    if spec::of(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}");
    if full.len() > HOSTNAME_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long \
             ({HOSTNAME_MAX} characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// The content of `/etc/hosts`; `host_file` is the node's own, used for host-network pods.
#[must_use]
pub fn file(pod: &Pod, ips: &[String], cluster_domain: &str, host_file: &str) -> String {
    let mut out = String::new();
    if spec::host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str(BODY);
        let (name, domain) = names(pod, cluster_domain);
        for ip in ips {
            if domain.is_empty() {
                out.push_str(&format!("{ip}\t{name}\n"));
            } else {
                out.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
            }
        }
    }
    let aliases = spec::of(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for a in aliases {
            out.push_str(&format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::HostAlias;

    #[test]
    fn managed_file() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web-0".into());
        pod.metadata.namespace = Some("ns".into());
        let s = pod.spec.get_or_insert_default();
        s.subdomain = Some("web".into());
        s.host_aliases =
            Some(vec![HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) }]);
        let text = file(&pod, &["10.42.0.7".into()], "cluster.local", "");
        let tail: Vec<&str> = text.lines().skip(7).collect();
        let want = [
            "10.42.0.7\tweb-0.web.ns.svc.cluster.local\tweb-0",
            "",
            "# Entries added by HostAliases.",
            "1.2.3.4\ta\tb",
        ];
        assert_eq!(tail, want);
        assert_eq!(kernel_name(&pod, "cluster.local").unwrap(), "web-0");
    }
}
