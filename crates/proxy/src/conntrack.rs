//! Ending tracked UDP connections whose endpoint is gone, by ctnetlink.
//!
//! The kernel translates every packet of a tracked connection as it did the first. TCP notices that nobody answers;
//! a UDP client that keeps its port would send to a dead address for ever. So after the endpoints of a UDP frontend
//! changed, connections to it are looked through, and those that lead elsewhere than to a present endpoint are deleted.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

// linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const TYPE_MASK: u16 = 0x3fff;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;

/// Receive buffer; the kernel fills at most 32 KiB a message when dumping.
const BUFFER_BYTES: usize = 65_536;

/// Longest wait for the kernel's next message.
const TIMEOUT_SECONDS: i64 = 5;

/// A tracked UDP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where the client sent to.
    pub(crate) to: SocketAddr,
    /// Where answers come from: the endpoint, if it was translated.
    pub(crate) answered_by: SocketAddr,
    family: u8,
    /// The original tuple as the kernel wrote it: what a deletion names the connection by.
    original: Vec<u8>,
}

/// Deletes the UDP connections that `is_stale` picks; answers how many. Blocks: call it off the async workers.
pub(crate) fn delete_udp(ipv6: bool, is_stale: impl Fn(&Flow) -> bool) -> io::Result<u64> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkNetFilter),
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
    let mut deleted = 0;
    for family in [AF_INET, AF_INET6].into_iter().take(if ipv6 { 2 } else { 1 }) {
        for flow in dump(&socket, family)?.into_iter().filter(|flow| is_stale(flow)) {
            deleted += u64::from(delete(&socket, &flow)?);
        }
    }
    Ok(deleted)
}

fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = 20 + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).expect("a short message").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one request at a time on this socket
    message.extend([family, 0, 0, 0]); // nfgenmsg
    message.extend(attributes);
    message
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    sendto(socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

fn dump(socket: &OwnedFd, family: u8) -> io::Result<Vec<Flow>> {
    send(socket, &request(CT_GET, NLM_F_DUMP, family, &[]))?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(flows),
                NLMSG_ERROR => {
                    return Err(error_of(body).unwrap_or_else(|| io::Error::other("unexpected answer")));
                }
                _ => flows.extend(body.get(4..).and_then(|attributes| flow(family, attributes))),
            }
        }
    }
}

/// Deletes one connection; `false` if it ended by itself meanwhile.
fn delete(socket: &OwnedFd, flow: &Flow) -> io::Result<bool> {
    send(socket, &request(CT_DELETE, NLM_F_ACK, flow.family, &flow.original))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match messages(&buffer[..length]).next() {
        Some((NLMSG_ERROR, body)) => match error_of(body) {
            None => Ok(true),
            Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Some(error) => Err(error),
        },
        _ => Err(io::Error::other("unexpected answer")),
    }
}

/// The error an NLMSG_ERROR carries; `None` for an acknowledgement.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// Splits a datagram into messages: kind and body.
fn messages(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(data.get(4..6)?.try_into().ok()?);
        let body = data.get(16..length)?;
        data = data.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, body))
    })
}

/// Splits attributes: type without flags, value, and the whole attribute.
fn attributes(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(data.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(data.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = data.get(4..length)?;
        let whole = data.get(..length)?;
        data = data.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value, whole))
    })
}

fn find(data: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(data).find(|(kind, ..)| *kind == wanted).map(|(_, value, _)| value)
}

fn flow(family: u8, data: &[u8]) -> Option<Flow> {
    let (_, original, whole) = attributes(data).find(|(kind, ..)| *kind == CTA_TUPLE_ORIG)?;
    let reply = find(data, CTA_TUPLE_REPLY)?;
    if find(find(original, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let mut padded = whole.to_vec();
    padded.resize(whole.len().next_multiple_of(4), 0);
    Some(Flow { to: end(original, false)?, answered_by: end(reply, true)?, family, original: padded })
}

/// The source or destination of a tuple.
fn end(tuple: &[u8], source: bool) -> Option<SocketAddr> {
    let (v4, v6, port) = if source {
        (CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)
    } else {
        (CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)
    };
    let ip = find(tuple, CTA_TUPLE_IP)?;
    let ip = match find(ip, v4) {
        Some(bytes) => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(find(ip, v6)?).ok()?),
    };
    let port = find(find(tuple, CTA_TUPLE_PROTO)?, port)?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn tuple(kind: u16, src: ([u8; 4], u16), dst: ([u8; 4], u16), proto: u8) -> Vec<u8> {
        let ip = [attribute(CTA_IP_V4_SRC, &src.0), attribute(CTA_IP_V4_DST, &dst.0)].concat();
        let ports = [
            attribute(CTA_PROTO_NUM, &[proto]),
            attribute(CTA_PROTO_SRC_PORT, &src.1.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &dst.1.to_be_bytes()),
        ]
        .concat();
        let nested =
            [attribute(CTA_TUPLE_IP | 0x8000, &ip), attribute(CTA_TUPLE_PROTO | 0x8000, &ports)].concat();
        attribute(kind | 0x8000, &nested)
    }

    #[test]
    fn reads_a_translated_connection() {
        let (client, service, pod) = (([10, 42, 0, 9], 4000), ([10, 43, 0, 10], 53), ([10, 42, 0, 5], 5353));
        let of = |proto| {
            [tuple(CTA_TUPLE_ORIG, client, service, proto), tuple(CTA_TUPLE_REPLY, pod, client, proto)]
                .concat()
        };
        let got = flow(AF_INET, &of(UDP)).unwrap();
        assert_eq!((got.to, got.answered_by), (service.into(), pod.into()));
        assert_eq!(got.original, tuple(CTA_TUPLE_ORIG, client, service, UDP));
        assert_eq!(flow(AF_INET, &of(6)), None);
        for cut in 0..of(UDP).len() {
            // Whatever arrives, nothing is read past its end.
            let _ = flow(AF_INET, &of(UDP)[..cut]);
        }
    }
}
