//! The roles and bindings every cluster starts with, and how those there are brought up to date at each start.
//!
//! The roles stand in `bootstrap.txt`, a table of our own of upstream's policy; bindings follow from them here.
//! An object is brought up to date only while its annotation `rbac.authorization.kubernetes.io/autoupdate` is not
//! `false`; what an administrator added stays, what is missing is added.

use isopod_api::Value;
use serde_json::json;

use super::rule::Rule;
use super::{GROUP, escalation};

const TABLE: &str = include_str!("bootstrap.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER_PREFIX: &str = "system:controller:";
/// The sum of all controllers' roles, for a controller manager that runs them all under one identity.
const ALL_CONTROLLERS: &str = "isopod:controllers";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// The whole policy.
#[derive(Debug, Default)]
pub struct Policy {
    /// ClusterRoles.
    pub cluster_roles: Vec<Value>,
    /// ClusterRoleBindings.
    pub cluster_role_bindings: Vec<Value>,
    /// Roles, in `kube-system` and `kube-public`.
    pub roles: Vec<Value>,
    /// RoleBindings.
    pub role_bindings: Vec<Value>,
}

/// Makes the policy; a few hundred small objects, so it is made when needed and not kept.
pub fn policy() -> Policy {
    let mut policy = Policy::default();
    for block in blocks() {
        let role = block.object();
        match block.namespace {
            "" => policy.cluster_roles.push(role),
            _ => policy.roles.push(role),
        }
    }
    policy.cluster_roles.push(all_controllers());
    let snapshot = policy.cluster_roles.clone();
    // Twice, since admin is a sum of edit, which is a sum of view.
    for _ in 0..3 {
        let current = policy.cluster_roles.clone();
        for role in &mut policy.cluster_roles {
            if let Some(rules) = super::aggregate::aggregated_rules(role, &current) {
                role["rules"] = rules;
            }
        }
    }
    policy.cluster_role_bindings = cluster_role_bindings(&snapshot);
    policy.role_bindings = role_bindings();
    policy
}

/// The rules of a ClusterRole of the policy, for callers that need no stored role (the node authoriser).
pub fn rules_of(name: &str) -> Vec<Rule> {
    blocks()
        .find(|block| block.namespace.is_empty() && block.name == name)
        .map(|block| block.rules())
        .unwrap_or_default()
}

struct Block<'a> {
    namespace: &'a str,
    name: &'a str,
    marks: Vec<&'a str>,
    lines: Vec<&'a str>,
}

fn blocks() -> impl Iterator<Item = Block<'static>> {
    let lines = TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut blocks: Vec<Block<'static>> = Vec::new();
    for line in lines {
        match (line.strip_prefix("role "), blocks.last_mut()) {
            (Some(head), _) => {
                let mut words = head.split_whitespace();
                let full = words.next().unwrap_or("");
                let (namespace, name) = match full.split_once('/') {
                    Some(("kube-system", name)) => ("kube-system", name),
                    Some(("kube-public", name)) => ("kube-public", name),
                    _ => ("", full),
                };
                blocks.push(Block { namespace, name, marks: words.collect(), lines: Vec::new() });
            }
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    blocks.into_iter()
}

impl Block<'_> {
    fn rules(&self) -> Vec<Rule> {
        self.lines.iter().map(|line| parse_rule(line)).collect()
    }

    fn object(&self) -> Value {
        let kind = if self.namespace.is_empty() { "ClusterRole" } else { "Role" };
        let mut role = skeleton(kind, self.namespace, self.name);
        role["rules"] = json!(self.rules());
        for mark in &self.marks {
            if let Some(sum) = mark.strip_prefix("sum=") {
                let label = format!("rbac.authorization.k8s.io/aggregate-to-{sum}");
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            } else {
                let label = format!("rbac.authorization.k8s.io/aggregate-{mark}");
                role["metadata"]["labels"][label] = json!("true");
            }
        }
        role
    }
}

fn parse_rule(line: &str) -> Rule {
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let verbs = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .flat_map(|verb| match verb {
                "read" => READ.to_vec(),
                "write" => WRITE.to_vec(),
                "all" => [READ, WRITE].concat(),
                verb => vec![verb],
            })
            .map(str::to_owned)
            .collect()
    };
    if line == "events" {
        return parse_rule("create patch update : core events.k8s.io : events");
    }
    if let Some((granted, paths)) = line.split_once(" @ ") {
        return Rule { verbs: verbs(granted), non_resource_urls: words(paths), ..Rule::default() };
    }
    let mut parts = line.split(" : ");
    let mut next = || parts.next().unwrap_or("");
    let (granted, groups, resources, names) = (next(), next(), next(), next());
    let group = |group: &str| if group == "core" { String::new() } else { group.to_owned() };
    Rule {
        verbs: verbs(granted),
        api_groups: groups.split_whitespace().map(group).collect(),
        resources: words(resources),
        resource_names: words(names),
        non_resource_urls: Vec::new(),
    }
}

