//! The path of one request through the layers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response};
use isopod_api::identity::{GROUP_MASTERS, UserInfo};
use isopod_api::status::Status;
use isopod_client::InProcessIdentity;

use crate::audit::{PeerAddress, Record};
use crate::body::{Body, RequestBody};
use crate::context::Ctx;
use crate::flow::{self, Kind, Schema, Seat};
use crate::layers::{Attributes, Decision, PeerCertificates};
use crate::limits;
use crate::request_info::RequestInfo;
use crate::respond::{self, Answer};
use crate::server::ApiServer;

/// Paths that need no credentials: health and version.
const ANONYMOUS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// What is known of a request whatever becomes of it.
#[derive(Default)]
struct Noted {
    record: Option<Arc<Record>>,
    schema: Option<Arc<Schema>>,
}

impl ApiServer {
    /// Answers one request. Never fails and never panics: what goes wrong becomes a `Status`.
    pub fn handle(self: Arc<Self>, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.answer(request))
    }

    async fn answer(self: Arc<Self>, request: Request<RequestBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let started = Instant::now();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query());
        let headers = parts.headers.clone();
        let audit_id = crate::audit::id_of(&headers);
        let mut noted = Noted::default();
        let long = info.is_long_running();
        let label = crate::metrics::Label::of(&info);
        let serve =
            AssertUnwindSafe(Arc::clone(&self).serve_layers(parts, body, info, &audit_id, &mut noted))
                .catch_unwind();
        let outcome = if long {
            serve.await
        } else {
            match tokio::time::timeout(limits::REQUEST_TIMEOUT, serve).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Err(Status::timeout(
                    "the server was unable to return a response in the time allotted, but may still be processing the request",
                ))),
            }
        };
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                if let Some(record) = &noted.record {
                    record.failure(&status);
                }
                respond::status(&headers, &status)
            }
            Err(panic) => {
                tracing::error!(panic = panic_text(&*panic), "a request handler panicked");
                let status = Status::internal("this is a fault of the server; it has been logged");
                if let Some(record) = &noted.record {
                    record.failure(&status);
                    record.panicked();
                }
                respond::status(&headers, &status)
            }
        };
        if let Some(schema) = &noted.schema {
            schema.mark(response.headers_mut());
        }
        if let Some(record) = noted.record {
            response = recorded(response, record, long);
        }
        if let Ok(id) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert("audit-id", id);
        }
        crate::metrics::observe(&label, response.status().as_u16(), started.elapsed());
        response
    }

    async fn serve_layers(
        self: Arc<Self>,
        parts: http::request::Parts,
        body: RequestBody,
        info: RequestInfo,
        audit_id: &str,
        noted: &mut Noted,
    ) -> Answer {
        let record_of = |user| self.audit.as_ref().and_then(|a| a.begin(audit_id, &parts, &info, user));
        let user = match self.authenticate(&parts).await {
            Ok(user) => user,
            Err(status) => {
                if let Some(record) = record_of(None) {
                    record.refused(&status);
                }
                return Err(status);
            }
        };
        noted.record = record_of(Some(&user));
        let user = self.impersonate(user, &parts.headers, noted.record.as_deref()).await?;
        let mut ctx = Ctx::new(user, info, parts, self.clock.now());
        ctx.audit.clone_from(&noted.record);
        let _seat = self.queue(&mut ctx, noted).await?;
        self.authorize(&ctx).await?;
        let ctx = Arc::new(ctx);
        let answer = Arc::clone(&self).dispatch(Arc::clone(&ctx), body).await;
        let mut response = match answer {
            Ok(response) => response,
            Err(status) => {
                if let Some(record) = &noted.record {
                    record.failure(&status);
                }
                respond::status(&ctx.parts.headers, &status)
            }
        };
        for warning in ctx.take_warnings() {
            let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        Ok(response)
    }

    /// Layer 1: who asks.
    async fn authenticate(&self, parts: &http::request::Parts) -> Result<UserInfo, Status> {
        if let Some(identity) = parts.extensions.get::<InProcessIdentity>() {
            return Ok(identity.user().clone());
        }
        let nobody = PeerCertificates::default();
        let peer = parts.extensions.get::<PeerCertificates>().unwrap_or(&nobody);
        let mut refused = false;
        for authenticator in &self.layers().authenticators {
            match authenticator.authenticate(parts, peer).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(authenticator = authenticator.name(), %error, "credentials refused");
                    refused = true;
                }
            }
        }
        let path = parts.uri.path();
        let open =
            ANONYMOUS.iter().any(|a| path == *a || path.strip_prefix(a).is_some_and(|r| r.starts_with('/')));
        if refused || !open { Err(Status::unauthorized()) } else { Ok(UserInfo::anonymous()) }
    }

    /// Layer 2: whose turn is it. Streams to containers and what is proxied take no seat, since they may last; a
    /// watch has one until its first events are made.
    async fn queue(&self, ctx: &mut Ctx, noted: &mut Noted) -> Result<Option<Seat>, Status> {
        let watch = ctx.info.verb == "watch";
        if ctx.info.is_long_running() && !watch {
            return Ok(None);
        }
        let Some((schema, flow)) = self.flow.classify(ctx) else { return Ok(None) };
        noted.schema = Some(Arc::clone(&schema));
        if watch && !ctx.user.in_group(GROUP_MASTERS) {
            let address = ctx.parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip());
            ctx.watch = Some(self.flow.watches.enter(&ctx.user.name, address)?);
        }
        let kind = Kind { read_only: ctx.info.is_read_only(), watch };
        self.flow.seat(&schema, flow, kind, |nominal| self.width(ctx, nominal)).await.map(Some)
    }

    /// Seats that a request takes: more than one if it reads many objects.
    fn width(&self, ctx: &Ctx, nominal: u32) -> u32 {
        let (info, query) = (&ctx.info, &ctx.query);
        let lists = info.verb == "list" || info.verb == "watch" && query.flag("sendInitialEvents");
        let Some(resource) = self.registry().resource(&info.group, &info.version, &info.resource) else {
            return 1;
        };
        if !lists {
            return 1;
        }
        let stored = resource.stored.cache.counts().0;
        let selects = query.has("labelSelector") || query.has("fieldSelector");
        let asked = query.get("limit").parse().ok().filter(|limit| *limit > 0 && !selects);
        flow::list_width(stored.min(asked.unwrap_or(stored)), nominal)
    }

    /// Layer 3: may they.
    async fn authorize(&self, ctx: &Ctx) -> Result<(), Status> {
        let attributes = attributes(ctx);
        let decision = self.layers().authorize(&ctx.user, &attributes).await;
        if let Some(record) = &ctx.audit {
            let (word, reason) = match &decision {
                Decision::Allow(reason) => ("allow", reason),
                Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason),
            };
            record.annotate("authorization.k8s.io/decision", word);
            record.annotate("authorization.k8s.io/reason", reason.as_str());
        }
        match decision {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(forbidden(&ctx.user, &attributes, &reason))
            }
        }
    }

    /// Acts as another user if the request asks for that and the user may.
    async fn impersonate(
        &self,
        user: UserInfo,
        headers: &http::HeaderMap,
        record: Option<&Record>,
    ) -> Result<UserInfo, Status> {
        let text =
            |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let name = text("impersonate-user");
        let groups: Vec<String> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect();
        let uid = text("impersonate-uid");
        let mut wanted = UserInfo { name, uid, groups, ..UserInfo::default() };
        for (key, value) in headers {
            if let (Some(key), Ok(value)) = (key.as_str().strip_prefix("impersonate-extra-"), value.to_str())
            {
                let key = crate::request_info::percent_decode(key);
                wanted.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        if wanted.name.is_empty() {
            if wanted != UserInfo::default() {
                return Err(Status::bad_request("impersonation of groups, uid or extra requires a user"));
            }
            return Ok(user);
        }
        for attributes in impersonation_questions(&wanted) {
            if let Decision::Deny(reason) | Decision::NoOpinion(reason) =
                self.layers().authorize(&user, &attributes).await
            {
                return Err(forbidden(&user, &attributes, &reason));
            }
        }
        if let Some((namespace, name)) = wanted.as_service_account()
            && wanted.groups.is_empty()
        {
            wanted.groups = UserInfo::service_account(namespace, name, "").groups;
        }
        let (all, none) =
            (isopod_api::identity::GROUP_AUTHENTICATED, isopod_api::identity::GROUP_UNAUTHENTICATED);
        let anonymous = wanted.name == isopod_api::identity::USER_ANONYMOUS;
        let group = if anonymous { none } else { all };
        if !wanted.in_group(group) {
            wanted.groups.push(group.to_owned());
        }
        if let Some(record) = record {
            record.impersonated(&wanted);
        }
        Ok(wanted)
    }
}

/// Records the answer: at once, or for one that goes on when its stream ends.
fn recorded(response: Response<Body>, record: Arc<Record>, long: bool) -> Response<Body> {
    let code = response.status().as_u16();
    if !long || code >= 400 {
        record.complete(code);
        return response;
    }
    record.started(code);
    response.map(|body| match body {
        Body::Stream(stream) => Body::stream(stream.inspect(move |_| {
            let _held = &record;
        })),
        other => other,
    })
}

/// What must be allowed for a user to act as another.
fn impersonation_questions(wanted: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, namespace: &str, name: &str, sub: &str| Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: sub.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    };
    let mut questions = Vec::new();
    match wanted.as_service_account() {
        Some((namespace, name)) => questions.push(ask("", "serviceaccounts", namespace, name, "")),
        None => questions.push(ask("", "users", "", &wanted.name, "")),
    }
    questions.extend(wanted.groups.iter().map(|g| ask("", "groups", "", g, "")));
    let authentication = "authentication.k8s.io";
    if !wanted.uid.is_empty() {
        questions.push(ask(authentication, "uids", "", &wanted.uid, ""));
    }
    for (key, values) in &wanted.extra {
        questions.extend(values.iter().map(|v| ask(authentication, "userextras", "", v, key)));
    }
    questions
}

