//! Defaults of the core group.

use super::{
    Hook, container_resources, is_empty, missing, object, object_or_new, objects, set, set_number, text,
};
use crate::{Map, Value};
use serde_json::json;

pub(super) fn hook(name: &str) -> Option<Hook> {
    Some(match name {
        "Pod" => pod,
        "PodSpec" => pod_spec,
        "Container" | "EphemeralContainer" => container,
        "Volume" => volume,
        "Probe" => probe,
        "HTTPGetAction" => http_get,
        "SecretVolumeSource"
        | "ConfigMapVolumeSource"
        | "DownwardAPIVolumeSource"
        | "ProjectedVolumeSource" => |map| set(map, "defaultMode", 0o644),
        "EndpointPort" => |map| set(map, "protocol", "TCP"),
        "ServiceAccountTokenProjection" => |map| set(map, "expirationSeconds", 3600),
        "HostPathVolumeSource" => host_path,
        "ObjectFieldSelector" => |map| set(map, "apiVersion", "v1"),
        "Service" => service,
        "ReplicationController" => replication_controller,
        "Secret" => secret,
        "PersistentVolume" => persistent_volume,
        "PersistentVolumeClaim" => |map| set(object_or_new(map, "status"), "phase", "Pending"),
        "PersistentVolumeClaimSpec" => |map| set(map, "volumeMode", "Filesystem"),
        "Namespace" => namespace,
        "NamespaceStatus" => |map| set(map, "phase", "Active"),
        "NodeStatus" => node_status,
        "LimitRangeItem" => limit_range_item,
        _ => return None,
    })
}

fn pod(pod: &mut Map) {
    let Some(spec) = object(pod, "spec") else { return };
    for list in ["containers", "initContainers"] {
        objects(spec, list).for_each(container_resources::requests_from_limits);
    }
    objects(spec, "containers").for_each(container_resources::resize_policy);
    container_resources::pod_level(spec);
    set(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for port in objects(spec, list).flat_map(|container| objects(container, "ports")) {
                let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
                set_number(port, "hostPort", number);
            }
        }
    }
}

fn pod_spec(spec: &mut Map) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    // One field under two names; the older one follows.
    let account = if missing(spec, "serviceAccountName") { "serviceAccount" } else { "serviceAccountName" };
    let account = text(spec, account).to_owned();
    if !account.is_empty() {
        spec.insert("serviceAccount".into(), account.as_str().into());
        spec.insert("serviceAccountName".into(), account.into());
    }
}

fn container(container: &mut Map) {
    let policy = pull_policy(text(container, "image"));
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
}

/// `Always` for images that say `latest` or neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if digest.is_empty() && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Map) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), json!({}));
    }
    if let Some(image) = object(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
}

fn host_path(source: &mut Map) {
    // The empty type is a value here: the field is a pointer.
    if source.get("type").is_none_or(Value::is_null) {
        source.insert("type".into(), "".into());
    }
}

fn probe(probe: &mut Map) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        set_number(probe, key, value);
    }
}

fn http_get(action: &mut Map) {
    set(action, "path", "/");
    set(action, "scheme", "HTTP");
}

fn service(service: &mut Map) {
    let Some(spec) = object(service, "spec") else { return };
    set(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let client_ip = object_or_new(object_or_new(spec, "sessionAffinityConfig"), "clientIP");
            set(client_ip, "timeoutSeconds", 10_800);
        }
        _ => {}
    }
    set(spec, "type", "ClusterIP");
    for port in objects(spec, "ports") {
        set(port, "protocol", "TCP");
        if missing(port, "targetPort") || port.get("targetPort").and_then(Value::as_i64) == Some(0) {
            let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let exposed = kind == "NodePort" || kind == "LoadBalancer";
    if exposed || kind == "ClusterIP" && !is_empty(spec, "externalIPs") {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if exposed || kind == "ClusterIP" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = object(service, "status").and_then(|status| object(status, "loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|balancer| objects(balancer, "ingress")) {
            if !missing(ingress, "ip") {
                set(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn replication_controller(controller: &mut Map) {
    let template = controller.get("spec").and_then(|spec| spec.get("template"));
    let labels = template.and_then(|template| template.pointer("/metadata/labels")).cloned();
    let Some(labels) = labels.filter(Value::is_object) else { return };
    if let Some(spec) = object(controller, "spec").filter(|spec| is_empty(spec, "selector")) {
        spec.insert("selector".into(), labels.clone());
    }
    let metadata = object_or_new(controller, "metadata");
    if is_empty(metadata, "labels") {
        metadata.insert("labels".into(), labels);
    }
}

fn secret(secret: &mut Map) {
    set(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    let data = object_or_new(secret, "data");
    for (key, value) in texts {
        let text = value.as_str().unwrap_or_default();
        data.insert(key, crate::codec::scalar::to_base64(text.as_bytes()).into());
    }
}

fn persistent_volume(volume: &mut Map) {
    set(object_or_new(volume, "status"), "phase", "Pending");
    let spec = object_or_new(volume, "spec");
    set(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
}

fn namespace(namespace: &mut Map) {
    let metadata = object_or_new(namespace, "metadata");
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        object_or_new(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

fn node_status(status: &mut Map) {
    if let Some(capacity) = status.get("capacity").filter(|capacity| !capacity.is_null()).cloned() {
        set(status, "allocatable", capacity);
    }
}

fn limit_range_item(item: &mut Map) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        if let Some(Value::Object(amounts)) = item.get(from).cloned().filter(|amounts| *amounts != json!({}))
        {
            let target = object_or_new(item, to);
            for (name, amount) in amounts {
                set(target, &name, amount);
            }
        }
    }
}
