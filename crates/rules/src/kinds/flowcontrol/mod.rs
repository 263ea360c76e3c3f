//! FlowSchemas and PriorityLevelConfigurations.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        columns: columns::FLOW_SCHEMA,
        row: columns::flow_schema,
        name_and_age: false,
        ..flow_control("FlowSchema")
    },
    &Strategy {
        columns: columns::PRIORITY_LEVEL,
        row: columns::priority_level,
        ..flow_control("PriorityLevelConfiguration")
    },
];

const fn flow_control(kind: &'static str) -> Strategy {
    Strategy { group: "flowcontrol.apiserver.k8s.io", kind, generation: true, ..Strategy::DEFAULT }
}
