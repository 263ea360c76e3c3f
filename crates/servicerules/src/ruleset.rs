//! The ruleset as state: who claims which element, what the kernel holds, and the text that gets it from one to the
//! other.
//!
//! Invariant: after the text of [`Ruleset::render_full`] or of every [`Ruleset::take_changes`] has been applied in
//! order, the kernel's elements equal the effective claims. A text that failed must be followed by `render_full`.
//!
//! Two Services may claim one address and port (external IPs are the user's); the one whose name sorts first has it,
//! and when it goes the next takes over. So no input makes a transaction which the kernel refuses as a whole.

use crate::TABLE;
use crate::chains::{Chain, Learn};
use crate::input::{Family, NodeView, Protocol};
use crate::model::{Key, Port, Tuple, Value};
use crate::plan::{Elements, node_elements};
use crate::render;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// Balancing chains left without use which are tolerated before a full rendering sweeps them. They are never deleted
/// one by one: the kernel refuses to delete a chain in the transaction that deletes its last reference.
const IDLE_CHAINS_MAX: usize = 512;

/// Owner of the elements that belong to the node: sorts before every Service.
const NODE_OWNER: &str = "";

/// An nft script, to be applied as one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The text for `nft -f -`. Empty when there is nothing to do.
    pub text: String,
    /// Elements added and deleted.
    pub operations: usize,
    /// Whether it makes everything afresh.
    pub full: bool,
    /// UDP frontends whose endpoints changed: connections the kernel tracks may lead to an endpoint that is gone, and
    /// for UDP nothing else will end them.
    pub udp_frontends: BTreeSet<Frontend>,
    /// Whether clients may be remembered for an endpoint that is gone.
    pub stale_affinity: bool,
}

/// Where packets for a Service arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// An address and port.
    Ip(Tuple),
    /// A port on the node's addresses.
    NodePort(Port),
}

impl Frontend {
    fn of(key: &Key) -> Option<Self> {
        match key {
            Key::ServiceIp(tuple) | Key::Endpoint(tuple, _) => Some(Self::Ip(*tuple)),
            Key::ServiceNodePort(port) | Key::NodePortEndpoint(port, _) => Some(Self::NodePort(*port)),
            _ => None,
        }
    }

    fn is_udp(&self) -> bool {
        let (Self::Ip(Tuple { protocol, .. }) | Self::NodePort(Port { protocol, .. })) = self;
        *protocol == Protocol::Udp
    }
}

/// Who wants an element, and with what value.
#[derive(Debug, Clone)]
enum Claims {
    One(Arc<str>, Value),
    Many(BTreeMap<Arc<str>, Value>),
}

impl Claims {
    fn effective(&self) -> Option<Value> {
        match self {
            Self::One(_, value) => Some(*value),
            Self::Many(all) => all.values().next().copied(),
        }
    }

    fn put(&mut self, owner: &Arc<str>, value: Value) {
        match self {
            Self::One(who, old) if who == owner => *old = value,
            Self::One(who, old) => {
                *self = Self::Many([(who.clone(), *old), (owner.clone(), value)].into());
            }
            Self::Many(all) => {
                all.insert(owner.clone(), value);
            }
        }
    }

    /// Takes a claim back; says whether none is left.
    fn take(&mut self, owner: &str) -> bool {
        match self {
            Self::One(who, _) => **who == *owner,
            Self::Many(all) => {
                all.remove(owner);
                all.is_empty()
            }
        }
    }
}

/// A chain made on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OnDemand {
    Balance(Chain),
    Learn(Learn),
}

impl OnDemand {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Chain(chain) => Some(Self::Balance(*chain)),
            Value::Learn(learn) => Some(Self::Learn(*learn)),
            _ => None,
        }
    }

    fn render(&self, out: &mut String, view: &NodeView) {
        match self {
            Self::Balance(chain) => render::chain(out, chain.family, &chain.to_string(), &chain.rules(view)),
            Self::Learn(learn) => render::chain(out, learn.family, &learn.to_string(), &learn.rules()),
        }
    }
}