/// The question a request puts to the authorisers.
pub(crate) fn attributes(ctx: &Ctx) -> Attributes {
    let info = &ctx.info;
    let selects = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let selector = |name: &str| if selects { ctx.query.get(name).to_owned() } else { String::new() };
    // A GET that upgrades runs commands as much as a POST does, also by way of a node's proxy.
    let connects = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward")
        || info.resource == "nodes" && info.subresource == "proxy" && runs_commands(&info.path);
    Attributes {
        verb: if connects && info.verb == "get" { "create".to_owned() } else { info.verb.clone() },
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        is_resource: info.is_resource,
        field_selector: selector("fieldSelector"),
        label_selector: selector("labelSelector"),
    }
}

/// Whether a path through `nodes/NAME/proxy` leads to where the kubelet runs commands in containers.
fn runs_commands(path: &str) -> bool {
    let Some((_, rest)) = path.split_once("/proxy/") else { return false };
    let decoded = rest.replace("%2f", "/").replace("%2F", "/");
    let first = decoded.split('/').find(|s| !s.is_empty() && *s != ".").unwrap_or_default();
    // Anything encoded in the first segment may become one of them on the other side.
    first.contains('%')
        || decoded.split('/').any(|s| s == "..")
        || ["exec", "attach", "portforward", "run", "cri"].contains(&first.to_ascii_lowercase().as_str())
}

