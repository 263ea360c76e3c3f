//! Policies: the default, how rules fit, and what is refused.

use isopod_api::identity::GROUP_NODES;
use serde_json::json;

use super::*;

fn subject<'a>(user: &'a UserInfo, text: &'a str) -> Subject<'a> {
    let words: Vec<&str> = text.split(' ').collect();
    let [verb, what] = words[..] else { panic!("{text}") };
    let mut subject = Subject {
        user: Some(user),
        verb,
        is_resource: !what.starts_with('/'),
        group: "",
        resource: "",
        subresource: "",
        namespace: "ns",
        name: "n",
        path: what,
    };
    if subject.is_resource {
        let (group, what) = what.split_once(':').unwrap_or(("", what));
        let (resource, sub) = what.split_once('/').unwrap_or((what, ""));
        (subject.group, subject.resource, subject.subresource) = (group, resource, sub);
    }
    subject
}

#[test]
fn the_default_is_quiet_about_the_system_and_tells_the_rest() {
    let policy = Policy::default();
    let node = UserInfo::authenticated("system:node:a", &[GROUP_NODES]);
    let manager = UserInfo::authenticated("system:kube-controller-manager", &[]);
    let controller = UserInfo::service_account("kube-system", "job-controller", "");
    let person = UserInfo::authenticated("jane", &["system:masters"]);
    let nobody = UserInfo::anonymous();
    for (user, text, level) in [
        (&node, "get nodes", Level::None),
        (&node, "watch pods", Level::None),
        (&node, "update coordination.k8s.io:leases", Level::None),
        (&node, "create events", Level::None),
        (&node, "patch pods/status", Level::Metadata),
        (&node, "get secrets", Level::Metadata),
        (&node, "create serviceaccounts/token", Level::Metadata),
        (&manager, "list pods", Level::None),
        (&manager, "update coordination.k8s.io:leases", Level::None),
        (&manager, "delete pods", Level::Metadata),
        (&controller, "create events.k8s.io:events", Level::None),
        (&controller, "get pods", Level::Metadata),
        (&person, "get pods", Level::Metadata),
        (&person, "create events", Level::Metadata),
        (&person, "update coordination.k8s.io:leases", Level::Metadata),
        (&person, "get secrets", Level::Metadata),
        (&person, "get /metrics", Level::Metadata),
        (&nobody, "get /readyz/etcd", Level::None),
        (&nobody, "get /version", Level::None),
        (&nobody, "post /version", Level::Metadata),
    ] {
        let judgement = policy.judge(&subject(user, text));
        assert_eq!(judgement.level, level, "{} {text}", user.name);
        assert!(level == Level::None || judgement.omit.contains(Stage::RequestReceived));
        assert!(!judgement.omit.contains(Stage::ResponseComplete));
    }
    // A refused login is told too.
    let unknown = Subject { user: None, ..subject(&nobody, "get pods") };
    assert_eq!(policy.judge(&unknown).level, Level::Metadata);
}

#[test]
fn resources_and_paths_as_upstream() {
    let user = UserInfo::authenticated("u", &[]);
    for (patterns, text, fits) in [
        (json!(["pods"]), "get pods", true),
        (json!(["pods"]), "get pods/log", false),
        (json!(["pods/log"]), "get pods/log", true),
        (json!(["pods/*"]), "get pods/log", true),
        (json!(["pods/*"]), "get pods", true),
        (json!(["*/log"]), "get pods/log", true),
        (json!(["*/log"]), "get pods", false),
        (json!(["*"]), "get pods/log", true),
        (json!([]), "get pods", true),
        (json!(["pods"]), "get apps:pods", false),
        (json!(["pods"]), "get /pods", false),
    ] {
        let document = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "rules": [{"level": "Request", "resources": [{"group": "", "resources": patterns}]}]});
        let judged = Policy::parse(document).unwrap().judge(&subject(&user, text)).level;
        assert_eq!(judged == Level::Request, fits, "{patterns} {text}");
    }
    let named = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["Panic"], "rules": [
        {"level": "None", "resources": [{"resources": ["pods"], "resourceNames": ["other"]}]},
        {"level": "RequestResponse", "namespaces": ["ns"], "omitStages": ["ResponseStarted"],
         "omitManagedFields": true}]});
    let judged = Policy::parse(named).unwrap().judge(&subject(&user, "get pods"));
    assert_eq!((judged.level, judged.omit_managed_fields), (Level::RequestResponse, true));
    assert!(judged.omit.contains(Stage::Panic) && judged.omit.contains(Stage::ResponseStarted));
}

#[test]
fn what_is_no_policy_is_refused() {
    let with = |rule: Value| json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]});
    for (document, want) in [
        (json!({"apiVersion": "audit.k8s.io/v1beta1", "kind": "Policy"}), "expected audit.k8s.io/v1"),
        (json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}), "at least one rule"),
        (with(json!({"level": "All"})), "unknown variant"),
        (with(json!({"level": "None", "verb": ["get"]})), "unknown field"),
        (with(json!({"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/a"]})), "not both"),
        (with(json!({"level": "None", "nonResourceURLs": ["a"]})), "begin with a slash"),
        (with(json!({"level": "None", "nonResourceURLs": ["/a*/b"]})), "at the end"),
        (with(json!({"level": "None", "resources": [{"resourceNames": ["a"]}]})), "needs resources"),
        (with(json!({"level": "None", "resources": [{"group": "apps/v1"}]})), "without a version"),
    ] {
        let error = Policy::parse(document.clone()).expect_err(&document.to_string()).to_string();
        assert!(error.contains(want), "{document}: {error}");
    }
}
