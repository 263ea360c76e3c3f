//! FlowSchemas: the first that fits a request, by precedence, names its flow and its priority level.

use isopod_api::Value;
use isopod_api::identity::{SERVICE_ACCOUNT_PREFIX, UserInfo};
use serde::Deserialize;

/// What tells the flows of one schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// Nothing: all requests are one flow.
    None,
    /// The user's name.
    User,
    /// The namespace of the request.
    Namespace,
}

/// What a schema looks at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Verb.
    pub verb: &'a str,
    /// Whether this is about a resource.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Path, for requests that are about no resource.
    pub path: &'a str,
}

/// A FlowSchema, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSchema {
    /// Name of the object.
    pub name: String,
    /// Uid of the object; empty before it is stored.
    pub uid: String,
    /// Name of the priority level.
    pub level: String,
    /// What tells its flows apart.
    pub distinguisher: Distinguisher,
    precedence: i32,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Who>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

impl FlowSchema {
    /// Reads a stored object; what is missing or of another form fits nothing.
    pub fn of(object: &Value) -> FlowSchema {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let precedence = object.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000);
        FlowSchema {
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            level: text("/spec/priorityLevelConfiguration/name"),
            distinguisher: match text("/spec/distinguisherMethod/type").as_str() {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            precedence: i32::try_from(precedence).unwrap_or(i32::MAX),
            rules: list(&object["spec"], "rules").iter().map(rule).collect(),
        }
    }

    /// Whether a request belongs to the schema.
    pub fn fits(&self, subject: &Subject<'_>) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|who| who.is(subject.user))
                && if subject.is_resource {
                    rule.resources.iter().any(|rule| rule.fits(subject))
                } else {
                    rule.paths.iter().any(|rule| rule.fits(subject))
                }
        })
    }

    /// What tells the flow of a request from the others of the schema.
    pub fn flow<'a>(&self, subject: &Subject<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &subject.user.name,
            Distinguisher::Namespace => subject.namespace,
        }
    }
}

/// Schemas in the order they are asked: by precedence, then by name.
pub fn in_order(mut schemas: Vec<FlowSchema>) -> Vec<FlowSchema> {
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    schemas
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn rule(rule: &Value) -> Rule {
    let who = |subject: &Value| {
        let text = |kind: &str, key: &str| subject[kind][key].as_str().map(str::to_owned);
        match subject["kind"].as_str()? {
            "User" => Some(Who::User(text("user", "name")?)),
            "Group" => Some(Who::Group(text("group", "name")?)),
            "ServiceAccount" => Some(Who::ServiceAccount {
                namespace: text("serviceAccount", "namespace")?,
                name: text("serviceAccount", "name")?,
            }),
            _ => None,
        }
    };
    Rule {
        subjects: list(rule, "subjects").iter().filter_map(who).collect(),
        resources: list(rule, "resourceRules")
            .iter()
            .filter_map(|r| ResourceRule::deserialize(r).ok())
            .collect(),
        paths: list(rule, "nonResourceRules").iter().filter_map(|r| PathRule::deserialize(r).ok()).collect(),
    }
}

impl Who {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Who::User(name) => name == "*" || *name == user.name,
            Who::Group(name) => name == "*" || user.groups.contains(name),
            Who::ServiceAccount { namespace, name } => {
                let account = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|a| a.split_once(':'));
                account.is_some_and(|(of, account)| of == namespace && (name == "*" || name == account))
            }
        }
    }
}

/// Whether a list holds a value, or everything.
fn holds(list: &[String], value: &str) -> bool {
    matches!(list, [all] if all == "*") || list.iter().any(|item| item == value)
}

impl ResourceRule {
    fn fits(&self, subject: &Subject<'_>) -> bool {
        let resource = |list: &[String]| match subject.subresource {
            "" => holds(list, subject.resource),
            sub => {
                let is = |item: &String| {
                    item.strip_prefix(subject.resource).and_then(|rest| rest.strip_prefix('/')) == Some(sub)
                };
                matches!(list, [all] if all == "*") || list.iter().any(is)
            }
        };
        holds(&self.verbs, subject.verb)
            && resource(&self.resources)
            && holds(&self.api_groups, subject.group)
            && match subject.namespace {
                "" => self.cluster_scope,
                namespace => holds(&self.namespaces, namespace),
            }
    }
}

impl PathRule {
    fn fits(&self, subject: &Subject<'_>) -> bool {
        let under = |url: &String| {
            let start = url.strip_suffix('*').unwrap_or(url);
            let start = start.strip_suffix('/').unwrap_or(start);
            url == "*"
                || url == subject.path
                || subject.path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'))
        };
        holds(&self.verbs, subject.verb) && self.non_resource_urls.iter().any(under)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::bootstrap;

    /// The schema that the bootstrap objects give a request of a user: verb and `group:resource/sub@namespace` or
    /// a path.
    fn schema(user: &UserInfo, text: &str) -> String {
        let (verb, what) = text.split_once(' ').unwrap();
        let (what, namespace) = what.split_once('@').unwrap_or((what, ""));
        let (group, resource) = what.split_once(':').unwrap_or(("", what));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let is_resource = !what.starts_with('/');
        let subject =
            Subject { user, verb, is_resource, group, resource, subresource, namespace, path: what };
        let schemas = in_order(bootstrap::flow_schemas().iter().map(FlowSchema::of).collect());
        let found = schemas.iter().find(|s| s.fits(&subject)).expect("catch-all catches all");
        format!("{} {:?}", found.name, found.flow(&subject))
    }

    #[test]
    fn the_bootstrap_schemas_tell_requests_apart() {
        let node = UserInfo::authenticated("system:node:a", &["system:nodes"]);
        let manager = UserInfo::authenticated("system:kube-controller-manager", &[]);
        let controller = UserInfo::service_account("kube-system", "job-controller", "");
        let account = UserInfo::service_account("default", "a", "");
        let admin = UserInfo::authenticated("admin", &["system:masters"]);
        let jane = UserInfo::authenticated("jane", &[]);
        for (user, request, want) in [
            (&admin, "create pods@ns", r#"exempt """#),
            (&admin, "get /metrics", r#"exempt """#),
            (&UserInfo::anonymous(), "get /readyz/etcd", r#"probes """#),
            (&jane, "get /readyzz", r#"global-default "jane""#),
            (&jane, "post /readyz", r#"global-default "jane""#),
            (
                &manager,
                "update coordination.k8s.io:leases@kube-system",
                r#"system-leader-election "system:kube-controller-manager""#,
            ),
            (
                &manager,
                "patch coordination.k8s.io:leases@kube-system",
                r#"kube-controller-manager "kube-system""#,
            ),
            (
                &controller,
                "get coordination.k8s.io:leases@ns",
                r#"system-leader-election "system:serviceaccount:kube-system:job-controller""#,
            ),
            (&controller, "create pods@ns", r#"kube-system-service-accounts "ns""#),
            (&node, "patch nodes/status", r#"system-node-high "system:node:a""#),
            (
                &node,
                "update coordination.k8s.io:leases@kube-node-lease",
                r#"system-node-high "system:node:a""#,
            ),
            (&node, "list pods", r#"system-nodes "system:node:a""#),
            (&manager, "list pods", r#"kube-controller-manager """#),
            (&account, "list pods@ns", r#"service-accounts "system:serviceaccount:default:a""#),
            (&jane, "list pods", r#"global-default "jane""#),
        ] {
            assert_eq!(schema(user, request), want, "{} {request}", user.name);
        }
    }
}
