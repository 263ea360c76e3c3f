//! Webhook configurations, admission policies and their bindings.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &webhooks("ValidatingWebhookConfiguration"),
    &webhooks("MutatingWebhookConfiguration"),
    &Strategy {
        columns: columns::VALIDATING_POLICY,
        row: columns::validating_policy,
        ..registration("ValidatingAdmissionPolicy")
    },
    &Strategy {
        columns: columns::MUTATING_POLICY,
        row: columns::mutating_policy,
        ..registration("MutatingAdmissionPolicy")
    },
    &binding("ValidatingAdmissionPolicyBinding"),
    &binding("MutatingAdmissionPolicyBinding"),
];

const fn registration(kind: &'static str) -> Strategy {
    Strategy { group: "admissionregistration.k8s.io", kind, generation: true, ..Strategy::DEFAULT }
}

const fn webhooks(kind: &'static str) -> Strategy {
    Strategy { columns: columns::WEBHOOKS, row: columns::webhooks, ..registration(kind) }
}

const fn binding(kind: &'static str) -> Strategy {
    Strategy { columns: columns::BINDING, row: columns::binding, ..registration(kind) }
}
