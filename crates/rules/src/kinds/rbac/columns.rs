//! The table of RoleBindings and ClusterRoleBindings.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::Column;
use crate::kinds::shared::{list_at, str_at};

pub(super) const BINDING: &[Column] = &[
    Column::text("Role", "Role that is granted."),
    Column::text("Users", "Users it is granted to.").wide(),
    Column::text("Groups", "Groups it is granted to.").wide(),
    Column::text("ServiceAccounts", "Service accounts it is granted to.").wide(),
];

pub(super) fn binding(binding: &Value, _: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let of_kind = list_at(binding, "subjects").iter().filter(|s| str_at(s, "kind") == kind);
        let name = |s: &Value| match str_at(s, "namespace") {
            namespace if kind == "ServiceAccount" => format!("{namespace}/{}", str_at(s, "name")),
            _ => str_at(s, "name").to_owned(),
        };
        Value::from(of_kind.map(name).collect::<Vec<_>>().join(", "))
    };
    let role = format!("{}/{}", str_at(binding, "roleRef.kind"), str_at(binding, "roleRef.name"));
    vec![role.into(), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let object = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"},
            {"kind": "User", "name": "v"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        assert_eq!(binding(&object, Timestamp::UNIX_EPOCH), ["Role/r", "u, v", "", "n/s"]);
    }
}
