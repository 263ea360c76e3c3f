//! What workloads obey, worded as upstream's `pkg/apis/apps/validation`.

use isopod_api::field::ErrorList;
use isopod_api::selector::LabelSelector;
use isopod_api::{Map, Value};

use crate::kinds::Context;
use crate::kinds::bounds::{amount, at_most_all, int_or_percent};
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::{self, label_selector};
use crate::kinds::shared::text_map;

/// Runs a rule over `spec`.
macro_rules! of_spec {
    ($name:ident, $rule:expr) => {
        pub(super) fn $name(object: &Value, _: &Context<'_>) -> ErrorList {
            check(object, |object| $rule(&object.field("spec")))
        }
    };
}
of_spec!(deployment, deployment_spec);
of_spec!(replica_set, replica_set_spec);
of_spec!(replication_controller, controller_spec);
of_spec!(daemon_set, daemon_set_spec);
of_spec!(stateful_set, stateful_set_spec);

/// Runs a rule over the new `spec`, whose selector stays as it was.
macro_rules! of_spec_update {
    ($name:ident, $rule:expr) => {
        pub(super) fn $name(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
            check_update(new, old, |new, old| {
                $rule(&new.field("spec"));
                new.field("spec.selector").unchanged(&old.field("spec.selector"));
            })
        }
    };
}
of_spec_update!(deployment_update, deployment_spec);
of_spec_update!(replica_set_update, replica_set_spec);
of_spec_update!(daemon_set_update, daemon_set_spec);

pub(super) fn replication_controller_update(new: &Value, _: &Value, context: &Context<'_>) -> ErrorList {
    replication_controller(new, context)
}

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// The template's labels are selected, and its pods are restarted for ever.
fn template(spec: &At<'_>, selector: Option<LabelSelector>, kind: &str) {
    let template = spec.field("template");
    if !template.is_set() {
        return template.required("");
    }
    let labels = template.field("metadata.labels");
    if selector.is_some_and(|s| !s.is_everything() && !s.matches(&text_map(labels.value()))) {
        labels.invalid(NO_MATCH);
    }
    podspec::template(&template);
    let policy = template.field("spec.restartPolicy");
    if policy.str() != "Always" && !policy.is_empty() {
        policy.one_of(&["Always"]);
    }
    let deadline = template.field("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// A selector that is there, is well formed and selects something in particular.
fn selector(spec: &At<'_>, kind: &str) -> Option<LabelSelector> {
    let selector = spec.field("selector");
    if !selector.is_set() {
        selector.required("");
        return None;
    }
    label_selector(&selector);
    match LabelSelector::from_value(selector.value()) {
        Ok(parsed) => {
            if parsed.is_everything() {
                selector.invalid(format!("empty selector is invalid for {kind}"));
            }
            Some(parsed)
        }
        Err(_) => {
            selector.invalid("invalid label selector");
            None
        }
    }
}

fn not_negative(spec: &At<'_>, fields: &[&'static str]) {
    fields.iter().for_each(|field| spec.field(field).not_negative());
}

fn deployment_spec(spec: &At<'_>) {
    not_negative(spec, &["replicas"]);
    let selector = selector(spec, "deployment");
    template(spec, selector, "ReplicaSet");
    deployment_strategy(&spec.field("strategy"));
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"]);
    let deadline = spec.field("progressDeadlineSeconds");
    deadline.not_negative();
    let ready = spec.field("minReadySeconds").int().unwrap_or(0);
    if deadline.int().is_some_and(|d| d <= ready) {
        deadline.invalid("must be greater than minReadySeconds");
    }
}

fn deployment_strategy(strategy: &At<'_>) {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").str() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden("may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            int_or_percent(&unavailable);
            int_or_percent(&surge);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                unavailable.invalid("may not be 0 when `maxSurge` is 0");
            }
            at_most_all(&unavailable);
        }
        _ => strategy.field("type").needs_one_of(&["Recreate", "RollingUpdate"]),
    }
}

