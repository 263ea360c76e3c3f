//! Ingresses, IngressClasses, NetworkPolicies, IPAddresses and ServiceCIDRs.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy { columns: columns::INGRESS, row: columns::ingress, ..networking("Ingress", true) },
    &Strategy {
        columns: columns::INGRESS_CLASS,
        row: columns::ingress_class,
        ..networking("IngressClass", true)
    },
    &Strategy {
        columns: columns::NETWORK_POLICY,
        row: columns::network_policy,
        ..networking("NetworkPolicy", true)
    },
    &Strategy {
        columns: columns::IP_ADDRESS,
        row: columns::ip_address,
        name_and_age: false,
        ..networking("IPAddress", false)
    },
    &Strategy {
        columns: columns::SERVICE_CIDR,
        row: columns::service_cidr,
        ..networking("ServiceCIDR", false)
    },
];

const fn networking(kind: &'static str, generation: bool) -> Strategy {
    Strategy { group: "networking.k8s.io", kind, generation, ..Strategy::DEFAULT }
}
