//! Tables of ResourceClaims and ResourceSlices.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::Column;
use crate::kinds::shared::{at, list_at, str_at};

pub(super) const CLAIM: &[Column] =
    &[Column::text("State", "State of the claim (pending, allocated, reserved, deleted).")];

pub(super) fn claim(claim: &Value, _: Timestamp) -> Vec<Value> {
    let deleted = at(claim, "metadata.deletionTimestamp").is_some();
    let allocated = at(claim, "status.allocation").is_some();
    let reserved = allocated && !list_at(claim, "status.reservedFor").is_empty();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (reserved, "reserved"),
    ];
    let states: Vec<&str> = states.iter().filter(|(holds, _)| *holds).map(|(_, name)| *name).collect();
    vec![states.join(",").into()]
}

pub(super) const SLICE: &[Column] = &[
    Column::text("Node", "Node that the devices belong to."),
    Column::text("Driver", "Driver of the devices."),
    Column::text("Pool", "Pool that the devices belong to."),
];

pub(super) fn slice(slice: &Value, _: Timestamp) -> Vec<Value> {
    let node = str_at(slice, "spec.nodeName");
    vec![node.into(), str_at(slice, "spec.driver").into(), str_at(slice, "spec.pool.name").into()]
}
