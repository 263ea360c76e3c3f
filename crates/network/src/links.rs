//! Links, addresses and routes, by netlink.

use crate::{BRIDGE, Error, ROUTE_PROTOCOL};
use futures::TryStreamExt;
use ipnet::IpNet;
use nix::libc;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

/// Largest transmission unit used when the node has no default route to take it from.
const MTU_DEFAULT: u32 = 1500;

fn code(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.raw_code().saturating_neg(),
        _ => 0,
    }
}

/// Treats the given error numbers as success.
fn tolerate(result: Result<(), rtnetlink::Error>, numbers: &[i32]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if numbers.contains(&code(&error)) => Ok(()),
        other => other,
    }
}

/// The link of a name, if there is one.
pub(crate) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    let answer = handle.link().get().match_name(name).execute().try_next().await;
    match answer {
        Err(error) if code(&error) == libc::ENODEV => Ok(None),
        other => other.map_err(Error::netlink(format!("look up link {name}"))),
    }
}

/// The index of a link that must exist.
pub(crate) async fn index(handle: &Handle, name: &str) -> Result<u32, Error> {
    find(handle, name).await?.map(|link| link.header.index).ok_or_else(|| Error::NoLink(name.into()))
}

/// All links whose name starts with `prefix`, with their kind.
pub(crate) async fn with_prefix(
    handle: &Handle,
    prefix: &str,
) -> Result<Vec<(String, u32, Option<InfoKind>)>, Error> {
    let fail = || Error::netlink("list links");
    let mut stream = std::pin::pin!(handle.link().get().execute());
    let mut out = Vec::new();
    while let Some(link) = stream.try_next().await.map_err(fail())? {
        let name = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = name.filter(|name| name.starts_with(prefix)) {
            out.push((name, link.header.index, kind(&link)));
        }
    }
    Ok(out)
}

fn kind(link: &LinkMessage) -> Option<InfoKind> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.clone()),
            _ => None,
        }),
        _ => None,
    })
}

/// Removes a link; it may be gone already.
pub(crate) async fn remove(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    let result = handle.link().del(link.header.index).execute().await;
    tolerate(result, &[libc::ENODEV]).map_err(Error::netlink(format!("remove link {name}")))
}

/// A link address derived from an IP address, as containers have it elsewhere: `0a:58` and four bytes. The same
/// address gives the same link address, so no neighbour holds a stale one when an address is used again.
pub(crate) fn mac(ip: IpAddr) -> Vec<u8> {
    let tail = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    };
    [&[0x0a, 0x58][..], &tail].concat()
}

/// Makes the bridge, or takes over the one there is; answers its index. Its link address is fixed: a bridge that
/// borrows those of its ports would change it as pods come and go.
pub(crate) async fn ensure_bridge(handle: &Handle, gateways: &[IpNet], mtu: u32) -> Result<u32, Error> {
    let address = mac(gateways.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpNet::addr));
    let bridge = match find(handle, BRIDGE).await? {
        Some(link) => link.header.index,
        None => {
            let message = LinkBridge::new(BRIDGE).append_info_data(InfoBridge::ForwardDelay(0)).build();
            let result = handle.link().add(message).execute().await;
            tolerate(result, &[libc::EEXIST]).map_err(Error::netlink(format!("make bridge {BRIDGE}")))?;
            index(handle, BRIDGE).await?
        }
    };
    let message = LinkUnspec::new_with_index(bridge).address(address).mtu(mtu).up().build();
    handle.link().set(message).execute().await.map_err(Error::netlink(format!("set up bridge {BRIDGE}")))?;
    let present = addresses(handle, bridge).await?;
    for old in present.iter().filter(|old| !gateways.contains(old) && !is_link_local(old.addr())) {
        let mut message = rtnetlink::packet_route::address::AddressMessage::default();
        message.header.index = bridge;
        message.header.prefix_len = old.prefix_len();
        message.header.family = family(old.addr());
        message.attributes.push(AddressAttribute::Local(old.addr()));
        let result = handle.address().del(message).execute().await;
        tolerate(result, &[libc::EADDRNOTAVAIL]).map_err(Error::netlink(format!("remove address {old}")))?;
    }
    for gateway in gateways {
        add_address(handle, bridge, *gateway).await?;
    }
    Ok(bridge)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn family(ip: IpAddr) -> rtnetlink::packet_route::AddressFamily {
    if ip.is_ipv4() {
        rtnetlink::packet_route::AddressFamily::Inet
    } else {
        rtnetlink::packet_route::AddressFamily::Inet6
    }
}

async fn addresses(handle: &Handle, link: u32) -> Result<Vec<IpNet>, Error> {
    let mut stream = std::pin::pin!(handle.address().get().set_link_index_filter(link).execute());
    let mut out = Vec::new();
    while let Some(message) = stream.try_next().await.map_err(Error::netlink("list addresses"))? {
        let ip = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        out.extend(ip.and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok()));
    }
    Ok(out)
}

/// Gives a link an address. IPv6 addresses skip duplicate detection: we hand them out ourselves.
pub(crate) async fn add_address(handle: &Handle, link: u32, net: IpNet) -> Result<(), Error> {
    let mut request = handle.address().add(link, net.addr(), net.prefix_len()).replace();
    if net.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    tolerate(request.execute().await, &[libc::EEXIST]).map_err(Error::netlink(format!("add address {net}")))
}

/// A veth pair to be made: one end in the bridge, the other in a network namespace.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) peer_netns: RawFd,
    pub(crate) peer_mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) bridge: u32,
}

