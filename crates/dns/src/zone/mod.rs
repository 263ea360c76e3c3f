//! The zone of the cluster: what is known, and what it answers. Pure but for one lock around the index.

mod answer;
mod index;

pub use answer::Lookup;
pub use index::{Endpoint, Kind, Port, Service};

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use index::Index;
use ipnet::IpNet;
use parking_lot::RwLock;
use std::net::IpAddr;

/// Settings of the zone.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's domain, lower case, without a dot at its end.
    pub domain: String,
    /// Seconds for which clients may remember an answer.
    pub ttl: u32,
    /// Address of the server itself, as clients know it.
    pub service_ip: Option<IpAddr>,
    /// Ranges whose reverse look-ups are answered here alone.
    pub reverse: Vec<IpNet>,
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    settings: Settings,
    domain: Name,
    index: RwLock<Index>,
}

impl Zone {
    /// An empty zone.
    ///
    /// # Panics
    /// If the domain is not a DNS name, which the configuration checks.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let domain = Name::from_ascii(format!("{}.", settings.domain)).expect("a checked domain");
        Self { settings, domain, index: RwLock::default() }
    }

    /// Takes in a Service as it is now, or its absence.
    pub fn set_service(&self, namespace: &str, name: &str, service: Option<Service>) {
        self.index.write().set_service(namespace, name, service);
    }

    /// Takes in that a namespace exists, or does not.
    pub fn set_namespace(&self, name: &str, exists: bool) {
        self.index.write().set_namespace(name, exists);
    }

    /// Looks up a name. `turn` varies the order of addresses between answers.
    #[must_use]
    pub fn lookup(&self, name: &Name, wanted: RecordType, turn: usize) -> Lookup {
        answer::lookup(self, &self.index.read(), name, wanted, turn)
    }

    /// The start-of-authority record, which tells how long the absence of a name may be remembered.
    #[must_use]
    pub fn soa(&self) -> Record {
        let under =
            |prefix: &str| Name::from_ascii(format!("{prefix}.{}.", self.settings.domain)).expect("a name");
        let serial = self.index.read().generation();
        let soa =
            SOA::new(under("ns.dns"), under("hostmaster"), serial, 7200, 1800, 86_400, self.settings.ttl);
        Record::from_rdata(self.domain.clone(), self.settings.ttl, RData::SOA(soa))
    }
}
