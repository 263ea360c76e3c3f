//! `pods/proxy`, `services/proxy`, `nodes/proxy`: plain HTTP to something in the cluster.
//!
//! The address dialled is the one that was checked: it comes from an object, is parsed once, and loopback,
//! link-local and unspecified addresses are refused (CVE-2020-8562).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, header};
use hyper::upgrade::OnUpgrade;
use isopod_api::Value;
use isopod_api::status::Status;
use rustls::pki_types::ServerName;

use super::{Backend, dial_error, forwarded_headers, kubelet::encode, relay, upgrade, wants_upgrade};
use crate::body::RequestBody;
use crate::context::Ctx;
use crate::registry::Resource;
use crate::respond::Answer;
use crate::server::ApiServer;

/// `[scheme:]name[:port]` in the place of a name.
struct Target<'p> {
    scheme: &'p str,
    name: &'p str,
    port: &'p str,
}

impl<'p> Target<'p> {
    fn parse(text: &'p str) -> Result<Target<'p>, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
            _ => return Err(Status::bad_request(format!("invalid proxy request {text:?}"))),
        };
        Ok(Target { scheme, name, port })
    }
}

/// Whether an address may be proxied to at all.
fn check_address(ip: IpAddr) -> Result<(), Status> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    if ip.is_loopback() || link_local || ip.is_unspecified() || ip.is_multicast() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(())
}

/// Answers a request to a proxy subresource.
pub(crate) async fn serve(
    server: &Arc<ApiServer>,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    let info = &ctx.info;
    let target = Target::parse(&info.name)?;
    let backend = match resource.facts.plural {
        "pods" => pod(server, &info.namespace, &target).await?,
        "services" => service(server, &info.namespace, &target).await?,
        _ => node(server, &target).await?,
    };
    let path: Vec<String> = info.rest.iter().map(|s| encode(s)).collect();
    // A trailing slash means something to many servers.
    let slash = if info.path.ends_with('/') && !path.is_empty() { "/" } else { "" };
    let mut uri = format!("/{}{slash}", path.join("/"));
    if let Some(query) = ctx.parts.uri.query() {
        uri = format!("{uri}?{query}");
    }
    let upgrades = wants_upgrade(&ctx.parts.headers);
    let mut request = Request::new(body);
    *request.method_mut() = ctx.parts.method.clone();
    *request.uri_mut() = uri.parse().map_err(|_| Status::bad_request("invalid proxy path"))?;
    *request.headers_mut() = forwarded_headers(&ctx.parts.headers, upgrades);
    let host = backend.address.to_string().parse().map_err(|_| dial_error("bad address"))?;
    request.headers_mut().insert(header::HOST, host);
    if let Ok(prefix) = info.path.parse() {
        request.headers_mut().insert("x-forwarded-uri", prefix);
    }
    if upgrades {
        let client = ctx.parts.extensions.get::<OnUpgrade>().cloned();
        let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        return upgrade(&backend, request, client, server.shutdown().clone(), ctx.audit.clone()).await;
    }
    let answer = backend
        .send(request)
        .await
        .map_err(|e| Status::service_unavailable(format!("error trying to reach service: {e}")))?;
    Ok(relay(answer))
}

/// TLS to something whose certificate the cluster knows nothing about, if the target asks for it.
fn tls(scheme: &str, ip: IpAddr) -> Option<(Arc<rustls::ClientConfig>, ServerName<'static>)> {
    (scheme == "https").then(|| (super::proxy_tls::config(), ServerName::from(ip)))
}

async fn pod(server: &ApiServer, namespace: &str, target: &Target<'_>) -> Result<Backend, Status> {
    let found = server.stored_object("", "pods", namespace, target.name).await?;
    let pod = found.ok_or_else(|| Status::not_found("", "pods", target.name))?;
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    check_address(ip)?;
    let ports = || {
        pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|c| c["ports"].as_array().into_iter().flatten())
    };
    let port = match target.port {
        "" => ports().find_map(|p| p["containerPort"].as_u64()).unwrap_or(80),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => ports()
                .find(|p| p["name"] == text)
                .and_then(|p| p["containerPort"].as_u64())
                .ok_or_else(|| Status::bad_request(format!("no port named {text:?}")))?,
        },
    };
    backend(target.scheme, ip, port)
}

fn backend(scheme: &str, ip: IpAddr, port: u64) -> Result<Backend, Status> {
    let port = u16::try_from(port).map_err(|_| Status::bad_request(format!("invalid port {port}")))?;
    Ok(Backend { address: SocketAddr::new(ip, port), tls: tls(scheme, ip) })
}

async fn service(server: &ApiServer, namespace: &str, target: &Target<'_>) -> Result<Backend, Status> {
    let found = server.stored_object("", "services", namespace, target.name).await?;
    let service = found.ok_or_else(|| Status::not_found("", "services", target.name))?;
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let wanted = match target.port {
        "" if ports.len() == 1 => ports[0]["name"].clone(),
        text => {
            let number = text.parse::<u64>().ok();
            let found = ports.iter().find(|p| p["name"] == text || number.is_some_and(|n| p["port"] == n));
            let none = || {
                Status::service_unavailable(format!(
                    "no service port {text:?} found for service {:?}",
                    target.name
                ))
            };
            found.ok_or_else(none)?["name"].clone()
        }
    };
    let name_of = |p: &Value| p["name"].as_str().unwrap_or_default().to_owned();
    let wanted = wanted.as_str().unwrap_or_default().to_owned();
    let slices = server.cached_objects("discovery.k8s.io", "endpointslices", namespace).await?;
    let mut candidates = Vec::new();
    for slice in
        slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == target.name)
    {
        let port = slice["ports"].as_array().into_iter().flatten().find(|p| name_of(p) == wanted);
        let Some(port) = port.and_then(|p| p["port"].as_u64()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let ready = endpoint["conditions"]["ready"] != Value::Bool(false);
            let ip = endpoint["addresses"][0].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            if let (true, Some(ip)) = (ready, ip) {
                candidates.push((ip, port));
            }
        }
    }
    if candidates.is_empty() {
        return Err(Status::service_unavailable(format!(
            "no endpoints available for service {:?}",
            target.name
        )));
    }
    let (ip, port) = candidates[rand::random_range(0..candidates.len())];
    check_address(ip)?;
    backend(target.scheme, ip, port)
}

async fn node(server: &ApiServer, target: &Target<'_>) -> Result<Backend, Status> {
    let kubelet = server.kubelet(target.name).await?;
    if target.port.is_empty() || target.port.parse() == Ok(kubelet.address.port()) {
        return Ok(kubelet);
    }
    check_address(kubelet.address.ip())?;
    let port =
        target.port.parse().map_err(|_| Status::bad_request(format!("invalid port {:?}", target.port)))?;
    backend(target.scheme, kubelet.address.ip(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_addresses() {
        let parse =
            |t| Target::parse(t).map(|t| (t.scheme.to_owned(), t.name.to_owned(), t.port.to_owned())).ok();
        let some = |s: &str, n: &str, p: &str| Some((s.to_owned(), n.to_owned(), p.to_owned()));
        assert_eq!(parse("a"), some("", "a", ""));
        assert_eq!(parse("a:80"), some("", "a", "80"));
        assert_eq!(parse("https:a:443"), some("https", "a", "443"));
        assert_eq!(parse("ftp:a:1"), None);
        for (ip, allowed) in [
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("10.0.0.1", true),
            ("::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(check_address(ip.parse().unwrap()).is_ok(), allowed, "{ip}");
        }
    }
}