fn replica_set_spec(spec: &At<'_>) {
    not_negative(spec, &["replicas", "minReadySeconds"]);
    let selector = selector(spec, "deployment");
    template(spec, selector, "ReplicaSet");
}

fn controller_spec(spec: &At<'_>) {
    not_negative(spec, &["replicas", "minReadySeconds"]);
    let selector = spec.field("selector");
    if selector.is_empty() {
        selector.required("");
    }
    template(spec, Some(LabelSelector::from_map(&text_map(selector.value()))), "ReplicationController");
}

fn daemon_set_spec(spec: &At<'_>) {
    let selector = selector(spec, "daemonset");
    template(spec, selector, "DaemonSet");
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"]);
    let strategy = spec.field("updateStrategy");
    let kind = strategy.field("type");
    kind.needs_one_of(&["RollingUpdate", "OnDelete"]);
    if kind.str() != "RollingUpdate" {
        return;
    }
    let rolling = strategy.field("rollingUpdate");
    let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
    for bound in [&unavailable, &surge] {
        int_or_percent(bound);
        at_most_all(bound);
    }
    match (amount(&unavailable) != 0, amount(&surge) != 0) {
        (true, true) => surge.invalid("may not be set when maxUnavailable is non-zero"),
        (false, false) => unavailable.required("cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn stateful_set_spec(spec: &At<'_>) {
    let management = spec.field("podManagementPolicy");
    if management.needs_text() && !matches!(management.str(), "OrderedReady" | "Parallel") {
        management.invalid("must be 'OrderedReady' or 'Parallel'");
    }
    stateful_set_strategy(&spec.field("updateStrategy"));
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for when in ["whenDeleted", "whenScaled"] {
        retention.field(when).one_of(&["Delete", "Retain"]);
    }
    not_negative(spec, &["replicas", "minReadySeconds", "ordinals.start", "revisionHistoryLimit"]);
    let selector = selector(spec, "statefulset");
    template(spec, selector, "StatefulSet");
}

fn stateful_set_strategy(strategy: &At<'_>) {
    let (kind, rolling) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match kind.str() {
        "" => kind.required(""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid("only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.field("partition").not_negative();
            let unavailable = rolling.field("maxUnavailable");
            int_or_percent(&unavailable);
            at_most_all(&unavailable);
            if unavailable.is_set() && amount(&unavailable) == 0 {
                unavailable.invalid("cannot be 0");
            }
        }
        _ => kind.invalid("must be 'RollingUpdate' or 'OnDelete'"),
    }
}

const STATEFUL_SET_MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn stateful_set_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        stateful_set_spec(&spec);
        let fixed = |spec: &At<'_>| {
            let mut map: Map = spec.value().as_object().cloned().unwrap_or_default();
            map.retain(|key, _| !STATEFUL_SET_MUTABLE.contains(&key.as_str()));
            map
        };
        if fixed(&spec) != fixed(&before) {
            spec.forbidden("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    })
}

/// Counts of a status, each with the counts it cannot exceed.
type Counts = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const OF_REPLICAS: (&str, &str) = ("replicas", "cannot be greater than status.replicas");
const OF_READY: (&str, &str) = ("readyReplicas", "cannot be greater than readyReplicas");

fn status(new: &Value, old: &Value, counts: Counts) -> ErrorList {
    check_update(new, old, |new, old| {
        let status = new.field("status");
        status.field("observedGeneration").not_negative();
        for (field, bounds) in counts {
            let count = status.field(field);
            count.not_negative();
            for (bound, message) in *bounds {
                if count.int().unwrap_or(0) > status.field(bound).int().unwrap_or(0) {
                    count.invalid(*message);
                }
            }
        }
        let (collisions, before) = (status.field("collisionCount"), old.field("status.collisionCount"));
        collisions.not_negative();
        if before.int().is_some_and(|b| collisions.int().unwrap_or(0) < b) {
            collisions.invalid("cannot be decremented");
        }
    })
}

pub(super) fn deployment_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    const COUNTS: Counts = &[
        ("replicas", &[]),
        ("updatedReplicas", &[OF_REPLICAS]),
        ("readyReplicas", &[OF_REPLICAS]),
        ("availableReplicas", &[OF_REPLICAS, OF_READY]),
        ("unavailableReplicas", &[]),
    ];
    status(new, old, COUNTS)
}

pub(super) fn replicas_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    const ALL: (&str, &str) = ("replicas", "cannot be greater than replicas");
    const COUNTS: Counts = &[
        ("replicas", &[]),
        ("fullyLabeledReplicas", &[ALL]),
        ("readyReplicas", &[ALL]),
        ("availableReplicas", &[ALL, OF_READY]),
    ];
    status(new, old, COUNTS)
}

pub(super) fn daemon_set_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    const COUNTS: Counts = &[
        ("currentNumberScheduled", &[]),
        ("numberMisscheduled", &[]),
        ("desiredNumberScheduled", &[]),
        ("numberReady", &[]),
        ("updatedNumberScheduled", &[]),
        ("numberAvailable", &[]),
        ("numberUnavailable", &[]),
    ];
    status(new, old, COUNTS)
}

