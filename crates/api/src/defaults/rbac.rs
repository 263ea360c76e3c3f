//! Defaults of the rbac.authorization.k8s.io group.

use super::{Hook, object, set, text};
use crate::Map;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn hook(name: &str) -> Option<Hook> {
    Some(match name {
        "ClusterRoleBinding" | "RoleBinding" => binding,
        "Subject" => subject,
        _ => return None,
    })
}

fn binding(binding: &mut Map) {
    if let Some(role) = object(binding, "roleRef") {
        set(role, "apiGroup", GROUP);
    }
}

fn subject(subject: &mut Map) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        set(subject, "apiGroup", GROUP);
    }
}
