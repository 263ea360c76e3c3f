//! Pods as they are made and changed, with the faults that clients see.

use expect_test::{Expect, expect};

use super::*;
use crate::kinds::check::texts;
use isopod_api::patch::merge_patch as merge;

fn pod(changes: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "containers": [container(json!({}))]
        }
    });
    merge(&mut pod, &changes);
    pod
}

fn container(changes: Value) -> Value {
    let mut container =
        json!({"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
    merge(&mut container, &changes);
    container
}

fn context(subresource: &str) -> Context<'_> {
    Context { subresource, ..Context::TEST }
}

fn create(changes: Value, want: Expect) {
    want.assert_eq(&texts(&validate(&pod(changes), &context(""))).join("\n"));
}

fn change(old: Value, new: Value, want: Expect) {
    want.assert_eq(&texts(&update::validate(&pod(new), &pod(old), &context(""))).join("\n"));
}

#[test]
fn new_pods() {
    create(json!({}), expect![[""]]);
    create(
        json!({"spec": {"containers": [], "restartPolicy": "Sometimes", "dnsPolicy": "None", "nodeName": "n",
            "schedulingGates": [{"name": "a"}, {"name": "a"}], "activeDeadlineSeconds": 0}}),
        expect![[r#"
            spec.containers: Required value
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            spec.schedulingGates[1]: Duplicate value: "a"
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"#]],
    );
}

#[test]
fn containers() {
    create(
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "v"}], "containers": [
            container(json!({"name": "A", "image": "", "ports": [{"containerPort": 0, "protocol": "X"}],
                "env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}}],
                "volumeMounts": [{"name": "w", "mountPath": "/a", "subPath": "../b"}, {"name": "v", "mountPath": "/a"}],
                "resources": {"requests": {"cpu": "2", "foo": "1", "a.b/gpu": "1"}, "limits": {"cpu": "1"}},
                "livenessProbe": {"successThreshold": 2, "httpGet": {"path": "", "port": 0}, "exec": {"command": ["a"]}},
                "securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}})),
            container(json!({"name": "A"})),
        ]}}),
        expect![[r#"
            spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[1]: Required value: must specify a volume type
            spec.volumes[1].name: Duplicate value: "v"
            spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x
            spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[0].volumeMounts[0].name: Not found: "w"
            spec.containers[0].volumeMounts[0].subPath: Invalid value: "../b": must not contain '..'
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources
            spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
            spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true,"runAsUser":-1}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.containers[0].image: Required value
            spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.containers[1].name: Duplicate value: "A""#]],
    );
    create(
        json!({"spec": {"initContainers": [container(json!({"name": "c", "lifecycle": {"preStop": {}}})),
            container(json!({"name": "s", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": "http"}}}))],
            "ephemeralContainers": [container(json!({"name": "e"}))]}}),
        expect![[r#"
            spec.initContainers[0].name: Duplicate value: "c"
            spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always
            spec.ephemeralContainers: Forbidden: cannot be set on create"#]],
    );
}

#[test]
fn scheduling() {
    create(
        json!({"spec": {"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "x", "effect": "E"}],
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "X"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "a", "operator": "?"}]}]}},
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "a"}}]}}}}),
        expect![[r#"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: "?": not a valid selector operator
            spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
            spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].operator: Invalid value: {"effect":"E","key":"a","operator":"Exists","value":"x"}: value must be empty when `operator` is 'Exists'
            spec.tolerations[1].effect: Unsupported value: "E": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
            spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "X": supported values: "DoNotSchedule", "ScheduleAnyway""#]],
    );
}

