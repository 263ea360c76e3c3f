//! Who makes a request: the answer of authentication, the question of authorisation.

use std::collections::BTreeMap;

/// An authenticated user, as in upstream's `user.Info` and `authentication.k8s.io` `UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name that rules are written for, such as `system:node:n1`.
    pub name: String,
    /// A unique value that identifies the user across time; may be empty.
    pub uid: String,
    /// Group names.
    pub groups: Vec<String>,
    /// Additional facts given by the authenticator, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Group of every user that authentication accepted.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Group of requests without credentials.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that is allowed everything.
pub const GROUP_MASTERS: &str = "system:masters";
/// Group of kubelets.
pub const GROUP_NODES: &str = "system:nodes";
/// Name of the user without credentials.
pub const USER_ANONYMOUS: &str = "system:anonymous";
/// Prefix of service account user names: `system:serviceaccount:<namespace>:<name>`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Prefix of node user names: `system:node:<node>`.
pub const NODE_PREFIX: &str = "system:node:";

impl UserInfo {
    /// A user with a name and groups; `system:authenticated` is added when it is missing.
    pub fn authenticated(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> Self {
        UserInfo {
            name: USER_ANONYMOUS.into(),
            groups: vec![GROUP_UNAUTHENTICATED.into()],
            ..UserInfo::default()
        }
    }

    /// The user that a service account acts as.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        UserInfo {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                GROUP_AUTHENTICATED.into(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this user is the kubelet of, if it is one.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|n| !n.is_empty() && self.in_group(GROUP_NODES))
    }

    /// Namespace and name of the service account that this user is, if it is one.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
    }
}
