//! What Jobs and CronJobs obey, worded as upstream's `pkg/apis/batch/validation`.

use isopod_api::field::{Error, ErrorList};
use isopod_api::selector::LabelSelector;
use isopod_api::{Value, names};

use super::schedule;
use crate::kinds::Context;
use crate::kinds::bounds::domain_prefixed_path;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::{self, label_selector};
use crate::kinds::shared::{bool_at, text_map};

/// Most pods at once of a job with indexes.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
/// A CronJob's name leaves eleven bytes for the time in the names of its jobs.
const CRON_NAME_BYTES_MAX: usize = 52;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

pub(super) fn job(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |job| {
        generated_selector(&job);
        job_with_selector(&job.field("spec"));
        indexed_names(&job);
    })
}

/// The names of pods of a job with indexes end with the index and must be labels.
fn indexed_names(job: &At<'_>) {
    let (name, completions) = (job.field("metadata.name"), job.field("spec.completions").int());
    if job.field("spec.completionMode").str() == "Indexed"
        && let Some(last) = completions.filter(|c| *c > 0)
    {
        let longest = format!("{}-{}", name.str(), last - 1);
        if !names::is_dns1123_label(&longest).is_empty() {
            name.invalid(format!("will not able to create pod with invalid DNS label: {longest}"));
        }
    }
}

/// Without a manual selector, labels and selector are those that were made from the job's uid.
fn generated_selector(job: &At<'_>) {
    if job.field("spec.manualSelector").is_true() {
        return;
    }
    let (uid, name) = (job.field("metadata.uid"), job.field("metadata.name").str());
    uid.needs_text();
    let labels = job.field("spec.template.metadata.labels");
    for (key, value) in [
        ("controller-uid", uid.str()),
        ("job-name", name),
        (UID_LABEL, uid.str()),
        ("batch.kubernetes.io/job-name", name),
    ] {
        let label = labels.entry(key);
        if !label.is_set() {
            label.required(&format!("must be '{value}'"));
        } else if label.str() != value {
            labels.invalid(format!("must be '{value}'"));
        }
    }
    let selector = job.field("spec.selector");
    let generated = selector.field("matchLabels").entry(UID_LABEL).str() == uid.str()
        || selector.field("matchLabels").entry("controller-uid").str() == uid.str();
    if selector.is_set() && !generated {
        selector.invalid("`selector` not auto-generated");
    }
}

fn job_with_selector(spec: &At<'_>) {
    job_spec(spec);
    let selector = spec.field("selector");
    if !selector.is_set() {
        return selector.required("");
    }
    label_selector(&selector);
    let labels = spec.field("template.metadata.labels");
    if let Ok(parsed) = LabelSelector::from_value(selector.value())
        && !parsed.matches(&text_map(labels.value()))
    {
        labels.invalid("`selector` does not match template `labels`");
    }
}

fn job_spec(spec: &At<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.field(field).not_negative();
    }
    let (mode, per_index) = (spec.field("completionMode"), spec.field("backoffLimitPerIndex"));
    mode.one_of(&["Indexed", "NonIndexed"]);
    if mode.str() == "Indexed" {
        if !spec.field("completions").is_set() {
            spec.field("completions").required("when completion mode is Indexed");
        }
        let parallelism = spec.field("parallelism");
        if parallelism.int().is_some_and(|p| p > INDEXED_PARALLELISM_MAX) {
            let max = INDEXED_PARALLELISM_MAX;
            parallelism
                .invalid(format!("must be less than or equal to {max} when completion mode is Indexed"));
        }
    } else if per_index.is_set() {
        per_index.invalid("requires indexed completion mode");
    }
    if spec.field("maxFailedIndexes").is_set() && !per_index.is_set() {
        per_index.required("when maxFailedIndexes is specified");
    }
    spec.field("podReplacementPolicy").one_of(&["Failed", "TerminatingOrFailed"]);
    let managed = spec.field("managedBy");
    managed.follows(domain_prefixed_path);
    if managed.str().len() > 63 {
        managed.report(Error::too_long(&managed.path(), 63));
    }
    failure_policy(spec);
    success_policy(spec);
    let template = spec.field("template");
    podspec::template(&template);
    let policy = template.field("spec.restartPolicy");
    match policy.str() {
        "OnFailure" | "Never" => {}
        "Always" | "" => policy.required("valid values: \"OnFailure\", \"Never\""),
        _ => policy.one_of(&["OnFailure", "Never"]),
    }
}

