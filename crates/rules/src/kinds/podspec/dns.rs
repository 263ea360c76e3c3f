//! Name resolution of a pod: policy, configuration, aliases of hosts.

use isopod_api::names;

use crate::kinds::check::At;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// A textual IP address.
pub(in crate::kinds) fn ip_address(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// Validates `dnsPolicy` and `dnsConfig`.
pub(super) fn policy_and_config(spec: &At<'_>) {
    let policy = spec.field("dnsPolicy");
    policy.needs_one_of(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
    let config = spec.field("dnsConfig");
    if policy.str() == "None" {
        if !config.is_set() {
            return config.required("must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if config.field("nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            config.field("nameservers").required(detail);
        }
    }
    let nameservers = config.field("nameservers");
    if nameservers.len() > NAMESERVERS_MAX {
        nameservers.invalid(format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    nameservers.items().for_each(|server| server.must_follow(ip_address));
    let searches = config.field("searches");
    if searches.len() > SEARCHES_MAX {
        searches.invalid(format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.texts().collect::<Vec<_>>().join(" ").len() > SEARCH_BYTES_MAX {
        let detail = format!(
            "must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list"
        );
        searches.invalid(detail);
    }
    for search in searches.items() {
        // Underscores, a lone dot and a trailing dot are fine in a search path.
        let domain = search.str().strip_suffix('.').unwrap_or(search.str()).replace('_', "-");
        if search.str() != "." {
            names::is_dns1123_subdomain(domain.trim_matches('-')).into_iter().for_each(|m| search.invalid(m));
        }
    }
    for option in config.field("options").items() {
        option.field("name").needs_text();
    }
}

/// Validates `hostAliases`.
pub(super) fn host_aliases(aliases: &At<'_>) {
    for alias in aliases.items() {
        alias.field("ip").must_follow(ip_address);
        alias.field("hostnames").items().for_each(|name| name.must_follow(names::is_dns1123_subdomain));
    }
}
