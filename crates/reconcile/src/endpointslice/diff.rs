//! From the endpoints that should be and the slices that are to the fewest writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::meta::Meta;
use crate::plan::{Action, Event, Step, Tail, Tolerate};
use crate::template::semantically_equal;

/// Endpoints in a slice at most.
pub const MAX_ENDPOINTS_PER_SLICE: usize = 100;

/// What a new slice looks like, apart from ports and endpoints.
#[derive(Debug)]
pub struct Template {
    /// Metadata and address type.
    pub slice: EndpointSlice,
    /// The annotations are part of what is wanted, and not only a note of the last change.
    pub own_annotations: bool,
}

/// Endpoints by their ports.
#[derive(Debug, Default)]
pub struct Desired(BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>);

fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| format!("{:?}/{:?}/{:?}/{:?}", p.name, p.port, p.protocol, p.app_protocol))
        .collect();
    keys.sort_unstable();
    keys.join(",")
}

/// What tells one endpoint from another; the rest of it may change in place.
fn endpoint_key(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref();
    let part = |value: Option<&String>| value.map_or("", String::as_str).to_owned();
    format!(
        "{}|{}|{}|{}|{}",
        endpoint.addresses.join(","),
        part(endpoint.hostname.as_ref()),
        part(endpoint.node_name.as_ref()),
        part(target.and_then(|t| t.namespace.as_ref())),
        part(target.and_then(|t| t.name.as_ref())),
    )
}

