//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction; and NodeRestriction's part about
//! certificate requests: who may have which signer's certificates approved and signed, and in whose name.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isopod_api::Value;
use isopod_api::identity::{GROUP_MASTERS, GROUP_NODES};
use isopod_api::status::Status;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::layers::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Layers, Operation};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const NODE_SIGNERS: [&str; 2] =
    ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"];

/// The three plugins, in upstream's order.
pub(super) fn all(authorizers: &[Arc<dyn Authorizer>]) -> Vec<Arc<dyn Admission>> {
    let layers = Layers { authorizers: authorizers.to_vec(), ..Layers::default() };
    vec![
        Arc::new(SignerRight {
            name: "CertificateApproval",
            subresource: "approval",
            verb: "approve",
            layers: layers.clone(),
        }),
        Arc::new(SignerRight { name: "CertificateSigning", subresource: "status", verb: "sign", layers }),
        Arc::new(SubjectRestriction),
    ]
}

fn signer(object: &Value) -> &str {
    object.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or("")
}

fn refused(request: &AdmissionRequest<'_>, why: &str) -> Status {
    let name = request.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(request.name);
    Status::forbidden(GROUP, RESOURCE, name, why)
}

/// Common name and organisations of the request; `None` when it cannot be parsed, which validation reports.
fn subject(object: &Value) -> Option<(String, Vec<String>)> {
    let pem = STANDARD.decode(object.pointer("/spec/request")?.as_str()?).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let name = &request.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let common_name = name.iter_common_name().next().and_then(text).unwrap_or_default();
    Some((common_name, name.iter_organization().filter_map(text).collect()))
}

/// A right over a signer: to approve requests for it, or to sign in its name.
struct SignerRight {
    name: &'static str,
    subresource: &'static str,
    verb: &'static str,
    layers: Layers,
}

#[async_trait]
impl Admission for SignerRight {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Update
            && (group, resource, subresource) == (GROUP, RESOURCE, self.subresource)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if self.verb == "sign" {
            let state = |object: &Value| {
                (object["status"]["certificate"].clone(), object["status"]["conditions"].clone())
            };
            if state(request.object) == state(request.old) {
                return Ok(());
            }
        }
        let name = signer(request.old);
        let domain = name.split_once('/').map_or(String::new(), |(domain, _)| format!("{domain}/*"));
        for asked in [name, &domain] {
            let attributes = Attributes {
                verb: self.verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name: asked.to_owned(),
                is_resource: true,
                ..Attributes::default()
            };
            if let Decision::Allow(_) = self.layers.authorize(request.user, &attributes).await {
                return Ok(());
            }
        }
        let verb = self.verb;
        Err(refused(request, &format!("user not permitted to {verb} requests with signerName {name:?}")))
    }
}

/// Nobody becomes an administrator by a certificate request.
struct SubjectRestriction;

#[async_trait]
impl Admission for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && (group, resource, subresource) == (GROUP, RESOURCE, "")
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let groups = subject(request.object).map(|(_, groups)| groups).unwrap_or_default();
        if signer(request.object) == CLIENT_SIGNER && groups.iter().any(|group| group == GROUP_MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {GROUP_MASTERS} group is not allowed");
            return Err(refused(request, &why));
        }
        Ok(())
    }
}

/// A node asks for certificates in its own name alone.
pub(super) struct NodeRequests;

#[async_trait]
impl Admission for NodeRequests {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && (group, resource, subresource) == (GROUP, RESOURCE, "")
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.user.in_group(GROUP_NODES) || !NODE_SIGNERS.contains(&signer(request.object)) {
            return Ok(());
        }
        let own = &request.user.name;
        let name = subject(request.object).map(|(name, _)| name);
        if request.user.node_name().is_some() && name.as_ref() == Some(own) {
            return Ok(());
        }
        Err(refused(request, &format!("can only create a node CSR with CN={own}")))
    }
}
