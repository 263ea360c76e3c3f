//! All roles and bindings, arranged so that a decision looks only at the bindings that name the user or one of
//! the user's groups. Kept up to date object by object.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use isopod_api::Value;
use isopod_api::identity::{SERVICE_ACCOUNT_PREFIX, UserInfo};

use super::rule::{Request, Rule};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Permitted; says by which binding.
    Allowed(String),
    /// No rule permits it; names roles that bindings refer to and that are not there.
    NoRule(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RoleRef {
    ClusterRole(String),
    Role(String),
}

#[derive(Debug)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The bindings of one namespace, or of the whole cluster.
#[derive(Debug, Default)]
struct Bindings {
    by_name: HashMap<String, Binding>,
    by_subject: HashMap<Subject, BTreeSet<String>>,
}

impl Bindings {
    fn set(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.by_name.remove(name) {
            for subject in &old.subjects {
                if let Some(names) = self.by_subject.get_mut(subject) {
                    names.remove(name);
                    if names.is_empty() {
                        self.by_subject.remove(subject);
                    }
                }
            }
        }
        if let Some(binding) = binding {
            for subject in &binding.subjects {
                self.by_subject.entry(subject.clone()).or_default().insert(name.to_owned());
            }
            self.by_name.insert(name.to_owned(), binding);
        }
    }

    /// The bindings that name one of the subjects, each with the first subject that it names.
    fn of<'a>(
        &'a self,
        subjects: &'a [Subject],
    ) -> impl Iterator<Item = (&'a str, &'a Binding, &'a Subject)> {
        let mut seen = BTreeSet::new();
        let named = subjects.iter().filter_map(|s| self.by_subject.get(s).map(|names| (s, names)));
        named
            .flat_map(|(subject, names)| names.iter().map(move |name| (name.as_str(), subject)))
            .filter(move |(name, _)| seen.insert(*name))
            .filter_map(|(name, subject)| self.by_name.get(name).map(|binding| (name, binding, subject)))
    }
}

type Rules = Arc<[Rule]>;

/// The compiled roles and bindings of a cluster.
#[derive(Debug, Default)]
pub struct RbacIndex {
    cluster_roles: HashMap<String, Rules>,
    roles: HashMap<String, HashMap<String, Rules>>,
    cluster_bindings: Bindings,
    bindings: HashMap<String, Bindings>,
}

impl RbacIndex {
    /// An index that permits nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A ClusterRole was created or changed, or is gone.
    pub fn set_cluster_role(&mut self, name: &str, role: Option<&Value>) {
        set(&mut self.cluster_roles, name, role.map(|role| Rule::of_role(role).into()));
    }

