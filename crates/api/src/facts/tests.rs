//! Tests of `facts`.

use super::*;
use crate::schema::ListType;

#[test]
fn fields_know_their_facts() {
    let pod = builtin().kind("", "v1", "Pod").unwrap();
    let spec = pod.schema.field("spec").unwrap().node();
    assert_eq!(spec.model_name().unwrap(), "io.k8s.api.core.v1.PodSpec");
    let containers = spec.field("containers").unwrap();
    assert_eq!((containers.list_type(), containers.tag()), (ListType::Map, 2));
    assert_eq!(containers.patch_merge_key(), Some("name"));
    let ports = containers.node().element().unwrap().field("ports").unwrap();
    assert_eq!(ports.list_keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
    let protocol = ports.node().element().unwrap().field("protocol").unwrap();
    assert_eq!(protocol.default(), Some("\"TCP\""));
    assert_eq!(protocol.enum_values().unwrap().collect::<Vec<_>>(), ["SCTP", "TCP", "UDP"]);
    let volume = spec.field("volumes").unwrap().node().element().unwrap();
    assert!(volume.field("emptyDir").is_some() && volume.field("volumeSource").is_none());
}

#[test]
fn resources_know_their_places() {
    let check = |group, version, plural: &str| {
        let facts = builtin().resource(group, version, plural).unwrap();
        format!("{} {}/{}", facts.storage_path, facts.storage_group, facts.storage_version)
    };
    assert_eq!(check("", "v1", "services"), "services/specs /v1");
    assert_eq!(check("", "v1", "nodes"), "minions /v1");
    assert_eq!(check("events.k8s.io", "v1", "events"), "events /v1");
    assert_eq!(
        check("autoscaling", "v1", "horizontalpodautoscalers"),
        "horizontalpodautoscalers autoscaling/v2"
    );
    let scale = &builtin().resource("apps", "v1", "deployments").unwrap().subresources[0];
    assert_eq!((scale.name, scale.group, scale.kind), ("scale", "autoscaling", "Scale"));
    assert!(builtin().resource("resource.k8s.io", "v1beta1", "resourceclaims").is_some_and(|r| !r.served));
}

#[test]
fn tables_stay_small() {
    assert!(builtin().types().size_bytes() < 1 << 20, "{}", builtin().types().size_bytes());
}
