//! From a name to records.
//!
//! A name that exists but has no record of the wanted type is told apart from one that does not exist; a name exists
//! if it has records or lies above one that has. One exception is the specification's: the name of a headless Service
//! without ready endpoints does not exist.

use super::index::{Endpoint, Index, Kind, Port, Service};
use super::{Settings, Zone};
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version of the DNS specification that this zone follows.
const SCHEMA_VERSION: &str = "1.1.0";

/// Most address records added to an answer with SRV records; a client asks for the others.
const ADDITIONALS_MAX: usize = 32;

/// What a look-up came to.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "lives for one answer, on the stack")]
pub enum Lookup {
    /// The name is in no zone of ours.
    NotOurs,
    /// The name does not exist.
    NoName,
    /// The name exists, without such records.
    NoData,
    /// Records: the answer, and what goes into the additional section.
    Records(Vec<Record>, Vec<Record>),
    /// The name stands for another one, which has to be looked up in turn.
    Alias(Record, Name),
}

struct Asked<'a> {
    zone: &'a Zone,
    index: &'a Index,
    name: &'a Name,
    wanted: RecordType,
    turn: usize,
}

pub(super) fn lookup(zone: &Zone, index: &Index, name: &Name, wanted: RecordType, turn: usize) -> Lookup {
    let asked = Asked { zone, index, name, wanted, turn };
    let Some(labels) = labels(name) else {
        // No name of ours has such a label.
        return if zone.domain.zone_of(name) { Lookup::NoName } else { Lookup::NotOurs };
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match &labels[..] {
        [.., "in-addr", "arpa"] | [.., "ip6", "arpa"] => asked.reverse(&labels),
        _ => match strip(&labels, &zone.settings) {
            Some(rest) => asked.under_domain(rest),
            None => Lookup::NotOurs,
        },
    }
}

/// The labels in lower case; `None` if one is not text.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())).collect()
}

fn strip<'a, 'b>(labels: &'a [&'b str], settings: &Settings) -> Option<&'a [&'b str]> {
    let mut rest = labels;
    for wanted in settings.domain.rsplit('.') {
        let (last, before) = rest.split_last()?;
        if *last != wanted {
            return None;
        }
        rest = before;
    }
    Some(rest)
}

