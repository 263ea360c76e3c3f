//! CertificateSigningRequests.

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    prepare_for_create: record_requester,
    prepare_for_update: |new, old, _| {
        new["spec"] = old["spec"].clone();
    },
    selectable: &[("spec.signerName", "spec.signerName")],
    ..Strategy::DEFAULT
}];

/// Who asks is what authentication says, whatever the request claims.
fn record_requester(csr: &mut Value, context: &Context<'_>) {
    let spec = child_mut(csr, "spec");
    spec.insert("username".to_owned(), context.user.into());
    spec.insert("groups".to_owned(), json!(context.groups));
    spec.remove("extra");
    if context.user_uid.is_empty() {
        spec.remove("uid");
    } else {
        spec.insert("uid".to_owned(), context.user_uid.into());
    }
}
