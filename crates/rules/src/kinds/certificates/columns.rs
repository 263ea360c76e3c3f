//! Tables of CertificateSigningRequests, ClusterTrustBundles and PodCertificateRequests.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{AGE, Column, NAME, age_cell, human_duration, name, or_none};
use crate::kinds::shared::{at, list_at, str_at};

pub(super) const REQUEST: &[Column] = &[
    NAME,
    AGE,
    Column::text("SignerName", "Signer that is asked."),
    Column::text("Requestor", "User who asks."),
    Column::text("RequestedDuration", "How long the certificate should be valid."),
    Column::text("Condition", "State of the request."),
];

pub(super) fn request(request: &Value, now: Timestamp) -> Vec<Value> {
    let seconds = at(request, "spec.expirationSeconds").and_then(Value::as_i64);
    vec![
        name(request),
        age_cell(request, now),
        or_none(request, "spec.signerName"),
        str_at(request, "spec.username").into(),
        seconds.map_or_else(|| "<none>".to_owned(), human_duration).into(),
        state(request).into(),
    ]
}

fn state(request: &Value) -> String {
    let conditions = list_at(request, "status.conditions");
    let has = |kind: &str| conditions.iter().any(|c| str_at(c, "type") == kind);
    let decision = ["Denied", "Approved"].into_iter().find(|kind| has(kind)).unwrap_or("Pending");
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if str_at(request, "status.certificate").is_empty() { "" } else { ",Issued" };
    format!("{decision}{failed}{issued}")
}

pub(super) const TRUST_BUNDLE: &[Column] =
    &[NAME, Column::text("SignerName", "Signer that the bundle belongs to.")];

pub(super) fn trust_bundle(bundle: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(bundle), or_none(bundle, "spec.signerName")]
}

pub(super) const POD_REQUEST: &[Column] = &[
    NAME,
    Column::text("PodName", "Pod that the certificate is for."),
    Column::text("ServiceAccountName", "The pod's service account."),
    Column::text("NodeName", "The pod's node."),
    Column::text("SignerName", "Signer that is asked."),
    Column::text("State", "State of the request."),
];

pub(super) fn pod_request(request: &Value, _: Timestamp) -> Vec<Value> {
    let decided = list_at(request, "status.conditions").iter().find(|c| str_at(c, "status") == "True");
    let mut cells = vec![name(request)];
    cells.extend(
        ["podName", "serviceAccountName", "nodeName", "signerName"]
            .map(|key| Value::from(at(request, "spec").map_or("", |spec| str_at(spec, key)))),
    );
    cells.push(decided.map_or("Pending", |c| str_at(c, "type")).into());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now = Timestamp::UNIX_EPOCH;
        let object = json!({"metadata": {"name": "b"}, "spec": {"trustBundle": "x"}});
        assert_eq!(trust_bundle(&object, now), ["b", "<none>"]);
        let object = json!({"metadata": {"name": "r"}, "spec": {"podName": "p", "serviceAccountName": "sa",
            "nodeName": "n", "signerName": "a/b"}, "status": {"conditions": [{"type": "Issued", "status": "True"}]}});
        assert_eq!(pod_request(&object, now), ["r", "p", "sa", "n", "a/b", "Issued"]);
    }

    #[test]
    fn states() {
        for (status, want) in [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="}), "Approved,Issued"),
            (
                json!({"conditions": [{"type": "Approved"}, {"type": "Denied"}, {"type": "Failed"}]}),
                "Denied,Failed",
            ),
        ] {
            assert_eq!(state(&json!({"status": status})), want);
        }
    }
}
