//! Priority: a pod's priority and preemption policy come from its PriorityClass, or the default one.

use isopod_api::Value;
use isopod_api::status::Status;
use serde_json::json;

use super::value::text;
use super::{Operation, Plugin, Query, Request, View};

const GROUP: &str = "scheduling.k8s.io";
const RESOURCE: &str = "priorityclasses";

pub(super) static PLUGIN: Plugin = Plugin {
    name: "Priority",
    handles: |operation, group, resource, subresource| {
        let pods = group.is_empty() && resource == "pods";
        let classes = group == GROUP && resource == RESOURCE;
        subresource.is_empty()
            && (pods || classes)
            && matches!(operation, Operation::Create | Operation::Update)
    },
    needs,
    admit: Some(admit),
    validate: Some(validate),
};

fn needs(request: &Request<'_>) -> Vec<Query> {
    let class = text(request.object, "/spec/priorityClassName");
    match (request.resource, class) {
        ("pods", _) if request.operation == Operation::Update => Vec::new(),
        ("pods", class) if !class.is_empty() => vec![Query::get(GROUP, RESOURCE, "", class)],
        _ => vec![Query::list(GROUP, RESOURCE, "")],
    }
}

/// Of several defaults, which should not be, the lowest counts.
fn default_class(view: &View) -> Option<&Value> {
    let classes = view.list(RESOURCE).iter().filter(|class| class["globalDefault"] == true);
    classes.min_by_key(|class| class["value"].as_i64())
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if request.resource != "pods" {
        return Ok(());
    }
    if request.operation == Operation::Update {
        // A client that knows no priority must not lose it for the pod.
        for field in ["priority", "preemptionPolicy"] {
            let same =
                request.old["spec"]["priorityClassName"] == request.object["spec"]["priorityClassName"];
            let old = &request.old["spec"][field];
            if same && request.object["spec"][field].is_null() && !old.is_null() {
                request.object["spec"][field] = old.clone();
            }
        }
        return Ok(());
    }
    let name = text(request.object, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() { default_class(view) } else { view.one(RESOURCE) };
    if class.is_none() && !name.is_empty() {
        return Err(request.forbidden(format!("no PriorityClass with name {name} was found")));
    }
    let priority = class.and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = class.and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
    let spec = &request.object["spec"];
    if let Some(given) = spec["priority"].as_i64().filter(|given| *given != priority) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    let spec = &mut request.object["spec"];
    if let Some(class) = class {
        spec["priorityClassName"] = class["metadata"]["name"].clone();
    }
    spec["priority"] = json!(priority);
    spec["preemptionPolicy"] = json!(policy);
    Ok(())
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if request.resource != RESOURCE || request.object["globalDefault"] != true {
        return Ok(());
    }
    let name = text(request.object, "/metadata/name");
    let other = default_class(view).map(|class| text(class, "/metadata/name")).filter(|other| *other != name);
    match other {
        Some(other) => Err(request.forbidden(format!(
            "PriorityClass {other} is already marked as default. Only one default can exist"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    fn pod(spec: Value, classes: Vec<Value>) -> Change<'static> {
        Change::create("pods", json!({"metadata": {"name": "p"}, "spec": spec})).stored(RESOURCE, classes)
    }

    #[test]
    fn from_the_class_or_the_default() {
        let high = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        let usual = json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true});
        let classes = vec![high, usual];
        let cases = [
            (json!({"priorityClassName": "high"}), classes.clone(), "high 1000 Never"),
            (json!({}), classes.clone(), "usual 5 PreemptLowerPriority"),
            (json!({}), vec![], " 0 PreemptLowerPriority"),
        ];
        for (spec, classes, expected) in cases {
            let mut change = pod(spec, classes);
            assert_eq!(change.verdict(&PLUGIN), "ok");
            let spec = &change.object["spec"];
            let got = format!(
                "{} {} {}",
                text(spec, "/priorityClassName"),
                spec["priority"],
                text(spec, "/preemptionPolicy")
            );
            assert_eq!(got, expected);
        }
        let lost = pod(json!({"priorityClassName": "lost"}), vec![]).verdict(&PLUGIN);
        assert_eq!(lost, "pods \"p\" is forbidden: no PriorityClass with name lost was found");
        assert!(pod(json!({"priority": 7}), vec![]).verdict(&PLUGIN).contains("computed 0 from"));
        let second = json!({"metadata": {"name": "second"}, "value": 1, "globalDefault": true});
        let mut change =
            Change { group: GROUP, ..Change::create(RESOURCE, second).stored(RESOURCE, classes) };
        assert!(change.verdict(&PLUGIN).contains("PriorityClass usual is already marked as default"));
    }
}
