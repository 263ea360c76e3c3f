//! The index: Services by name, namespaces, and names by address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name; empty if it has none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Number.
    pub port: u16,
}

/// A ready endpoint of a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host name, or its address with dashes when it has none.
    pub hostname: String,
    /// Address.
    pub ip: IpAddr,
    /// Ports.
    pub ports: Vec<Port>,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Cluster IPs.
    Cluster(Vec<IpAddr>, Vec<Port>),
    /// The endpoints themselves.
    Headless(Vec<Endpoint>),
    /// Another name.
    External(String),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
}

impl Service {
    /// The addresses that lead back to this Service, each with the name it has: the prefix before the zone.
    fn reverse_names(&self) -> Vec<(IpAddr, String)> {
        let own = format!("{}.{}.svc", self.name, self.namespace);
        match &self.kind {
            Kind::Cluster(ips, _) => ips.iter().map(|ip| (*ip, own.clone())).collect(),
            Kind::Headless(endpoints) => {
                endpoints.iter().map(|e| (e.ip, format!("{}.{own}", e.hostname))).collect()
            }
            Kind::External(_) => Vec::new(),
        }
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By namespace, then name: found by two borrowed words.
    services: HashMap<String, HashMap<String, Arc<Service>>>,
    namespaces: BTreeSet<String>,
    reverse: BTreeMap<IpAddr, BTreeSet<String>>,
    generation: u32,
}

impl Index {
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn set_namespace(&mut self, name: &str, exists: bool) {
        self.generation = self.generation.wrapping_add(1);
        if exists {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    pub(super) fn set_service(&mut self, namespace: &str, name: &str, service: Option<Service>) {
        let of_namespace = self.services.entry(namespace.to_owned()).or_default();
        let new = service.map(Arc::new);
        let old = match &new {
            Some(service) => of_namespace.insert(name.to_owned(), service.clone()),
            None => of_namespace.remove(name),
        };
        if of_namespace.is_empty() {
            self.services.remove(namespace);
        }
        if old == new {
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        for (ip, name) in old.iter().flat_map(|s| s.reverse_names()) {
            if let Some(names) = self.reverse.get_mut(&ip) {
                names.remove(&name);
                if names.is_empty() {
                    self.reverse.remove(&ip);
                }
            }
        }
        for (ip, name) in new.iter().flat_map(|s| s.reverse_names()) {
            self.reverse.entry(ip).or_default().insert(name);
        }
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.get(name).map(Arc::as_ref)
    }

    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name) || self.services.contains_key(name)
    }

    pub(super) fn names_of(&self, ip: &IpAddr) -> Option<&BTreeSet<String>> {
        self.reverse.get(ip)
    }
}