fn failure_policy(spec: &At<'_>) {
    let policy = spec.field("podFailurePolicy");
    if !policy.is_set() {
        return;
    }
    if spec.field("template.spec.restartPolicy").str() != "Never" {
        let at = spec.field("template.spec.restartPolicy");
        at.invalid("only \"Never\" is supported when podFailurePolicy is specified");
    }
    let rules = policy.field("rules");
    if rules.len() > 20 {
        rules.report(Error::too_many(&rules.path(), rules.len(), 20));
    }
    for rule in rules.items() {
        let action = rule.field("action");
        action.needs_one_of(&["Count", "FailIndex", "FailJob", "Ignore"]);
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => rule.invalid("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
        if codes.is_set() {
            exit_codes(&codes, spec);
        }
        for condition in conditions.items() {
            condition.field("type").must_follow(names::is_qualified_name);
            condition.field("status").needs_one_of(&["False", "True", "Unknown"]);
        }
    }
}

fn exit_codes(codes: &At<'_>, spec: &At<'_>) {
    let (operator, values, container) =
        (codes.field("operator"), codes.field("values"), codes.field("containerName"));
    operator.needs_one_of(&["In", "NotIn"]);
    if values.is_empty() {
        values.invalid("at least one value is required");
    }
    if values.len() > 255 {
        values.report(Error::too_many(&values.path(), values.len(), 255));
    }
    if operator.str() == "In" {
        for value in values.items().filter(|value| value.int() == Some(0)) {
            value.invalid("must not be 0 for the In operator");
        }
    }
    if container.is_set() {
        let mut all = spec
            .field("template.spec.containers")
            .items()
            .chain(spec.field("template.spec.initContainers").items());
        if !all.any(|c| c.field("name").str() == container.str()) {
            container.invalid("must be one of the container or initContainer names in the pod template");
        }
    }
}

fn success_policy(spec: &At<'_>) {
    let policy = spec.field("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.field("completionMode").str() != "Indexed" {
        policy.invalid("requires indexed completion mode");
    }
    let rules = policy.field("rules");
    if rules.is_empty() {
        rules.required("at least one rules must be specified when successPolicy is specified");
    }
    for rule in rules.items() {
        let (count, indexes) = (rule.field("succeededCount"), rule.field("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified");
        }
        count.not_negative();
        let completions = spec.field("completions").int().unwrap_or(0);
        if count.int().is_some_and(|c| c > completions) {
            count.invalid(format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            ));
        }
    }
}

pub(super) fn job_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    let mut errors = check(new, |job| {
        job_with_selector(&job.field("spec"));
        indexed_names(&job);
    });
    errors.extend(check_update(new, old, |new, old| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        completions(&spec, &before);
        spec.field("selector").unchanged(&before.field("selector"));
        template_update(&new, &old);
        for field in
            ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
        {
            spec.field(field).unchanged(&before.field(field));
        }
    }));
    errors
}

/// Jobs with indexes can grow and shrink as long as all their pods run at once.
fn completions(new: &At<'_>, old: &At<'_>) {
    let completions = new.field("completions");
    if new.field("completionMode").str() != "Indexed" {
        completions.unchanged(&old.field("completions"));
    } else if completions.value() != old.field("completions").value()
        && completions.is_set()
        && completions.value() != new.field("parallelism").value()
    {
        completions.invalid("can only be modified in tandem with spec.parallelism");
    }
}

/// The template stays, but for where the pods of a suspended job that never ran may go and what they may use.
fn template_update(new: &At<'_>, old: &At<'_>) {
    let (template, before) = (new.field("spec.template"), old.field("spec.template"));
    if template.value() == before.value() {
        return;
    }
    let startable = bool_at(old.value(), "spec.suspend") && !old.field("status.startTime").is_set();
    let mut masked = template.value().clone();
    if startable {
        for field in ["labels", "annotations"] {
            take(&mut masked["metadata"], &before.value()["metadata"], field);
        }
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            take(&mut masked["spec"], &before.value()["spec"], field);
        }
        take_node_affinity(&mut masked["spec"], &before.value()["spec"]);
        for list in ["containers", "initContainers"] {
            let olds = before.value()["spec"][list].as_array().cloned().unwrap_or_default();
            let news = masked["spec"].get_mut(list).and_then(Value::as_array_mut);
            news.into_iter().flatten().zip(olds).for_each(|(c, old)| take(c, &old, "resources"));
        }
    }
    if masked != *before.value() {
        template.unchanged(&before);
    }
}

/// Of the affinities, the one to nodes may change.
fn take_node_affinity(to: &mut Value, from: &Value) {
    let others = |spec: &Value| {
        let affinity = spec.get("affinity").and_then(Value::as_object).cloned().unwrap_or_default();
        affinity.into_iter().filter(|(kind, _)| kind != "nodeAffinity").collect::<isopod_api::Map>()
    };
    if others(to) == others(from) {
        take(to, from, "affinity");
    }
}

fn take(to: &mut Value, from: &Value, key: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

pub(super) fn cron_job(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |object| {
        let name = object.field("metadata.name");
        if name.str().len() > CRON_NAME_BYTES_MAX {
            name.invalid(format!("must be no more than {CRON_NAME_BYTES_MAX} characters"));
        }
        cron_spec(&object.field("spec"), None);
    })
}

