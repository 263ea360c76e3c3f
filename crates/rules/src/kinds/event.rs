//! Events.

use isopod_api::Value;
use jiff::Timestamp;

use super::Strategy;
use super::check::{At, check};
use super::columns::{Column, NAME, age, name, or};
use super::shared::{at, int_at, str_at};

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Event",
    create_on_update: true,
    selectable: &[
        ("involvedObject.kind", "involvedObject.kind"),
        ("involvedObject.namespace", "involvedObject.namespace"),
        ("involvedObject.name", "involvedObject.name"),
        ("involvedObject.uid", "involvedObject.uid"),
        ("involvedObject.apiVersion", "involvedObject.apiVersion"),
        ("involvedObject.resourceVersion", "involvedObject.resourceVersion"),
        ("involvedObject.fieldPath", "involvedObject.fieldPath"),
        ("reason", "reason"),
        ("reportingComponent", "reportingComponent"),
        ("source", "source.component"),
        ("type", "type"),
    ],
    validate: |event, _| check(event, |event| namespaces(&event)),
    validate_update: |event, _, _| check(event, |event| namespaces(&event)),
    columns: COLUMNS,
    row,
    name_and_age: false,
    ..Strategy::DEFAULT
}];

const COLUMNS: &[Column] = &[
    Column::text("Last Seen", "Time since it last happened."),
    Column::text("Type", "Normal or Warning."),
    Column::text("Reason", "Why it happened, in one word."),
    Column::text("Object", "Object it is about."),
    Column::text("Subobject", "Part of the object it is about.").wide(),
    Column::text("Source", "Component that reports it.").wide(),
    Column::text("Message", "What happened."),
    Column::text("First Seen", "Time since it first happened.").wide(),
    Column::text("Count", "How often it happened.").wide(),
    NAME.wide(),
];

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let time = |path: &str| at(event, path).filter(|t| t.is_string());
    let first = age(time("firstTimestamp").or(time("eventTime")), now);
    let series = at(event, "series");
    let last = match (series, time("lastTimestamp")) {
        (Some(series), _) => age(at(series, "lastObservedTime"), now),
        (None, Some(last)) => age(Some(last), now),
        (None, None) => first.clone(),
    };
    let count = series.map_or(int_at(event, "count").max(1), |series| int_at(series, "count"));
    let kind = str_at(event, "involvedObject.kind").to_lowercase();
    let target = match str_at(event, "involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        str_at(event, "type").into(),
        str_at(event, "reason").into(),
        target.into(),
        str_at(event, "involvedObject.fieldPath").into(),
        source(event).into(),
        str_at(event, "message").trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

/// An event lives beside its object; those about objects of the cluster, in the default namespace.
fn namespaces(event: &At<'_>) {
    let (own, about) = (event.field("metadata.namespace"), event.field("involvedObject.namespace"));
    let beside = if about.is_empty() {
        matches!(own.str(), "" | "default" | "kube-system")
    } else {
        own.str() == about.str()
    };
    if !beside {
        about.invalid_as(about.str(), "does not match event.namespace");
    }
}

fn source(event: &Value) -> String {
    let component = or(str_at(event, "source.component"), str_at(event, "reportingComponent"));
    match or(str_at(event, "source.host"), str_at(event, "reportingInstance")).as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " hi\n",
            "eventTime": "2024-01-01T00:00:30.000000Z", "reportingComponent": "kubelet", "reportingInstance": "n1",
            "involvedObject": {"kind": "Pod", "name": "p"}});
        assert_eq!(
            row(&event, now),
            [
                json!("30s"),
                json!("Normal"),
                json!("Started"),
                json!("pod/p"),
                json!(""),
                json!("kubelet, n1"),
                json!("hi"),
                json!("30s"),
                json!(1),
                json!("e")
            ]
        );
    }
}
