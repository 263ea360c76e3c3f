//! ResourceQuotas and LimitRanges.

mod validate;

use isopod_api::Value;
use jiff::Timestamp;

use super::Strategy;
use super::columns::{CREATED_AT, Column, NAME, created_at_row};
use super::shared::at;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "ResourceQuota",
        validate: validate::quota,
        validate_update: validate::quota_update,
        validate_status_update: validate::quota_status,
        columns: &[
            Column::text("Request", "Use and bound of everything but limits."),
            Column::text("Limit", "Use and bound of limits."),
        ],
        row: quota_row,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "LimitRange",
        validate: validate::limit_range,
        validate_update: |new, _, context| validate::limit_range(new, context),
        create_on_update: true,
        columns: &[NAME, CREATED_AT],
        row: created_at_row,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
];

fn quota_row(quota: &Value, _: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let mut hard: Vec<(&String, &Value)> =
        at(quota, "status.hard").and_then(Value::as_object).into_iter().flatten().collect();
    hard.sort_by_key(|(resource, _)| *resource);
    for (resource, bound) in hard {
        let used = at(quota, "status.used").and_then(|used| used.get(resource)?.as_str()).unwrap_or("0");
        let cell = format!("{resource}: {used}/{}", bound.as_str().unwrap_or("0"));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![requests.join(", ").into(), limits.join(", ").into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let quota =
            json!({"status": {"hard": {"pods": "5", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "1"}}});
        assert_eq!(quota_row(&quota, Timestamp::UNIX_EPOCH), ["cpu: 0/1, pods: 1/5", "limits.cpu: 0/2"]);
    }
}
