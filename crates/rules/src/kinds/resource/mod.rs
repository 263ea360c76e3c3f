//! Dynamic resources: claims, templates, classes, slices and taints of devices.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy { columns: columns::CLAIM, row: columns::claim, ..resource("ResourceClaim") },
    &resource("ResourceClaimTemplate"),
    &Strategy { generation: true, ..resource("DeviceClass") },
    &Strategy {
        generation: true,
        selectable: &[("spec.nodeName", "spec.nodeName"), ("spec.driver", "spec.driver")],
        columns: columns::SLICE,
        row: columns::slice,
        ..resource("ResourceSlice")
    },
    &Strategy { generation: true, ..resource("DeviceTaintRule") },
];

const fn resource(kind: &'static str) -> Strategy {
    Strategy { group: "resource.k8s.io", kind, create_on_update: false, ..Strategy::DEFAULT }
}
