//! ServiceAccount: every pod runs as a service account, with that account's token and pull secrets at hand.

use isopod_api::Value;
use isopod_api::status::Status;
use serde_json::json;

use super::value::{annotation, containers, items, list, push, text};
use super::{Operation, Plugin, Query, Request, View};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour, and the seven seconds by which upstream tells these tokens from others.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) static PLUGIN: Plugin = Plugin {
    name: "ServiceAccount",
    handles: |operation, group, resource, subresource| {
        group.is_empty() && resource == "pods" && subresource.is_empty() && operation == Operation::Create
    },
    needs,
    admit: Some(admit),
    validate: Some(validate),
};

fn account_name(pod: &Value) -> &str {
    match text(pod, "/spec/serviceAccountName") {
        "" => match text(pod, "/spec/serviceAccount") {
            "" => "default",
            name => name,
        },
        name => name,
    }
}

fn is_mirror(pod: &Value) -> bool {
    annotation(pod, MIRROR).is_some()
}

fn needs(request: &Request<'_>) -> Vec<Query> {
    if is_mirror(request.object) {
        return Vec::new();
    }
    vec![Query::get("", "serviceaccounts", request.namespace, account_name(request.object))]
}

fn account<'a>(request: &Request<'_>, view: &'a View) -> Result<&'a Value, Status> {
    let name = account_name(request.object);
    view.one("serviceaccounts").ok_or_else(|| {
        let namespace = request.namespace;
        request.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))
    })
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if is_mirror(request.object) {
        return Ok(());
    }
    let name = account_name(request.object).to_owned();
    request.object["spec"]["serviceAccountName"] = json!(name);
    request.object["spec"]["serviceAccount"] = json!(name);
    let account = account(request, view)?;
    let wanted = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_bool);
    let mounts = wanted(request.object, "/spec/automountServiceAccountToken")
        .or(wanted(account, "/automountServiceAccountToken"))
        .unwrap_or(true);
    let suffix = request.suffix;
    let spec = &mut request.object["spec"];
    if mounts {
        mount_token(spec, suffix);
    }
    let secrets = items(account, "imagePullSecrets");
    if items(spec, "imagePullSecrets").is_empty() && !secrets.is_empty() {
        spec["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = items(spec, "volumes").iter().map(|volume| text(volume, "/name"));
    let existing = existing.filter(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned).next();
    let volume = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if !items(container, "volumeMounts").iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
                push(container, "volumeMounts", mount.clone());
                needed = true;
            }
        }
    }
    if needed && existing.is_none() {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if is_mirror(request.object) {
        return validate_mirror(request);
    }
    let account = account(request, view)?;
    let enforced =
        annotation(account, ENFORCE_MOUNTABLE).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if enforced { only_mountable_secrets(request, account) } else { Ok(()) }
}

/// A kubelet makes mirror pods of files on its disk; they get nothing out of the API.
fn validate_mirror(request: &Request<'_>) -> Result<(), Status> {
    let pod = &*request.object;
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    if secrets_of(pod).next().is_some() {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    let sources = list(pod, "/spec/volumes").iter().flat_map(|volume| list(volume, "/projected/sources"));
    if sources.into_iter().any(|source| source.get("serviceAccountToken").is_some()) {
        return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn secrets_of(pod: &Value) -> impl Iterator<Item = &str> {
    let spec = &pod["spec"];
    let volumes = items(spec, "volumes").iter().map(|volume| text(volume, "/secret/secretName"));
    let projected = items(spec, "volumes")
        .iter()
        .flat_map(|volume| list(volume, "/projected/sources"))
        .map(|source| text(source, "/secret/name"));
    let variables = containers(spec)
        .flat_map(|container| items(container, "env"))
        .map(|variable| text(variable, "/valueFrom/secretKeyRef/name"));
    let sources = containers(spec)
        .flat_map(|container| items(container, "envFrom"))
        .map(|source| text(source, "/secretRef/name"));
    let pull = items(spec, "imagePullSecrets").iter().map(|secret| text(secret, "/name"));
    volumes.chain(projected).chain(variables).chain(sources).chain(pull).filter(|name| !name.is_empty())
}

fn only_mountable_secrets(request: &Request<'_>, account: &Value) -> Result<(), Status> {
    let name = text(account, "/metadata/name");
    let listed =
        |field: &str, secret: &str| items(account, field).iter().any(|item| text(item, "/name") == secret);
    let pulls = |secret: &str| {
        list(request.object, "/spec/imagePullSecrets").iter().any(|item| text(item, "/name") == secret)
    };
    for secret in secrets_of(request.object) {
        let allowed = listed("secrets", secret) || (pulls(secret) && listed("imagePullSecrets", secret));
        if !allowed {
            return Err(request.forbidden(format!(
                "secret {secret:?} may not be used: it is not referenced by service account {name}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    fn pod(spec: Value) -> Change<'static> {
        let accounts = vec![
            json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
            json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false}),
        ];
        Change::create("pods", json!({"metadata": {"name": "p"}, "spec": spec}))
            .stored("serviceaccounts", accounts)
    }

    #[test]
    fn the_token_is_mounted_once() {
        let own = json!({"name": "own", "mountPath": MOUNT_PATH});
        let mut change = pod(json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [own]}]}));
        assert_eq!(change.verdict(&PLUGIN), "ok");
        let spec = &change.object["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        assert_eq!(spec["volumes"], json!([token_volume("kube-api-access-abcde")]));
        let mount = json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn not_when_the_account_or_the_pod_says_so() {
        for spec in [
            json!({"serviceAccountName": "quiet", "containers": [{}]}),
            json!({"automountServiceAccountToken": false, "containers": [{}]}),
        ] {
            let mut change = pod(spec);
            assert_eq!(change.verdict(&PLUGIN), "ok");
            assert!(change.object["spec"].get("volumes").is_none());
        }
        let mut change = pod(
            json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true, "containers": [{}]}),
        );
        assert_eq!(change.verdict(&PLUGIN), "ok");
        assert!(change.object["spec"].get("volumes").is_some(), "the pod's word counts more");
    }

    #[test]
    fn refusals() {
        let lost = "pods \"p\" is forbidden: error looking up service account ns/lost: serviceaccount \"lost\" not found";
        assert_eq!(pod(json!({"serviceAccountName": "lost"})).verdict(&PLUGIN), lost);
        let mut mirror = pod(json!({"volumes": [{"secret": {"secretName": "s"}}]}));
        mirror.object["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert!(mirror.verdict(&PLUGIN).ends_with("a mirror pod may not reference secrets"));
    }
}
