//! Capabilities and hidden paths.

use std::collections::BTreeSet;
use std::str::FromStr;

use caps::{Capability, CapsHashSet};
use isopod_cri::v1::LinuxContainerSecurityContext;
use serde_json::{Value, json};

use super::Node;
use crate::Error;

/// What a container may do unless it says otherwise: the set that containerd and CRI-O give.
const DEFAULT: &[Capability] = &[
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// The capabilities of a container.
pub(super) fn effective(security: &LinuxContainerSecurityContext, node: &Node) -> Result<CapsHashSet, Error> {
    if security.privileged {
        return Ok(node.capabilities.clone());
    }
    let mut set: CapsHashSet = DEFAULT.iter().copied().filter(|c| node.capabilities.contains(c)).collect();
    let Some(changes) = &security.capabilities else { return Ok(set) };
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    // As containerd: first what ALL says, then the single ones.
    if all(&changes.add_capabilities) {
        set = node.capabilities.clone();
    }
    if all(&changes.drop_capabilities) {
        set.clear();
    }
    for name in &changes.add_capabilities {
        if !name.eq_ignore_ascii_case("ALL") {
            set.insert(parse(name)?);
        }
    }
    for name in &changes.drop_capabilities {
        if !name.eq_ignore_ascii_case("ALL") {
            set.remove(&parse(name)?);
        }
    }
    Ok(set)
}

fn parse(name: &str) -> Result<Capability, Error> {
    let name = name.to_ascii_uppercase();
    let full = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    Capability::from_str(&full).map_err(|_| Error::Invalid(format!("unknown capability {full:?}")))
}

pub(super) fn capabilities(security: &LinuxContainerSecurityContext, node: &Node) -> Result<Value, Error> {
    let names: BTreeSet<String> = effective(security, node)?.iter().map(ToString::to_string).collect();
    let mut ambient = BTreeSet::new();
    for name in security.capabilities.iter().flat_map(|changes| &changes.add_ambient_capabilities) {
        ambient.insert(parse(name)?.to_string());
    }
    // What is inheritable by default would let a program of another user gain rights (CVE-2022-24769).
    Ok(json!({
        "bounding": names, "effective": names, "permitted": names,
        "inheritable": ambient, "ambient": ambient,
    }))
}

/// Paths to hide; the kubelet says which, privileged containers see all.
pub(super) fn masked_paths(security: &LinuxContainerSecurityContext) -> &[String] {
    if security.privileged { &[] } else { &security.masked_paths }
}

/// Paths to protect from writing.
pub(super) fn readonly_paths(security: &LinuxContainerSecurityContext) -> &[String] {
    if security.privileged { &[] } else { &security.readonly_paths }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_cri::v1::Capability as Changes;

    #[test]
    fn add_and_drop() {
        let node = Node {
            capabilities: caps::all().into_iter().collect(),
            swap_accounting: false,
            cgroup_v2: false,
            hugetlb: false,
            seccomp: true,
            oom_score: 0,
        };
        let check = |add: &[&str], drop: &[&str], count: usize, has: &[Capability]| {
            let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            let changes =
                Changes { add_capabilities: list(add), drop_capabilities: list(drop), ..Changes::default() };
            let security =
                LinuxContainerSecurityContext { capabilities: Some(changes), ..Default::default() };
            let set = effective(&security, &node).unwrap();
            assert_eq!(set.len(), count);
            assert!(has.iter().all(|c| set.contains(c)));
        };
        check(&[], &[], 14, &[Capability::CAP_CHOWN]);
        check(&["NET_ADMIN", "cap_sys_time"], &["CHOWN"], 15, &[Capability::CAP_NET_ADMIN]);
        check(&["NET_BIND_SERVICE"], &["ALL"], 1, &[Capability::CAP_NET_BIND_SERVICE]);
        check(&["ALL"], &["SYS_ADMIN"], caps::all().len() - 1, &[Capability::CAP_SYS_PTRACE]);
    }
}