fn skeleton(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {AUTOUPDATE: "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn all_controllers() -> Value {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in blocks().filter(|block| block.name.starts_with(CONTROLLER_PREFIX)).flat_map(|block| {
        // Rights limited to a namespace must not become rights everywhere.
        if block.namespace.is_empty() { block.rules() } else { Vec::new() }
    }) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let mut role = skeleton("ClusterRole", "", ALL_CONTROLLERS);
    role["rules"] = json!(rules);
    role
}

fn user(name: &str) -> Value {
    json!({"apiGroup": GROUP, "kind": "User", "name": name})
}

fn group(name: &str) -> Value {
    json!({"apiGroup": GROUP, "kind": "Group", "name": name})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
}

fn binding(namespace: &str, name: &str, role: &str, subjects: Vec<Value>) -> Value {
    let (kind, role_kind) =
        if namespace.is_empty() { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", "Role") };
    let mut binding = skeleton(kind, namespace, name);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        binding["subjects"] = json!(subjects);
    }
    binding
}

fn cluster_role_bindings(roles: &[Value]) -> Vec<Value> {
    let manager = "system:kube-controller-manager";
    let scheduler = "system:kube-scheduler";
    let authenticated = || group("system:authenticated");
    let same = |name: &str, subjects| binding("", name, name, subjects);
    let mut bindings = vec![
        same("cluster-admin", vec![group("system:masters")]),
        same("system:monitoring", vec![group("system:monitoring")]),
        same("system:discovery", vec![authenticated()]),
        same("system:basic-user", vec![authenticated()]),
        same("system:public-info-viewer", vec![authenticated(), group("system:unauthenticated")]),
        same("system:node-proxier", vec![user("system:kube-proxy")]),
        same(manager, vec![user(manager)]),
        same("system:kube-dns", vec![account("kube-dns")]),
        same(scheduler, vec![user(scheduler)]),
        same("system:volume-scheduler", vec![user(scheduler)]),
        same("system:service-account-issuer-discovery", vec![group("system:serviceaccounts")]),
        // Kept without subjects, as upstream does: the node authoriser has taken its place.
        same("system:node", Vec::new()),
        same(ALL_CONTROLLERS, vec![user(manager)]),
        same("isopod:cluster-dns", vec![user("system:kube-dns")]),
        // A kubelet renews its own client certificate.
        binding(
            "",
            "isopod:node-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            vec![group("system:nodes")],
        ),
        binding(
            "",
            "isopod:kube-apiserver-kubelet-client",
            "system:kubelet-api-admin",
            vec![user("kube-apiserver-kubelet-client")],
        ),
    ];
    let names = roles.iter().filter_map(|role| role.pointer("/metadata/name")?.as_str());
    let controllers = names.filter_map(|name| Some((name, name.strip_prefix(CONTROLLER_PREFIX)?)));
    bindings.extend(controllers.map(|(role, controller)| same(role, vec![account(controller)])));
    bindings
}

fn role_bindings() -> Vec<Value> {
    let manager = "kube-controller-manager";
    let scheduler = "kube-scheduler";
    let component = |name: &str| vec![user(&format!("system:{name}")), account(name)];
    let locking = |name: &str| format!("system::leader-locking-{name}");
    let system = |name: &str, role: &str, subjects| binding("kube-system", name, role, subjects);
    let controller = |namespace: &str, name: &str| {
        let role = format!("{CONTROLLER_PREFIX}{name}");
        binding(namespace, &role, &role, vec![account(name)])
    };
    vec![
        controller("kube-public", "bootstrap-signer"),
        system(
            "system::extension-apiserver-authentication-reader",
            "extension-apiserver-authentication-reader",
            vec![user("system:kube-controller-manager"), user("system:kube-scheduler")],
        ),
        system(&locking(manager), &locking(manager), component(manager)),
        system(&locking(scheduler), &locking(scheduler), component(scheduler)),
        controller("kube-system", "bootstrap-signer"),
        controller("kube-system", "cloud-provider"),
        controller("kube-system", "token-cleaner"),
        // It publishes itself as the Service `kube-dns`.
        system("isopod:cluster-dns", "isopod:cluster-dns", vec![user("system:kube-dns")]),
    ]
}

