//! Documentation of types and fields, from the schemas that `k8s-openapi` generates.

use crate::{Map, Value};
use k8s_openapi::schemars::SchemaGenerator;

/// Asks the generator for every kind of a group and version.
struct Group {
    group: &'static str,
    version: &'static str,
    generate: fn(&mut SchemaGenerator),
}

macro_rules! groups {
    ($($group:literal $version:ident $module:path { $($kind:ident)* })*) => {
        &[$(Group {
            group: $group,
            version: stringify!($version),
            generate: |generator| {
                use $module as module;
                $(generator.subschema_for::<module::$kind>();)*
            },
        }),*]
    };
}

static GROUPS: &[Group] = groups! {
    "" v1 k8s_openapi::api::core::v1 {
        ConfigMap ComponentStatus Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
        PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount Binding }
    "apps" v1 k8s_openapi::api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
    "events.k8s.io" v1 k8s_openapi::api::events::v1 { Event }
    "authentication.k8s.io" v1 k8s_openapi::api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
    "authorization.k8s.io" v1 k8s_openapi::api::authorization::v1 {
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    }
    "autoscaling" v1 k8s_openapi::api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
    "autoscaling" v2 k8s_openapi::api::autoscaling::v2 { HorizontalPodAutoscaler }
    "batch" v1 k8s_openapi::api::batch::v1 { CronJob Job }
    "certificates.k8s.io" v1 k8s_openapi::api::certificates::v1 { CertificateSigningRequest }
    "networking.k8s.io" v1 k8s_openapi::api::networking::v1 {
        IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR
    }
    "policy" v1 k8s_openapi::api::policy::v1 { PodDisruptionBudget Eviction }
    "rbac.authorization.k8s.io" v1 k8s_openapi::api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
    "storage.k8s.io" v1 k8s_openapi::api::storage::v1 {
        CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
    }
    "admissionregistration.k8s.io" v1 k8s_openapi::api::admissionregistration::v1 {
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration ValidatingAdmissionPolicy
        ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
    }
    "apiextensions.k8s.io" v1 k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 {
        CustomResourceDefinition
    }
    "apiregistration.k8s.io" v1 k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    "scheduling.k8s.io" v1 k8s_openapi::api::scheduling::v1 { PriorityClass }
    "coordination.k8s.io" v1 k8s_openapi::api::coordination::v1 { Lease }
    "node.k8s.io" v1 k8s_openapi::api::node::v1 { RuntimeClass }
    "discovery.k8s.io" v1 k8s_openapi::api::discovery::v1 { EndpointSlice }
    "flowcontrol.apiserver.k8s.io" v1 k8s_openapi::api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
    "resource.k8s.io" v1 k8s_openapi::api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
};

/// Adds documentation to definitions, asking for the groups that `wanted` names and what their types refer to.
pub(super) fn add(definitions: &mut Map, wanted: impl Fn(&str, &str) -> bool) {
    let mut generator = SchemaGenerator::default();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
    for group in GROUPS.iter().filter(|group| wanted(group.group, group.version)) {
        (group.generate)(&mut generator);
    }
    for (name, definition) in definitions.iter_mut() {
        let kind = name.rsplit('.').next().unwrap_or(name);
        if let (Some(item), Some(definition)) = (kind.strip_suffix("List"), definition.as_object_mut()) {
            definition.insert("description".into(), format!("{kind} holds objects of kind {item}.").into());
        }
    }
    for (name, documented) in generator.take_definitions(false) {
        if let Some(definition) = definitions.get_mut(&name).and_then(Value::as_object_mut) {
            describe(definition, documented);
        }
    }
}

fn describe(definition: &mut Map, documented: Value) {
    let Value::Object(mut documented) = documented else { return };
    if let Some(text) = documented.remove("description") {
        definition.insert("description".into(), text);
    }
    let Some(Value::Object(fields)) = documented.remove("properties") else { return };
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, field) in fields {
        let text = if let Value::Object(mut field) = field { field.remove("description") } else { None };
        if let (Some(property), Some(text)) = (properties.get_mut(&name).and_then(Value::as_object_mut), text)
        {
            property.insert("description".into(), text);
        }
    }
}
