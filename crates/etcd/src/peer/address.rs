//! Peer URLs.

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether it is spoken to over TLS.
    pub(crate) tls: bool,
    /// Name or IP address, without brackets: what its certificate is to say.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Address> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return None;
        }
        let authority = uri.authority()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return None;
        }
        Some(Address { tls, host: host.to_owned(), port: authority.port_u16()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_scheme_host_and_port() {
        let address = |tls, host: &str, port| Some(Address { tls, host: host.to_owned(), port });
        assert_eq!(Address::parse("http://10.0.0.1:2380"), address(false, "10.0.0.1", 2380));
        assert_eq!(Address::parse("https://[::1]:1/"), address(true, "::1", 1));
        assert_eq!(Address::parse("http://localhost:2380"), address(false, "localhost", 2380));
        for bad in
            ["", "localhost:2380", "unix:///x", "http://a", "http://a:1/x", "http://:1", "http://u@a:1"]
        {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
