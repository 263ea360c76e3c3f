//! Which pods go first when the node runs short.
//!
//! Order, as upstream: pods that use more than they asked for before others, then lower priority first, then
//! the larger excess first. Static pods that are critical, and pods critical to the node, are never evicted.

use k8s_openapi::api::core::v1::Pod;

use crate::resources;
use crate::spec;

/// What the node runs short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory, in bytes.
    Memory,
    /// Local disk, in bytes.
    Disk,
    /// Process ids.
    Pids,
}

impl Resource {
    /// The name in messages and in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Pids => "pids",
        }
    }
}

/// A pod and what it uses of the resource.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its use.
    pub used: i64,
}

impl Candidate<'_> {
    fn request(&self, r: Resource) -> i64 {
        resources::pod_requests(self.pod).get(r.name()).copied().unwrap_or(0)
    }
}

/// Whether a pod may be evicted at all.
#[must_use]
pub fn evictable(pod: &Pod) -> bool {
    spec::of(pod).priority.is_none_or(|p| p < crate::cgroup::SYSTEM_CRITICAL)
}

/// The pod to evict, if any may be.
#[must_use]
pub fn first<'a>(candidates: &[Candidate<'a>], r: Resource) -> Option<Candidate<'a>> {
    candidates
        .iter()
        .filter(|c| evictable(c.pod))
        .min_by_key(|c| {
            let excess = c.used - c.request(r);
            (excess <= 0, spec::of(c.pod).priority.unwrap_or(0), -excess)
        })
        .copied()
}

/// The message of an eviction.
#[must_use]
pub fn message(r: Resource, threshold: &str, available: &str, c: &Candidate<'_>) -> String {
    let mut out = format!(
        "The node was low on resource: {}. Threshold quantity: {threshold}, available: {available}. ",
        r.name()
    );
    let request = c.request(r);
    if c.used > request {
        for x in spec::main(c.pod).iter().take(1) {
            out.push_str(&format!(
                "Container {} was using {}, request is {request}, has larger consumption of {}. ",
                x.name,
                c.used,
                r.name()
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Pod {
        let mut p = Pod::default();
        p.metadata.name = Some(name.into());
        p.spec.get_or_insert_default().priority = Some(priority);
        p
    }

    #[test]
    fn order() {
        let (a, b, c) = (pod("a", 0), pod("b", 0), pod("critical", 2_000_001_000));
        let list = [
            Candidate { pod: &a, used: 10 },
            Candidate { pod: &b, used: 20 },
            Candidate { pod: &c, used: 99 },
        ];
        let got = first(&list, Resource::Memory).unwrap();
        assert_eq!(got.pod.metadata.name.as_deref(), Some("b"));
    }
}
