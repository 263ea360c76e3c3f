//! Endpoints and EndpointSlices.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy { group: "", kind: "Endpoints", create_on_update: true, ..Strategy::DEFAULT },
    &Strategy { group: "discovery.k8s.io", kind: "EndpointSlice", generation: true, ..Strategy::DEFAULT },
];
