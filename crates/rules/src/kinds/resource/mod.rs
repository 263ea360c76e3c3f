//! Dynamic resources: claims, templates, classes, slices and taints of devices.

mod columns;
mod validate;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        validate: validate::claim,
        validate_update: validate::spec_stays,
        columns: columns::CLAIM,
        row: columns::claim,
        ..resource("ResourceClaim")
    },
    &Strategy {
        validate: validate::claim_template,
        validate_update: validate::spec_stays,
        ..resource("ResourceClaimTemplate")
    },
    &Strategy {
        generation: true,
        validate: validate::device_class,
        validate_update: |new, _, context| validate::device_class(new, context),
        ..resource("DeviceClass")
    },
    &Strategy {
        generation: true,
        validate: validate::slice,
        validate_update: validate::slice_update,
        selectable: &[("spec.nodeName", "spec.nodeName"), ("spec.driver", "spec.driver")],
        columns: columns::SLICE,
        row: columns::slice,
        ..resource("ResourceSlice")
    },
    &Strategy {
        generation: true,
        validate: validate::taint_rule,
        validate_update: |new, _, context| validate::taint_rule(new, context),
        columns: columns::TAINT_RULE,
        row: columns::taint_rule,
        ..resource("DeviceTaintRule")
    },
];

const fn resource(kind: &'static str) -> Strategy {
    Strategy { group: "resource.k8s.io", kind, ..Strategy::DEFAULT }
}
