//! A local network of hosts, each a network namespace, joined by a bridge in a namespace of its own. Nothing of it can
//! reach the machine's own network.

use crate::command::run_ok;
use anyhow::Result;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The network. Dropping it removes all namespaces.
#[derive(Debug)]
pub struct Lan {
    switch: String,
    hosts: Vec<String>,
    next: u8,
}

/// One host of a [`Lan`].
#[derive(Debug, Clone)]
pub struct Host {
    /// Name of its network namespace.
    pub namespace: String,
    /// Its address in 192.168.77.0/24.
    pub address: Ipv4Addr,
}

fn ip(arguments: &[&str]) -> Result<String> {
    run_ok(Command::new("ip").args(arguments))
}

impl Lan {
    /// An empty network.
    pub fn new() -> Result<Self> {
        let id = format!("it{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let lan = Lan { switch: format!("{id}-sw"), hosts: Vec::new(), next: 2 };
        ip(&["netns", "add", &lan.switch])?;
        ip(&["-n", &lan.switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &lan.switch, "addr", "add", "192.168.77.1/24", "dev", "br0"])?;
        ip(&["-n", &lan.switch, "link", "set", "br0", "up"])?;
        Ok(lan)
    }

    /// Adds a host with loopback, an address, and a default route over the bridge.
    pub fn host(&mut self) -> Result<Host> {
        let number = self.next;
        self.next += 1;
        let namespace = format!("{}-{number}", self.switch.trim_end_matches("-sw"));
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(namespace.clone());
        let port = format!("p{number}");
        let switch = self.switch.as_str();
        ip(&[
            "-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", switch,
        ])?;
        ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"])?;
        let address = Ipv4Addr::new(192, 168, 77, number);
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "route", "add", "default", "via", "192.168.77.1"])?;
        Ok(Host { namespace, address })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.switch]) {
            // What is gone already is what was wanted.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

impl Host {
    /// A command that runs in this host's network.
    pub fn command(&self, program: &str) -> Command {
        // Unlike `ip netns exec`, nsenter leaves the mounts alone, cgroups among them.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program);
        command
    }
}