/// The desired ruleset of a node. See the module's page for the invariant.
#[derive(Debug)]
pub struct Ruleset {
    view: NodeView,
    owners: HashMap<Arc<str>, Elements>,
    claims: BTreeMap<Key, Claims>,
    /// Elements changed since the last text, with the value the kernel holds.
    touched: BTreeMap<Key, Option<Value>>,
    installed: BTreeSet<OnDemand>,
    /// Number of effective elements that refer to each chain.
    used: BTreeMap<OnDemand, usize>,
}

impl Ruleset {
    /// A ruleset without Services.
    #[must_use]
    pub fn new(view: NodeView) -> Self {
        let mut new = Self {
            owners: HashMap::new(),
            claims: BTreeMap::new(),
            touched: BTreeMap::new(),
            installed: BTreeSet::new(),
            used: BTreeMap::new(),
            view,
        };
        let node = node_elements(&new.view);
        new.set_owner(NODE_OWNER, node);
        new
    }

    /// What the ruleset knows of the node.
    #[must_use]
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// The elements a Service has now; replaces what it had. `name` is `namespace/name`.
    pub fn set_service(&mut self, name: &str, elements: Elements) {
        self.set_owner(name, elements);
    }

    /// Takes a Service out.
    pub fn remove_service(&mut self, name: &str) {
        self.set_owner(name, Elements::new());
    }

