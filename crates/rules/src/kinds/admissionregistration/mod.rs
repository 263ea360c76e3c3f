//! Webhook configurations, admission policies and their bindings.

mod columns;
mod validate;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &webhooks("ValidatingWebhookConfiguration"),
    &webhooks("MutatingWebhookConfiguration"),
    &Strategy {
        validate: validate::validating_policy,
        validate_update: |new, _, context| validate::validating_policy(new, context),
        columns: columns::VALIDATING_POLICY,
        row: columns::validating_policy,
        ..registration("ValidatingAdmissionPolicy")
    },
    &Strategy {
        validate: validate::mutating_policy,
        validate_update: |new, _, context| validate::mutating_policy(new, context),
        columns: columns::MUTATING_POLICY,
        row: columns::mutating_policy,
        ..registration("MutatingAdmissionPolicy")
    },
    &Strategy {
        validate: validate::validating_binding,
        validate_update: |new, _, context| validate::validating_binding(new, context),
        ..binding("ValidatingAdmissionPolicyBinding")
    },
    &binding("MutatingAdmissionPolicyBinding"),
];

const fn registration(kind: &'static str) -> Strategy {
    Strategy {
        group: "admissionregistration.k8s.io",
        kind,
        generation: true,
        unconditional_update: false,
        ..Strategy::DEFAULT
    }
}

const fn webhooks(kind: &'static str) -> Strategy {
    Strategy {
        validate: validate::webhooks,
        validate_update: |new, _, context| validate::webhooks(new, context),
        columns: columns::WEBHOOKS,
        row: columns::webhooks,
        ..registration(kind)
    }
}

const fn binding(kind: &'static str) -> Strategy {
    Strategy {
        validate: validate::binding,
        validate_update: |new, _, context| validate::binding(new, context),
        columns: columns::BINDING,
        row: columns::binding,
        ..registration(kind)
    }
}
