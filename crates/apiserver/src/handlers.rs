//! From an authorised request to the code that answers it.

use std::sync::Arc;

use isopod_api::object::child_mut;
use isopod_api::status::Status;
use isopod_api::{Value, codec};
use serde_json::json;

use crate::body::RequestBody;
use crate::cache::Filter;
use crate::context::Ctx;
use crate::layers::VirtualRequest;
use crate::options::{ListOptions, WriteOptions};
use crate::registry::decode::{decode_kind, decode_object, media, read_body};
use crate::registry::delete::{DeleteOptions, Deleted};
use crate::registry::patch::Patch;
use crate::registry::write::{Manager, Part, Write};
use crate::registry::{Resource, list::Page};
use crate::respond::{self, Answer, Shown, meta_schema};
use crate::server::ApiServer;
use crate::{nonresource, subresources};

/// Kinds of the core group whose use draws a warning: version, kind, since when and what instead.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("v1", "ComponentStatus", "v1.19+"),
    ("v1", "Endpoints", "v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

impl ApiServer {
    /// Answers a request that authorisation has let through.
    pub(crate) async fn dispatch(self: Arc<Self>, ctx: Arc<Ctx>, body: RequestBody) -> Answer {
        if !ctx.info.is_resource {
            return nonresource::serve(&self, &ctx).await;
        }
        let info = &ctx.info;
        let registry = self.registry();
        let Some(resource) = registry.resource(&info.group, &info.version, &info.resource) else {
            return Err(Status::no_such_resource());
        };
        let resource = Arc::clone(resource);
        check_scope(&ctx, &resource)?;
        if let Some((_, _, since)) = DEPRECATED
            .iter()
            .find(|(v, kind, _)| (*v, *kind) == (resource.facts.version, resource.facts.kind))
        {
            let (version, kind) = (resource.api_version(), resource.facts.kind);
            ctx.warn(format!("{version} {kind} is deprecated in {since}"));
        }
        if info.subresource.is_empty() {
            self.resource(&ctx, &resource, body).await
        } else {
            subresources::serve(&self, &ctx, &resource, body).await
        }
    }

    async fn resource(
        self: &Arc<Self>,
        ctx: &Arc<Ctx>,
        resource: &Arc<Resource>,
        body: RequestBody,
    ) -> Answer {
        let verb = ctx.info.verb.as_str();
        let named = ctx.info.named_by_path;
        let fits = match verb {
            "update" | "patch" => named,
            "create" => !named,
            _ => true,
        };
        if !fits || !resource.has_verb(verb) {
            return Err(Status::method_not_allowed());
        }
        if let Some(handler) = self.layers().virtual_resource(resource.facts.group, resource.facts.plural, "")
        {
            return self.create_virtual(ctx, resource, &**handler, None, body).await;
        }
        if facts_name(resource) == ("", "bindings") {
            return subresources::create_binding(self, ctx, resource, body).await;
        }
        match verb {
            "get" => self.get(ctx, resource).await,
            "list" => self.serve_list(ctx, resource).await,
            "watch" => self.serve_watch(ctx, resource).await,
            "create" => self.serve_create(ctx, resource, body).await,
            "update" => self.serve_update(ctx, resource, Part::Object, None, body).await,
            "patch" => self.serve_patch(ctx, resource, Part::Object, None, body).await,
            "delete" => self.serve_delete(ctx, resource, body).await,
            "deletecollection" => self.serve_delete_collection(ctx, resource, body).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// Answers a POST to a resource that is not stored. `sub` is the subresource posted to.
    pub(crate) async fn create_virtual(
        &self,
        ctx: &Arc<Ctx>,
        resource: &Arc<Resource>,
        handler: &dyn crate::layers::VirtualResource,
        sub: Option<&isopod_api::facts::SubresourceFacts>,
        body: RequestBody,
    ) -> Answer {
        let options = WriteOptions::parse(&ctx.query, "CreateOptions", false)?;
        let facts = resource.facts;
        let gvk = sub.map_or((facts.group, facts.version, facts.kind), |s| (s.group, s.version, s.kind));
        let known = isopod_api::facts::builtin().kind(gvk.0, gvk.1, gvk.2);
        let schema = known.map_or(&facts.schema, |k| &k.schema);
        let bytes = read_body(body).await?;
        let mut object = decode_kind(ctx, &bytes, media(ctx)?, schema, gvk, options.field_validation)?;
        isopod_api::defaults::apply(gvk.0, gvk.1, gvk.2, &mut object);
        let request = VirtualRequest {
            user: &ctx.user,
            version: facts.version,
            namespace: &ctx.info.namespace,
            name: &ctx.info.name,
            dry_run: options.dry_run,
        };
        let answer = handler.create(&request, object).await?;
        let accept = respond::accept(ctx)?;
        ctx.audit_response(&answer);
        Ok(respond::value_response(201, &answer, &accept, resource))
    }

    async fn get(&self, ctx: &Arc<Ctx>, resource: &Arc<Resource>) -> Answer {
        let entry = self
            .entry(resource, &ctx.info.namespace, &ctx.info.name, ctx.query.get("resourceVersion"))
            .await?;
        respond::object(ctx, resource, 200, Shown::Entry(entry))
    }

    async fn serve_list(&self, ctx: &Arc<Ctx>, resource: &Arc<Resource>) -> Answer {
        let options = ListOptions::parse(&ctx.query, false)?;
        let filter = filter(ctx, resource, &options)?;
        let page = self.list(resource, &filter, &options).await?;
        respond::list(ctx, resource, page)
    }

    async fn serve_watch(self: &Arc<Self>, ctx: &Arc<Ctx>, resource: &Arc<Resource>) -> Answer {
        let options = ListOptions::parse(&ctx.query, true)?;
        let filter = filter(ctx, resource, &options)?;
        self.watch(Arc::clone(ctx), resource, filter, options).await
    }

    async fn serve_create(&self, ctx: &Arc<Ctx>, resource: &Arc<Resource>, body: RequestBody) -> Answer {
        let options = WriteOptions::parse(&ctx.query, "CreateOptions", false)?;
        let bytes = read_body(body).await?;
        let object = decode_object(ctx, &bytes, resource, options.field_validation)?;
        let manager = Manager::of(ctx, &options);
        let write = Write { name: "", ..self.write(ctx, resource, &options, &manager) };
        let created = write.create(object).await?;
        respond::object(ctx, resource, 201, Shown::Value(created))
    }

    /// PUT of an object or a part of it.
    pub(crate) async fn serve_update(
        &self,
        ctx: &Arc<Ctx>,
        resource: &Arc<Resource>,
        part: Part,
        project: Option<Project>,
        body: RequestBody,
    ) -> Answer {
        let options = WriteOptions::parse(&ctx.query, "UpdateOptions", false)?;
        let bytes = read_body(body).await?;
        let object = decode_object(ctx, &bytes, resource, options.field_validation)?;
        let manager = Manager::of(ctx, &options);
        let write = self.write(ctx, resource, &options, &manager);
        let mut change = |current: &Value| projected(project, object.clone(), current, ctx);
        let may_create = part == Part::Object && resource.stored.strategy.create_on_update;
        let mut absent = || {
            let mut new = object.clone();
            let meta = child_mut(&mut new, "metadata");
            if meta.get("uid").and_then(Value::as_str).is_some_and(|u| !u.is_empty()) {
                return Err(resource.not_found(&ctx.info.name));
            }
            meta.insert("name".to_owned(), ctx.info.name.as_str().into());
            meta.remove("resourceVersion");
            Ok(new)
        };
        let absent: Option<&mut (dyn FnMut() -> Result<Value, Status> + Send)> =
            if may_create { Some(&mut absent) } else { None };
        let updated = write.update(part, &mut change, absent).await?;
        let code = if updated.created { 201 } else { 200 };
        respond::object(ctx, resource, code, Shown::Value(updated.object))
    }

    /// PATCH of an object or a part of it.
    pub(crate) async fn serve_patch(
        &self,
        ctx: &Arc<Ctx>,
        resource: &Arc<Resource>,
        part: Part,
        project: Option<Project>,
        body: RequestBody,
    ) -> Answer {
        let bytes = read_body(body).await?;
        let patch = Patch::parse(ctx.header(http::header::CONTENT_TYPE), &bytes)?;
        let apply = matches!(patch, Patch::Apply(_));
        if let Some(record) = &ctx.audit {
            record.request_patch(&bytes);
        }
        let options = WriteOptions::parse(&ctx.query, "PatchOptions", apply)?;
        let manager = Manager { apply, ..Manager::of(ctx, &options) };
        let write = self.write(ctx, resource, &options, &manager);
        let updated = match &patch {
            Patch::Apply(document) => crate::apply::serve(&write, part, document).await?,
            ordinary => {
                let mut change = |current: &Value| {
                    let sent = write.patched(ordinary, current, options.field_validation)?;
                    projected(project, sent, current, ctx)
                };
                write.update(part, &mut change, None).await?
            }
        };
        let code = if updated.created { 201 } else { 200 };
        respond::object(ctx, resource, code, Shown::Value(updated.object))
    }

    async fn serve_delete(&self, ctx: &Arc<Ctx>, resource: &Arc<Resource>, body: RequestBody) -> Answer {
        let options = delete_options(ctx, body).await?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..no_options() };
        let manager = Manager { name: String::new(), apply: false };
        let write = self.write(ctx, resource, &write_options, &manager);
        let facts = resource.facts;
        match write.delete(&options).await? {
            Deleted::Marked(object) => respond::object(ctx, resource, 200, Shown::Value(object)),
            Deleted::Gone(object) if returns_object(facts.kind) => {
                respond::object(ctx, resource, 200, Shown::Value(object))
            }
            Deleted::Gone(object) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {"name": ctx.info.name, "group": facts.group, "kind": facts.plural,
                        "uid": object["metadata"]["uid"]},
                });
                let accept = respond::accept(ctx)?;
                ctx.audit_response(&status);
                Ok(respond::value_response(200, &status, &accept, resource))
            }
        }
    }

    async fn serve_delete_collection(
        &self,
        ctx: &Arc<Ctx>,
        resource: &Arc<Resource>,
        body: RequestBody,
    ) -> Answer {
        let options = delete_options(ctx, body).await?;
        let list_options = ListOptions::parse(&ctx.query, false)?;
        let filter = filter(ctx, resource, &list_options)?;
        let write_options = WriteOptions { dry_run: options.dry_run, ..no_options() };
        let manager = Manager { name: String::new(), apply: false };
        let write = self.write(ctx, resource, &write_options, &manager);
        let items = write.delete_collection(&filter, &options).await?;
        let entries = items
            .iter()
            .map(|object| {
                let meta = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
                let revision = meta("resourceVersion").parse().unwrap_or(0);
                let key = resource.stored.key(meta("namespace"), meta("name"));
                let prepared = crate::cache::Prepared::new(object, resource.stored.strategy);
                Arc::new(prepared.entry(&key, revision))
            })
            .collect();
        let revision = self.registry().feed.progress();
        respond::list(
            ctx,
            resource,
            Page { entries, revision, continue_token: String::new(), remaining: None },
        )
    }

    /// The write of a request on the object its path names.
    pub(crate) fn write<'a>(
        &'a self,
        ctx: &'a Ctx,
        resource: &'a Arc<Resource>,
        options: &'a WriteOptions,
        manager: &'a Manager,
    ) -> Write<'a> {
        Write {
            server: self,
            ctx,
            resource,
            subresource: &ctx.info.subresource,
            namespace: &ctx.info.namespace,
            name: &ctx.info.name,
            options,
            manager,
            system: false,
        }
    }
}

