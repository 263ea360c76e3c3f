//! Events: one store, two resources that name fields differently.

use super::rename_fields;
use crate::Map;

const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Between the core group (`forward` from it) and events.k8s.io.
pub(super) fn rename(event: &mut Map, forward: bool) {
    rename_fields(event, &NAMES, forward);
}
