//! Secrets of type `kubernetes.io/service-account-token`: filled for a living ServiceAccount, deleted with it.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::meta::{Meta, set_annotation};
use crate::plan::{Action, Plan, Tolerate};

/// The type of these Secrets.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotation that names the ServiceAccount.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Annotation with the ServiceAccount's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The account that a Secret asks a token for.
pub fn account_name(secret: &Secret) -> Option<&str> {
    (secret.type_.as_deref() == Some(TYPE))
        .then(|| secret.annotations().get(ACCOUNT_NAME).map(String::as_str))
        .flatten()
        .filter(|name| !name.is_empty())
}

/// Whether the Secret lacks something that only a token can fill.
pub fn needs_token(secret: &Secret) -> bool {
    secret.data.as_ref().and_then(|data| data.get("token")).is_none_or(|token| token.0.is_empty())
}

/// Decides for one Secret. `account` is the living ServiceAccount it names; `token` a token signed for it, asked for
/// only when [`needs_token`].
pub fn reconcile(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca: Option<&str>,
    token: impl FnOnce(&ServiceAccount) -> Result<String, String>,
) -> Result<Plan, String> {
    let mut plan = Plan::nothing();
    if account_name(secret).is_none() || secret.deleting() {
        return Ok(plan);
    }
    let stale = |account: &ServiceAccount| {
        secret.annotations().get(ACCOUNT_UID).is_some_and(|uid| !uid.is_empty() && uid != account.uid())
    };
    let Some(account) = account.filter(|account| !stale(account)) else {
        plan.push(Action::delete(secret));
        return Ok(plan);
    };
    let mut copy = secret.clone();
    set_annotation(&mut copy.metadata, ACCOUNT_NAME, account.name());
    set_annotation(&mut copy.metadata, ACCOUNT_UID, account.uid());
    let missing = needs_token(secret);
    let data: &mut BTreeMap<String, ByteString> = copy.data.get_or_insert_default();
    if let Some(root_ca) = root_ca {
        data.insert("ca.crt".to_owned(), ByteString(root_ca.as_bytes().to_vec()));
    }
    data.entry("namespace".to_owned()).or_insert_with(|| ByteString(secret.namespace().as_bytes().to_vec()));
    if missing {
        data.insert("token".to_owned(), ByteString(token(account)?.into_bytes()));
    }
    if copy != *secret {
        plan.push(Action::update(&copy).tolerating(Tolerate { not_found: true, ..Tolerate::default() }));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;
    use serde_json::json;

    #[test]
    fn filled_once_and_deleted_with_the_account() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "t", "namespace": "d", "annotations": {ACCOUNT_NAME: "bot"}}, "type": TYPE,
        }))
        .unwrap();
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "bot", "namespace": "d", "uid": "u"}}))
                .unwrap();
        let run = |secret: &Secret, account: Option<&ServiceAccount>| {
            reconcile(secret, account, Some("PEM"), |_| Ok("jwt".to_owned())).unwrap()
        };
        let plan = run(&secret, Some(&account));
        let crate::plan::Write::Update { body, .. } = &plan.actions().next().unwrap().write else { panic!() };
        let filled: Secret = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(filled.data.as_ref().unwrap()["token"].0, b"jwt");
        assert_eq!(describe(&run(&filled, Some(&account))), "");
        assert_eq!(describe(&run(&filled, None)), "delete secrets/t\n");
    }
}