fn facts_name(resource: &Resource) -> (&'static str, &'static str) {
    (resource.facts.group, resource.facts.plural)
}

/// Makes the object to store out of the one sent to a subresource and the current one.
pub(crate) type Project = fn(&Value, &Value, &Ctx) -> Result<Value, Status>;

/// Applies a projection, keeping the revision and uid that the client named.
fn projected(project: Option<Project>, sent: Value, current: &Value, ctx: &Ctx) -> Result<Value, Status> {
    let Some(project) = project else { return Ok(sent) };
    let mut new = project(&sent, current, ctx)?;
    let meta = child_mut(&mut new, "metadata");
    for key in ["resourceVersion", "uid", "name", "namespace"] {
        match sent.get("metadata").and_then(|m| m.get(key)) {
            Some(value) => meta.insert(key.to_owned(), value.clone()),
            None => meta.remove(key),
        };
    }
    Ok(new)
}

/// Kinds whose delete answers with the object and not with a status.
fn returns_object(kind: &str) -> bool {
    matches!(
        kind,
        "Pod"
            | "Service"
            | "ServiceAccount"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "PodTemplate"
            | "ResourceQuota"
    )
}

/// Options of a write that the client said nothing about.
pub(crate) fn no_options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        field_validation: codec::FieldValidation::Ignore,
        field_manager: String::new(),
        force: false,
    }
}