/// Makes a veth pair with the bridge's end up. The other end cannot be born so: it has no partner yet.
pub(crate) async fn add_veth(handle: &Handle, veth: Veth<'_>) -> Result<(), Error> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(veth.peer)
        .mtu(veth.mtu)
        .address(veth.peer_mac)
        .setns_by_fd(veth.peer_netns)
        .build();
    let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(veth.name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(veth.mtu)
        .controller(veth.bridge)
        .up()
        .build();
    handle
        .link()
        .add(message)
        .execute()
        .await
        .map_err(Error::netlink(format!("make veth pair {}", veth.name)))?;
    // Where the kernel passes bridged packets to netfilter, a packet that a pod sent to itself through a Service is
    // translated inside the bridge and has to leave by the port it came in.
    let link = index(handle, veth.name).await?;
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .index(link)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .build();
    let result = handle.link().set_port(message).execute().await;
    result.map_err(Error::netlink(format!("set hairpin mode of {}", veth.name)))
}

/// Brings a link up; answers its index.
pub(crate) async fn up(handle: &Handle, name: &str) -> Result<u32, Error> {
    let link = index(handle, name).await?;
    let message = LinkUnspec::new_with_index(link).up().build();
    handle.link().set(message).execute().await.map_err(Error::netlink(format!("bring up {name}")))?;
    Ok(link)
}

/// Records for good which link address an IP address has, so that neither side ever asks for it: the first packet
/// goes out at once, and no pod can claim another one's address.
pub(crate) async fn add_neighbour(handle: &Handle, link: u32, ip: IpAddr, mac: &[u8]) -> Result<(), Error> {
    let request =
        handle.neighbours().add(link, ip).link_layer_address(mac).state(NeighbourState::Permanent).replace();
    request.execute().await.map_err(Error::netlink(format!("add neighbour {ip}")))
}

/// Forgets a neighbour; it may be forgotten already.
pub(crate) async fn remove_neighbour(handle: &Handle, link: u32, ip: IpAddr) -> Result<(), Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    let result = handle.neighbours().del(message).execute().await;
    tolerate(result, &[libc::ENOENT, libc::ENODEV]).map_err(Error::netlink(format!("remove neighbour {ip}")))
}

/// The mark of our routes.
pub(crate) fn ours() -> RouteProtocol {
    RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// Builds a route.
pub(crate) fn route(to: IpNet, via: Option<IpAddr>, link: Option<u32>) -> RouteMessage {
    let scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let mut message = match to {
        IpNet::V4(net) => {
            let mut b = RouteMessageBuilder::<Ipv4Addr>::new().protocol(ours()).scope(scope);
            if net.prefix_len() > 0 {
                b = b.destination_prefix(net.network(), net.prefix_len());
            }
            b.build()
        }
        IpNet::V6(net) => {
            let mut b = RouteMessageBuilder::<Ipv6Addr>::new().protocol(ours());
            if net.prefix_len() > 0 {
                b = b.destination_prefix(net.network(), net.prefix_len());
            }
            b.build()
        }
    };
    message.attributes.extend(link.map(RouteAttribute::Oif));
    message.attributes.extend(via.map(|ip| {
        RouteAttribute::Gateway(match ip {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        })
    }));
    message
}

/// Adds a route, replacing one to the same destination.
pub(crate) async fn add_route(handle: &Handle, message: RouteMessage, what: &str) -> Result<(), Error> {
    let result = handle.route().add(message).replace().execute().await;
    tolerate(result, &[libc::EEXIST]).map_err(Error::netlink(format!("add route {what}")))
}

/// Removes a route; it may be gone already.
pub(crate) async fn remove_route(handle: &Handle, message: RouteMessage, what: &str) -> Result<(), Error> {
    let result = handle.route().del(message).execute().await;
    tolerate(result, &[libc::ESRCH, libc::ENODEV]).map_err(Error::netlink(format!("remove route {what}")))
}

/// A route as the kernel has it.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) to: IpNet,
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: Option<u32>,
    pub(crate) message: RouteMessage,
}

/// All unicast routes of the main table, of both families.
pub(crate) async fn routes(handle: &Handle) -> Result<Vec<Installed>, Error> {
    let mut out = Vec::new();
    for query in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let v6 = query.header.address_family == rtnetlink::packet_route::AddressFamily::Inet6;
        let mut stream = std::pin::pin!(handle.route().get(query).execute());
        while let Some(message) = stream.try_next().await.map_err(Error::netlink("list routes"))? {
            out.extend(installed(message, v6));
        }
    }
    Ok(out)
}

fn installed(message: RouteMessage, v6: bool) -> Option<Installed> {
    use rtnetlink::packet_route::route::{RouteHeader, RouteType};
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let everything = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let (mut to, mut via, mut link) = (everything, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(Installed { to, via, link, message })
}

/// The largest transmission unit of the link that the default route goes out by.
pub(crate) async fn uplink_mtu(handle: &Handle) -> Result<u32, Error> {
    let uplink = routes(handle).await?.into_iter().find(|r| r.to.prefix_len() == 0).and_then(|r| r.link);
    let Some(uplink) = uplink else { return Ok(MTU_DEFAULT) };
    let link = handle.link().get().match_index(uplink).execute().try_next().await;
    let link = link.map_err(Error::netlink("look up the uplink"))?;
    let mtu = link.and_then(|link| {
        link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    });
    Ok(mtu.unwrap_or(MTU_DEFAULT))
}