    /// A Role was created or changed, or is gone.
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<&Value>) {
        let roles = self.roles.entry(namespace.to_owned()).or_default();
        set(roles, name, role.map(|role| Rule::of_role(role).into()));
        if roles.is_empty() {
            self.roles.remove(namespace);
        }
    }

    /// A ClusterRoleBinding was created or changed, or is gone.
    pub fn set_cluster_role_binding(&mut self, name: &str, binding: Option<&Value>) {
        self.cluster_bindings.set(name, binding.and_then(|binding| parse_binding(binding, "")));
    }

    /// A RoleBinding was created or changed, or is gone.
    pub fn set_role_binding(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        let bindings = self.bindings.entry(namespace.to_owned()).or_default();
        bindings.set(name, binding.and_then(|binding| parse_binding(binding, namespace)));
        if bindings.by_name.is_empty() {
            self.bindings.remove(namespace);
        }
    }

    /// Whether `user` may do what `request` says.
    pub fn authorize(&self, user: &UserInfo, request: &Request<'_>) -> Answer {
        let subjects = subjects_of(user);
        let mut missing = Vec::new();
        for (name, binding, subject) in self.cluster_bindings.of(&subjects) {
            match self.rules("", &binding.role) {
                Err(error) => missing.push(error),
                Ok(rules) if rules.iter().any(|rule| rule.allows(request)) => {
                    let role = describe_role(&binding.role, "");
                    let subject = describe_subject(subject);
                    return Answer::Allowed(format!(
                        "RBAC: allowed by ClusterRoleBinding {name:?} of {role} to {subject}"
                    ));
                }
                Ok(_) => {}
            }
        }
        let Some(bindings) = self.bindings.get(request.namespace).filter(|_| !request.namespace.is_empty())
        else {
            return Answer::NoRule(missing);
        };
        for (name, binding, subject) in bindings.of(&subjects) {
            match self.rules(request.namespace, &binding.role) {
                Err(error) => missing.push(error),
                // Paths are granted for the whole cluster or not at all.
                Ok(rules) if request.is_resource && rules.iter().any(|rule| rule.allows(request)) => {
                    let role = describe_role(&binding.role, request.namespace);
                    let (namespace, subject) = (request.namespace, describe_subject(subject));
                    return Answer::Allowed(format!(
                        "RBAC: allowed by RoleBinding \"{name}/{namespace}\" of {role} to {subject}"
                    ));
                }
                Ok(_) => {}
            }
        }
        Answer::NoRule(missing)
    }

    /// All rules that apply to `user` in `namespace` (empty: the cluster-wide ones alone), and what bindings refer
    /// to in vain.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let subjects = subjects_of(user);
        let cluster = self.cluster_bindings.of(&subjects).map(|(_, binding, _)| ("", binding));
        let local = self.bindings.get(namespace).filter(|_| !namespace.is_empty());
        let local =
            local.into_iter().flat_map(|b| b.of(&subjects)).map(|(_, binding, _)| (namespace, binding));
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (namespace, binding) in cluster.chain(local) {
            match self.rules(namespace, &binding.role) {
                Ok(rules) => found.extend(rules.iter().cloned()),
                Err(error) => missing.push(error),
            }
        }
        (found, missing)
    }

    /// The rules of a role that a binding in `namespace` refers to.
    ///
    /// # Errors
    /// When there is no such role; the text is upstream's.
    pub fn rules_of_ref(&self, namespace: &str, kind: &str, name: &str) -> Result<Vec<Rule>, String> {
        let role = match kind {
            "ClusterRole" => RoleRef::ClusterRole(name.to_owned()),
            "Role" => RoleRef::Role(name.to_owned()),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        self.rules(namespace, &role).map(<[Rule]>::to_vec)
    }

    fn rules(&self, namespace: &str, role: &RoleRef) -> Result<&[Rule], String> {
        let (found, kind, name) = match role {
            RoleRef::ClusterRole(name) => (self.cluster_roles.get(name), "clusterrole", name),
            RoleRef::Role(name) => {
                (self.roles.get(namespace).and_then(|roles| roles.get(name)), "role", name)
            }
        };
        found.map(|rules| &**rules).ok_or_else(|| format!("{kind}.{} {name:?} not found", super::GROUP))
    }
}

fn set(map: &mut HashMap<String, Rules>, name: &str, rules: Option<Rules>) {
    match rules {
        Some(rules) => map.insert(name.to_owned(), rules),
        None => map.remove(name),
    };
}

fn subjects_of(user: &UserInfo) -> Vec<Subject> {
    let groups = user.groups.iter().cloned().map(Subject::Group);
    std::iter::once(Subject::User(user.name.clone())).chain(groups).collect()
}

