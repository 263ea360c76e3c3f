//! `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward`: answered by the kubelet of the pod's node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::status::Status;
use rustls::pki_types::ServerName;

use super::{
    Backend, dial_error, error_text, forwarded_headers, no_body, stream_body, upgrade, wants_upgrade,
};
use crate::context::Ctx;
use crate::layers::Operation;
use crate::registry::Resource;
use crate::registry::write::{Manager, Rollbacks};
use crate::respond::{self, Answer};
use crate::server::ApiServer;

/// Port of a kubelet that does not say another.
const KUBELET_PORT: u16 = 10_250;

/// Query parameters of a log request that are passed on.
const LOG_PARAMETERS: &[&str] = &[
    "follow",
    "limitBytes",
    "pretty",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
];

/// Percent-encodes a query value.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl ApiServer {
    /// The kubelet of a node.
    pub(super) async fn kubelet(&self, node: &str) -> Result<Backend, Status> {
        let tls = self.config.kubelet_tls.clone();
        let tls =
            tls.ok_or_else(|| Status::service_unavailable("this server has no credentials for kubelets"))?;
        let object = self
            .stored_object("", "nodes", "", node)
            .await?
            .ok_or_else(|| Status::not_found("", "nodes", node))?;
        let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let address = ["InternalIP", "ExternalIP"].iter().find_map(|kind| {
            let found = addresses.iter().filter(|a| a["type"] == *kind);
            found.filter_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok()).next()
        });
        let ip = address.ok_or_else(|| {
            Status::failure(500, "", format!("no preferred addresses found; known addresses: {addresses:?}"))
        })?;
        let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
        Ok(Backend { address: SocketAddr::new(ip, port), tls: Some((tls, ServerName::from(ip))) })
    }
}

/// The container a request is about: the one named, or the only one.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (containers, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if asked.is_empty() {
        return match &containers[..] {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
            several => {
                let mut text = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        };
    }
    if containers.iter().chain(&init).chain(&ephemeral).any(|c| c == asked) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
}

/// Answers a request to one of the subresources.
pub(crate) async fn serve(server: &Arc<ApiServer>, ctx: &Arc<Ctx>, resource: &Arc<Resource>) -> Answer {
    let info = &ctx.info;
    let pod = server
        .stored_object("", "pods", &info.namespace, &info.name)
        .await?
        .ok_or_else(|| resource.not_found(&info.name))?;
    let sub = info.subresource.as_str();
    let container = match sub {
        "portforward" => String::new(),
        _ => container(&pod, ctx.query.get("container"))?,
    };
    if sub == "log" {
        check_log_options(ctx)?;
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return match sub {
            "log" => Ok(respond::text(200, "")),
            _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name))),
        };
    }
    if sub != "log" {
        admit_connect(server, ctx, resource).await?;
    }
    let place = format!("{}/{}", encode(&info.namespace), encode(&info.name));
    let path = match sub {
        "log" => format!("/containerLogs/{place}/{}", encode(&container)),
        "exec" => format!("/exec/{place}/{}", encode(&container)),
        "attach" => format!("/attach/{place}/{}", encode(&container)),
        _ => format!("/portForward/{place}"),
    };
    let query = query(ctx, sub);
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let backend = server.kubelet(node).await?;
    if sub == "log" { log(&backend, &uri).await } else { stream(server, ctx, &backend, &uri).await }
}

/// Asks admission about a connection to a pod.
async fn admit_connect(server: &ApiServer, ctx: &Ctx, resource: &Arc<Resource>) -> Result<(), Status> {
    let options = crate::handlers::no_options();
    let manager = Manager { name: String::new(), apply: false };
    let write = server.write(ctx, resource, &options, &manager);
    let mut rollbacks = Rollbacks::default();
    let (mut object, old) = (Value::Null, Value::Null);
    write.admission(Operation::Connect, true, &mut object, &old, &mut rollbacks).await?;
    write.admission(Operation::Connect, false, &mut object, &old, &mut rollbacks).await
}

/// The kubelet's query: its own names for the streams.
fn query(ctx: &Ctx, sub: &str) -> String {
    let mut pairs: Vec<String> = Vec::new();
    match sub {
        "log" => {
            for name in LOG_PARAMETERS.iter().filter(|n| ctx.query.has(n)) {
                pairs.push(format!("{name}={}", encode(ctx.query.get(name))));
            }
        }
        "portforward" => pairs.extend(ctx.query.all("ports").map(|p| format!("port={}", encode(p)))),
        _ => {
            for (asked, sent) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if ctx.query.flag(asked) {
                    pairs.push(format!("{sent}=1"));
                }
            }
            if sub == "exec" {
                pairs.extend(ctx.query.all("command").map(|c| format!("command={}", encode(c))));
            }
        }
    }
    pairs.join("&")
}

fn check_log_options(ctx: &Ctx) -> Result<(), Status> {
    let mut errors = Vec::new();
    for (name, least, text) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(number) = ctx.query.number(name)?.filter(|n| *n < least) {
            errors.push(Error::invalid(&Path::new(name), number, text));
        }
    }
    if ctx.query.has("sinceSeconds") && ctx.query.has("sinceTime") {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(Error::forbidden(&Path::root(), detail));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("", "PodLogOptions", &ctx.info.name, &errors))
    }
}

async fn log(backend: &Backend, uri: &str) -> Answer {
    let request = Request::get(uri).header(header::HOST, backend.address.to_string()).body(no_body());
    let request = request.map_err(Status::internal)?;
    let answer = backend
        .send(request)
        .await
        .map_err(|e| Status::failure(500, "", format!("Get \"https://{}{uri}\": {e}", backend.address)))?;
    let status = answer.status();
    let body = answer.into_body();
    if status == StatusCode::OK {
        return Ok(respond::with_body(200, "text/plain", stream_body(body)));
    }
    let text = error_text(body).await;
    Err(match status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::NOT_FOUND => Status::failure(404, "NotFound", text),
        other => Status::failure(other.as_u16(), "", text),
    })
}

async fn stream(server: &Arc<ApiServer>, ctx: &Ctx, backend: &Backend, uri: &str) -> Answer {
    if !wants_upgrade(&ctx.parts.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let client = ctx.parts.extensions.get::<OnUpgrade>().cloned();
    let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let mut request = Request::new(no_body());
    *request.method_mut() = ctx.parts.method.clone();
    *request.uri_mut() = uri.parse().map_err(Status::internal)?;
    *request.headers_mut() = forwarded_headers(&ctx.parts.headers, true);
    let host = backend.address.to_string().parse().map_err(|_| dial_error("bad address"))?;
    request.headers_mut().insert(header::HOST, host);
    upgrade(backend, request, client, server.shutdown().clone(), ctx.audit.clone()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_container() {
        let pod = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a"]), "i").unwrap(), "i");
        let text = |r: Result<String, Status>| r.unwrap_err().message;
        assert_eq!(
            text(container(&pod(&["a", "b"]), "")),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(text(container(&pod(&["a"]), "x")), "container x is not valid for pod p");
    }

    #[test]
    fn encoding() {
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
