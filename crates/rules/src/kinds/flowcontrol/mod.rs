//! FlowSchemas and PriorityLevelConfigurations.

mod columns;
mod validate;

use super::Strategy;
use super::shared::int_at;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        validate: validate::flow_schema,
        validate_update: |new, _, context| validate::flow_schema(new, context),
        columns: columns::FLOW_SCHEMA,
        row: columns::flow_schema,
        // As they are tried.
        row_order: Some(|schema| int_at(schema, "spec.matchingPrecedence")),
        name_and_age: false,
        ..flow_control("FlowSchema")
    },
    &Strategy {
        validate: validate::priority_level,
        validate_update: |new, _, context| validate::priority_level(new, context),
        columns: columns::PRIORITY_LEVEL,
        row: columns::priority_level,
        ..flow_control("PriorityLevelConfiguration")
    },
];

const fn flow_control(kind: &'static str) -> Strategy {
    Strategy { group: "flowcontrol.apiserver.k8s.io", kind, generation: true, ..Strategy::DEFAULT }
}