/// Old names that are too long, and time zones in old schedules, are let be.
pub(super) fn cron_job_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| cron_spec(&new.field("spec"), Some(&old.field("spec"))))
}

fn cron_spec(spec: &At<'_>, old: Option<&At<'_>>) {
    let when = spec.field("schedule");
    if when.needs_text() {
        let zoned = when.str().contains("TZ");
        let old_zoned = old.is_some_and(|old| old.field("schedule").str().contains("TZ"));
        if zoned && !old_zoned {
            when.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if zoned && spec.field("timeZone").is_set() {
            when.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if let Some(fault) = schedule::fault(when.str()).filter(|_| !zoned) {
            when.invalid(fault);
        }
    }
    let zone = spec.field("timeZone");
    let new_zone = old.is_none_or(|old| old.field("timeZone").value() != zone.value());
    if zone.is_set() && new_zone {
        match zone.str() {
            "" => zone.invalid("timeZone must be nil or non-empty string"),
            text if text.eq_ignore_ascii_case("Local") => {
                zone.invalid(
                    "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                );
            }
            text if !is_zone(text) => zone.invalid(format!("unknown time zone {text}")),
            _ => {}
        }
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.field(field).not_negative();
    }
    spec.field("concurrencyPolicy").needs_one_of(&["Allow", "Forbid", "Replace"]);
    let job = spec.field("jobTemplate.spec");
    job_spec(&job);
    if job.field("selector").is_set() {
        job.field("selector").invalid("`selector` will be auto-generated");
    }
    if job.field("manualSelector").is_true() {
        job.field("manualSelector").one_of(&["nil", "false"]);
    }
}

/// The form of a name in the time zone database; whether it is there, the controller finds out.
fn is_zone(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
    };
    text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    const CONTEXT: Context<'_> = Context::TEST;

    fn with(changes: Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
            "dnsPolicy": "Default", "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always",
            "terminationMessagePolicy": "File"}]}}}});
        isopod_api::patch::merge_patch(&mut job, &changes);
        super::super::prepare_job(&mut job, &CONTEXT);
        job
    }

    #[test]
    fn jobs() {
        for (changes, want) in [
            (json!({}), vec![]),
            (
                json!({"spec": {"completionMode": "Indexed", "template": {"spec": {"restartPolicy": "Always"}}}}),
                vec![
                    "spec.completions: Required value: when completion mode is Indexed",
                    "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                ],
            ),
            (
                json!({"spec": {"template": {"metadata": {"labels": {"job-name": "x"}}}}}),
                vec![
                    "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"u\",\"job-name\":\"x\"}: must be 'j'",
                ],
            ),
        ] {
            assert_eq!(texts(&job(&with(changes), &CONTEXT)), want);
        }
        let new = with(json!({"spec": {"completions": 3, "parallelism": 7}}));
        assert_eq!(
            texts(&job_update(&new, &with(json!({})), &CONTEXT)),
            ["spec.completions: Invalid value: 3: field is immutable"]
        );
        let indexed = |completions: i64, parallelism: i64| {
            with(
                json!({"spec": {"completionMode": "Indexed", "completions": completions, "parallelism": parallelism}}),
            )
        };
        assert_eq!(job_update(&indexed(4, 4), &indexed(3, 3), &CONTEXT), vec![]);
        assert_eq!(
            texts(&job_update(&indexed(4, 3), &indexed(3, 3), &CONTEXT)),
            ["spec.completions: Invalid value: 4: can only be modified in tandem with spec.parallelism"]
        );
        let moved = with(json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}));
        assert_eq!(job_update(&moved, &with(json!({})), &CONTEXT).len(), 1);
        assert_eq!(job_update(&moved, &with(json!({"spec": {"suspend": true}})), &CONTEXT), vec![]);
        let near = |kind: &str| {
            with(json!({"spec": {"suspend": true, "template": {"spec": {"affinity": {kind: {}}}}}}))
        };
        let suspended = with(json!({"spec": {"suspend": true}}));
        assert_eq!(job_update(&near("nodeAffinity"), &suspended, &CONTEXT), vec![]);
        assert_eq!(job_update(&near("podAffinity"), &suspended, &CONTEXT).len(), 1);
    }

    #[test]
    fn cron_jobs() {
        let template = with(json!({}))["spec"]["template"].clone();
        let object = json!({"metadata": {"name": "x".repeat(53)}, "spec": {"schedule": "x", "concurrencyPolicy": "Allow",
            "timeZone": "Local", "jobTemplate": {"spec": {"template": template}}}});
        assert_eq!(
            texts(&cron_job(&object, &CONTEXT)),
            [
                format!("metadata.name: Invalid value: \"{}\": must be no more than 52 characters", "x".repeat(53)),
                "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]".to_owned(),
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned(),
            ]
        );
    }
}