impl Asked<'_> {
    fn under_domain(&self, labels: &[&str]) -> Lookup {
        let exists = |namespace: &str| {
            if self.index.has_namespace(namespace) { Lookup::NoData } else { Lookup::NoName }
        };
        match labels {
            [] => self.apex(),
            ["dns-version"] => self.typed(RecordType::TXT, RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))),
            ["ns", "dns"] => self.addresses(self.zone.settings.service_ip.into_iter()),
            ["dns" | "svc" | "pod"] => Lookup::NoData,
            [namespace, "svc" | "pod"] => exists(namespace),
            [ip, namespace, "pod"] => self.pod(ip, namespace),
            [rest @ .., name, namespace, "svc"] => match self.index.service(namespace, name) {
                Some(service) => self.service(service, rest),
                None => Lookup::NoName,
            },
            _ => Lookup::NoName,
        }
    }

    fn apex(&self) -> Lookup {
        match self.wanted {
            RecordType::SOA => Lookup::Records(vec![self.soa()], vec![]),
            RecordType::NS => {
                let server = self.absolute("ns.dns");
                let glue = self.zone.settings.service_ip.map(|ip| self.address_record(server.clone(), ip));
                Lookup::Records(vec![self.record(RData::NS(NS(server)))], glue.into_iter().collect())
            }
            _ => Lookup::NoData,
        }
    }

    fn soa(&self) -> Record {
        use hickory_proto::rr::rdata::SOA;
        let ttl = self.zone.settings.ttl;
        let (server, person) = (self.absolute("ns.dns"), self.absolute("hostmaster"));
        self.record(RData::SOA(SOA::new(server, person, self.index.generation(), 7200, 1800, 86_400, ttl)))
    }

    /// `rest` is what stands before the Service's name.
    fn service(&self, service: &Service, rest: &[&str]) -> Lookup {
        match (&service.kind, rest) {
            (Kind::Headless(endpoints), _) if endpoints.is_empty() => Lookup::NoName,
            (Kind::External(target), []) => self.alias(target),
            (Kind::External(_), _) => Lookup::NoName,
            (_, []) if self.wanted == RecordType::SRV => self.srv(service, |_| true),
            (Kind::Cluster(ips, _), []) => self.addresses(ips.iter().copied()),
            (Kind::Headless(endpoints), []) => self.addresses(endpoints.iter().map(|e| e.ip)),
            (kind, [word]) => match word.strip_prefix('_') {
                Some(protocol) if ports(kind).any(|p| p.protocol == protocol && !p.name.is_empty()) => {
                    Lookup::NoData
                }
                Some(_) => Lookup::NoName,
                None => self.endpoint(kind, word),
            },
            (kind, [port, protocol]) => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
                else {
                    return Lookup::NoName;
                };
                let matches = |p: &Port| p.protocol == protocol && p.name == port && !p.name.is_empty();
                match ports(kind).any(matches) {
                    false => Lookup::NoName,
                    true if self.wanted == RecordType::SRV => self.srv(service, matches),
                    true => Lookup::NoData,
                }
            }
            _ => Lookup::NoName,
        }
    }

    fn endpoint(&self, kind: &Kind, hostname: &str) -> Lookup {
        let Kind::Headless(endpoints) = kind else { return Lookup::NoName };
        let mut found = endpoints.iter().filter(|e| e.hostname == hostname).map(|e| e.ip).peekable();
        if found.peek().is_none() {
            return Lookup::NoName;
        }
        self.addresses(found)
    }

    fn srv(&self, service: &Service, matches: impl Fn(&Port) -> bool) -> Lookup {
        let own = format!("{}.{}.svc", service.name, service.namespace);
        let mut targets: Vec<(u16, String, Vec<IpAddr>)> = Vec::new();
        match &service.kind {
            Kind::Cluster(ips, ports) => {
                targets
                    .extend(ports.iter().filter(|p| matches(p)).map(|p| (p.port, own.clone(), ips.clone())));
            }
            Kind::Headless(endpoints) => {
                for Endpoint { hostname, ip, ports } in endpoints {
                    let target = format!("{hostname}.{own}");
                    targets.extend(
                        ports.iter().filter(|p| matches(p)).map(|p| (p.port, target.clone(), vec![*ip])),
                    );
                }
            }
            Kind::External(_) => {}
        }
        // An endpoint of two families is one target with two addresses.
        targets.sort();
        targets.dedup_by(|next, kept| {
            let same = next.0 == kept.0 && next.1 == kept.1;
            if same {
                kept.2.append(&mut next.2);
            }
            same
        });
        if targets.is_empty() {
            return Lookup::NoData;
        }
        let weight = u16::try_from((100 / targets.len()).max(1)).unwrap_or(1);
        let mut answers = Vec::with_capacity(targets.len());
        let mut additionals = Vec::new();
        for (port, target, ips) in targets {
            let target = self.absolute(&target);
            for ip in ips {
                let record = self.address_record(target.clone(), ip);
                if additionals.len() < ADDITIONALS_MAX && !additionals.contains(&record) {
                    additionals.push(record);
                }
            }
            answers.push(self.record(RData::SRV(SRV::new(0, weight, port, target))));
        }
        rotate(&mut answers, self.turn);
        Lookup::Records(answers, additionals)
    }

    /// Any address, if the namespace exists: whether a pod has it is not checked, as in CoreDNS's mode `insecure`.
    fn pod(&self, word: &str, namespace: &str) -> Lookup {
        let v4 = || word.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok();
        let v6 = || word.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6).ok();
        match v4().or_else(v6) {
            Some(ip) if self.index.has_namespace(namespace) => self.addresses(std::iter::once(ip)),
            _ => Lookup::NoName,
        }
    }

    fn reverse(&self, labels: &[&str]) -> Lookup {
        let Some(ip) = reverse_address(labels) else { return Lookup::NotOurs };
        if let Some(names) = self.index.names_of(&ip) {
            if !matches!(self.wanted, RecordType::PTR | RecordType::ANY) {
                return Lookup::NoData;
            }
            let records = names.iter().map(|name| self.record(RData::PTR(PTR(self.absolute(name)))));
            return Lookup::Records(records.collect(), vec![]);
        }
        if self.zone.settings.reverse.iter().any(|range| range.contains(&ip)) {
            Lookup::NoName
        } else {
            Lookup::NotOurs
        }
    }

    fn alias(&self, target: &str) -> Lookup {
        let dotted = format!("{}.", target.trim_end_matches('.'));
        match Name::from_ascii(dotted) {
            Ok(target) => Lookup::Alias(self.record(RData::CNAME(CNAME(target.clone()))), target),
            // Names of Services are checked when they are made; one that cannot be written has no records.
            Err(_) => Lookup::NoData,
        }
    }

    fn addresses(&self, ips: impl Iterator<Item = IpAddr>) -> Lookup {
        let wanted = |ip: &IpAddr| match self.wanted {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let mut ips: Vec<IpAddr> = ips.filter(wanted).collect();
        ips.sort_unstable();
        ips.dedup();
        rotate(&mut ips, self.turn);
        if ips.is_empty() {
            return Lookup::NoData;
        }
        Lookup::Records(
            ips.into_iter().map(|ip| self.address_record(self.name.clone(), ip)).collect(),
            vec![],
        )
    }

    fn typed(&self, kind: RecordType, data: RData) -> Lookup {
        if self.wanted == kind || self.wanted == RecordType::ANY {
            Lookup::Records(vec![self.record(data)], vec![])
        } else {
            Lookup::NoData
        }
    }

    fn address_record(&self, name: Name, ip: IpAddr) -> Record {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        Record::from_rdata(name, self.zone.settings.ttl, data)
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.zone.settings.ttl, data)
    }

    /// A name under the cluster's domain.
    fn absolute(&self, prefix: &str) -> Name {
        let text = format!("{prefix}.{}.", self.zone.settings.domain);
        // Names of objects and host names are DNS labels; the root stands for what could not be one.
        Name::from_ascii(text).unwrap_or_else(|_| Name::root())
    }
}

fn ports(kind: &Kind) -> impl Iterator<Item = &Port> {
    let (own, endpoints): (&[Port], &[Endpoint]) = match kind {
        Kind::Cluster(_, ports) => (ports, &[]),
        Kind::Headless(endpoints) => (&[], endpoints),
        Kind::External(_) => (&[], &[]),
    };
    own.iter().chain(endpoints.iter().flat_map(|e| &e.ports))
}

fn rotate<T>(list: &mut [T], turn: usize) {
    if !list.is_empty() {
        list.rotate_left(turn % list.len());
    }
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` is about; `None` for a part of one.
fn reverse_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, "in-addr", "arpa"] => {
            format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().map(IpAddr::V4).ok()
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for nibble in nibbles.iter().rev() {
                let digit = u128::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
                bits = bits << 4 | digit;
            }
            Some(IpAddr::V6(bits.into()))
        }
        _ => None,
    }
}
