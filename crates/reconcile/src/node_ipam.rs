//! Pod address ranges for nodes.
//!
//! Invariant: no two nodes have overlapping ranges, and none overlaps a Service range. A range is taken in memory
//! before it is written and given back when the write fails or the node goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::meta::{Meta, reference};
use crate::plan::{Action, Event, PatchKind, Plan, Target};

/// An address range by its first address (as a number) and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    base: u128,
    prefix: u8,
    v6: bool,
}

impl Range {
    /// The range of a prefix; host bits are cut off.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let (number, v6) = match address {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), false),
            IpAddr::V6(ip) => (u128::from(ip), true),
        };
        let mut range = Self { base: number, prefix, v6 };
        range.base &= !(range.size() - 1);
        range
    }

    /// Reads `address/prefix`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let max = if address.is_ipv6() { 128 } else { 32 };
        (prefix <= max).then(|| Self::new(address, prefix))
    }

    fn bits(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }
    fn size(self) -> u128 {
        1u128.checked_shl(u32::from(self.bits() - self.prefix)).unwrap_or(0).max(1)
    }
    fn address(self) -> IpAddr {
        if self.v6 {
            IpAddr::V6(self.base.into())
        } else {
            IpAddr::V4(u32::try_from(self.base).unwrap_or(u32::MAX).into())
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix)
    }
}

/// Ranges of one size out of one cluster range.
#[derive(Debug)]
struct Pool {
    cluster: Range,
    mask: u8,
    used: BTreeSet<u128>,
    /// Where the search goes on, so that a freed range is not handed out again at once.
    next: u128,
}

impl Pool {
    fn count(&self) -> u128 {
        1u128.checked_shl(u32::from(self.mask - self.cluster.prefix)).unwrap_or(u128::MAX)
    }
    fn step(&self) -> u128 {
        1u128.checked_shl(u32::from(self.cluster.bits() - self.mask)).unwrap_or(1)
    }
    fn nth(&self, index: u128) -> Range {
        Range { base: self.cluster.base + index * self.step(), prefix: self.mask, v6: self.cluster.v6 }
    }
    /// Indices of the pool that a range overlaps.
    fn overlapped(&self, range: Range) -> Option<(u128, u128)> {
        if range.v6 != self.cluster.v6 {
            return None;
        }
        let (first, last) = (range.base, range.base + (range.size() - 1));
        let end = self.cluster.base + (self.cluster.size() - 1);
        if last < self.cluster.base || first > end {
            return None;
        }
        let low = (first.max(self.cluster.base) - self.cluster.base) / self.step();
        let high = (last.min(end) - self.cluster.base) / self.step();
        Some((low, high))
    }
    fn occupy(&mut self, range: Range, taken: bool) {
        if let Some((low, high)) = self.overlapped(range) {
            // Only ranges that exist in the API get here, so the loop is as long as a cluster range at most.
            for index in low..=high {
                if taken {
                    self.used.insert(index);
                } else {
                    self.used.remove(&index);
                }
            }
        }
    }
    fn take(&mut self) -> Option<Range> {
        let count = self.count();
        let free = (self.next..count).chain(0..self.next).find(|index| !self.used.contains(index))?;
        self.used.insert(free);
        self.next = (free + 1) % count;
        Some(self.nth(free))
    }
}

/// All the ranges there are and those in use.
#[derive(Debug, Default)]
pub struct Allocator {
    pools: Vec<Pool>,
    /// Ranges that never go to a node.
    reserved: Vec<Range>,
    /// Nodes whose ranges are being written, by uid: the cache does not show them yet.
    under_way: BTreeMap<String, Vec<Range>>,
}

impl Allocator {
    /// `clusters` with the mask of a node's range out of each.
    pub fn new(clusters: &[(Range, u8)], reserved: &[Range]) -> Self {
        let pools = clusters
            .iter()
            .map(|(cluster, mask)| Pool { cluster: *cluster, mask: *mask, used: BTreeSet::new(), next: 0 })
            .collect();
        let mut allocator = Self { pools, reserved: reserved.to_vec(), under_way: BTreeMap::new() };
        for range in reserved {
            allocator.mark(*range, true);
        }
        allocator
    }

