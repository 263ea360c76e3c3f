//! Addresses of pods: who has which, in memory and on disk.
//!
//! On disk there is one file per address, named after it, holding the [`Lease`] as JSON. It is written under another
//! name and then linked, so that it appears whole or not at all, and never replaces another one. The files are the
//! truth across restarts. A file that cannot be read (the machine lost power while it was written; the pods of that
//! time are gone too) is removed with a warning.

use crate::Error;
use ipnet::IpNet;
use isopod_cri::{HostPort, PodNetworkRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address of the node; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl From<&HostPort> for LeasedPort {
    fn from(port: &HostPort) -> Self {
        use isopod_cri::v1::Protocol;
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        Self {
            protocol: protocol.into(),
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip,
        }
    }
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Sandbox.
    pub sandbox_id: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// The node's end of the veth pair.
    pub link: String,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub host_ports: Vec<LeasedPort>,
}

impl Lease {
    /// The lease that `request` is to have.
    #[must_use]
    pub fn new(request: &PodNetworkRequest) -> Self {
        Self {
            sandbox_id: request.sandbox_id.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            uid: request.uid.clone(),
            link: link_name(&request.sandbox_id),
            host_ports: request.host_ports.iter().map(LeasedPort::from).collect(),
        }
    }
}

/// The name of the node's end of a sandbox's veth pair: `isopod` and nine hex digits, 15 bytes being the most a link
/// name can have. FNV-1a, since the name must be the same in every version of the program.
#[must_use]
pub fn link_name(sandbox_id: &str) -> String {
    let hash = sandbox_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("isopod{:09x}", hash >> 28)
}

/// All leases of the node.
#[derive(Debug)]
pub struct Addresses {
    dir: PathBuf,
    leases: BTreeMap<IpAddr, Lease>,
    /// Where the next search starts, by range, so that an address rests as long as possible before it is used again.
    next: BTreeMap<IpNet, u128>,
}

impl Addresses {
    /// Reads the leases in `dir`, making it if need be.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(Error::io("make directory", dir))?;
        let mut leases = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io("read directory", dir))? {
            let path = entry.map_err(Error::io("read directory", dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let lease = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match (name.parse::<IpAddr>(), lease) {
                (Ok(ip), Some(lease)) => {
                    leases.insert(ip, lease);
                }
                _ => {
                    tracing::warn!(file = %path.display(), "removing what is not a readable address lease");
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), leases, next: BTreeMap::new() })
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> &BTreeMap<IpAddr, Lease> {
        &self.leases
    }

    /// The addresses of a sandbox.
    #[must_use]
    pub fn of(&self, sandbox_id: &str) -> Vec<IpAddr> {
        self.leases.iter().filter(|(_, l)| l.sandbox_id == sandbox_id).map(|(ip, _)| *ip).collect()
    }

    /// Takes a free address of `range` and records `lease` for it.
    pub fn take(&mut self, range: IpNet, lease: Lease) -> Result<IpAddr, Error> {
        let (first, count) = usable(range);
        let start = *self.next.get(&range).unwrap_or(&0);
        // At most one look past every lease there is: a range of 2^64 addresses is not walked through.
        let tries = count.min(self.leases.len() as u128 + 1);
        for i in 0..tries.max(1) {
            let offset = (start + i) % count.max(1);
            let ip = nth(first, offset);
            if count == 0 || self.leases.contains_key(&ip) {
                continue;
            }
            self.write(ip, &lease)?;
            self.leases.insert(ip, lease);
            self.next.insert(range, (offset + 1) % count);
            return Ok(ip);
        }
        Err(Error::Exhausted(range))
    }

    fn write(&self, ip: IpAddr, lease: &Lease) -> Result<(), Error> {
        let path = self.dir.join(ip.to_string());
        let temporary = self.dir.join(format!(".{ip}.new"));
        let bytes = serde_json::to_vec(lease).expect("a lease is plain data");
        std::fs::write(&temporary, bytes).map_err(Error::io("write", &temporary))?;
        let linked = std::fs::hard_link(&temporary, &path);
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::AddressRecorded(ip)),
            other => other.map_err(Error::io("write", &path)),
        }
    }

    /// Frees the addresses of a sandbox.
    pub fn release(&mut self, sandbox_id: &str) -> Result<(), Error> {
        for ip in self.of(sandbox_id) {
            let path = self.dir.join(ip.to_string());
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(e));
                }
                _ => self.leases.remove(&ip),
            };
        }
        Ok(())
    }
}

/// First address for pods and how many there are: without the network address, the gateway after it and, for IPv4,
/// the broadcast address.
fn usable(range: IpNet) -> (IpAddr, u128) {
    let bits = range.max_prefix_len() - range.prefix_len();
    let size = if bits >= 127 { u128::MAX } else { 1u128 << bits };
    let reserved = if range.addr().is_ipv4() { 3 } else { 2 };
    (nth(range.network(), 2), size.saturating_sub(reserved))
}

/// The gateway: first address of the range.
#[must_use]
pub fn gateway(range: IpNet) -> IpAddr {
    nth(range.network(), 1)
}

fn nth(start: IpAddr, offset: u128) -> IpAddr {
    match start {
        IpAddr::V4(ip) => {
            IpAddr::V4((u32::from(ip).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX))).into())
        }
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(offset)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str) -> Lease {
        Lease {
            sandbox_id: id.into(),
            namespace: "ns".into(),
            name: id.into(),
            uid: "u".into(),
            link: link_name(id),
            host_ports: vec![],
        }
    }

    #[test]
    fn addresses_are_taken_in_turn_kept_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        let range: IpNet = "10.42.0.0/29".parse().unwrap();
        let mut a = Addresses::open(dir.path()).unwrap();
        let ip = |last: u8| IpAddr::from([10, 42, 0, last]);
        for last in 2..=6 {
            assert_eq!(a.take(range, lease(&format!("s{last}"))).unwrap(), ip(last));
        }
        assert!(matches!(a.take(range, lease("more")), Err(Error::Exhausted(_))));
        a.release("s4").unwrap();
        a.release("s4").unwrap();
        assert_eq!(a.take(range, lease("again")).unwrap(), ip(4));
        let mut b = Addresses::open(dir.path()).unwrap();
        assert_eq!(b.leases(), a.leases());
        b.release("s2").unwrap();
        b.release("s3").unwrap();
        assert_eq!(b.take(range, lease("x")).unwrap(), ip(2));
        b.release("x").unwrap();
        assert_eq!(b.take(range, lease("y")).unwrap(), ip(3), "the address freed last rests");
    }

    #[test]
    fn unreadable_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("10.42.0.9"), b"{\"sandbox").unwrap();
        std::fs::write(dir.path().join(".10.42.0.8.new"), b"").unwrap();
        let a = Addresses::open(dir.path()).unwrap();
        assert!(a.leases().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn ranges_of_both_families() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = Addresses::open(dir.path()).unwrap();
        let range: IpNet = "fd42::/64".parse().unwrap();
        assert_eq!(gateway(range), "fd42::1".parse::<IpAddr>().unwrap());
        assert_eq!(a.take(range, lease("s")).unwrap(), "fd42::2".parse::<IpAddr>().unwrap());
        let tiny: IpNet = "10.42.0.0/31".parse().unwrap();
        assert!(matches!(a.take(tiny, lease("t")), Err(Error::Exhausted(_))));
    }

    #[test]
    fn link_names_fit() {
        assert_eq!(link_name("8f3a"), link_name("8f3a"));
        assert_ne!(link_name("8f3a"), link_name("8f3b"));
        assert_eq!(link_name(&"x".repeat(64)).len(), 15);
    }
}
