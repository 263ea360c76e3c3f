//! The environment of a container, from its spec and everything that it refers to.

use std::sync::Arc;

use isopod_podplan::env::{Environment, expand, services};
use isopod_podplan::spec;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Service};

use crate::downward;
use crate::kubelet::Kubelet;
use crate::objects::ReadError;

/// Name and value pairs for the container.
///
/// # Errors
/// The text for the event and the container's status.
pub(crate) async fn of(kubelet: &Kubelet, pod: &Pod, c: &Container) -> Result<Vec<(String, String)>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let from_services = service_variables(kubelet, pod, namespace);
    let mut env = Environment::default();
    for source in c.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let pairs: Vec<(String, String)> = if let Some(r) = &source.config_map_ref {
            let found = kubelet.config_maps.get(uid, namespace, &r.name).await;
            let map = optional(found, r.optional)?;
            map.map(|m| m.data.clone().unwrap_or_default().into_iter().collect()).unwrap_or_default()
        } else if let Some(r) = &source.secret_ref {
            let found = kubelet.secrets.get(uid, namespace, &r.name).await;
            let secret = optional(found, r.optional)?;
            let data = secret.map(|s| s.data.clone().unwrap_or_default()).unwrap_or_default();
            data.into_iter().map(|(k, v)| (k, String::from_utf8_lossy(&v.0).into_owned())).collect()
        } else {
            Vec::new()
        };
        for (key, value) in pairs {
            env.set(&format!("{prefix}{key}"), value);
        }
    }
    for var in c.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) => {
                Some(expand(text, |name| env.get(name).cloned().or_else(|| from_services.get(name).cloned())))
            }
            (None, None) => Some(String::new()),
            (None, Some(_)) => referred(kubelet, pod, c, var, uid, namespace).await?,
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    for (name, value) in &from_services {
        env.set_default(name, value);
    }
    Ok(env.into_pairs())
}

/// Variables of the Services of the namespace, and of the API server's always.
fn service_variables(
    kubelet: &Kubelet,
    pod: &Pod,
    namespace: &str,
) -> std::collections::BTreeMap<String, String> {
    let store = kubelet.services.store();
    let mut list: Vec<Arc<Service>> = store.find("default", "kubernetes").into_iter().collect();
    if spec::of(pod).enable_service_links != Some(false) {
        list.extend(store.list_namespace(namespace));
    }
    services(list.iter().map(AsRef::as_ref))
}

fn optional<T>(result: Result<T, ReadError>, may_lack: Option<bool>) -> Result<Option<T>, String> {
    match result {
        Ok(v) => Ok(Some(v)),
        Err(ReadError::NotFound { .. }) if may_lack == Some(true) => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

async fn referred(
    kubelet: &Kubelet,
    pod: &Pod,
    c: &Container,
    var: &EnvVar,
    uid: &str,
    namespace: &str,
) -> Result<Option<String>, String> {
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(f) = &from.field_ref {
        return downward::field(f, pod, &kubelet.addresses(uid)).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return downward::resource(r, pod, &c.name, &kubelet.node()).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let found = optional(kubelet.config_maps.get(uid, namespace, &r.name).await, r.optional)?;
        let Some(map) = found else { return Ok(None) };
        let value = map.data.as_ref().and_then(|d| d.get(&r.key)).cloned();
        return missing_key(value, r.optional, &r.key, "ConfigMap", namespace, &r.name);
    }
    if let Some(r) = &from.secret_key_ref {
        let found = optional(kubelet.secrets.get(uid, namespace, &r.name).await, r.optional)?;
        let Some(secret) = found else { return Ok(None) };
        let value = secret.data.as_ref().and_then(|d| d.get(&r.key));
        let value = value.map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return missing_key(value, r.optional, &r.key, "Secret", namespace, &r.name);
    }
    Err(format!("environment variable {:?} has a source that is not supported", var.name))
}

fn missing_key(
    value: Option<String>,
    may_lack: Option<bool>,
    key: &str,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, String> {
    match value {
        None if may_lack != Some(true) => {
            Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
        }
        value => Ok(value),
    }
}