pub(super) fn stateful_set_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    const COUNTS: Counts = &[
        ("replicas", &[]),
        ("readyReplicas", &[OF_REPLICAS]),
        ("currentReplicas", &[OF_REPLICAS]),
        ("updatedReplicas", &[OF_REPLICAS]),
        (
            "availableReplicas",
            &[OF_REPLICAS, ("readyReplicas", "cannot be greater than status.readyReplicas")],
        ),
    ];
    status(new, old, COUNTS)
}

pub(super) fn revision(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |object| {
        object.field("revision").not_negative();
        if !object.field("data").is_set() {
            object.field("data").required("data is mandatory");
        }
    })
}

pub(super) fn revision_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = revision(new, context);
    errors.extend(check_update(new, old, |new, old| {
        new.field("data").unchanged(&old.field("data"));
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    fn object(spec: Value) -> Value {
        let mut object = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always", "dnsPolicy": "Default",
                "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}}});
        isopod_api::patch::merge_patch(&mut object, &json!({"spec": spec}));
        object
    }

    const CONTEXT: Context<'_> = Context::TEST;

    #[test]
    fn deployments() {
        for (spec, want) in [
            (json!({}), vec![]),
            (json!({"selector": null}), vec!["spec.selector: Required value"]),
            (
                json!({"selector": {"matchLabels": {"a": "c"}}}),
                vec![
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"replicas": -1, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                vec![
                    "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                json!({"template": {"spec": {"restartPolicy": "Never"}}}),
                vec![
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
        ] {
            assert_eq!(texts(&deployment(&object(spec), &CONTEXT)), want);
        }
        let (new, old) =
            (object(json!({"selector": {"matchLabels": {"a": "b", "c": "d"}}})), object(json!({})));
        assert_eq!(
            texts(&deployment_update(&new, &old, &CONTEXT)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable",
            ]
        );
    }

    #[test]
    fn stateful_sets() {
        let with = |spec: Value| {
            let mut object = object(
                json!({"podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "OnDelete"}}),
            );
            isopod_api::patch::merge_patch(&mut object, &json!({"spec": spec}));
            object
        };
        let old = with(json!({"serviceName": "a"}));
        assert_eq!(texts(&stateful_set(&old, &CONTEXT)), Vec::<String>::new());
        assert_eq!(texts(&stateful_set_update(&with(json!({"serviceName": "b"})), &old, &CONTEXT)).len(), 1);
        assert_eq!(
            texts(&stateful_set_update(&with(json!({"serviceName": "a", "replicas": 4})), &old, &CONTEXT))
                .len(),
            0
        );
    }
}
