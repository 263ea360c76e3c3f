//! What upstream's registries say in code only: short names, categories, storage places and group priorities.

/// `groupPriorityMinimum` of the APIService that upstream registers for the group.
pub(crate) fn group_priority(group: &str) -> u32 {
    match group {
        "" => 18000,
        "apps" => 17800,
        "events.k8s.io" => 17750,
        "authentication.k8s.io" => 17700,
        "authorization.k8s.io" => 17600,
        "autoscaling" => 17500,
        "batch" => 17400,
        "certificates.k8s.io" => 17300,
        "networking.k8s.io" => 17200,
        "policy" => 17100,
        "rbac.authorization.k8s.io" => 17000,
        "storage.k8s.io" => 16800,
        "apiextensions.k8s.io" => 16700,
        "admissionregistration.k8s.io" => 16700,
        "scheduling.k8s.io" => 16600,
        "coordination.k8s.io" => 16500,
        "node.k8s.io" => 16300,
        "discovery.k8s.io" => 16200,
        "flowcontrol.apiserver.k8s.io" => 16100,
        "internal.apiserver.k8s.io" => 16000,
        "resource.k8s.io" => 15900,
        "storagemigration.k8s.io" => 15800,
        "apiregistration.k8s.io" => 20000,
        _ => 1000,
    }
}

/// Orders versions as upstream does: stable before beta before alpha, higher numbers first.
pub(crate) fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.trim_start_matches('v');
    let (level, (major, minor)) = match (rest.split_once("alpha"), rest.split_once("beta")) {
        (Some(parts), _) => (0, parts),
        (_, Some(parts)) => (1, parts),
        _ => (2, (rest, "0")),
    };
    (level, major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

pub(crate) fn storage_version(group: &str, plural: &str) -> Option<&'static str> {
    Some(match (group, plural) {
        ("coordination.k8s.io", "leasecandidates") => "v1beta1",
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings") => {
            "v1beta1"
        }
        ("certificates.k8s.io", "clustertrustbundles" | "podcertificaterequests") => "v1beta1",
        ("resource.k8s.io", "devicetaintrules" | "resourcepoolstatusrequests") => "v1alpha3",
        ("scheduling.k8s.io", "workloads" | "podgroups") => "v1alpha2",
        _ => return None,
    })
}

/// The group a resource is stored in, where that is not its own: the two events resources are one store.
pub(crate) fn storage_group<'a>(group: &'a str, plural: &str) -> &'a str {
    if (group, plural) == ("events.k8s.io", "events") { "" } else { group }
}

pub(crate) fn storage_path(group: &str, plural: &str) -> String {
    match (group, plural) {
        ("", "replicationcontrollers") => "controllers".into(),
        ("", "endpoints") => "services/endpoints".into(),
        ("", "nodes") => "minions".into(),
        ("", "services") => "services/specs".into(),
        ("networking.k8s.io", "ingresses") => "ingress".into(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => format!("{group}/{plural}"),
        _ => plural.into(),
    }
}

pub(crate) fn short_names(group: &str, plural: &str) -> &'static str {
    match (group, plural) {
        ("", "componentstatuses") => "cs",
        ("", "configmaps") => "cm",
        ("", "endpoints") => "ep",
        ("" | "events.k8s.io", "events") => "ev",
        ("", "limitranges") => "limits",
        ("", "namespaces") => "ns",
        ("", "nodes") => "no",
        ("", "persistentvolumeclaims") => "pvc",
        ("", "persistentvolumes") => "pv",
        ("", "pods") => "po",
        ("", "replicationcontrollers") => "rc",
        ("", "resourcequotas") => "quota",
        ("", "serviceaccounts") => "sa",
        ("", "services") => "svc",
        ("apiextensions.k8s.io", "customresourcedefinitions") => "crd,crds",
        ("apps", "daemonsets") => "ds",
        ("apps", "deployments") => "deploy",
        ("apps", "replicasets") => "rs",
        ("apps", "statefulsets") => "sts",
        ("autoscaling", "horizontalpodautoscalers") => "hpa",
        ("batch", "cronjobs") => "cj",
        ("certificates.k8s.io", "certificatesigningrequests") => "csr",
        ("networking.k8s.io", "ingresses") => "ing",
        ("networking.k8s.io", "ipaddresses") => "ip",
        ("networking.k8s.io", "networkpolicies") => "netpol",
        ("policy", "poddisruptionbudgets") => "pdb",
        ("scheduling.k8s.io", "priorityclasses") => "pc",
        ("storage.k8s.io", "storageclasses") => "sc",
        ("storage.k8s.io", "volumeattributesclasses") => "vac",
        _ => "",
    }
}

pub(crate) fn categories(group: &str, plural: &str) -> &'static str {
    match (group, plural) {
        ("", "pods" | "services" | "replicationcontrollers") => "all",
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => "all",
        ("autoscaling", "horizontalpodautoscalers") => "all",
        ("batch", "cronjobs" | "jobs") => "all",
        ("apiextensions.k8s.io", "customresourcedefinitions") => "api-extensions",
        ("apiregistration.k8s.io", "apiservices") => "api-extensions",
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations"
            | "validatingwebhookconfigurations"
            | "validatingadmissionpolicies"
            | "validatingadmissionpolicybindings"
            | "mutatingadmissionpolicies"
            | "mutatingadmissionpolicybindings",
        ) => "api-extensions",
        _ => "",
    }
}
