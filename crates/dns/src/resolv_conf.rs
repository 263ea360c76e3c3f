//! Reading `resolv.conf`.

use std::net::{IpAddr, SocketAddr};

/// Most servers taken from the file, as in libc.
const SERVERS_MAX: usize = 3;

/// The servers that `text` names, without those in `own`: a query sent to ourselves would come round for ever.
pub(crate) fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A link-local address carries its interface: `fe80::1%eth0`. The kernel wants an index, which we have not.
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if !own.contains(&ip) && !out.contains(&SocketAddr::new(ip, 53)) {
            out.push(SocketAddr::new(ip, 53));
        }
    }
    out.truncate(SERVERS_MAX);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 \nnameserver bogus\n\
            nameserver 10.43.0.10\nnameserver 192.0.2.1\n; nameserver 192.0.2.9\noptions ndots:5\nnameserver 192.0.2.2\n\
            nameserver 192.0.2.3\n";
        let got: Vec<String> =
            servers(text, &[[10, 43, 0, 10].into()]).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
        assert!(servers("", &[]).is_empty());
    }
}
