//! Ingresses, IngressClasses, NetworkPolicies, IPAddresses and ServiceCIDRs.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &networking("Ingress", true),
    &networking("IngressClass", true),
    &networking("NetworkPolicy", true),
    &networking("IPAddress", false),
    &networking("ServiceCIDR", false),
];

const fn networking(kind: &'static str, generation: bool) -> Strategy {
    Strategy { group: "networking.k8s.io", kind, generation, ..Strategy::DEFAULT }
}
