//! CertificateSigningRequests: which are approved by the system, what a signer signs, when they are deleted.
//!
//! Signers, their rules and the times are upstream's. A kubelet's request for a serving certificate is signed once
//! somebody has approved it; nobody approves it by himself, since the names in it are what the node says of itself.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Signs clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs kubelets as clients of the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs kubelets as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Shortest life that may be asked for.
const LIFE_MIN: Duration = Duration::from_secs(600);
/// How long requests are kept: issued, denied and failed ones, and those that nobody decided about.
const DECIDED_KEPT: Duration = Duration::from_secs(60 * 60);
const PENDING_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a PKCS#10 request asks to be named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name.
    pub common_name: String,
    /// Organisations, which are groups.
    pub organizations: Vec<String>,
    /// DNS names and addresses.
    pub hosts: usize,
    /// Alternative names of other sorts: mail addresses, URIs.
    pub other_names: usize,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// By a client.
    Client,
    /// By a server.
    Server,
}

/// A request that the system knows how to judge, and the right that its author needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Subresource of `certificatesigningrequests` that the author must be allowed to create.
    pub right: &'static str,
    /// What the approval says.
    pub message: &'static str,
}

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == kind && c.status == "True"))
}

fn issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// Whether nobody has decided about a request.
pub fn is_pending(request: &CertificateSigningRequest) -> bool {
    !issued(request) && !["Approved", "Denied", "Failed"].iter().any(|kind| has_condition(request, kind))
}

/// Whether a request waits to be signed.
pub fn wants_signature(request: &CertificateSigningRequest) -> bool {
    has_condition(request, "Approved")
        && !has_condition(request, "Denied")
        && !has_condition(request, "Failed")
        && !issued(request)
}

/// How the system may approve a request, the narrower right first; empty if it is not for it to approve.
pub fn recognise(request: &CertificateSigningRequest, subject: &Subject) -> Vec<Recognised> {
    let spec = &request.spec;
    if spec.signer_name != KUBELET_CLIENT || kubelet_client(subject, usages(request)).is_err() {
        return Vec::new();
    }
    let own = spec.username.as_deref() == Some(&*subject.common_name);
    let renewed = Recognised {
        right: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    };
    let first = Recognised {
        right: "nodeclient",
        message: "Auto approving kubelet client certificate after SubjectAccessReview.",
    };
    own.then_some(renewed).into_iter().chain([first]).collect()
}

/// The request with the system's approval.
pub fn approved(
    request: &CertificateSigningRequest,
    how: Recognised,
    now: Timestamp,
) -> CertificateSigningRequest {
    with_condition(request, "Approved", "AutoApproved", how.message, now)
}

/// The request with the reason why it will not be signed.
pub fn failed(request: &CertificateSigningRequest, why: &str, now: Timestamp) -> CertificateSigningRequest {
    with_condition(request, "Failed", "SignerValidationFailure", why, now)
}

fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let condition = CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

/// Usages that a certificate for one purpose may have: the purpose, and what keys are used for.
fn usages_are(usages: &[String], purpose: &str, signature_needed: bool) -> bool {
    let has = |usage: &str| usages.iter().any(|u| u == usage);
    let known = |usage: &String| [purpose, "digital signature", "key encipherment"].contains(&usage.as_str());
    has(purpose) && (!signature_needed || has("digital signature")) && usages.iter().all(known)
}

fn kubelet(subject: &Subject) -> Result<(), String> {
    if subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    if !subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    if subject.other_names > 0 {
        return Err("email and URI subjectAltNames are not allowed".to_owned());
    }
    Ok(())
}

fn kubelet_client(subject: &Subject, usages: &[String]) -> Result<(), String> {
    kubelet(subject)?;
    if subject.hosts > 0 {
        return Err("DNS and IP subjectAltNames are not allowed".to_owned());
    }
    if !usages_are(usages, "client auth", true) {
        return Err("usages did not match those of a kubelet's client certificate".to_owned());
    }
    Ok(())
}

/// What a signer certifies, if the request obeys its rules; `None` if the signer is not ours.
pub fn judge(request: &CertificateSigningRequest, subject: &Subject) -> Option<Result<Usage, String>> {
    let usages = usages(request);
    match request.spec.signer_name.as_str() {
        KUBELET_CLIENT => Some(kubelet_client(subject, usages).map(|()| Usage::Client)),
        KUBELET_SERVING => Some(kubelet(subject).and_then(|()| match subject.hosts {
            0 => Err("a DNS or IP subjectAltName is required".to_owned()),
            _ if usages_are(usages, "server auth", true) => Ok(Usage::Server),
            _ => Err("usages did not match those of a kubelet's serving certificate".to_owned()),
        })),
        CLIENT => Some(match usages_are(usages, "client auth", false) {
            true => Ok(Usage::Client),
            false => Err("usages did not match those of a client certificate".to_owned()),
        }),
        _ => None,
    }
}