fn parse_binding(binding: &Value, namespace: &str) -> Option<Binding> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let role = binding.get("roleRef")?;
    let name = text(role, "name");
    let role = match role.get("kind").and_then(Value::as_str)? {
        "ClusterRole" => RoleRef::ClusterRole(name),
        "Role" => RoleRef::Role(name),
        _ => return None,
    };
    let subjects = binding.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let subject = |subject: &Value| {
        let name = text(subject, "name");
        match subject.get("kind").and_then(Value::as_str)? {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => {
                let own = text(subject, "namespace");
                let namespace = if own.is_empty() { namespace } else { &own };
                (!namespace.is_empty())
                    .then(|| Subject::User(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")))
            }
            _ => None,
        }
    };
    Some(Binding { role, subjects: subjects.iter().filter_map(subject).collect() })
}

fn describe_role(role: &RoleRef, namespace: &str) -> String {
    match role {
        RoleRef::ClusterRole(name) => format!("ClusterRole {name:?}"),
        RoleRef::Role(name) => format!("Role \"{name}/{namespace}\""),
    }
}

fn describe_subject(subject: &Subject) -> String {
    match subject {
        Subject::User(name) => {
            match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|r| r.split_once(':')) {
                Some((namespace, name)) => format!("ServiceAccount \"{name}/{namespace}\""),
                None => format!("User {name:?}"),
            }
        }
        Subject::Group(name) => format!("Group {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> RbacIndex {
        let mut index = RbacIndex::new();
        let reader = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
        index.set_cluster_role("reader", Some(&reader));
        index.set_role(
            "a",
            "writer",
            Some(&json!({"rules": [
            {"verbs": ["update"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}]})),
        );
        index.set_role_binding(
            "a",
            "read",
            Some(&json!({
            "roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "bot"}]})),
        );
        index.set_role_binding(
            "a",
            "write",
            Some(&json!({
            "roleRef": {"kind": "Role", "name": "writer"}, "subjects": [{"kind": "Group", "name": "devs"}]})),
        );
        index.set_cluster_role_binding("lost", Some(&json!({
            "roleRef": {"kind": "ClusterRole", "name": "gone"}, "subjects": [{"kind": "User", "name": "max"}]})));
        index.set_cluster_role_binding("all", Some(&json!({
            "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "Group", "name": "ops"}]})));
        index
    }

    fn ask(index: &RbacIndex, user: &str, groups: &[&str], verb: &str, namespace: &str) -> String {
        let user = UserInfo {
            name: user.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            ..Default::default()
        };
        let request =
            Request { verb, resource: "pods", name: "p", namespace, is_resource: true, ..Request::default() };
        match index.authorize(&user, &request) {
            Answer::Allowed(reason) => reason,
            Answer::NoRule(missing) => format!("no {}", missing.join(", ")),
        }
    }

    #[test]
    fn decisions() {
        let mut index = index();
        let jane = "RBAC: allowed by RoleBinding \"read/a\" of ClusterRole \"reader\" to User \"jane\"";
        assert_eq!(ask(&index, "jane", &[], "get", "a"), jane);
        assert_eq!(ask(&index, "jane", &[], "get", "b"), "no ");
        assert_eq!(ask(&index, "jane", &[], "get", ""), "no ");
        let bot =
            "RBAC: allowed by RoleBinding \"read/a\" of ClusterRole \"reader\" to ServiceAccount \"bot/a\"";
        assert_eq!(ask(&index, "system:serviceaccount:a:bot", &[], "get", "a"), bot);
        assert_eq!(ask(&index, "system:serviceaccount:b:bot", &[], "get", "a"), "no ");
        assert!(
            ask(&index, "jane", &["devs"], "update", "a").contains("Role \"writer/a\" to Group \"devs\"")
        );
        assert!(ask(&index, "jane", &["ops"], "get", "").contains("ClusterRoleBinding \"all\""));
        assert_eq!(
            ask(&index, "max", &[], "get", "a"),
            "no clusterrole.rbac.authorization.k8s.io \"gone\" not found"
        );
        index.set_role_binding("a", "read", None);
        assert_eq!(ask(&index, "jane", &[], "get", "a"), "no ");
    }

    #[test]
    fn paths_are_not_granted_by_role_bindings() {
        let index = index();
        let request = Request { verb: "get", path: "/metrics", ..Request::default() };
        let allowed = |user: &UserInfo| matches!(index.authorize(user, &request), Answer::Allowed(_));
        assert!(allowed(&UserInfo { groups: vec!["ops".into()], ..Default::default() }));
        assert!(!allowed(&UserInfo { name: "jane".into(), ..Default::default() }));
    }
}
