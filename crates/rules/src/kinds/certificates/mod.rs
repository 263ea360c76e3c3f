//! CertificateSigningRequests.

mod columns;
mod validate;

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use super::check::check_update;
use super::{Context, Strategy, meta};

pub(super) const STRATEGIES: &[&Strategy] = &[&REQUEST, &TRUST_BUNDLE, &POD_REQUEST];

const REQUEST: Strategy = Strategy {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    name: meta::path_segment,
    prepare_for_create: record_requester,
    prepare_for_update: |new, old, _| {
        new["spec"] = old["spec"].clone();
    },
    prepare_for_status_update: |new, _, context| validate::date_conditions(new, context),
    validate: validate::request,
    validate_status_update: validate::request_status,
    validate_subresource: validate::request_approval,
    selectable: &[("spec.signerName", "spec.signerName")],
    columns: columns::REQUEST,
    row: columns::request,
    name_and_age: false,
    ..Strategy::DEFAULT
};

const TRUST_BUNDLE: Strategy = Strategy {
    group: "certificates.k8s.io",
    kind: "ClusterTrustBundle",
    name: validate::bundle_name,
    validate: validate::trust_bundle,
    validate_update: validate::trust_bundle_update,
    selectable: &[("spec.signerName", "spec.signerName")],
    columns: columns::TRUST_BUNDLE,
    row: columns::trust_bundle,
    name_and_age: false,
    ..Strategy::DEFAULT
};

const POD_REQUEST: Strategy = Strategy {
    group: "certificates.k8s.io",
    kind: "PodCertificateRequest",
    validate_update: |new, old, _| {
        check_update(new, old, |new, old| new.field("spec").unchanged(&old.field("spec")))
    },
    selectable: &[
        ("spec.signerName", "spec.signerName"),
        ("spec.podName", "spec.podName"),
        ("spec.nodeName", "spec.nodeName"),
    ],
    columns: columns::POD_REQUEST,
    row: columns::pod_request,
    name_and_age: false,
    ..Strategy::DEFAULT
};

/// Who asks is what authentication says, whatever the request claims.
fn record_requester(csr: &mut Value, context: &Context<'_>) {
    let spec = child_mut(csr, "spec");
    spec.insert("username".to_owned(), context.user.into());
    spec.insert("groups".to_owned(), json!(context.groups));
    if context.extra.is_empty() {
        spec.remove("extra");
    } else {
        spec.insert("extra".to_owned(), json!(context.extra));
    }
    if context.user_uid.is_empty() {
        spec.remove("uid");
    } else {
        spec.insert("uid".to_owned(), context.user_uid.into());
    }
}