/// Options of a delete out of its body and query.
pub(crate) async fn delete_options(ctx: &Ctx, body: RequestBody) -> Result<DeleteOptions, Status> {
    let bytes = read_body(body).await?;
    if bytes.is_empty() {
        return DeleteOptions::parse(None, &ctx.query);
    }
    let media = media(ctx)?;
    if media == codec::MediaType::Json {
        crate::registry::decode::check_depth(&bytes)?;
    }
    let decoded = codec::decode(&bytes, media, meta_schema("DeleteOptions"), codec::FieldValidation::Ignore)
        .map_err(|e| Status::bad_request(e.to_string()))?;
    ctx.audit_request(&decoded.value);
    DeleteOptions::parse(Some(&decoded.value), &ctx.query)
}

/// The selection of a list or watch; unknown field labels are refused.
fn filter(ctx: &Ctx, resource: &Resource, options: &ListOptions) -> Result<Filter, Status> {
    let strategy = resource.stored.strategy;
    let mut fields = options.fields.clone();
    for (label, _, _) in &fields.requirements {
        let label = label.as_str();
        let known = matches!(label, "metadata.name" | "metadata.namespace")
            || strategy.selectable.iter().any(|(l, _)| *l == label);
        if !known {
            return Err(Status::bad_request(format!("field label not supported: {label}")));
        }
    }
    if ctx.info.named_by_path {
        fields = isopod_api::selector::FieldSelector::parse(&format!("metadata.name={}", ctx.info.name))
            .map_err(Status::bad_request)?;
    }
    // The path of a Namespace names it as the namespace too.
    let namespace = if resource.facts.namespaced { ctx.info.namespace.clone() } else { String::new() };
    Ok(Filter { namespace, labels: options.labels.clone(), fields })
}

/// Refuses paths whose scope does not fit the resource, and names that are no names before they become keys.
fn check_scope(ctx: &Ctx, resource: &Resource) -> Result<(), Status> {
    let info = &ctx.info;
    let namespaced = resource.facts.namespaced;
    let own = resource.facts.group.is_empty() && resource.facts.plural == "namespaces";
    if !namespaced && !info.namespace.is_empty() && !own {
        return Err(Status::no_such_resource());
    }
    let needs_namespace = !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    if namespaced && info.namespace.is_empty() && needs_namespace {
        return Err(Status::no_such_resource());
    }
    if namespaced && info.verb == "deletecollection" && info.namespace.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if !info.namespace.is_empty() && !isopod_api::names::is_dns1123_label(&info.namespace).is_empty() {
        // No object can be there; the answer is that of any name without an object.
        return Err(resource.not_found(&info.name));
    }
    if info.named_by_path && !isopod_api::names::is_path_segment_name(&info.name).is_empty() {
        return Err(resource.not_found(&info.name));
    }
    Ok(())
}
