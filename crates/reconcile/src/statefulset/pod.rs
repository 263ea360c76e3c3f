//! The pods and claims of a StatefulSet: names, identity, storage.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::history::REVISION_HASH;
use crate::meta::{Meta, controller_ref, set_label};
use crate::pods;

/// Label with the pod's own name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label with the pod's ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name, if the name is one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.name().rsplit_once('-')?;
    (parent == set.name()).then(|| number.parse().ok()).flatten().filter(|number| *number >= 0)
}

/// The pod of an ordinal.
pub(super) fn make(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(template, set);
    let name = format!("{}-{ordinal}", set.name());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    set_label(&mut pod.metadata, REVISION_HASH, revision);
    identify(set, &mut pod, &name, ordinal);
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name);
        spec.subdomain =
            set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|s| !s.is_empty());
    }
    pod
}

fn identify(set: &StatefulSet, pod: &mut Pod, name: &str, ordinal: i32) {
    set_label(&mut pod.metadata, POD_NAME, name);
    set_label(&mut pod.metadata, POD_INDEX, ordinal.to_string());
    let templates =
        set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    let named = |volume: &Volume| templates.iter().any(|template| template.name() == volume.name);
    let mut volumes: Vec<Volume> = templates
        .iter()
        .map(|template| Volume {
            name: template.name().to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(spec.volumes.take().unwrap_or_default().into_iter().filter(|volume| !named(volume)));
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
}

/// Labels that an existing pod lacks, as it should be; `None` if it is as it should.
pub(super) fn repaired(pod: &Pod, ordinal: i32) -> Option<Pod> {
    let right = pod.labels().get(POD_NAME).is_some_and(|name| name == pod.name())
        && pod.labels().get(POD_INDEX).is_some_and(|index| *index == ordinal.to_string());
    if right {
        return None;
    }
    let mut copy = pod.clone();
    set_label(&mut copy.metadata, POD_NAME, pod.name());
    set_label(&mut copy.metadata, POD_INDEX, ordinal.to_string());
    Some(copy)
}

/// `template-set-ordinal`.
pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name(), set.name())
}

/// The claims of an ordinal.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    spec.volume_claim_templates
        .iter()
        .flatten()
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(set, template, ordinal));
            claim.metadata.namespace = set.metadata.namespace.clone();
            let selector: BTreeMap<String, String> = spec.selector.match_labels.clone().unwrap_or_default();
            claim.metadata.labels.get_or_insert_default().extend(selector);
            claim.status = None;
            claim
        })
        .collect()
}

/// Whether claims go with the set, and with their pod when the set shrinks.
pub(super) fn retention(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |value: Option<&String>| value.is_some_and(|value| value == "Delete");
    (
        deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    )
}

/// The claim with the owners that the retention policy asks for, or `None` if it has them.
pub(super) fn owned_claim(
    set: &StatefulSet,
    pod: Option<&Pod>,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<PersistentVolumeClaim> {
    let (when_deleted, when_scaled) = retention(set);
    let mut owners: Vec<OwnerReference> = claim.owners().to_vec();
    let is_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.api_version == "v1";
    owners.retain(|owner| owner.uid != set.uid() && !is_pod(owner));
    if condemned && when_scaled {
        if let Some(pod) = pod {
            owners.push(controller_ref(pod));
        }
    } else if when_deleted {
        owners.push(controller_ref(set));
    }
    (owners != claim.owners()).then(|| {
        let mut copy = claim.clone();
        copy.metadata.owner_references = (!owners.is_empty()).then_some(owners);
        copy
    })
}
