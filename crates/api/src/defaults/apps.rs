//! Defaults of the apps group.

use super::{Hook, missing, object, object_or_new, objects, set, text};
use crate::Map;

pub(super) fn hook(package: &str, name: &str) -> Option<Hook> {
    if package != "apps/v1" {
        return None;
    }
    Some(match name {
        "Deployment" => deployment,
        "DaemonSet" => daemon_set,
        "StatefulSet" => stateful_set,
        "ReplicaSet" => |map| set(object_or_new(map, "spec"), "replicas", 1),
        _ => return None,
    })
}

fn deployment(deployment: &mut Map) {
    let spec = object_or_new(deployment, "spec");
    set(spec, "replicas", 1);
    let strategy = object_or_new(spec, "strategy");
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object_or_new(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
}

fn daemon_set(set_: &mut Map) {
    let spec = object_or_new(set_, "spec");
    let strategy = object_or_new(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object_or_new(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
}

fn stateful_set(stateful: &mut Map) {
    let spec = object_or_new(stateful, "spec");
    set(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object_or_new(spec, "updateStrategy");
    if missing(strategy, "type") {
        strategy.insert("type".into(), "RollingUpdate".into());
        object_or_new(strategy, "rollingUpdate");
    }
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object(strategy, "rollingUpdate")
    {
        set(rolling, "partition", 0);
        set(rolling, "maxUnavailable", 1);
    }
    let retention = object_or_new(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", "Retain");
    set(retention, "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    for claim in objects(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
    }
}
