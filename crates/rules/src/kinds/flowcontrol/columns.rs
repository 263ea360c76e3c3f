//! Tables of FlowSchemas and PriorityLevelConfigurations.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{AGE, Column, NAME, age_cell, int_cell, name, or_none};
use crate::kinds::shared::{at, list_at, str_at};

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    Column::text("PriorityLevel", "Priority level of the flow's requests."),
    Column::text("MatchingPrecedence", "Rank among the schemas that match; lower comes first."),
    Column::text("DistinguisherMethod", "What tells one flow from another."),
    AGE,
    Column::text("MissingPL", "Whether the priority level does not exist."),
];

pub(super) fn flow_schema(schema: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = list_at(schema, "status.conditions").iter().find(|c| str_at(c, "type") == "Dangling");
    vec![
        name(schema),
        str_at(schema, "spec.priorityLevelConfiguration.name").into(),
        int_cell(schema, "spec.matchingPrecedence"),
        or_none(schema, "spec.distinguisherMethod.type"),
        age_cell(schema, now),
        dangling.map_or("?", |c| str_at(c, "status")).into(),
    ]
}

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    Column::text("Type", "Whether requests are limited."),
    Column::text("NominalConcurrencyShares", "Share of the server's concurrency."),
    Column::text("Queues", "Queues of the level."),
    Column::text("HandSize", "Queues that a flow is dealt."),
    Column::text("QueueLengthLimit", "Most requests that wait in a queue."),
];

pub(super) fn priority_level(level: &Value, _: Timestamp) -> Vec<Value> {
    let number = |at: Option<&Value>| at.cloned().unwrap_or_else(|| "<none>".into());
    let queuing =
        |key: &str| number(at(level, "spec.limited.limitResponse.queuing").and_then(|q| q.get(key)));
    vec![
        str_at(level, "spec.type").into(),
        number(at(level, "spec.limited.nominalConcurrencyShares")),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
    ]
}