    /// The elements of a Service as last set.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Elements> {
        self.owners.get(name)
    }

    /// Effective elements: what the kernel is to hold.
    pub fn elements(&self) -> impl Iterator<Item = (Key, Value)> + '_ {
        self.claims.iter().filter_map(|(key, claims)| Some((*key, claims.effective()?)))
    }

    /// The value in force for an element.
    #[must_use]
    pub fn effective(&self, key: &Key) -> Option<Value> {
        self.claims.get(key).and_then(Claims::effective)
    }

    fn set_owner(&mut self, name: &str, elements: Elements) {
        let (owner, old) = match self.owners.remove_entry(name) {
            Some(entry) => entry,
            None if elements.is_empty() => return,
            None => (Arc::from(name), Elements::new()),
        };
        for key in old.keys().filter(|key| !elements.contains_key(key)) {
            self.change(*key, |claims| {
                if claims.as_mut().is_some_and(|c| c.take(&owner)) {
                    *claims = None;
                }
            });
        }
        for (key, value) in &elements {
            if old.get(key) != Some(value) {
                self.change(*key, |claims| match claims {
                    Some(claims) => claims.put(&owner, *value),
                    None => *claims = Some(Claims::One(owner.clone(), *value)),
                });
            }
        }
        if !elements.is_empty() {
            self.owners.insert(owner, elements);
        }
    }

    fn change(&mut self, key: Key, edit: impl FnOnce(&mut Option<Claims>)) {
        let mut claims = self.claims.remove(&key);
        let before = claims.as_ref().and_then(Claims::effective);
        edit(&mut claims);
        let after = claims.as_ref().and_then(Claims::effective);
        if let Some(claims) = claims {
            self.claims.insert(key, claims);
        }
        if before == after {
            return;
        }
        self.touched.entry(key).or_insert(before);
        if let Some(chain) = before.as_ref().and_then(OnDemand::of) {
            let count = self.used.entry(chain).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.used.remove(&chain);
            }
        }
        if let Some(chain) = after.as_ref().and_then(OnDemand::of) {
            *self.used.entry(chain).or_default() += 1;
        }
    }

    /// What changed since the last text, as one transaction.
    pub fn take_changes(&mut self) -> Transaction {
        if self.installed.len() > self.used.len() + IDLE_CHAINS_MAX {
            return self.render_full();
        }
        let udp_frontends = self.touched_udp();
        let mut stale_affinity = false;
        let mut deletes = Vec::new();
        let mut adds = Vec::new();
        for (key, before) in std::mem::take(&mut self.touched) {
            let after = self.effective(&key);
            if before == after {
                continue;
            }
            if before.is_some() {
                deletes.push((key, None));
                stale_affinity |= self.is_remembered(&key);
            }
            if let Some(after) = after {
                adds.push((key, Some(after)));
            }
        }
        let mut text = String::new();
        for value in adds.iter().filter_map(|(_, value)| value.as_ref()) {
            if let Some(chain) = OnDemand::of(value)
                && self.installed.insert(chain)
            {
                chain.render(&mut text, &self.view);
            }
        }
        let operations = deletes.len() + adds.len();
        write_elements(&mut text, "delete", deletes);
        write_elements(&mut text, "add", adds);
        Transaction { text, operations, full: false, udp_frontends, stale_affinity }
    }

    /// The whole ruleset, replacing whatever is there under our table names.
    pub fn render_full(&mut self) -> Transaction {
        let udp_frontends = self.touched_udp();
        self.touched.clear();
        self.installed = self.used.keys().copied().collect();
        let mut text = String::new();
        for family in &self.view.families {
            render::skeleton(&mut text, *family, &self.view);
        }
        for chain in &self.installed {
            chain.render(&mut text, &self.view);
        }
        let mut operations = 0;
        let all = self.elements().inspect(|_| operations += 1).map(|(key, value)| (key, Some(value)));
        write_elements(&mut text, "add", all);
        Transaction { text, operations, full: true, udp_frontends, stale_affinity: false }
    }

    fn touched_udp(&self) -> BTreeSet<Frontend> {
        self.touched.keys().filter_map(Frontend::of).filter(Frontend::is_udp).collect()
    }

    /// Whether `key` is an endpoint which clients are remembered for.
    fn is_remembered(&self, key: &Key) -> bool {
        match key {
            Key::Endpoint(tuple, _) => self.claims.contains_key(&Key::AffinityIp(*tuple)),
            Key::NodePortEndpoint(port, _) => self.claims.contains_key(&Key::AffinityNodePort(*port)),
            _ => false,
        }
    }

    /// The endpoints in force at a frontend.
    #[must_use]
    pub fn endpoints_at(&self, frontend: &Frontend) -> BTreeSet<SocketAddr> {
        let range = match *frontend {
            Frontend::Ip(tuple) => Key::Endpoint(tuple, 0)..=Key::Endpoint(tuple, u32::MAX),
            Frontend::NodePort(port) => {
                Key::NodePortEndpoint(port, 0)..=Key::NodePortEndpoint(port, u32::MAX)
            }
        };
        let values = self.claims.range(range).filter_map(|(_, claims)| claims.effective());
        values
            .filter_map(|value| match value {
                Value::Endpoint(endpoint) => Some(endpoint),
                _ => None,
            })
            .collect()
    }

    /// Every UDP frontend.
    #[must_use]
    pub fn udp_frontends(&self) -> BTreeSet<Frontend> {
        self.claims.keys().filter_map(Frontend::of).filter(Frontend::is_udp).collect()
    }

    /// The frontend that a packet to `tuple` was for: the address itself, else the node port.
    #[must_use]
    pub fn frontend(&self, tuple: Tuple) -> Frontend {
        if self.claims.contains_key(&Key::ServiceIp(tuple)) {
            return Frontend::Ip(tuple);
        }
        Frontend::NodePort(Port { family: Family::of(tuple.ip), protocol: tuple.protocol, port: tuple.port })
    }
}

/// Writes elements, one command for each run of elements of one set.
fn write_elements(out: &mut String, verb: &str, elements: impl IntoIterator<Item = (Key, Option<Value>)>) {
    let mut open: Option<(Family, &'static str)> = None;
    for (key, value) in elements {
        let place = (key.family(), key.set());
        if open == Some(place) {
            out.push_str(", ");
        } else {
            if open.is_some() {
                out.push_str(" }\n");
            }
            out.push_str(verb);
            out.push_str(" element ");
            out.push_str(place.0.word());
            out.push(' ');
            out.push_str(TABLE);
            out.push(' ');
            out.push_str(place.1);
            out.push_str(" { ");
            open = Some(place);
        }
        render::element(out, &key, value.as_ref());
    }
    if open.is_some() {
        out.push_str(" }\n");
    }
}

/// Commands that remove the tables. To be run one family at a time: deleting a table that is not there is an error.
#[must_use]
pub fn purge_commands() -> Vec<String> {
    [Family::V4, Family::V6]
        .iter()
        .map(|f| format!("add table {0} {TABLE}\ndelete table {0} {TABLE}\n", f.word()))
        .collect()
}
