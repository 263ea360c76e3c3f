//! EndpointSlices, Endpoints and mirrored EndpointSlices.

use std::collections::BTreeMap;
use std::sync::Arc;

use isopod_client::{Change, Informer, ObjectKey, Store};
use isopod_reconcile::endpointslice::{self, MANAGED_BY, SERVICE_NAME, View, selector};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use isopod_reconcile::{endpoints, endpointslice_mirroring as mirroring, labels, pods as podview};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

/// Index of pods by `namespace/label=value`.
const BY_LABEL: &str = "label";
/// Index of Services by one pair of their selector, in the same form.
const BY_SELECTOR: &str = "selector";
/// Index of slices by `namespace/service`.
const BY_SERVICE: &str = "service";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Labels with a value of its own for each revision or pod: no Service selects by them alone.
const UNSELECTIVE: [&str; 5] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

fn pair(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

fn index_pods(pods: &Informer<Pod>) {
    pods.add_index(BY_LABEL, |pod: &Pod| {
        let selective = pod.labels().iter().filter(|(key, _)| !UNSELECTIVE.contains(&key.as_str()));
        selective.map(|(key, value)| pair(pod.namespace(), key, value)).collect()
    });
}

/// The pair of a selector that its pods are looked up by.
fn lead(service: &Service) -> Option<(&String, &String)> {
    selector(service)?.iter().find(|(key, _)| !UNSELECTIVE.contains(&key.as_str()))
}

fn index_services(services: &Informer<Service>) {
    services.add_index(BY_SELECTOR, |service: &Service| {
        let by = lead(service).map(|(key, value)| pair(service.namespace(), key, value));
        // One without a usable pair is filed under its namespace and tried for every pod there.
        match (by, selector(service)) {
            (Some(by), _) => vec![by],
            (None, Some(_)) => vec![service.namespace().to_owned()],
            (None, None) => vec![],
        }
    });
}

fn selected_pods(pods: &Store<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut found = match lead(service) {
        Some((key, value)) => pods.by_index(BY_LABEL, &pair(service.namespace(), key, value)),
        None => pods.list_namespace(service.namespace()),
    };
    found.retain(|pod| labels::includes(pod.labels(), selector));
    found
}

/// Services that select a pod.
fn services_of(services: &Store<Service>, pod: &Pod) -> Vec<ObjectKey> {
    let mut values = vec![pod.namespace().to_owned()];
    values.extend(pod.labels().iter().map(|(key, value)| pair(pod.namespace(), key, value)));
    values
        .iter()
        .flat_map(|value| services.by_index(BY_SELECTOR, value))
        .filter(|service| selector(service).is_some_and(|s| labels::includes(pod.labels(), s)))
        .map(|service| ObjectKey::of(service.as_ref()))
        .collect()
}

/// Whether a pod changed in a way that endpoints show.
fn matters(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    old.deleting() != new.deleting()
        || old.labels() != new.labels()
        || podview::is_ready(old) != podview::is_ready(new)
        || podview::is_terminal(old) != podview::is_terminal(new)
        || podview::node(old) != podview::node(new)
        || ips(old) != ips(new)
        || old.spec.as_ref().map(|s| (&s.hostname, &s.subdomain))
            != new.spec.as_ref().map(|s| (&s.hostname, &s.subdomain))
}

fn feed_pods(control: &mut ControlLoop, context: &Context) -> (Store<Service>, Store<Pod>) {
    let services = context.informers.get::<Service>();
    let pods = context.informers.get::<Pod>();
    index_services(&services);
    index_pods(&pods);
    control.of(&services);
    let all = services.store();
    control.on(&pods, move |queue, change| {
        let mut pods = vec![change.object().clone()];
        if let Change::Updated { old, new } = change {
            if !matters(old, new) {
                return;
            }
            if old.labels() != new.labels() {
                pods.push(old.clone());
            }
        }
        for pod in pods {
            services_of(&all, &pod).into_iter().for_each(|key| queue.add(key));
        }
    });
    (services.store(), pods.store())
}

fn index_slices(slices: &Informer<EndpointSlice>) {
    slices.add_index(BY_SERVICE, |slice: &EndpointSlice| {
        slice
            .labels()
            .get(SERVICE_NAME)
            .map(|name| format!("{}/{name}", slice.namespace()))
            .into_iter()
            .collect()
    });
}

fn slices_of(slices: &Store<EndpointSlice>, key: &ObjectKey, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut found = slices.by_index(BY_SERVICE, key.as_str());
    found.retain(|slice| slice.labels().get(MANAGED_BY).is_some_and(|by| by == manager));
    found
}

pub(crate) fn register_slices(context: &Context) -> Option<Running> {
    let mut control = ControlLoop::new(context, "endpoint_slice", "endpointslice-controller");
    control.component("endpoint-slice-controller");
    let (services, pods) = feed_pods(&mut control, context);
    let slices = context.informers.get::<EndpointSlice>();
    index_slices(&slices);
    control.owns::<Service, EndpointSlice>(&slices, |_, _| {});
    let nodes = context.informers.get::<Node>();
    let (by_node, all_services) = (pods.clone(), services.clone());
    super::index_pods_by_node(&context.informers.get::<Pod>());
    control.on(&nodes, move |queue, change| {
        let zone = |node: &Node| node.labels().get(ZONE).cloned();
        if let Change::Updated { old, new } = change
            && zone(old) == zone(new)
        {
            return;
        }
        for pod in by_node.by_index(super::BY_NODE, change.object().name()) {
            services_of(&all_services, &pod).into_iter().for_each(|key| queue.add(key));
        }
    });
    let (slices, nodes) = (slices.store(), nodes.store());
    Some(control.run(move |key, settled| {
        let Some(service) = services.get(key).filter(|_| settled) else { return Plan::nothing() };
        let pods = selected_pods(&pods, &service);
        let mut zones = BTreeMap::new();
        for pod in &pods {
            let name = podview::node(pod);
            if name.is_empty() {
                zones.insert(String::new(), None);
            } else if !zones.contains_key(name)
                && let Some(node) = nodes.find("", name)
            {
                zones.insert(name.to_owned(), node.labels().get(ZONE).cloned());
            }
        }
        let slices = slices_of(&slices, key, endpointslice::CONTROLLER);
        endpointslice::reconcile(&service, &View { pods, zones, slices })
    }))
}

pub(crate) fn register_endpoints(context: &Context) -> Option<Running> {
    let mut control = ControlLoop::new(context, "endpoint", "endpoint-controller");
    let (services, pods) = feed_pods(&mut control, context);
    let endpoints = context.informers.get::<Endpoints>();
    control.on(&endpoints, |queue, change| queue.add(change.key()));
    let endpoints = endpoints.store();
    Some(control.run(move |key, _| {
        let service = services.get(key);
        let pods = service.as_ref().map(|service| selected_pods(&pods, service)).unwrap_or_default();
        endpoints::reconcile(service.as_deref(), &pods, endpoints.get(key).as_deref())
    }))
}

pub(crate) fn register_mirroring(context: &Context) -> Option<Running> {
    let mut control =
        ControlLoop::new(context, "endpoint_slice_mirroring", "endpointslicemirroring-controller");
    control.component("endpoint-slice-mirroring-controller");
    let services = context.informers.get::<Service>();
    let endpoints = context.informers.get::<Endpoints>();
    let slices = context.informers.get::<EndpointSlice>();
    index_slices(&slices);
    control.of(&endpoints);
    control.on(&services, |queue, change| queue.add(change.key()));
    control.owns::<Endpoints, EndpointSlice>(&slices, |_, _| {});
    let (services, endpoints, slices) = (services.store(), endpoints.store(), slices.store());
    Some(control.run(move |key, settled| {
        if !settled {
            return Plan::nothing();
        }
        let mirrored = slices_of(&slices, key, mirroring::CONTROLLER);
        mirroring::reconcile(endpoints.get(key).as_deref(), services.get(key).as_deref(), &mirrored)
    }))
}
