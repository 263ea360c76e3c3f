//! Allocation for Services: families, cluster addresses, node ports.
//!
//! Runs as the last step before a Service is stored, and undoes itself if the write does not happen. What a
//! Service gives up is released after the write. A repair loop mends what a crash in between leaves.

pub(crate) mod addresses;
pub(crate) mod families;
pub(crate) mod node_ports;
pub(crate) mod repair;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Weak;

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use isopod_rules::kinds::service::{needs_cluster_ip, needs_health_check_port, needs_node_ports};
use serde_json::json;

use crate::layers::Rollback;
use crate::registry::write::Rollbacks;
use crate::server::ApiServer;

fn text<'v>(service: &'v Value, key: &str) -> &'v str {
    service["metadata"][key].as_str().unwrap_or_default()
}

/// Cluster addresses of a Service, without the `None` of headless ones.
fn cluster_ips(service: &Value) -> Vec<String> {
    let list = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).filter(|ip| !matches!(*ip, "" | "None")).map(str::to_owned).collect()
}

/// Node ports of a Service, the one for health checks included.
fn node_ports(service: &Value) -> BTreeSet<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
    ports
        .chain([&service["spec"]["healthCheckNodePort"]])
        .filter_map(Value::as_u64)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect()
}

fn invalid(service: &Value, error: Error) -> Status {
    Status::invalid("", "Service", text(service, "name"), &[error])
}

impl ApiServer {
    /// Gives a Service what it needs.
    pub(crate) async fn allocate(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        rollbacks: &mut Rollbacks,
        dry_run: bool,
    ) -> Result<(), Status> {
        if needs_cluster_ip(service) {
            self.allocate_addresses(service, old, rollbacks, dry_run).await?;
        }
        self.allocate_ports(service, old, rollbacks, dry_run).await
    }

    async fn allocate_addresses(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        rollbacks: &mut Rollbacks,
        dry_run: bool,
    ) -> Result<(), Status> {
        let spec = child_mut(service, "spec");
        let single = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
        if spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) && !single.is_empty() {
            spec.insert("clusterIPs".to_owned(), json!([single]));
        }
        families::settle(service, &self.families()).map_err(|e| invalid(service, e))?;
        if service["spec"]["clusterIPs"][0] == "None" {
            child_mut(service, "spec").insert("clusterIP".to_owned(), "None".into());
            return Ok(());
        }
        let had: Vec<String> = old.map(cluster_ips).unwrap_or_default();
        let mut ips = cluster_ips(service);
        let (namespace, name) = (text(service, "namespace").to_owned(), text(service, "name").to_owned());
        let path = Path::new("spec").child("clusterIPs");
        let families = service["spec"]["ipFamilies"].as_array().cloned().unwrap_or_default();
        ips.truncate(families.len());
        for (i, family) in families.iter().enumerate() {
            let refused = |why: &dyn std::fmt::Display, ip: &str| match ip {
                "" => Status::internal(format!("failed to allocate a serviceIP: {why}")),
                ip => {
                    let detail = format!("failed to allocate IP {ip}: {why}");
                    Status::invalid("", "Service", &name, &[Error::invalid(&path, json!([ip]), detail)])
                }
            };
            let ip = match ips.get(i) {
                Some(ip) if had.contains(ip) => continue,
                Some(text) => {
                    let ip: IpAddr = text.parse().map_err(|_| {
                        refused(&"must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", text)
                    })?;
                    if !dry_run {
                        self.reserve(ip, &namespace, &name).await.map_err(|e| refused(&e, text))?;
                    }
                    ips[i] = ip.to_string();
                    ip
                }
                None => {
                    if dry_run {
                        break;
                    }
                    let is_ipv6 = family == "IPv6";
                    let ip =
                        self.reserve_any(is_ipv6, &namespace, &name).await.map_err(|e| refused(&e, ""))?;
                    ips.push(ip.to_string());
                    ip
                }
            };
            if !dry_run {
                rollbacks.0.push(release_later(self.me(), ip.to_string(), namespace.clone(), name.clone()));
            }
        }
        let spec = child_mut(service, "spec");
        if let Some(first) = ips.first() {
            spec.insert("clusterIP".to_owned(), first.as_str().into());
            spec.insert("clusterIPs".to_owned(), json!(ips));
        }
        Ok(())
    }

    async fn allocate_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        rollbacks: &mut Rollbacks,
        dry_run: bool,
    ) -> Result<(), Status> {
        let had = old.map(node_ports).unwrap_or_default();
        let wants_health = needs_health_check_port(service);
        let wanted = if needs_node_ports(service) { node_ports(service) } else { BTreeSet::new() };
        let open = needs_node_ports(service)
            && service["spec"]["ports"]
                .as_array()
                .is_some_and(|ports| ports.iter().any(|p| p["nodePort"].as_u64().unwrap_or(0) == 0));
        let health_open = wants_health && service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0;
        let new: Vec<u16> = wanted.difference(&had).copied().collect();
        if dry_run || (new.is_empty() && !open && !health_open) {
            return Ok(());
        }
        let before = service.clone();
        let taken = self
            .with_node_ports(|bitmap| {
                *service = before.clone();
                let mut taken = Vec::new();
                for port in &new {
                    bitmap.take(*port)?;
                    taken.push(*port);
                }
                fill_ports(service, open, health_open, bitmap, &mut taken)?;
                Ok(taken)
            })
            .await?;
        match taken {
            Ok(ports) => {
                rollbacks.0.push(give_back_later(self.me(), ports));
                Ok(())
            }
            Err(refused) => Err(port_error(&before, &new, &refused)),
        }
    }

    /// Releases what a Service had and has no more.
    pub(crate) async fn release_unused(&self, old: &Value, new: Option<&Value>) {
        let (namespace, name) = (text(old, "namespace"), text(old, "name"));
        let keeps = new.map(cluster_ips).unwrap_or_default();
        for ip in cluster_ips(old).iter().filter(|ip| !keeps.contains(ip)) {
            self.release(ip, namespace, name).await;
        }
        let keeps = new.map(node_ports).unwrap_or_default();
        let gone: Vec<u16> = node_ports(old).difference(&keeps).copied().collect();
        if !gone.is_empty() {
            give_back(self, &gone).await;
        }
    }
}

