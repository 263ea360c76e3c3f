//! Roles, ClusterRoles and their bindings.

use super::{Strategy, meta};

pub(super) const STRATEGIES: &[&Strategy] =
    &[&rbac("Role"), &rbac("ClusterRole"), &rbac("RoleBinding"), &rbac("ClusterRoleBinding")];

const fn rbac(kind: &'static str) -> Strategy {
    Strategy {
        group: "rbac.authorization.k8s.io",
        kind,
        name: meta::path_segment,
        create_on_update: true,
        ..Strategy::DEFAULT
    }
}
