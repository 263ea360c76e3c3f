//! What CertificateSigningRequests and ClusterTrustBundles obey.

use std::collections::BTreeSet;

use isopod_api::field::ErrorList;
use isopod_api::{Value, names};

use crate::kinds::bounds::domain_prefixed_path;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::{Context, base64};

/// Shortest life of a certificate that can be asked for.
const SECONDS_MIN: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Gives conditions the times they lack.
pub(super) fn date_conditions(request: &mut Value, context: &Context<'_>) {
    let conditions =
        request.get_mut("status").and_then(|s| s.get_mut("conditions")).and_then(Value::as_array_mut);
    let now = format!("{:.0}", context.now);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for key in ["lastUpdateTime", "lastTransitionTime"] {
            if condition.get(key).is_none_or(Value::is_null) {
                condition.insert(key.to_owned(), now.as_str().into());
            }
        }
    }
}

pub(super) fn request(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |request| {
        let spec = request.field("spec");
        pem(&spec.field("request"), "CERTIFICATE REQUEST");
        let usages = spec.field("usages");
        if usages.is_empty() {
            usages.required("");
        }
        let mut seen = BTreeSet::new();
        for usage in usages.items() {
            usage.one_of(USAGES);
            usage.unique(&mut seen);
        }
        signer(&spec.field("signerName"));
        if spec.field("signerName").str() == "kubernetes.io/legacy-unknown" {
            spec.field("signerName").invalid("the legacy signerName is not allowed via this API version");
        }
        let seconds = spec.field("expirationSeconds");
        if seconds.int().is_some_and(|s| s < SECONDS_MIN) {
            seconds.invalid(format!(
                "may not specify a duration less than {SECONDS_MIN} seconds ({} minutes)",
                SECONDS_MIN / 60
            ));
        }
        conditions(&request.field("status.conditions"));
    })
}

fn signer(name: &At<'_>) {
    if name.needs_text() && !name.str().contains('/') {
        name.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    } else if name.str().contains('/') {
        name.must_follow(domain_prefixed_path);
    }
}

/// Bytes that hold one PEM block of a type.
fn pem(bytes: &At<'_>, kind: &str) {
    let text = base64::decode(bytes.str()).and_then(|b| String::from_utf8(b).ok()).unwrap_or_default();
    let framed =
        text.contains(&format!("-----BEGIN {kind}-----")) && text.contains(&format!("-----END {kind}-----"));
    if !framed {
        bytes.invalid(format!("PEM block type must be {kind}"));
    }
}

fn has(conditions: &At<'_>, kind: &str) -> bool {
    conditions.items().any(|c| c.field("type").str() == kind)
}

fn conditions(conditions: &At<'_>) {
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let kind = condition.field("type");
        kind.needs_text();
        kind.unique(&mut seen);
        let status = condition.field("status");
        if matches!(kind.str(), "Approved" | "Denied" | "Failed") {
            if status.needs_text() && status.str() != "True" {
                status.one_of(&["True"]);
            }
        } else {
            status.needs_one_of(&["False", "True", "Unknown"]);
        }
    }
    if has(conditions, "Approved") && has(conditions, "Denied") {
        conditions.invalid("Approved and Denied conditions are mutually exclusive");
    }
}

pub(super) fn request_approval(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    if context.subresource != "approval" {
        return ErrorList::new();
    }
    check_update(new, old, |new, old| {
        let (now, was) = (new.field("status.conditions"), old.field("status.conditions"));
        conditions(&now);
        decisions_stay(&now, &was, false);
    })
}

pub(super) fn request_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let (now, was) = (new.field("status.conditions"), old.field("status.conditions"));
        conditions(&now);
        decisions_stay(&now, &was, true);
        let (certificate, before) = (new.field("status.certificate"), old.field("status.certificate"));
        if !before.is_empty() && certificate.value() != before.value() {
            certificate.forbidden("updates may not modify existing certificate content");
        } else if !certificate.is_empty() {
            pem(&certificate, "CERTIFICATE");
        }
    })
}

/// What was decided stays decided, and who signs does not decide.
fn decisions_stay(new: &At<'_>, old: &At<'_>, only_approval_may_add: bool) {
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, was) = (has(new, kind), has(old, kind));
        if was && !now {
            new.forbidden(format!("updates may not remove a condition of type {kind:?}"));
        }
        if now && !was && only_approval_may_add && kind != "Failed" {
            new.forbidden(format!("updates may not add a condition of type {kind:?}"));
        }
    }
}

pub(super) fn trust_bundle(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |bundle| bundle_rules(&bundle))
}

fn bundle_rules(bundle: &At<'_>) {
    let (name, signer_name) = (bundle.field("metadata.name"), bundle.field("spec.signerName"));
    if signer_name.is_empty() {
        if name.str().contains(':') {
            name.invalid("ClusterTrustBundle without signer name must not have \":\" in its name");
        }
    } else {
        signer(&signer_name);
        let prefix = format!("{}:", signer_name.str().replace('/', ":"));
        if !name.str().starts_with(&prefix) {
            name.invalid(format!(
                "ClusterTrustBundle for signerName {} must be named with prefix {prefix}",
                signer_name.str()
            ));
        }
    }
    let bundle = bundle.field("spec.trustBundle");
    if !bundle.str().contains("-----BEGIN CERTIFICATE-----") {
        bundle.invalid_as("<value omitted>", "at least one trust anchor must be provided");
    }
}

pub(super) fn trust_bundle_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        bundle_rules(&new);
        new.field("spec.signerName").unchanged(&old.field("spec.signerName"));
    })
}

/// A ClusterTrustBundle's name begins with its signer's, in which colons stand for slashes.
pub(super) fn bundle_name(name: &str, _: bool) -> Vec<String> {
    name.rsplit(':').next().map(names::is_dns1123_subdomain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn requests() {
        let bytes =
            base64::encode(b"-----BEGIN CERTIFICATE REQUEST-----\nx\n-----END CERTIFICATE REQUEST-----\n");
        let with = |spec: Value| {
            let mut object =
                json!({"spec": {"request": bytes, "usages": ["client auth"], "signerName": "a.b/c"}});
            isopod_api::patch::merge_patch(&mut object, &json!({"spec": spec}));
            object
        };
        assert_eq!(request(&with(json!({})), &Context::TEST), vec![]);
        assert_eq!(
            texts(&request(
                &with(json!({"request": "eA==", "usages": ["x"], "signerName": "a", "expirationSeconds": 5})),
                &Context::TEST
            ))
            .iter()
            .map(|text| text.split(": ").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>(),
            ["spec.request", "spec.usages[0]", "spec.signerName", "spec.expirationSeconds"]
        );
        let decided = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True"}]}});
        assert_eq!(
            texts(&request_status(&decided("Approved"), &json!({}), &Context::TEST)),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        let approval = Context { subresource: "approval", ..Context::TEST };
        assert_eq!(request_approval(&decided("Approved"), &json!({}), &approval), vec![]);
        assert_eq!(
            texts(&request_approval(&decided("Denied"), &decided("Approved"), &approval)),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
    }
}