/// Fills in ports that were left open. Ports of one number and different protocols share a node port.
fn fill_ports(
    service: &mut Value,
    open: bool,
    health_open: bool,
    bitmap: &mut node_ports::Bitmap,
    taken: &mut Vec<u16>,
) -> Result<(), node_ports::Refused> {
    if open {
        let mut given: Vec<(u64, String, u64)> = Vec::new();
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let number = port["port"].as_u64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let mut node_port = port["nodePort"].as_u64().unwrap_or(0);
            if node_port == 0 {
                let shared = given.iter().find(|(n, _, np)| {
                    *n == number && !given.iter().any(|(_, p, other)| other == np && *p == protocol)
                });
                node_port = match shared {
                    Some((_, _, node_port)) => *node_port,
                    None => {
                        let got = bitmap.take_any()?;
                        taken.push(got);
                        u64::from(got)
                    }
                };
                port["nodePort"] = node_port.into();
            }
            given.push((number, protocol, node_port));
        }
    }
    if health_open {
        let got = bitmap.take_any()?;
        taken.push(got);
        child_mut(service, "spec").insert("healthCheckNodePort".to_owned(), got.into());
    }
    Ok(())
}

/// The refusal of a port, at the first of the new ports.
fn port_error(service: &Value, new: &[u16], refused: &node_ports::Refused) -> Status {
    if *refused == node_ports::Refused::Full {
        return Status::internal("failed to allocate a nodePort: range is full");
    }
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let is_new = |p: &Value| p["nodePort"].as_u64().is_some_and(|p| new.iter().any(|n| u64::from(*n) == p));
    let at = ports.iter().position(is_new).unwrap_or(0);
    let path = Path::new("spec").child("ports").index(at).child("nodePort");
    invalid(
        service,
        Error::invalid(
            &path,
            ports.get(at).map_or(Value::Null, |p| p["nodePort"].clone()),
            refused.to_string(),
        ),
    )
}

fn release_later(server: Weak<ApiServer>, ip: String, namespace: String, name: String) -> Rollback {
    Rollback(Box::new(move || {
        Box::pin(async move {
            if let Some(server) = server.upgrade() {
                server.release(&ip, &namespace, &name).await;
            }
        })
    }))
}

fn give_back_later(server: Weak<ApiServer>, ports: Vec<u16>) -> Rollback {
    Rollback(Box::new(move || {
        Box::pin(async move {
            if let Some(server) = server.upgrade() {
                give_back(&server, &ports).await;
            }
        })
    }))
}

async fn give_back(server: &ApiServer, ports: &[u16]) {
    let done = server
        .with_node_ports(|bitmap| {
            ports.iter().for_each(|p| bitmap.give_back(*p));
            Ok(())
        })
        .await;
    if let Err(error) = done {
        tracing::warn!(?ports, %error, "node ports could not be given back");
    }
}
