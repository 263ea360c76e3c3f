//! Ingresses, IngressClasses, NetworkPolicies, IPAddresses and ServiceCIDRs.

mod columns;
mod validate;

use isopod_api::Value;

use super::Strategy;
use super::shared::at;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        validate: validate::ingress,
        warnings: |ingress, old| {
            let class = "kubernetes.io/ingress.class";
            let used = |o: &Value| at(o, "metadata.annotations").is_some_and(|a| a.get(class).is_some());
            let warning =
                format!("annotation {class:?} is deprecated, please use 'spec.ingressClassName' instead");
            if old.is_none() && used(ingress) { vec![warning] } else { Vec::new() }
        },
        validate_update: validate::ingress_update,
        validate_status_update: validate::ingress_status,
        columns: columns::INGRESS,
        row: columns::ingress,
        ..networking("Ingress", true)
    },
    &Strategy {
        validate: validate::ingress_class,
        validate_update: validate::ingress_class_update,
        columns: columns::INGRESS_CLASS,
        row: columns::ingress_class,
        ..networking("IngressClass", true)
    },
    &Strategy {
        validate: validate::network_policy,
        validate_update: |new, _, context| validate::network_policy(new, context),
        columns: columns::NETWORK_POLICY,
        row: columns::network_policy,
        ..networking("NetworkPolicy", true)
    },
    &Strategy {
        name: validate::ip_name,
        validate: validate::ip,
        validate_update: validate::ip_update,
        selectable: &[
            ("spec.parentRef.group", "spec.parentRef.group"),
            ("spec.parentRef.resource", "spec.parentRef.resource"),
            ("spec.parentRef.namespace", "spec.parentRef.namespace"),
            ("spec.parentRef.name", "spec.parentRef.name"),
        ],
        columns: columns::IP_ADDRESS,
        row: columns::ip_address,
        name_and_age: false,
        ..networking("IPAddress", false)
    },
    &Strategy {
        validate: validate::service_cidr,
        validate_update: validate::service_cidr_update,
        columns: columns::SERVICE_CIDR,
        row: columns::service_cidr,
        ..networking("ServiceCIDR", false)
    },
];

const fn networking(kind: &'static str, generation: bool) -> Strategy {
    Strategy { group: "networking.k8s.io", kind, generation, ..Strategy::DEFAULT }
}