fn protected(existing: &Value) -> bool {
    existing.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE)).and_then(Value::as_str)
        == Some("false")
}

/// Adds the labels and annotations that are missing.
fn reconcile_metadata(object: &mut Value, expected: &Value) {
    for field in ["annotations", "labels"] {
        let Some(wanted) = expected["metadata"][field].as_object() else { continue };
        for (key, value) in wanted {
            let map = &mut object["metadata"][field];
            if map.get(key).is_none() {
                map[key] = value.clone();
            }
        }
    }
}

/// The role brought up to date, or `None` when it is or must not be touched.
pub fn reconcile_role(existing: &Value, expected: &Value) -> Option<Value> {
    if protected(existing) {
        return None;
    }
    let mut role = existing.clone();
    reconcile_metadata(&mut role, expected);
    match expected.get("aggregationRule") {
        // The rules of a sum are another's business.
        Some(rule) => {
            if existing.get("aggregationRule").is_none() {
                role["aggregationRule"] = rule.clone();
            }
        }
        None => {
            let missing = escalation::missing(&Rule::of_role(existing), &Rule::of_role(expected));
            if !missing.is_empty() {
                if !role["rules"].is_array() {
                    role["rules"] = json!([]);
                }
                if let Some(rules) = role["rules"].as_array_mut() {
                    rules.extend(missing.iter().map(|rule| json!(rule)));
                }
            }
        }
    }
    (role != *existing).then_some(role)
}

/// What to do with a binding that is there.
#[derive(Debug, PartialEq)]
pub enum BindingPlan {
    /// It is as it must be, or must not be touched.
    Keep,
    /// Store this.
    Update(Value),
    /// It refers to another role, which cannot be changed: delete it and create the expected one.
    Recreate,
}