    fn mark(&mut self, range: Range, taken: bool) {
        for pool in &mut self.pools {
            pool.occupy(range, taken);
        }
    }

    /// The node's ranges are in use.
    pub fn occupy(&mut self, node: &Node) {
        for range in ranges(node) {
            self.mark(range, true);
        }
    }

    /// The node is gone.
    pub fn release(&mut self, node: &Node) {
        let unseen = self.under_way.remove(node.uid()).unwrap_or_default();
        for range in ranges(node).into_iter().chain(unseen) {
            self.mark(range, false);
        }
        for range in self.reserved.clone() {
            self.mark(range, true);
        }
    }

    /// Gives a node its ranges, if it has none. When the write fails, [`Self::give_back`] must follow.
    pub fn reconcile(&mut self, node: &Node) -> Plan {
        let mut plan = Plan::nothing();
        if node.deleting() {
            return plan;
        }
        if !ranges(node).is_empty() {
            self.under_way.remove(node.uid());
            self.occupy(node);
            return plan;
        }
        if self.under_way.contains_key(node.uid()) {
            return plan;
        }
        let mut taken = Vec::new();
        for index in 0..self.pools.len() {
            match self.pools[index].take() {
                Some(range) => taken.push(range),
                None => {
                    for range in taken {
                        self.mark(range, false);
                    }
                    let text = format!("Node {} status is now: CIDRNotAvailable", node.name());
                    plan.note(Event::normal(reference(node), "CIDRNotAvailable", text));
                    plan.retry = true;
                    return plan;
                }
            }
        }
        let texts: Vec<String> = taken.iter().map(Range::to_string).collect();
        let patch = json!({ "spec": { "podCIDR": texts[0], "podCIDRs": texts } });
        plan.push(Action::patch(Target::of(node), PatchKind::Strategic, patch));
        self.under_way.insert(node.uid().to_owned(), taken);
        plan
    }

    /// The write of the ranges of a node (by uid) failed.
    pub fn give_back(&mut self, uid: &str) {
        for range in self.under_way.remove(uid).unwrap_or_default() {
            self.mark(range, false);
        }
    }
}

fn ranges(node: &Node) -> Vec<Range> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten().filter_map(|text| Range::parse(text));
    let found: Vec<_> = listed.collect();
    if found.is_empty() {
        spec.pod_cidr.as_deref().and_then(Range::parse).into_iter().collect()
    } else {
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;

    fn node(name: &str, cidr: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDR": cidr}}))
            .unwrap()
    }

    fn range(text: &str) -> Range {
        Range::parse(text).unwrap()
    }

    #[test]
    fn skips_what_is_taken_and_runs_out() {
        let mut all = Allocator::new(&[(range("10.42.0.0/22"), 24)], &[range("10.42.2.0/25")]);
        all.occupy(&node("old", Some("10.42.0.0/24")));
        let mut given = Vec::new();
        for name in ["a", "b", "c"] {
            given.push(describe(&all.reconcile(&node(name, None))));
        }
        assert_eq!(
            given[0],
            "patch nodes/a {\"spec\":{\"podCIDR\":\"10.42.1.0/24\",\"podCIDRs\":[\"10.42.1.0/24\"]}}\n"
        );
        assert!(given[1].contains("10.42.3.0/24"));
        assert_eq!(given[2], "event CIDRNotAvailable Node c status is now: CIDRNotAvailable\nretry\n");
        all.release(&node("old", Some("10.42.0.0/24")));
        assert!(describe(&all.reconcile(&node("c", None))).contains("10.42.0.0/24"));
        assert!(all.reconcile(&node("c", None)).is_idle(), "the write is under way");
        all.give_back("c");
        assert!(describe(&all.reconcile(&node("d", None))).contains("10.42.0.0/24"));
    }

    #[test]
    fn both_families() {
        let mut all = Allocator::new(&[(range("10.42.0.0/16"), 24), (range("fd00::/48"), 64)], &[]);
        let first = describe(&all.reconcile(&node("a", None)));
        assert!(first.contains(r#""podCIDRs":["10.42.0.0/24","fd00::/64"]"#), "{first}");
        assert!(describe(&all.reconcile(&node("b", None))).contains(r#""fd00:0:0:1::/64""#));
    }
}