/// The life of a certificate: what is asked for, within bounds.
pub fn life(request: &CertificateSigningRequest, max: Duration) -> Duration {
    let asked = request.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
    asked.map_or(max, |seconds| Duration::from_secs(seconds).max(LIFE_MIN).min(max))
}

/// The time after which a request is deleted.
pub fn kept_until(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    let decided =
        conditions.into_iter().flatten().filter_map(|c| c.last_update_time.as_ref().map(|t| t.0)).max();
    match decided {
        // What is approved and not signed may still be.
        Some(at) if !wants_signature(request) => at.checked_add(DECIDED_KEPT).ok(),
        Some(at) => at.checked_add(PENDING_KEPT).ok(),
        None => request.metadata.creation_timestamp.as_ref()?.0.checked_add(PENDING_KEPT).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(signer: &str, user: &str, usages: &[&str]) -> CertificateSigningRequest {
        serde_json::from_value(json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": signer, "username": user, "usages": usages}}))
        .unwrap()
    }

    fn node(hosts: usize) -> Subject {
        Subject {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            hosts,
            other_names: 0,
        }
    }

    const KEYS: [&str; 3] = ["digital signature", "key encipherment", "client auth"];
    const SERVE: [&str; 2] = ["digital signature", "server auth"];

    #[test]
    fn who_is_approved() {
        let rights = |request: &CertificateSigningRequest, subject: &Subject| {
            recognise(request, subject).iter().map(|r| r.right).collect::<Vec<_>>().join(" ")
        };
        let own = request(KUBELET_CLIENT, "system:node:a", &KEYS);
        assert_eq!(rights(&own, &node(0)), "selfnodeclient nodeclient");
        let first = request(KUBELET_CLIENT, "system:bootstrap:abcdef", &KEYS);
        assert_eq!(rights(&first, &node(0)), "nodeclient");
        assert_eq!(rights(&request(KUBELET_SERVING, "system:node:a", &SERVE), &node(1)), "");
        assert_eq!(rights(&own, &node(1)), "");
        assert_eq!(rights(&own, &Subject { common_name: "admin".into(), ..node(0) }), "");
        let more = vec!["system:nodes".into(), "system:masters".into()];
        assert_eq!(rights(&own, &Subject { organizations: more, ..node(0) }), "");
    }

    #[test]
    fn what_is_signed() {
        let verdict = |signer: &str, usages: &[&str], subject: &Subject| match judge(
            &request(signer, "u", usages),
            subject,
        ) {
            None => "not ours".to_owned(),
            Some(Ok(usage)) => format!("{usage:?}"),
            Some(Err(why)) => why,
        };
        assert_eq!(verdict(KUBELET_CLIENT, &KEYS, &node(0)), "Client");
        assert_eq!(
            verdict(KUBELET_CLIENT, &["client auth"], &node(0)),
            "usages did not match those of a kubelet's client certificate"
        );
        assert_eq!(
            verdict(KUBELET_CLIENT, &[&KEYS[..], &["server auth"]].concat(), &node(0)),
            "usages did not match those of a kubelet's client certificate"
        );
        assert_eq!(verdict(KUBELET_SERVING, &SERVE, &node(2)), "Server");
        assert_eq!(verdict(KUBELET_SERVING, &SERVE, &node(0)), "a DNS or IP subjectAltName is required");
        assert_eq!(
            verdict(KUBELET_SERVING, &SERVE, &Subject { other_names: 1, ..node(1) }),
            "email and URI subjectAltNames are not allowed"
        );
        assert_eq!(verdict(CLIENT, &["client auth"], &Subject::default()), "Client");
        assert_eq!(
            verdict(CLIENT, &["server auth"], &Subject::default()),
            "usages did not match those of a client certificate"
        );
        assert_eq!(verdict("example.com/mine", &KEYS, &node(0)), "not ours");
    }

    #[test]
    fn lives_and_ends() {
        let mut request = request(CLIENT, "u", &KEYS);
        let year = Duration::from_secs(365 * 24 * 3600);
        assert_eq!(life(&request, year), year);
        request.spec.expiration_seconds = Some(1);
        assert_eq!(life(&request, year), LIFE_MIN);
        request.spec.expiration_seconds = Some(3600);
        assert_eq!(life(&request, year).as_secs(), 3600);
        let until = |request: &CertificateSigningRequest| kept_until(request).unwrap().to_string();
        assert!(is_pending(&request) && !wants_signature(&request));
        assert_eq!(until(&request), "2026-01-02T00:00:00Z");
        let at: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let how = recognise(&self::request(KUBELET_CLIENT, "b", &KEYS), &node(0))[0];
        let mut request = approved(&request, how, at);
        assert!(!is_pending(&request) && wants_signature(&request));
        assert_eq!(until(&request), "2026-01-02T02:00:00Z");
        request.status.as_mut().unwrap().certificate = Some(k8s_openapi::ByteString(b"PEM".to_vec()));
        assert_eq!(until(&request), "2026-01-01T03:00:00Z");
        let failed = failed(&self::request(CLIENT, "u", &KEYS), "why", at);
        assert!(!wants_signature(&failed) && !is_pending(&failed));
    }
}
