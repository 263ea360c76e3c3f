//! What a request is about, read from its method, path and query alone: `RequestInfo`.
//!
//! Matches upstream's `RequestInfoFactory`: `/api/VERSION/…` and `/apis/GROUP/VERSION/…` are resource
//! requests, everything else is a non-resource request whose verb is the lower-case method. The deprecated
//! `/watch/` path prefix is understood.

use isopod_api::selector::FieldSelector;

/// The subject of a request, as authorisation and routing see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// The path without the query.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-case
    /// method of a non-resource request.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster-scoped requests and lists over all namespaces.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, empty if there is none.
    pub subresource: String,
    /// Object name; also taken from a `metadata.name` field selector of a list or watch.
    pub name: String,
    /// Path segments that follow the subresource (of `proxy`).
    pub rest: Vec<String>,
    /// Whether `name` came from the path (and not from a field selector).
    pub named_by_path: bool,
}

impl RequestInfo {
    /// Parses `path` (percent-encoded) and `query`.
    pub fn parse(method: &http::Method, path: &str, query: Option<&str>) -> RequestInfo {
        let mut info = RequestInfo {
            path: path.to_owned(),
            verb: method.as_str().to_ascii_lowercase(),
            ..RequestInfo::default()
        };
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(percent_decode).collect();
        if parts.len() < 3 {
            return info;
        }
        let mut rest = match parts[0].as_str() {
            "api" => &parts[1..],
            "apis" if parts.len() >= 4 => {
                info.group = parts[1].clone();
                &parts[2..]
            }
            _ => return info,
        };
        info.is_resource = true;
        info.version = rest[0].clone();
        rest = &rest[1..];
        let mut watch_path = false;
        if rest[0] == "watch" && rest.len() > 1 {
            watch_path = true;
            rest = &rest[1..];
        }
        info.verb = verb_of(method).to_owned();
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].clone();
            if rest.len() > 2 && rest[2] != "status" && rest[2] != "finalize" {
                rest = &rest[2..];
            }
        }
        info.resource = rest[0].clone();
        if let Some(name) = rest.get(1) {
            info.name = name.clone();
            info.named_by_path = true;
        }
        if let Some(sub) = rest.get(2) {
            info.subresource = sub.clone();
            info.rest = rest[3..].to_vec();
        }
        info.settle_verb(watch_path, query);
        info
    }

    /// Turns a nameless get into list or watch, and a nameless delete into deletecollection.
    fn settle_verb(&mut self, watch_path: bool, query: Option<&str>) {
        if watch_path && self.verb == "get" {
            self.verb = "watch".to_owned();
            return;
        }
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => {
                let mut watch = false;
                for (key, value) in query_pairs(query.unwrap_or_default()) {
                    match key.as_str() {
                        "watch" => watch = parse_bool(&value),
                        "fieldSelector" => {
                            if let Some(name) = name_of_selector(&value) {
                                self.name = name;
                            }
                        }
                        _ => {}
                    }
                }
                self.verb = if watch { "watch" } else { "list" }.to_owned();
            }
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
    }

    /// Whether the request changes nothing, which decides the pool of seats it takes.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head")
    }

    /// Whether the request holds its connection open for longer than a request may otherwise take.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

fn verb_of(method: &http::Method) -> &'static str {
    match *method {
        http::Method::POST => "create",
        http::Method::GET | http::Method::HEAD => "get",
        http::Method::PUT => "update",
        http::Method::PATCH => "patch",
        http::Method::DELETE => "delete",
        _ => "",
    }
}

/// Go's `strconv.ParseBool` as used for query booleans: anything that is not a known false is true.
pub fn parse_bool(value: &str) -> bool {
    !matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE" | "")
}

/// The name a selector pins with `metadata.name=NAME`, if it does.
fn name_of_selector(text: &str) -> Option<String> {
    let selector = FieldSelector::parse(text).ok()?;
    selector.exact("metadata.name").map(str::to_owned)
}

/// Key and value pairs of a query string, percent- and plus-decoded, in order.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
    })
}

/// Decodes `%XX`; malformed escapes stay as they are.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%'
            && let Some(value) = bytes.get(at + 1..at + 3).and_then(hex_pair)
        {
            out.push(value);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str) -> String {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let i = RequestInfo::parse(&method.parse().unwrap(), path, query);
        if !i.is_resource {
            return format!("{} nonresource {}", i.verb, i.path);
        }
        format!(
            "{} {}/{} ns={} {}/{} sub={} rest={}",
            i.verb,
            i.group,
            i.version,
            i.namespace,
            i.resource,
            i.name,
            i.subresource,
            i.rest.join("/")
        )
    }

    #[test]
    fn paths() {
        for (method, uri, want) in [
            ("GET", "/api", "get nonresource /api"),
            ("GET", "/apis/apps/v1", "get nonresource /apis/apps/v1"),
            ("GET", "/healthz", "get nonresource /healthz"),
            ("GET", "/api/v1/namespaces", "list /v1 ns= namespaces/ sub= rest="),
            ("GET", "/api/v1/namespaces/x", "get /v1 ns=x namespaces/x sub= rest="),
            ("PUT", "/api/v1/namespaces/x/finalize", "update /v1 ns=x namespaces/x sub=finalize rest="),
            ("GET", "/api/v1/namespaces/x/pods?watch=1", "watch /v1 ns=x pods/ sub= rest="),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Da", "list /v1 ns= pods/a sub= rest="),
            ("DELETE", "/api/v1/namespaces/x/pods", "deletecollection /v1 ns=x pods/ sub= rest="),
            ("POST", "/api/v1/namespaces/x/pods/p/exec", "create /v1 ns=x pods/p sub=exec rest="),
            ("GET", "/api/v1/nodes/n/proxy/a/b", "get /v1 ns= nodes/n sub=proxy rest=a/b"),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                "patch apps/v1 ns=x deployments/d sub=scale rest=",
            ),
            ("GET", "/api/v1/watch/namespaces/x/pods/p", "watch /v1 ns=x pods/p sub= rest="),
        ] {
            assert_eq!(parse(method, uri), want, "{method} {uri}");
        }
    }
}
