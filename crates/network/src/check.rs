//! Probing what the pod network and kube-proxy need of the machine, for `isopod check`.
//!
//! Everything is tried for real, inside a network namespace that lives only as long as the probe.

use crate::{Error, links, nft};
use nix::sched::{CloneFlags, unshare};

/// The outcome of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was probed, in a few words.
    pub name: &'static str,
    /// What is wrong; `None` when all is well.
    pub problem: Option<String>,
    /// How to mend it.
    pub hint: &'static str,
}

impl Probe {
    fn new(name: &'static str, hint: &'static str, result: Result<(), String>) -> Self {
        Self { name, problem: result.err(), hint }
    }

    /// Whether all is well.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.problem.is_none()
    }
}

/// Probes the machine. Needs root; says so if it is not given.
pub async fn check() -> Vec<Probe> {
    let mut probes = vec![Probe::new(
        "nft program",
        "install it: apt-get install nftables",
        nft::run(&["--version"], "").await.map(drop).map_err(|e| e.report()),
    )];
    let (send, receive) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("check".into()).spawn(move || {
        // Nobody waits any more if the receiver is gone.
        let _ = send.send(in_scratch_namespace());
    });
    let scratch = match spawned {
        Ok(_) => receive.await.unwrap_or_else(|_| Err("the probe panicked".into())),
        Err(error) => Err(error.to_string()),
    };
    match scratch {
        Ok(more) => probes.extend(more),
        Err(error) => probes.push(Probe::new(
            "network namespaces",
            "run as root, on a kernel with CONFIG_NET_NS",
            Err(error),
        )),
    }
    probes.push(Probe::new(
        "IPv4 forwarding",
        "allow it: sysctl -w net.ipv4.ip_forward=1",
        crate::sysctl::settable("net/ipv4/ip_forward", "1").map_err(|e| e.to_string()),
    ));
    probes.push(forward_policy().await);
    probes
}

/// Runs probes in a namespace of the calling thread's own.
fn in_scratch_namespace() -> Result<Vec<Probe>, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot make a network namespace: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    Ok(runtime.block_on(async {
        vec![
            Probe::new(
                "bridge and veth links",
                "load the modules: modprobe bridge veth",
                probe_links().await.map_err(|e| e.report()),
            ),
            Probe::new(
                "nftables NAT and maps",
                "load the modules: modprobe nf_tables nft_chain_nat nft_masq nft_numgen nft_fib_ipv4 nft_reject_ipv4",
                nft::apply(NFT_PROBE).await.map_err(|e| e.report()),
            ),
        ]
    }))
}

async fn probe_links() -> Result<(), Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::io("open", "netlink socket"))?;
    tokio::spawn(connection);
    let bridge = links::ensure_bridge(&handle, &[], 1500).await?;
    let here = std::fs::File::open("/proc/thread-self/ns/net")
        .map_err(Error::io("open", "/proc/thread-self/ns/net"))?;
    let veth = links::Veth {
        name: "isopod-probe",
        peer: "probe",
        peer_netns: std::os::fd::AsRawFd::as_raw_fd(&here),
        peer_mac: links::mac([192, 0, 2, 1].into()),
        mtu: 1500,
        bridge,
    };
    links::add_veth(&handle, veth).await
}

/// One rule of every sort that the pod network and kube-proxy write.
const NFT_PROBE: &str = "\
add table ip isopod-probe
add map ip isopod-probe endpoints { typeof ip daddr . meta l4proto . tcp dport . numgen random mod 2 : ip daddr . tcp dport ; }
add map ip isopod-probe verdicts { type ipv4_addr . inet_proto . inet_service : verdict ; }
add set ip isopod-probe ranges { type ipv4_addr . ipv4_addr ; flags interval ; }
add map ip isopod-probe seen { typeof ip daddr . ip saddr : ip daddr . tcp dport ; flags dynamic,timeout ; size 16 ; }
add chain ip isopod-probe balance
add rule ip isopod-probe balance dnat ip to ip daddr . meta l4proto . tcp dport . numgen random mod 2 map @endpoints
add chain ip isopod-probe pre { type nat hook prerouting priority -100 ; }
add rule ip isopod-probe pre ip daddr . meta l4proto . th dport vmap @verdicts
add rule ip isopod-probe pre fib daddr type local return
add chain ip isopod-probe post { type nat hook postrouting priority 100 ; }
add rule ip isopod-probe post ct status dnat masquerade fully-random
add chain ip isopod-probe pass { type filter hook forward priority 0 ; }
add rule ip isopod-probe pass ct state new update @seen { ct original ip daddr . ct original ip saddr timeout 9s : ip daddr . tcp dport }
add rule ip isopod-probe pass ip saddr . ip daddr @ranges reject
";

/// Another program's default of dropping what is forwarded would cut pods off.
async fn forward_policy() -> Probe {
    let listing = nft::run(&["list", "chain", "ip", "filter", "FORWARD"], "").await.unwrap_or_default();
    let result = if listing.contains("hook forward") && listing.contains("policy drop") {
        Err("the chain FORWARD of table ip filter drops by default, which cuts pods off".to_owned())
    } else {
        Ok(())
    };
    Probe::new(
        "forwarding not dropped by another firewall",
        "accept the bridge there: iptables -I FORWARD -i isopod0 -j ACCEPT; iptables -I FORWARD -o isopod0 -j ACCEPT",
        result,
    )
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn this_machine_has_what_the_tests_need() {
        let probes = super::check().await;
        let bad: Vec<_> = probes.iter().filter(|p| !p.ok()).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert!(probes.len() >= 5);
    }
}