/// The refusal of an authoriser as upstream words it.
pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Status {
    let a = attributes;
    let mut why = if a.is_resource {
        let resource = match a.subresource.as_str() {
            "" => a.resource.clone(),
            sub => format!("{}/{sub}", a.resource),
        };
        let place = match a.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            user.name, a.verb, a.group
        )
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, a.verb, a.path)
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Status::forbidden(&a.group, &a.resource, &a.name, &why)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown content")
}

#[cfg(test)]
mod tests {
    use super::runs_commands;

    #[test]
    fn commands_through_a_node_proxy_are_told() {
        for (path, runs) in [
            ("/api/v1/nodes/n/proxy/exec/ns/pod/c", true),
            ("/api/v1/nodes/n/proxy//exec/ns/pod/c", true),
            ("/api/v1/nodes/n/proxy/./portForward/ns/pod", true),
            ("/api/v1/nodes/n/proxy/pods/../exec/ns/pod/c", true),
            ("/api/v1/nodes/n/proxy/%65xec/ns/pod/c", true),
            ("/api/v1/nodes/n/proxy/run/ns/pod/c", true),
            ("/api/v1/nodes/n/proxy/metrics", false),
            ("/api/v1/nodes/n/proxy/stats/summary", false),
            ("/api/v1/nodes/n", false),
        ] {
            assert_eq!(runs_commands(path), runs, "{path}");
        }
    }
}
