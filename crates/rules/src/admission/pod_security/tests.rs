//! Every check, with its message.

use serde_json::{Value, json};

use super::super::tests_support::Change;
use super::*;

/// A pod that the restricted level allows, with changes: JSON pointer and new value.
fn pod(changes: &[(&str, Value)]) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    });
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let mut at = &mut pod;
        for step in parent.split('/').skip(1) {
            at = match step.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[step],
            };
        }
        at[key] = value.clone();
    }
    pod
}

fn verdict(level: Level, minor: Option<u32>, pod: &Value) -> String {
    describe(&evaluate(LevelVersion { level, minor }, pod))
}

#[test]
fn baseline() {
    const C: &str = "/spec/containers/0";
    let context = |field: &str| format!("{C}/securityContext/{field}");
    let cases = [
        ("/spec/hostNetwork".to_owned(), json!(true), "host namespaces (hostNetwork=true)"),
        ("/spec/hostPID".into(), json!(true), "host namespaces (hostPID=true)"),
        (
            context("privileged"),
            json!(true),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            context("capabilities"),
            json!({"add": ["NET_ADMIN", "CHOWN", "BPF"]}),
            "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            "/spec/volumes".into(),
            json!([{"name": "h", "hostPath": {}}, {"name": "i", "hostPath": {}}, {"name": "e", "emptyDir": {}}]),
            "hostPath volumes (volumes \"h\", \"i\")",
        ),
        (
            format!("{C}/ports"),
            json!([{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
        ),
        (
            format!("{C}/livenessProbe"),
            json!({"httpGet": {"host": "x.org"}}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"x.org\")",
        ),
        (
            context("procMount"),
            json!("Unmasked"),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            context("seLinuxOptions"),
            json!({"type": "spc_t", "user": "u"}),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            "/spec/securityContext/seccompProfile".into(),
            json!({"type": "Unconfined"}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/securityContext/sysctls".into(),
            json!([{"name": "kernel.msgmax"}]),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "/spec/securityContext/windowsOptions".into(),
            json!({"hostProcess": true}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            context("appArmorProfile"),
            json!({"type": "Unconfined"}),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
    ];
    for (pointer, value, message) in cases {
        assert_eq!(verdict(Level::Baseline, None, &pod(&[(&pointer, value.clone())])), message, "{pointer}");
        assert_eq!(verdict(Level::Privileged, None, &pod(&[(&pointer, value)])), "", "{pointer}");
    }
    assert_eq!(verdict(Level::Baseline, None, &json!({"spec": {"containers": [{"name": "a"}]}})), "");
}

#[test]
fn restricted() {
    assert_eq!(verdict(Level::Restricted, None, &pod(&[])), "");
    let plain = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let expected = "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
        securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set \
        securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
        securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
        securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert_eq!(verdict(Level::Restricted, None, &plain), expected);
    let cases = [
        (
            "/spec/volumes",
            json!([{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "i", "image": {}}]),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            "/spec/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        ("/spec/securityContext/runAsUser", json!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
        (
            "/spec/containers/0/securityContext/seccompProfile",
            json!({"type": "Unconfined"}),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}),
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        // A baseline check counts at this level too, and comes first.
        (
            "/spec/containers/0/securityContext/privileged",
            json!(true),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
    ];
    for (pointer, value, message) in cases {
        assert_eq!(verdict(Level::Restricted, None, &pod(&[(pointer, value)])), message, "{pointer}");
    }
    let ephemeral = pod(&[("/spec/ephemeralContainers", json!([{"name": "debug"}]))]);
    assert!(verdict(Level::Restricted, None, &ephemeral).contains("container \"debug\""));
}

#[test]
fn versions() {
    let probe = pod(&[("/spec/containers/0/livenessProbe", json!({"tcpSocket": {"host": "h"}}))]);
    assert_eq!(verdict(Level::Baseline, Some(33), &probe), "");
    assert_ne!(verdict(Level::Baseline, Some(34), &probe), "");
    let keepalive =
        pod(&[("/spec/securityContext/sysctls", json!([{"name": "net.ipv4.tcp_keepalive_time"}]))]);
    assert_ne!(verdict(Level::Baseline, Some(28), &keepalive), "");
    assert_eq!(verdict(Level::Baseline, Some(29), &keepalive), "");
    let root = pod(&[("/spec/securityContext/runAsUser", json!(0))]);
    assert_eq!(verdict(Level::Restricted, Some(22), &root), "");
    let in_user_namespace =
        pod(&[("/spec/securityContext/runAsUser", json!(0)), ("/spec/hostUsers", json!(false))]);
    assert_ne!(verdict(Level::Restricted, Some(34), &in_user_namespace), "");
    assert_eq!(verdict(Level::Restricted, None, &in_user_namespace), "");
    let windows = json!({"spec": {"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "a"}]}});
    assert_eq!(verdict(Level::Restricted, None, &windows), "");
    assert_ne!(verdict(Level::Restricted, Some(24), &windows), "");
    assert_eq!(verdict(Level::Restricted, Some(99), &pod(&[])), "", "the future is the latest");
}

fn namespace(labels: Value) -> Value {
    json!({"metadata": {"name": "ns", "labels": labels}})
}

#[test]
fn enforced_and_warned() {
    let privileged = pod(&[("/spec/containers/0/securityContext/privileged", json!(true))]);
    let create = |labels: Value| {
        Change::create("pods", privileged.clone()).stored("namespaces", vec![namespace(labels)])
    };
    assert_eq!(create(json!({})).verdict(&PLUGIN), "ok");
    let refused = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"a\" must \
        not set securityContext.privileged=true)";
    assert_eq!(create(json!({"pod-security.kubernetes.io/enforce": "baseline"})).verdict(&PLUGIN), refused);
    let mut warned = create(
        json!({"pod-security.kubernetes.io/warn": "baseline", "pod-security.kubernetes.io/warn-version": "v1.30"}),
    );
    assert_eq!(warned.verdict(&PLUGIN), "ok");
    assert!(warned.warnings[0].starts_with("would violate PodSecurity \"baseline:v1.30\": privileged"));
    let mut unreadable = create(json!({"pod-security.kubernetes.io/enforce": "basline"}));
    assert!(
        unreadable.verdict(&PLUGIN).contains("restricted:latest"),
        "a typing error must not open the door"
    );
    let template = json!({"metadata": {"name": "d"}, "spec": {"template": privileged}});
    let change = Change { group: "apps", ..Change::create("deployments", template) };
    let mut change = change
        .stored("namespaces", vec![namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"}))]);
    assert_eq!(change.verdict(&PLUGIN), "ok", "only pods are refused");
    assert_eq!(change.warnings.len(), 1);
}

#[test]
fn namespaces() {
    let mut bad =
        Change::create("namespaces", namespace(json!({"pod-security.kubernetes.io/enforce": "high"})));
    assert!(bad.verdict(&PLUGIN).contains("must be one of privileged, baseline, restricted"));
    let new = namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
    let mut rise = Change::update("namespaces", namespace(json!({})), new);
    let owned = |name: &str| {
        let mut pod = pod(&[("/spec/hostNetwork", json!(true))]);
        pod["metadata"] = json!({"name": name});
        pod
    };
    rise.stored.push(("pods", vec![owned("b"), owned("a"), pod(&[])]));
    assert_eq!(rise.verdict(&PLUGIN), "ok");
    let expected = [
        "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
        "a (and 1 other pod): host namespaces",
    ];
    assert_eq!(rise.warnings, expected);
}
