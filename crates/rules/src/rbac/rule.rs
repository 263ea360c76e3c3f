//! One policy rule, and the requests it matches.

use isopod_api::Value;
use serde::{Deserialize, Serialize};

/// What a rule is held against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// Verb.
    pub verb: &'a str,
    /// API group of a resource request.
    pub group: &'a str,
    /// Plural resource; empty for a request that is not about a resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name or empty.
    pub name: &'a str,
    /// Path of a request that is not about a resource.
    pub path: &'a str,
    /// Whether it is about a resource.
    pub is_resource: bool,
    /// Field selector of a list or watch, as sent.
    pub field_selector: &'a str,
}

/// `PolicyRule` of `rbac.authorization.k8s.io/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs, or `*`.
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `resource`, `resource/subresource`, `*/subresource` or `*`.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names the rule is limited to; none means all.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths, `*` or with `*` as last character.
    #[serde(rename = "nonResourceURLs", deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// `null` is an empty list.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

const ALL: &str = "*";

impl Rule {
    /// The rules of a role; what is not a rule is left out, since validation has seen to it.
    pub fn of_role(role: &Value) -> Vec<Rule> {
        let rules = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        rules.iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
    }

    /// Whether the rule permits the request.
    pub fn allows(&self, request: &Request<'_>) -> bool {
        if !contains(&self.verbs, request.verb) {
            return false;
        }
        if request.is_resource {
            contains(&self.api_groups, request.group)
                && self.resources.iter().any(|resource| names_resource(resource, request))
                && (self.resource_names.is_empty()
                    || self.resource_names.iter().any(|name| name == request.name))
        } else {
            self.non_resource_urls.iter().any(|url| covers_url(url, request.path))
        }
    }
}

fn contains(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn names_resource(pattern: &str, request: &Request<'_>) -> bool {
    if pattern == ALL {
        return true;
    }
    match (pattern.split_once('/'), request.subresource) {
        (None, "") => pattern == request.resource,
        (Some((resource, subresource)), wanted) if !wanted.is_empty() => {
            subresource == wanted && (resource == ALL || resource == request.resource)
        }
        _ => false,
    }
}

/// Whether a rule's URL covers a path, or another rule's URL.
pub(crate) fn covers_url(pattern: &str, path: &str) -> bool {
    pattern == ALL
        || pattern == path
        || pattern.strip_suffix(ALL).is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        let split = |text: &str| text.split(' ').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let groups = if groups == "core" { vec![String::new()] } else { split(groups) };
        Rule {
            verbs: split(verbs),
            api_groups: groups,
            resources: split(resources),
            resource_names: split(names),
            non_resource_urls: split(urls),
        }
    }

    fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Request<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Request { verb, group, resource, subresource, name, is_resource: true, ..Request::default() }
    }

    #[test]
    fn resources() {
        let cases = [
            (rule("get list", "core", "pods", "", ""), on("get", "", "pods", "x"), true),
            (rule("get list", "core", "pods", "", ""), on("watch", "", "pods", "x"), false),
            (rule("get", "core", "pods", "", ""), on("get", "apps", "pods", "x"), false),
            (rule("get", "core", "pods", "", ""), on("get", "", "pods/log", "x"), false),
            (rule("get", "core", "pods/log", "", ""), on("get", "", "pods/log", "x"), true),
            (rule("get", "core", "pods/log", "", ""), on("get", "", "pods", "x"), false),
            (rule("get", "core", "*", "", ""), on("get", "", "pods/log", "x"), true),
            (rule("get", "*", "*/scale", "", ""), on("get", "apps", "deployments/scale", "x"), true),
            (rule("get", "*", "*/scale", "", ""), on("get", "apps", "deployments", "x"), false),
            (rule("get", "*", "*/scale", "", ""), on("get", "apps", "deployments/subscale", "x"), false),
            // As upstream: there is no wildcard over the subresources of one resource.
            (rule("get", "core", "pods/*", "", ""), on("get", "", "pods/log", "x"), false),
            (rule("*", "*", "*", "", ""), on("frobnicate", "example.com", "things", ""), true),
            (rule("get", "core", "secrets", "a b", ""), on("get", "", "secrets", "b"), true),
            (rule("get", "core", "secrets", "a b", ""), on("get", "", "secrets", "c"), false),
            // A limit to names never covers a list without a name.
            (rule("list", "core", "secrets", "a", ""), on("list", "", "secrets", ""), false),
            (rule("get", "core", "pods", "", "/api"), on("get", "", "services", ""), false),
        ];
        for (rule, request, allowed) in cases {
            assert_eq!(rule.allows(&request), allowed, "{rule:?} {request:?}");
        }
    }

    #[test]
    fn urls() {
        let cases = [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", false),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz/*", "/healthz", false),
            ("/apis*", "/apis", true),
            ("*", "/anything", true),
        ];
        for (pattern, path, allowed) in cases {
            let request = Request { verb: "get", path, ..Request::default() };
            assert_eq!(rule("get", "", "", "", pattern).allows(&request), allowed, "{pattern} {path}");
            assert!(!rule("get", "*", "*", "", "").allows(&request), "resources do not cover paths");
        }
    }
}
