//! Roles, ClusterRoles and their bindings.

mod columns;
mod validate;

use super::columns::{CREATED_AT, NAME, created_at_row};
use super::{Strategy, meta};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        validate: validate::role,
        validate_update: |new, _, context| validate::role(new, context),
        ..role("Role")
    },
    &Strategy {
        validate: validate::cluster_role,
        validate_update: |new, _, context| validate::cluster_role(new, context),
        ..role("ClusterRole")
    },
    &Strategy {
        validate: validate::role_binding,
        validate_update: validate::role_binding_update,
        ..binding("RoleBinding")
    },
    &Strategy {
        validate: validate::cluster_role_binding,
        validate_update: validate::cluster_role_binding_update,
        ..binding("ClusterRoleBinding")
    },
];

const fn role(kind: &'static str) -> Strategy {
    Strategy { columns: &[NAME, CREATED_AT], row: created_at_row, name_and_age: false, ..rbac(kind) }
}

const fn binding(kind: &'static str) -> Strategy {
    Strategy { columns: columns::BINDING, row: columns::binding, ..rbac(kind) }
}

const fn rbac(kind: &'static str) -> Strategy {
    Strategy {
        group: "rbac.authorization.k8s.io",
        kind,
        name: meta::path_segment,
        create_on_update: true,
        ..Strategy::DEFAULT
    }
}
