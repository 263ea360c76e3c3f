//! `pods/ephemeralcontainers` and `pods/resize`.

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::status::Status;

use crate::context::Ctx;

fn list<'v>(pod: &'v Value, field: &str) -> &'v [Value] {
    pod["spec"][field].as_array().map_or(&[], Vec::as_slice)
}

fn invalid(pod: &Value, error: Error) -> Status {
    Status::invalid("", "Pod", pod["metadata"]["name"].as_str().unwrap_or_default(), &[error])
}

/// Takes `spec.ephemeralContainers`, to which containers can be added and nothing else.
pub(super) fn containers(sent: &Value, current: &Value, _: &Ctx) -> Result<Value, Status> {
    let field = "ephemeralContainers";
    let (old, new) = (list(current, field), list(sent, field));
    let path = Path::new("spec").child(field);
    for before in old {
        match new.iter().find(|c| c["name"] == before["name"]) {
            None => {
                let detail = format!("existing ephemeral containers {} may not be removed\n", before["name"]);
                return Err(invalid(current, Error::forbidden(&path, detail)));
            }
            Some(after) if after != before => {
                let detail = format!("existing ephemeral containers {} may not be changed\n", before["name"]);
                return Err(invalid(current, Error::forbidden(&path, detail)));
            }
            Some(_) => {}
        }
    }
    for (i, container) in new.iter().enumerate() {
        let name = container["name"].as_str().unwrap_or_default();
        let others = list(current, "containers").iter().chain(list(current, "initContainers"));
        let twice = new[..i].iter().chain(others).any(|c| c["name"] == name);
        if twice {
            return Err(invalid(current, Error::duplicate(&path.index(i).child("name"), name)));
        }
        let target = container["targetContainerName"].as_str().unwrap_or_default();
        if !target.is_empty() && !list(current, "containers").iter().any(|c| c["name"] == target) {
            return Err(invalid(
                current,
                Error::not_found(&path.index(i).child("targetContainerName"), target),
            ));
        }
    }
    let mut pod = current.clone();
    child_mut(&mut pod, "spec").insert(field.to_owned(), new.to_vec().into());
    Ok(pod)
}

/// Takes the CPU and memory of containers.
pub(super) fn resize(sent: &Value, current: &Value, _: &Ctx) -> Result<Value, Status> {
    let mut pod = current.clone();
    for field in ["containers", "initContainers"] {
        let path = Path::new("spec").child(field);
        let new = list(sent, field);
        let Some(containers) = pod["spec"].get_mut(field).and_then(Value::as_array_mut) else { continue };
        for (i, container) in containers.iter_mut().enumerate() {
            let Some(wanted) = new.iter().find(|c| c["name"] == container["name"]) else {
                let detail = "containers may not be added or removed on resize";
                return Err(invalid(current, Error::forbidden(&path.index(i), detail)));
            };
            for key in ["resources", "resizePolicy"] {
                if let Some(map) = container.as_object_mut() {
                    match wanted.get(key) {
                        Some(value) => map.insert(key.to_owned(), value.clone()),
                        None => map.remove(key),
                    };
                }
            }
        }
    }
    let class = isopod_rules::kinds::qos_class(&pod);
    if current["status"]["qosClass"].as_str().is_some_and(|c| c != class) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        return Err(invalid(current, Error::invalid(&Path::new("spec"), class, detail)));
    }
    Ok(pod)
}
