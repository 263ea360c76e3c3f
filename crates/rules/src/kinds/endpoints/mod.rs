//! Endpoints and EndpointSlices.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "Endpoints",
        create_on_update: true,
        columns: columns::ENDPOINTS,
        row: columns::endpoints,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        generation: true,
        columns: columns::ENDPOINT_SLICE,
        row: columns::endpoint_slice,
        ..Strategy::DEFAULT
    },
];
