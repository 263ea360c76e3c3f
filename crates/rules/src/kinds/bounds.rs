//! Numbers and percentages, address ranges and other forms that several kinds use.

use std::net::IpAddr;

use isopod_api::Value;
use isopod_api::names;

use super::check::{At, NOT_NEGATIVE};

/// A count, or a share in percent, that is not negative.
pub(super) fn int_or_percent(bound: &At<'_>) {
    match bound.value() {
        Value::Null => {}
        Value::String(text) => names::is_percent(text).into_iter().for_each(|message| bound.invalid(message)),
        other if other.as_i64().is_some_and(|n| n < 0) => bound.invalid(NOT_NEGATIVE),
        _ => {}
    }
}

/// A share of at most the whole.
pub(super) fn at_most_all(bound: &At<'_>) {
    if percent(bound).is_some_and(|p| p > 100) {
        bound.invalid("must not be greater than 100%");
    }
}

fn percent(bound: &At<'_>) -> Option<i64> {
    bound.str().strip_suffix('%')?.parse().ok()
}

/// The count or share, zero when absent.
pub(super) fn amount(bound: &At<'_>) -> i64 {
    bound.int().or_else(|| percent(bound)).unwrap_or(0)
}

/// A range of addresses.
pub(super) fn cidr(text: &str) -> Vec<String> {
    if text.parse::<ipnet::IpNet>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// An address that can serve others: not this host's own, not one of the link.
pub(super) fn reachable_ip(text: &str) -> Vec<String> {
    let Ok(ip) = text.parse::<IpAddr>() else { return super::podspec::ip_address(text) };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] == 0xff02),
    };
    let faults = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    faults.into_iter().filter(|(wrong, _)| *wrong).map(|(_, message)| message).collect()
}

/// A domain, a slash and a path: `example.com/controller`.
pub(super) fn domain_prefixed_path(text: &str) -> Vec<String> {
    let Some((domain, path)) = text.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty()) else {
        return vec![r#"must be a domain-prefixed path (such as "acme.io/foo")"#.to_owned()];
    };
    let mut faults: Vec<String> =
        names::is_dns1123_subdomain(domain).into_iter().map(|m| format!("prefix part {m}")).collect();
    if path.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b))) {
        faults.push(format!(
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+'): {path:?}"
        ));
    }
    faults
}

/// A number above zero, if it is there.
pub(super) fn positive(number: &At<'_>) {
    if number.int().is_some_and(|n| n <= 0) {
        number.invalid("must be greater than 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(reachable_ip("10.0.0.1"), Vec::<String>::new());
        for ip in ["127.0.0.1", "0.0.0.0", "::1", "169.254.0.1", "fe80::1", "224.0.0.1", "ff02::1", "x"] {
            assert_eq!(reachable_ip(ip).len(), 1, "{ip}");
        }
        assert!(cidr("10.0.0.0/8").is_empty() && !cidr("10.0.0.0").is_empty());
        assert!(domain_prefixed_path("a.b/c").is_empty() && !domain_prefixed_path("a.b").is_empty());
    }
}
