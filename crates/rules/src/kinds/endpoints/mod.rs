//! Endpoints and EndpointSlices.

mod columns;
mod validate;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "Endpoints",
        create_on_update: true,
        validate: validate::endpoints,
        validate_update: |new, _, context| validate::endpoints(new, context),
        columns: columns::ENDPOINTS,
        row: columns::endpoints,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        generation: true,
        validate: validate::slice,
        validate_update: validate::slice_update,
        columns: columns::ENDPOINT_SLICE,
        row: columns::endpoint_slice,
        ..Strategy::DEFAULT
    },
];
