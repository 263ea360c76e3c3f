//! Tables of ResourceClaims, ResourceSlices and DeviceTaintRules.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, age};
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

pub(super) const TAINT_RULE: &[Column] = &[
    Column::text("Key", "Key of the taint."),
    Column::text("Value", "Value of the taint."),
    Column::text("Effect", "What the taint does to pods."),
    Column::text("TimeAdded", "Time since the taint was added."),
];

pub(super) fn taint_rule(rule: &Value, now: Timestamp) -> Vec<Value> {
    let added = at(rule, "spec.taint.timeAdded").filter(|time| time.is_string());
    vec![
        str_at(rule, "spec.taint.key").into(),
        str_at(rule, "spec.taint.value").into(),
        str_at(rule, "spec.taint.effect").into(),
        added.map_or_else(String::new, |time| age(Some(time), now)).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now: Timestamp = "2024-01-01T00:00:30Z".parse().unwrap();
        let taint = json!({"key": "a.b/c", "effect": "NoSchedule", "timeAdded": "2024-01-01T00:00:00Z"});
        assert_eq!(taint_rule(&json!({"spec": {"taint": taint}}), now), ["a.b/c", "", "NoSchedule", "30s"]);
        assert_eq!(taint_rule(&json!({}), now), ["", "", "", ""]);
        for (object, want) in [
            (json!({}), "pending"),
            (json!({"metadata": {"deletionTimestamp": "x"}}), "deleted"),
            (json!({"status": {"allocation": {}, "reservedFor": [{}]}}), "allocated,reserved"),
        ] {
            assert_eq!(claim(&object, now), [want]);
        }
    }
}
