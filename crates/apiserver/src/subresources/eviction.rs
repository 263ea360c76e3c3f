//! `pods/eviction`: a delete that asks the pod's disruption budget first.

use std::sync::Arc;

use isopod_api::Value;
use isopod_api::object::child_mut;
use isopod_api::selector::LabelSelector;
use isopod_api::status::Status;
use serde_json::json;

use super::binding::set_condition;
use crate::body::RequestBody;
use crate::context::{Ctx, timestamp};
use crate::options::WriteOptions;
use crate::registry::Resource;
use crate::registry::decode::{decode_kind, media, read_body};
use crate::registry::delete::DeleteOptions;
use crate::registry::write::{Manager, Part};
use crate::respond::Answer;
use crate::server::ApiServer;

/// Most pods a budget may list as disrupted before it must be brought up to date.
const DISRUPTED_PODS_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Answers a POST of an Eviction.
pub(super) async fn serve(
    server: &ApiServer,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    let mut options = WriteOptions::parse(&ctx.query, "CreateOptions", false)?;
    let facts = isopod_api::facts::builtin().kind("policy", "v1", "Eviction");
    let schema = &facts.ok_or_else(|| Status::internal("no Eviction"))?.schema;
    let bytes = read_body(body).await?;
    let eviction = decode_kind(
        ctx,
        &bytes,
        media(ctx)?,
        schema,
        ("policy", "v1", "Eviction"),
        options.field_validation,
    )?;
    let sent = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !sent.is_empty() && sent != ctx.info.name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {} != {sent}",
            ctx.info.name
        )));
    }
    let mut delete = DeleteOptions::parse(eviction.get("deleteOptions"), &ctx.query)?;
    delete.dry_run |= options.dry_run;
    options.dry_run = delete.dry_run;
    let manager = Manager::of(ctx, &options);
    let write = server.write(ctx, resource, &options, &manager);
    let (namespace, name) = (&ctx.info.namespace, &ctx.info.name);
    let pod =
        server.stored_object("", "pods", namespace, name).await?.ok_or_else(|| resource.not_found(name))?;
    if !ignores_budget(&pod) {
        let budgets = server.cached_objects("policy", "poddisruptionbudgets", namespace).await?;
        let labels = isopod_api::Object(pod.clone());
        let mut matching = budgets
            .into_iter()
            .filter(|b| LabelSelector::from_value(&b["spec"]["selector"]).is_ok_and(|s| s.matches(&labels)));
        let budget = matching.next();
        if matching.next().is_some() {
            return Err(Status::failure(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        if let Some(budget) = budget {
            take(server, ctx, &pod, &budget, delete.dry_run).await?;
            // What was judged must be what is deleted.
            delete.uid = delete.uid.or_else(|| pod["metadata"]["uid"].as_str().map(str::to_owned));
        }
    }
    let mut mark = |pod: &Value| {
        let mut new = pod.clone();
        set_condition(
            &mut new,
            json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": timestamp(ctx.now)}),
        );
        Ok(new)
    };
    if !delete.dry_run {
        write.update(Part::Subresource, &mut mark, None).await?;
    }
    write.delete(&delete).await?;
    super::success(ctx, resource)
}

/// Pods that run nothing any more, or not yet, or are going already, break no budget.
fn ignores_budget(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || pod["metadata"]["deletionTimestamp"].is_string()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from a budget, or says why there is none.
async fn take(
    server: &ApiServer,
    ctx: &Ctx,
    pod: &Value,
    budget: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = budget["metadata"]["namespace"].as_str().unwrap_or_default();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let ready = is_ready(pod);
    let mut change = |mut budget: Value| {
        let number = |path: &str| budget["status"][path].as_i64().unwrap_or(0);
        let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if !ready && (always || healthy >= desired && desired > 0) {
            return Ok(None);
        }
        if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            let cause = format!("The disruption budget {name} is still being processed by the server.");
            return Err(Status::too_many_requests(REFUSED, 10).cause("DisruptionBudget", &cause, ""));
        }
        let allowed = number("disruptionsAllowed");
        let forbidden = |why| Err(Status::forbidden("policy", "poddisruptionbudget", &name, why));
        if allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        let disrupted = budget["status"]["disruptedPods"].as_object().map_or(0, |m| m.len());
        if disrupted > DISRUPTED_PODS_MAX {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if allowed == 0 {
            let cause = format!(
                "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
            );
            return Err(Status::too_many_requests(REFUSED, 0).cause("DisruptionBudget", &cause, ""));
        }
        let status = child_mut(&mut budget, "status");
        status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
        let pods = status.entry("disruptedPods").or_insert_with(|| json!({}));
        pods[pod_name] = timestamp(ctx.now);
        Ok(if dry_run { None } else { Some(budget) })
    };
    server.update_object("policy", "poddisruptionbudgets", namespace, &name, &mut change).await.map(drop)
}