impl Desired {
    /// Adds an endpoint.
    pub fn add(&mut self, ports: Vec<EndpointPort>, endpoint: Endpoint) {
        self.0.entry(ports_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
}

/// Slices to write.
#[derive(Debug, Default)]
pub struct Writes {
    /// New slices.
    pub creates: Vec<EndpointSlice>,
    /// Changed slices.
    pub updates: Vec<EndpointSlice>,
    /// Slices to delete.
    pub deletes: Vec<Arc<EndpointSlice>>,
}

impl Writes {
    /// Adds others.
    pub fn extend(&mut self, other: Self) {
        self.creates.extend(other.creates);
        self.updates.extend(other.updates);
        self.deletes.extend(other.deletes);
    }

    /// The writes as one step. A slice that would go is rewritten into one that would come.
    pub fn into_step(mut self, failed: &Event) -> Option<Step> {
        let mut kept = Vec::new();
        for mut slice in self.creates {
            match self.deletes.iter().position(|old| old.address_type == slice.address_type) {
                Some(index) => {
                    let old = self.deletes.swap_remove(index);
                    slice.metadata.name = old.metadata.name.clone();
                    slice.metadata.generate_name = old.metadata.generate_name.clone();
                    slice.metadata.uid = old.metadata.uid.clone();
                    slice.metadata.resource_version = old.metadata.resource_version.clone();
                    self.updates.push(slice);
                }
                None => kept.push(slice),
            }
        }
        let failed = failed.clone().tail(Tail::Error);
        let mut actions: Vec<Action> = Vec::new();
        let terminating = Tolerate { terminating: true, ..Tolerate::default() };
        actions.extend(kept.iter().map(|slice| Action::create(slice).tolerating(terminating)));
        actions.extend(self.updates.iter().map(Action::update));
        actions.extend(self.deletes.iter().map(|slice| Action::delete(slice.as_ref())));
        let actions: Vec<_> = actions.into_iter().map(|action| action.err_event(failed.clone())).collect();
        (!actions.is_empty()).then_some(Step::All(actions))
    }
}

/// Compares what should be with what is, for one address type.
pub fn slices(template: &Template, desired: Desired, existing: &[Arc<EndpointSlice>]) -> Writes {
    let mut writes = Writes::default();
    let mut by_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let mut kept = 0;
    for slice in existing {
        let ports = ports_key(slice.ports.as_deref().unwrap_or_default());
        if slice.deleting() {
            continue;
        }
        if desired.0.contains_key(&ports) {
            by_ports.entry(ports).or_default().push(slice.clone());
        } else {
            writes.deletes.push(slice.clone());
        }
    }
    for (key, (ports, endpoints)) in desired.0 {
        let old = by_ports.remove(&key).unwrap_or_default();
        kept += one_port_set(template, &ports, endpoints, &old, &mut writes);
    }
    if kept == 0 && writes.creates.is_empty() && writes.updates.is_empty() {
        keep_placeholder(template, &mut writes);
    }
    writes
}

/// A Service without endpoints still has a slice, so that it can be told from one not looked at yet.
fn keep_placeholder(template: &Template, writes: &mut Writes) {
    let placeholder = template.slice.clone();
    let same = writes.deletes.iter().position(|slice| {
        count(slice) == 0 && slice.ports.as_ref().is_none_or(Vec::is_empty) && same_metadata(template, slice)
    });
    match same {
        Some(index) => {
            writes.deletes.swap_remove(index);
        }
        None => writes.creates.push(placeholder),
    }
}

fn same_metadata(template: &Template, slice: &EndpointSlice) -> bool {
    let (want, have) = (&template.slice.metadata, &slice.metadata);
    want.labels == have.labels
        && want.owner_references == have.owner_references
        && (!template.own_annotations || semantically_equal(&want.annotations, &have.annotations))
}

/// Slices of one set of ports; returns how many stay as they are.
fn one_port_set(
    template: &Template,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    old: &[Arc<EndpointSlice>],
    writes: &mut Writes,
) -> usize {
    let mut wanted: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (endpoint_key(&endpoint), endpoint)).collect();
    let mut changed: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in old {
        let mut stay = Vec::with_capacity(count(slice));
        let mut differs = !same_metadata(template, slice);
        for endpoint in slice.endpoints.iter().flatten() {
            match wanted.remove(&endpoint_key(endpoint)) {
                Some(new) => {
                    differs |= !semantically_equal(&new, endpoint);
                    stay.push(new);
                }
                None => differs = true,
            }
        }
        if !differs {
            unchanged.push(slice.clone());
        } else if stay.is_empty() {
            writes.deletes.push(slice.clone());
        } else {
            changed.push(EndpointSlice { endpoints: Some(stay), ..slice.as_ref().clone() });
        }
    }
    let mut rest = wanted.into_values().collect::<Vec<_>>();
    for slice in &mut changed {
        let room = MAX_ENDPOINTS_PER_SLICE.saturating_sub(count(slice)).min(rest.len());
        slice.endpoints.get_or_insert_default().extend(rest.drain(..room));
    }
    while rest.len() >= MAX_ENDPOINTS_PER_SLICE {
        writes.creates.push(filled(template, ports, rest.drain(..MAX_ENDPOINTS_PER_SLICE).collect()));
    }
    if !rest.is_empty() {
        // The fullest slice with room for all of the rest; a slice of their own otherwise.
        let fits = |slice: &EndpointSlice| count(slice) + rest.len() <= MAX_ENDPOINTS_PER_SLICE;
        let best = (0..unchanged.len())
            .filter(|index| fits(&unchanged[*index]))
            .max_by_key(|index| count(&unchanged[*index]));
        match best {
            Some(index) => {
                let mut slice = unchanged.swap_remove(index).as_ref().clone();
                slice.endpoints.get_or_insert_default().append(&mut rest);
                changed.push(slice);
            }
            None => writes.creates.push(filled(template, ports, rest)),
        }
    }
    for mut slice in changed {
        let annotations = slice.metadata.annotations.take();
        slice.metadata.labels = template.slice.metadata.labels.clone();
        slice.metadata.owner_references = template.slice.metadata.owner_references.clone();
        slice.metadata.annotations = if template.own_annotations {
            template.slice.metadata.annotations.clone()
        } else {
            let mut all = annotations.unwrap_or_default();
            all.extend(template.slice.metadata.annotations.clone().unwrap_or_default());
            Some(all)
        };
        writes.updates.push(slice);
    }
    unchanged.len()
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn filled(template: &Template, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice { ports: Some(ports.to_vec()), endpoints: Some(endpoints), ..template.slice.clone() }
}
