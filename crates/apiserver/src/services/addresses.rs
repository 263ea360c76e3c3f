//! Cluster addresses of Services, reserved by creating `IPAddress` objects: the store makes that atomic, so
//! any number of API servers allocate from one range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use isopod_api::Value;
use isopod_api::status::Status;
use rand::Rng as _;
use serde_json::json;

use super::families;
use crate::server::ApiServer;

const GROUP: &str = "networking.k8s.io";
const RESOURCE: &str = "ipaddresses";
/// Label with the address's family.
const LABEL_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Label with the allocator's name.
const LABEL_MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
/// Random places tried before the range is searched from one end to the other.
const RANDOM_TRIES: usize = 16;
/// Most addresses looked at before a range counts as full.
const SEARCH_MAX: u128 = 1 << 16;

/// Why no address was got.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody has it.
    Taken,
    /// No range has it.
    OutOfRange(String),
    /// No address is left.
    Full,
    /// The store failed.
    Failed(Status),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Taken => f.write_str("provided IP is already allocated"),
            Refused::OutOfRange(ranges) => {
                write!(
                    f,
                    "the provided network does not match the current range: the range of valid IPs is {ranges}"
                )
            }
            Refused::Full => f.write_str("range is full"),
            Refused::Failed(status) => write!(f, "{status}"),
        }
    }
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn to_ip(number: u128, is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        IpAddr::V6(Ipv6Addr::from(number))
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    }
}

/// First and last address of a range that a Service may have: not the network's, not IPv4's broadcast.
fn bounds(range: IpNet) -> (u128, u128) {
    let (first, last) = (to_number(range.network()), to_number(range.broadcast()));
    let v4 = matches!(range, IpNet::V4(_));
    (first + 1, if v4 { last - 1 } else { last })
}

/// The first address of a range, which the `kubernetes` Service has.
pub(crate) fn first_address(range: IpNet) -> IpAddr {
    to_ip(bounds(range).0, matches!(range, IpNet::V6(_)))
}

/// Size of the lower part of a range that is left to explicit choice: a sixteenth, 16 to 256 addresses.
fn static_part(size: u128) -> u128 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

impl ApiServer {
    /// The families of the cluster, primary first.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        self.config.service_cidrs.iter().map(|c| families::name(matches!(c, IpNet::V6(_)))).collect()
    }

    /// Ranges of a family: those configured and those of ServiceCIDR objects that are not going away.
    async fn ranges(&self, is_ipv6: bool) -> Result<Vec<IpNet>, Refused> {
        let objects = self.cached_objects(GROUP, "servicecidrs", "").await.map_err(Refused::Failed)?;
        let mut ranges: Vec<IpNet> = self.config.service_cidrs.clone();
        for object in objects.iter().filter(|o| !o["metadata"]["deletionTimestamp"].is_string()) {
            for cidr in object["spec"]["cidrs"].as_array().into_iter().flatten() {
                if let Some(cidr) = cidr.as_str().and_then(|c| c.parse().ok())
                    && !ranges.contains(&cidr)
                {
                    ranges.push(cidr);
                }
            }
        }
        ranges.retain(|r| matches!(r, IpNet::V6(_)) == is_ipv6);
        Ok(ranges)
    }

    /// Reserves one address for a Service.
    pub(crate) async fn reserve(&self, ip: IpAddr, namespace: &str, name: &str) -> Result<(), Refused> {
        let ranges = self.ranges(ip.is_ipv6()).await?;
        let number = to_number(ip);
        let inside = ranges.iter().any(|r| {
            let (first, last) = bounds(*r);
            (first..=last).contains(&number)
        });
        if !inside {
            let all: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            return Err(Refused::OutOfRange(all.join(",")));
        }
        self.create_address(ip, namespace, name).await
    }

    async fn create_address(&self, ip: IpAddr, namespace: &str, name: &str) -> Result<(), Refused> {
        let object = json!({
            "metadata": {"name": ip.to_string(), "labels": {
                LABEL_FAMILY: families::name(ip.is_ipv6()), LABEL_MANAGED_BY: MANAGER}},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
        });
        match self.create_object(GROUP, RESOURCE, "", object).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Err(Refused::Taken),
            Err(status) => Err(Refused::Failed(status)),
        }
    }

    /// Reserves any free address of a family for a Service.
    pub(crate) async fn reserve_any(
        &self,
        is_ipv6: bool,
        namespace: &str,
        name: &str,
    ) -> Result<IpAddr, Refused> {
        let stored = self.registry().stored(GROUP, RESOURCE).map_err(Refused::Failed)?;
        stored.cache.ensure(&*self.registry().store).await.map_err(Refused::Failed)?;
        for range in self.ranges(is_ipv6).await? {
            let (first, last) = bounds(range);
            let size = last - first + 1;
            let dynamic = first + static_part(size);
            let mut candidates: Vec<u128> =
                (0..RANDOM_TRIES).map(|_| rand::rng().random_range(dynamic..=last)).collect();
            let start = candidates[0];
            // Then everything once: the rest of the dynamic part, its beginning, the static part.
            let upward = (start..=last).chain(dynamic..start).chain(first..dynamic);
            for number in candidates.drain(..).chain(upward.take(SEARCH_MAX as usize)) {
                let ip = to_ip(number, is_ipv6);
                if stored.cache.get(&ip.to_string()).is_some() {
                    continue;
                }
                match self.create_address(ip, namespace, name).await {
                    Ok(()) => return Ok(ip),
                    Err(Refused::Taken) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Err(Refused::Full)
    }

    /// Gives an address back, if it is reserved for this Service.
    pub(crate) async fn release(&self, ip: &str, namespace: &str, name: &str) {
        let current = self.stored_object(GROUP, RESOURCE, "", ip).await;
        if let Ok(Some(object)) = &current
            && !belongs(object, namespace, name)
        {
            return;
        }
        if let Err(error) = self.delete_object(GROUP, RESOURCE, "", ip).await {
            tracing::warn!(ip, %error, "the address of a Service could not be given back");
        }
    }
}

/// Whether an IPAddress is reserved for a Service.
pub(crate) fn belongs(address: &Value, namespace: &str, name: &str) -> bool {
    let parent = &address["spec"]["parentRef"];
    parent["resource"] == "services" && parent["namespace"] == namespace && parent["name"] == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_ranges() {
        assert_eq!(first_address("10.43.0.0/16".parse().unwrap()).to_string(), "10.43.0.1");
        let (first, last) = bounds("10.0.0.0/29".parse().unwrap());
        assert_eq!(
            (to_ip(first, false).to_string(), to_ip(last, false).to_string()),
            ("10.0.0.1".into(), "10.0.0.6".into())
        );
        assert_eq!((static_part(14), static_part(254), static_part(65534)), (0, 16, 256));
    }
}
