//! Slices for Services, by table.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::plan::{Step, Write};

fn service(extra: serde_json::Value) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "s", "labels": {"team": "x"}},
        "spec": {"clusterIP": "10.43.0.5", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    });
    for (key, inner) in extra.as_object().unwrap() {
        value["spec"][key] = inner.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn pod(number: usize, ready: bool, deleting: bool) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}")},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.{}.{}", number / 250, number % 250)}],
            "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
    });
    if deleting {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn run(
    service: &Service,
    pods: Vec<Arc<Pod>>,
    slices: Vec<Arc<EndpointSlice>>,
) -> Vec<(String, EndpointSlice)> {
    let zones = BTreeMap::from([("n".to_owned(), Some("z1".to_owned()))]);
    let plan = reconcile(service, &View { pods, zones, slices });
    let mut out = Vec::new();
    for step in plan.steps {
        let Step::All(actions) = step else { panic!() };
        for action in actions {
            let (verb, body) = match action.write {
                Write::Create { body, .. } => ("create", body),
                Write::Update { body, .. } => ("update", body),
                Write::Delete { target, .. } => {
                    out.push((format!("delete {}", target.name), EndpointSlice::default()));
                    continue;
                }
                other => panic!("{other:?}"),
            };
            out.push((verb.to_owned(), serde_json::from_value(body).unwrap()));
        }
    }
    out
}

fn stored(slices: Vec<(String, EndpointSlice)>) -> Vec<Arc<EndpointSlice>> {
    let named = slices.into_iter().enumerate().map(|(index, (_, mut slice))| {
        slice.metadata.name.get_or_insert(format!("web-{index}"));
        slice.metadata.resource_version.get_or_insert("1".to_owned());
        Arc::new(slice)
    });
    named.collect()
}

fn check(service: &Service, pods: Vec<Arc<Pod>>, slices: Vec<Arc<EndpointSlice>>, want: Expect) {
    let mut text = String::new();
    for (verb, slice) in run(service, pods, slices) {
        text += &format!("{verb} {}\n", serde_json::to_string(&slice).unwrap());
    }
    want.assert_eq(&text);
}

#[test]
fn conditions_ports_and_labels() {
    check(
        &service(json!({})),
        vec![pod(1, true, false), pod(2, false, false), pod(3, true, true)],
        vec![],
        expect![[r#"
            create {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","endpoints":[{"addresses":["10.42.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n","targetRef":{"kind":"Pod","name":"p1","namespace":"d","uid":"u1"},"zone":"z1"},{"addresses":["10.42.0.2"],"conditions":{"ready":false,"serving":false,"terminating":false},"nodeName":"n","targetRef":{"kind":"Pod","name":"p2","namespace":"d","uid":"u2"},"zone":"z1"},{"addresses":["10.42.0.3"],"conditions":{"ready":false,"serving":true,"terminating":true},"nodeName":"n","targetRef":{"kind":"Pod","name":"p3","namespace":"d","uid":"u3"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"namespace":"d","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"http","port":8080,"protocol":"TCP"}]}
        "#]],
    );
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let service = service(json!({"clusterIP": "None"}));
    let first = run(&service, vec![], vec![]);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].1.labels()[HEADLESS], "");
    check(&service, vec![], stored(first.clone()), expect![[""]]);
    // The placeholder becomes the first real slice instead of being deleted.
    let then = run(&service, vec![pod(1, true, false)], stored(first));
    assert_eq!((then.len(), then[0].0.as_str()), (1, "update"));
}

#[test]
fn slices_fill_and_keep_their_endpoints() {
    let service = service(json!({}));
    let pods: Vec<_> = (0..250).map(|n| pod(n, true, false)).collect();
    let slices = stored(run(&service, pods.clone(), vec![]));
    let sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert!(run(&service, pods.clone(), slices.clone()).is_empty(), "nothing changes");
    let mut more = pods;
    more.push(pod(300, true, false));
    let changes = run(&service, more, slices);
    assert_eq!(
        (changes.len(), changes[0].1.endpoints.as_ref().unwrap().len()),
        (1, 51),
        "one slice is written"
    );
}

#[test]
fn unready_pods_can_be_published_and_traffic_kept_near() {
    check(
        &service(json!({"publishNotReadyAddresses": true, "trafficDistribution": "PreferSameNode"})),
        vec![pod(1, false, false)],
        vec![],
        expect![[r#"
            create {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","endpoints":[{"addresses":["10.42.0.1"],"conditions":{"ready":true,"serving":false,"terminating":false},"hints":{"forNodes":[{"name":"n"}],"forZones":[{"name":"z1"}]},"nodeName":"n","targetRef":{"kind":"Pod","name":"p1","namespace":"d","uid":"u1"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"namespace":"d","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"http","port":8080,"protocol":"TCP"}]}
        "#]],
    );
}
