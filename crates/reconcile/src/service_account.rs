//! The default ServiceAccount and the root CA of every namespace.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{Meta, set_annotation};
use crate::plan::{Action, Plan, Tolerate};

/// Name of the ConfigMap with the root CA.
pub const ROOT_CA_NAME: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str =
    "CA certificates by which clients inside the cluster verify the API server; good for nothing else.";

fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && !namespace.deleting()
}

/// A namespace may go while something is made in it; the deletion takes care of that.
fn may_vanish() -> Tolerate {
    Tolerate { not_found: true, already_exists: true, terminating: true, ..Tolerate::default() }
}

/// Makes sure that the namespace has its `default` ServiceAccount.
pub fn default_account(namespace: &Namespace, account: Option<&ServiceAccount>) -> Plan {
    let mut plan = Plan::nothing();
    if is_active(namespace) && account.is_none() {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".to_owned()),
                namespace: namespace.metadata.name.clone(),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        plan.push(Action::create(&account).tolerating(may_vanish()));
    }
    plan
}

/// Makes sure that the namespace has the CA bundle.
pub fn root_ca(namespace: &Namespace, current: Option<&ConfigMap>, bundle: &str) -> Plan {
    let mut plan = Plan::nothing();
    if !is_active(namespace) {
        return plan;
    }
    let Some(current) = current else {
        let mut map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(ROOT_CA_NAME.to_owned()),
                namespace: namespace.metadata.name.clone(),
                ..ObjectMeta::default()
            },
            data: Some([(ROOT_CA_KEY.to_owned(), bundle.to_owned())].into()),
            ..ConfigMap::default()
        };
        set_annotation(&mut map.metadata, DESCRIPTION, DESCRIPTION_TEXT);
        plan.push(Action::create(&map).tolerating(may_vanish()));
        return plan;
    };
    let same_data = current
        .data
        .as_ref()
        .is_some_and(|data| data.len() == 1 && data.get(ROOT_CA_KEY).is_some_and(|have| have == bundle));
    if !same_data || !current.annotations().contains_key(DESCRIPTION) {
        let mut map = current.clone();
        map.data = Some([(ROOT_CA_KEY.to_owned(), bundle.to_owned())].into());
        set_annotation(&mut map.metadata, DESCRIPTION, DESCRIPTION_TEXT);
        plan.push(Action::update(&map).tolerating(Tolerate { not_found: true, ..Tolerate::default() }));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;
    use serde_json::json;

    fn namespace(phase: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn every_living_namespace_gets_both() {
        let of = |phase| describe(&default_account(&namespace(phase), None));
        assert_eq!(
            (of("Active").as_str(), of("Terminating").as_str()),
            ("create serviceaccounts/default\n", "")
        );
        let plan = root_ca(&namespace("Active"), None, "PEM");
        assert_eq!(describe(&plan), "create configmaps/kube-root-ca.crt\n");
        let mut map = ConfigMap {
            data: Some([("ca.crt".to_owned(), "old".to_owned())].into()),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(ROOT_CA_NAME.to_owned());
        assert_eq!(
            describe(&root_ca(&namespace("Active"), Some(&map), "PEM")),
            "update configmaps/kube-root-ca.crt\n"
        );
    }
}
