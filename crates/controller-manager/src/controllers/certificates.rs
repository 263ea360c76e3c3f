//! CertificateSigningRequests: approved for kubelets, signed, cleared away.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use isopod_client::ObjectKey;
use isopod_reconcile::certificate::{
    self, Recognised, approved, failed, judge, kept_until, life, recognise, wants_signature,
};
use isopod_reconcile::plan::{Action, Plan, Tolerate};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;
use tracing::{info, warn};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};
use crate::executor::{Executor, Finished, Unobserved};

const ACCOUNT: &str = "certificate-controller";
/// How soon a request is looked at again whose author lacked the right: it may be given.
const RIGHT_RETRY: Duration = Duration::from_secs(60);

/// A write of one of the subresources.
fn update(request: &CertificateSigningRequest, subresource: &'static str) -> Plan {
    let mut plan = Plan::nothing();
    let gone = Tolerate { not_found: true, ..Tolerate::default() };
    plan.push(Action::update_subresource(request, subresource).tolerating(gone));
    plan
}

pub(crate) fn register_approving(context: &Context) -> Option<Running> {
    let signer = context.config.certificate_signer.clone()?;
    let requests = context.informers.get::<CertificateSigningRequest>();
    let mut control = ControlLoop::new(context, "certificate-csrapproving", ACCOUNT);
    control.workers(1);
    control.of(&requests);
    let (requests, context) = (requests.store(), context.clone());
    Some(control.run_async(move |key, executor| {
        let found = requests.get(&key).filter(|request| certificate::is_pending(request));
        let (signer, context) = (Arc::clone(&signer), context.clone());
        async move {
            let Some(request) = found else { return Finished::default() };
            // A request that cannot be read is nobody's to approve.
            let Ok(subject) = signer.subject(&request.spec.request.0) else { return Finished::default() };
            let known = recognise(&request, &subject);
            for how in &known {
                match may(&executor, &request, how).await {
                    Ok(true) => {
                        info!(%key, right = how.right, "approving a kubelet's client certificate");
                        let plan = update(&approved(&request, *how, context.now()), "approval");
                        return executor.run(plan, &Unobserved).await;
                    }
                    Ok(false) => {}
                    Err(error) => return Finished::failed(error),
                }
            }
            let again = (!known.is_empty()).then_some(RIGHT_RETRY);
            Finished { requeue_after: again, ..Finished::default() }
        }
        .boxed()
    }))
}

/// Whether the author of a request has the right to have it approved.
async fn may(
    executor: &Executor,
    request: &CertificateSigningRequest,
    how: &Recognised,
) -> Result<bool, kube::Error> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(how.right.to_owned()),
                verb: Some("create".to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(executor.client().clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

pub(crate) fn register_signing(context: &Context) -> Option<Running> {
    let signer = context.config.certificate_signer.clone()?;
    let requests = context.informers.get::<CertificateSigningRequest>();
    let mut control = ControlLoop::new(context, "certificate-csrsigning", ACCOUNT);
    control.workers(1);
    control.of(&requests);
    let (requests, context) = (requests.store(), context.clone());
    Some(control.run(move |key, _| {
        let Some(request) = requests.get(key).filter(|request| wants_signature(request)) else {
            return Plan::nothing();
        };
        let pem = &request.spec.request.0;
        let refused = |why: &str| update(&failed(&request, why, context.now()), "status");
        let subject = match signer.subject(pem) {
            Ok(subject) => subject,
            Err(why) => return refused(&why),
        };
        let usage = match judge(&request, &subject) {
            None => return Plan::nothing(),
            Some(Err(why)) => return refused(&why),
            Some(Ok(usage)) => usage,
        };
        let life = life(&request, context.config.certificate_life);
        match signer.sign(&request.spec.signer_name, pem, usage, life, context.now()) {
            // Another process has the authority of this signer.
            Ok(None) => Plan::nothing(),
            Ok(Some(certificate)) => {
                let mut signed = (*request).clone();
                signed.status.get_or_insert_default().certificate =
                    Some(ByteString(certificate.into_bytes()));
                update(&signed, "status")
            }
            Err(error) => {
                warn!(%key, error, "signing a certificate");
                Plan { retry: true, ..Plan::nothing() }
            }
        }
    }))
}

pub(crate) fn register_cleaner(context: &Context) -> Option<Running> {
    let requests = context.informers.get::<CertificateSigningRequest>();
    let mut control = ControlLoop::new(context, "certificate-csrcleaner", ACCOUNT);
    control.workers(1);
    control.of(&requests);
    let (requests, context) = (requests.store(), context.clone());
    Some(control.run(move |key: &ObjectKey, _| {
        let mut plan = Plan::nothing();
        let Some(request) = requests.get(key) else { return plan };
        let Some(until) = kept_until(&request) else { return plan };
        match Duration::try_from(until.duration_since(context.now())) {
            Ok(left) if !left.is_zero() => plan.requeue_after = Some(left),
            _ => plan.push(Action::delete(request.as_ref())),
        }
        plan
    }))
}