#[test]
fn changed_pods() {
    let image = |image: &str| json!({"spec": {"containers": [container(json!({"image": image}))]}});
    change(image("a"), image("b"), expect![[""]]);
    change(json!({}), image(""), expect!["spec.containers[0].image: Required value"]);
    change(
        json!({}),
        json!({"spec": {"nodeName": "n"}}),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            - nodeName: "n""#]],
    );
    change(
        json!({"spec": {"activeDeadlineSeconds": 5, "tolerations": [{"key": "a", "operator": "Exists"}]}}),
        json!({"spec": {"activeDeadlineSeconds": 6, "tolerations": [{"key": "b", "operator": "Exists"}]}}),
        expect![[r#"
            spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value
            spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"#]],
    );
    change(
        json!({"spec": {"schedulingGates": [{"name": "a"}], "nodeSelector": {"x": "y"}}}),
        json!({"spec": {"schedulingGates": [{"name": "b"}], "nodeSelector": {"x": "z"}}}),
        expect![[r#"
            spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'
            spec.nodeSelector: Invalid value: {"x":"z"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"#]],
    );
}

#[test]
fn annotations_that_stay() {
    let with = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}, "spec": {"nodeName": "n"}});
    let plain = || json!({"spec": {"nodeName": "n"}});
    let mirror = "kubernetes.io/config.mirror";
    change(
        plain(),
        with(mirror, json!("x")),
        expect![
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"
        ],
    );
    for new in [with(mirror, json!("y")), plain()] {
        change(
            with(mirror, json!("x")),
            new,
            expect![
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation"
            ],
        );
    }
    let status = |new, old| texts(&status::validate(&pod(new), &pod(old), &context("status")));
    assert_eq!(status(with(mirror, json!("x")), plain()).len(), 1);
    let cost = "controller.kubernetes.io/pod-deletion-cost";
    for (value, good) in
        [("0", true), ("-5", true), ("100", true), ("+1", false), ("08", false), ("x", false)]
    {
        let faults = texts(&validate(&pod(with(cost, json!(value))), &context("")));
        assert_eq!(faults.is_empty(), good, "{value}: {faults:?}");
    }
    change(with(cost, json!("x")), with(cost, json!("y")), expect![[""]]);
    change(
        plain(),
        with(cost, json!("y")),
        expect![[
            r#"metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "y": must be a 32bit integer"#
        ]],
    );
}

#[test]
fn addresses_of_statuses() {
    let status = |status: Value| {
        let of = |status: Value| pod(json!({"status": status}));
        texts(&status::validate(&of(status), &of(json!({})), &context("status")))
    };
    assert_eq!(
        status(json!({"hostIP": "1.2.3.4", "hostIPs": [{"ip": "1.2.3.4"}], "podIPs": [{"ip": "fd00::1"}]})),
        [""; 0]
    );
    assert_eq!(
        status(json!({"hostIP": "1.2.3.4", "hostIPs": [{"ip": "1.2.3.5"}], "podIPs": [{"ip": "x"}]})),
        [
            "status.hostIPs[0].ip: Invalid value: \"1.2.3.5\": must be equal to `hostIP`",
            "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ]
    );
    assert_eq!(
        status(json!({"podIPs": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}]})),
        [
            "status.podIPs: Invalid value: [{\"ip\":\"1.2.3.4\"},{\"ip\":\"1.2.3.4\"}]: may specify no more than one IP for each IP family",
            "status.podIPs[1]: Duplicate value: {\"ip\":\"1.2.3.4\"}",
        ]
    );
}

#[test]
fn tokens_need_an_account() {
    let token = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}]);
    create(json!({"spec": {"volumes": token, "serviceAccountName": "a"}}), expect![[""]]);
    create(
        json!({"spec": {"volumes": token}}),
        expect![
            "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set"
        ],
    );
}

#[test]
fn statuses() {
    let status = |new: Value, old: Value| {
        let of =
            |status: Value| pod(json!({"spec": {"resourceClaims": [{"name": "gpu"}]}, "status": status}));
        texts(&status::validate(&of(new), &of(old), &context("status")))
    };
    assert_eq!(
        status(
            json!({"conditions": [{"type": "Ready"}, {"type": "a.b/c"}, {"type": "no good"}],
                "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}, {"name": "x"}]}),
            json!({})
        )
        .iter()
        .map(|fault| fault.split(": ").next().unwrap_or_default())
        .collect::<Vec<_>>(),
        ["metadata.conditions[2].Type", "status.resourceClaimStatuses[1].name"]
    );
    let ephemeral = |state: Value| json!({"ephemeralContainerStatuses": [{"name": "e", "state": state}]});
    assert_eq!(
        status(ephemeral(json!({"running": {}})), ephemeral(json!({"terminated": {"exitCode": 1}}))),
        [
            "status.ephemeralContainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        ]
    );
}

#[test]
fn resized_pods() {
    let sized = |resources: Value| {
        pod(
            json!({"spec": {"containers": [container(json!({"resources": resources}))]}, "status": {"qosClass": "Burstable"}}),
        )
    };
    let old = sized(json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
    let resize = |new| texts(&subresources::validate(&sized(new), &old, &context("resize")));
    assert_eq!(resize(json!({"requests": {"cpu": "2", "memory": "1Gi"}})), Vec::<String>::new());
    assert_eq!(
        resize(json!({"requests": {"cpu": "2"}})),
        ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
    );
    assert_eq!(
        resize(json!({})),
        [
            "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ]
    );
}

#[test]
fn ended_containers_stay_ended() {
    let with = |state: Value| {
        pod(
            json!({"spec": {"restartPolicy": "Never"}, "status": {"qosClass": "BestEffort", "containerStatuses": [{"name": "c", "state": state}]}}),
        )
    };
    let old = with(json!({"terminated": {"exitCode": 0}}));
    let errors = status::validate(&with(json!({"running": {}})), &old, &context("status"));
    assert_eq!(
        texts(&errors),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn warned_of() {
    let new = pod(
        json!({"metadata": {"name": "a.b"}, "spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "containers": [container(json!({"env": [{"name": "A"}, {"name": "A"}],
            "ports": [{"containerPort": 1}, {"containerPort": 1}], "resources": {"limits": {"memory": "100m"}}}))]}}),
    );
    expect![[r#"
        metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]
        spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
        spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply
        spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]
        spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#]]
    .assert_eq(&warnings::pod(&new, None).join("\n"));
    assert_eq!(warnings::pod(&new, Some(&new)), Vec::<String>::new());
}
