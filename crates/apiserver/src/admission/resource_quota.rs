//! ResourceQuota: reserves what a change uses in the status of every quota it falls under, or refuses it.
//!
//! The reservation is one conditional write to the quota, so two requests cannot both take the last place. If the
//! change does not happen after all, the reservation is taken back; what that misses the controller counts anew.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_rules::quota::{reserve, unreserve};

use crate::layers::{Admission, AdmissionRequest, Objects, Operation, Rollback};

const RESOURCE: &str = "resourcequotas";

/// Reserves.
pub(super) struct ResourceQuota {
    objects: Arc<dyn Objects>,
}

impl ResourceQuota {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn reserve(&self, request: &mut AdmissionRequest<'_>, quota: &str) -> Result<(), Status> {
        let (group, resource, old) = (request.group, request.resource, request.old);
        let new: &Value = request.object;
        let mut reserved = false;
        let mut change = |mut current: Value| {
            let status = reserve(&current, group, resource, new, old)
                .map_err(|why| Status::forbidden(group, resource, name_of(new, request.name), &why))?;
            reserved = status.is_some();
            Ok(status.map(|status| {
                current["status"] = status;
                current
            }))
        };
        match self.objects.update("", RESOURCE, request.namespace, quota, &mut change).await {
            // Deleted meanwhile: then it limits nothing.
            Err(status) if status.code == 404 => return Ok(()),
            result => result?,
        };
        if reserved {
            let rollback = self.rollback(request, quota);
            request.rollbacks.push(rollback);
        }
        Ok(())
    }

    fn rollback(&self, request: &AdmissionRequest<'_>, quota: &str) -> Rollback {
        let (objects, quota) = (self.objects.clone(), quota.to_owned());
        let namespace = request.namespace.to_owned();
        let (group, resource) = (request.group.to_owned(), request.resource.to_owned());
        let (new, old) = (request.object.clone(), request.old.clone());
        Rollback(Box::new(move || {
            Box::pin(async move {
                let mut change = |mut current: Value| {
                    Ok(unreserve(&current, &group, &resource, &new, &old).map(|status| {
                        current["status"] = status;
                        current
                    }))
                };
                if let Err(status) = objects.update("", RESOURCE, &namespace, &quota, &mut change).await {
                    tracing::debug!(
                        namespace,
                        quota,
                        error = status.message,
                        "a reservation was not taken back"
                    );
                }
            })
        }))
    }
}

fn name_of<'a>(object: &'a Value, name: &'a str) -> &'a str {
    let meta = &object["metadata"];
    let given = |field: &str| meta[field].as_str().filter(|name| !name.is_empty());
    given("name").or(given("generateName")).unwrap_or(name)
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        let itself = group.is_empty() && resource == RESOURCE && operation == Operation::Update;
        let whole = subresource.is_empty() || (resource == "pods" && subresource == "resize");
        matches!(operation, Operation::Create | Operation::Update) && whole && !itself
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if request.namespace.is_empty() || (request.group, request.resource) == ("", "namespaces") {
            return Ok(());
        }
        for quota in self.objects.list("", RESOURCE, request.namespace).await? {
            let concerned = reserve(&quota, request.group, request.resource, request.object, request.old);
            if matches!(concerned, Ok(None)) {
                continue;
            }
            let name = quota["metadata"]["name"].as_str().unwrap_or("").to_owned();
            if request.dry_run {
                concerned.map_err(|why| {
                    let name = name_of(request.object, request.name);
                    Status::forbidden(request.group, request.resource, name, &why)
                })?;
            } else {
                // Also when the cache says there is no room: it may be behind.
                self.reserve(request, &name).await?;
            }
        }
        Ok(())
    }
}