/// Compares a binding that is there with the expected one.
pub fn reconcile_binding(existing: &Value, expected: &Value) -> BindingPlan {
    if protected(existing) {
        return BindingPlan::Keep;
    }
    if existing["roleRef"] != expected["roleRef"] {
        return BindingPlan::Recreate;
    }
    let mut binding = existing.clone();
    reconcile_metadata(&mut binding, expected);
    let list = |value: &Value| value["subjects"].as_array().cloned().unwrap_or_default();
    let mut subjects = list(existing);
    let missing: Vec<Value> =
        list(expected).into_iter().filter(|subject| !subjects.contains(subject)).collect();
    if !missing.is_empty() {
        subjects.extend(missing);
        binding["subjects"] = json!(subjects);
    }
    if binding == *existing { BindingPlan::Keep } else { BindingPlan::Update(binding) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::{Answer, RbacIndex, Request};
    use isopod_api::identity::UserInfo;

    fn find<'a>(list: &'a [Value], name: &str) -> &'a Value {
        list.iter()
            .find(|item| item["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{name} is missing"))
    }

    #[test]
    fn sums_are_summed() {
        let policy = policy();
        let held = |name: &str| Rule::of_role(find(&policy.cluster_roles, name));
        let covers = |held: &[Rule], other: &str| {
            let wanted = rules_of(other);
            assert!(!wanted.is_empty(), "{other}");
            escalation::missing(held, &wanted).is_empty()
        };
        assert!(covers(&held("admin"), "system:aggregate-to-view"));
        assert!(covers(&held("admin"), "system:aggregate-to-admin"));
        assert!(covers(&held("edit"), "system:aggregate-to-view"));
        assert!(!covers(&held("edit"), "system:aggregate-to-admin"));
        assert!(!covers(&held("view"), "system:aggregate-to-edit"));
    }

    #[test]
    fn every_binding_has_its_role_and_decides() {
        let policy = policy();
        let mut index = RbacIndex::new();
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        for role in &policy.cluster_roles {
            index.set_cluster_role(&name(role), Some(role));
        }
        for binding in &policy.cluster_role_bindings {
            index.set_cluster_role_binding(&name(binding), Some(binding));
            find(&policy.cluster_roles, binding["roleRef"]["name"].as_str().unwrap_or(""));
        }
        for binding in &policy.role_bindings {
            find(&policy.roles, binding["roleRef"]["name"].as_str().unwrap_or(""));
        }
        let can = |user: UserInfo, verb, group, resource| {
            let request = Request { verb, group, resource, is_resource: true, ..Request::default() };
            matches!(index.authorize(&user, &request), Answer::Allowed(_))
        };
        let named = |name: &str| UserInfo { name: name.into(), ..Default::default() };
        assert!(can(UserInfo::authenticated("root", &["system:masters"]), "delete", "apps", "deployments"));
        assert!(can(named("system:kube-scheduler"), "list", "", "nodes"));
        assert!(!can(named("system:kube-scheduler"), "get", "", "secrets"));
        assert!(can(named("system:kube-controller-manager"), "update", "apps", "deployments"));
        assert!(can(named("system:serviceaccount:kube-system:job-controller"), "create", "", "pods"));
        assert!(!can(named("system:serviceaccount:default:job-controller"), "create", "", "pods"));
        assert!(!can(UserInfo::anonymous(), "get", "", "pods"));
        let open = |path| {
            let request = Request { verb: "get", path, ..Request::default() };
            matches!(index.authorize(&UserInfo::anonymous(), &request), Answer::Allowed(_))
        };
        assert!(open("/healthz") && open("/version") && !open("/metrics") && !open("/api"));
    }

    /// Facts of upstream's policy that are easy to lose: role, verb, group, resource, whether the role grants it.
    #[test]
    fn roles_grant_what_upstreams_do() {
        for (role, verb, group, resource, granted) in [
            ("system:node", "get", "", "serviceaccounts", true),
            ("system:node", "deletecollection", "resource.k8s.io", "resourceslices", true),
            ("system:node", "create", "resource.k8s.io", "resourceslices", false),
            ("system:node", "delete", "resource.k8s.io", "resourceslices", false),
            ("system:controller:node-controller", "watch", "coordination.k8s.io", "leases", true),
            ("system:controller:node-controller", "update", "coordination.k8s.io", "leases", false),
            ("system:controller:namespace-controller", "deletecollection", "x.example.com", "things", true),
            ("system:controller:namespace-controller", "create", "", "events", false),
            ("system:aggregate-to-edit", "create", "", "endpoints", false),
            ("system:aggregate-to-edit", "update", "coordination.k8s.io", "leases", true),
            ("system:aggregate-to-view", "get", "", "secrets", false),
            ("system:kube-scheduler", "delete", "", "pods", true),
        ] {
            let request = Request { verb, group, resource, is_resource: true, ..Request::default() };
            let allowed = rules_of(role).iter().any(|rule| rule.allows(&request));
            assert_eq!(allowed, granted, "{role}: {verb} {resource}");
        }
        let sub = |role: &str, verb, group, resource, subresource| {
            let request =
                Request { verb, group, resource, subresource, is_resource: true, ..Request::default() };
            rules_of(role).iter().any(|rule| rule.allows(&request))
        };
        assert!(sub("system:kube-scheduler", "watch", "resource.k8s.io", "resourceclaims", "status"));
        assert!(sub("system:kube-scheduler", "patch", "", "pods", "finalizers"));
        assert!(sub("system:kubelet-api-admin", "create", "", "nodes", "configz"));
        for path in ["/.well-known/openid-configuration", "/openid/v1/jwks", "/openid/v1/jwks/"] {
            let request = Request { verb: "get", path, ..Request::default() };
            let role = "system:service-account-issuer-discovery";
            assert!(rules_of(role).iter().any(|rule| rule.allows(&request)), "{path}");
        }
    }

    #[test]
    fn what_an_administrator_added_stays() {
        let policy = policy();
        let expected = find(&policy.cluster_roles, "system:node-problem-detector");
        assert_eq!(reconcile_role(expected, expected), None);
        let mut changed = expected.clone();
        changed["rules"] = json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]);
        changed["metadata"]["labels"] = json!({"mine": "1"});
        let mended = reconcile_role(&changed, expected).expect("rules were missing");
        assert!(escalation::missing(&Rule::of_role(&mended), &Rule::of_role(expected)).is_empty());
        assert_eq!(mended["rules"][0], changed["rules"][0]);
        assert_eq!(mended["metadata"]["labels"]["mine"], "1");
        changed["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile_role(&changed, expected), None);
    }

    #[test]
    fn bindings() {
        let policy = policy();
        let expected = find(&policy.cluster_role_bindings, "system:kube-scheduler");
        assert_eq!(reconcile_binding(expected, expected), BindingPlan::Keep);
        let mut changed = expected.clone();
        changed["subjects"] = json!([user("jane")]);
        let BindingPlan::Update(mended) = reconcile_binding(&changed, expected) else { panic!("update") };
        assert_eq!(mended["subjects"], json!([user("jane"), user("system:kube-scheduler")]));
        changed["roleRef"]["name"] = json!("view");
        assert_eq!(reconcile_binding(&changed, expected), BindingPlan::Recreate);
    }
}
