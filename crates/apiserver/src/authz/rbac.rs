//! Roles and bindings as stored, compiled and kept up to date.
//!
//! The compiled index follows the watch cache: before a decision the caches' revisions are compared with those the
//! index was made from, and what changed is compiled anew. So whoever sees a binding in the API also sees it work.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use isopod_rules::rbac::{Answer, GROUP, RbacIndex, Request, Rule};
use parking_lot::RwLock;

use crate::layers::{Attributes, Authorizer, Decision, Objects};

const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// Namespace, name → resource version.
type Known = HashMap<(String, String), String>;

/// Decides by roles and bindings.
pub struct Rbac {
    objects: Arc<dyn Objects>,
    index: RwLock<RbacIndex>,
    revisions: [AtomicI64; 4],
    /// What is in the index; locked while it is brought up to date, so that one request does so for all that wait.
    known: tokio::sync::Mutex<[Known; 4]>,
}

impl Rbac {
    /// Decides by what `objects` reads.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            index: RwLock::new(RbacIndex::new()),
            revisions: std::array::from_fn(|_| AtomicI64::new(-1)),
            known: tokio::sync::Mutex::default(),
        }
    }

    /// All rules that apply to `user` in `namespace`, and references to roles that are not there.
    pub async fn rules_for(
        &self,
        user: &UserInfo,
        namespace: &str,
    ) -> Result<(Vec<Rule>, Vec<String>), Status> {
        self.refresh().await?;
        Ok(self.index.read().rules_for(user, namespace))
    }

    /// The rules of a role that a binding in `namespace` refers to.
    pub async fn rules_of_ref(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Result<Vec<Rule>, String>, Status> {
        self.refresh().await?;
        Ok(self.index.read().rules_of_ref(namespace, kind, name))
    }

    async fn refresh(&self) -> Result<(), Status> {
        for (which, resource) in RESOURCES.iter().enumerate() {
            let revision = self.objects.revision(GROUP, resource).await?;
            if self.revisions[which].load(Ordering::Acquire) < revision {
                self.refresh_one(which, revision).await?;
            }
        }
        Ok(())
    }

    async fn refresh_one(&self, which: usize, revision: i64) -> Result<(), Status> {
        let mut known = self.known.lock().await;
        if self.revisions[which].load(Ordering::Acquire) >= revision {
            return Ok(());
        }
        let objects = self.objects.list(GROUP, RESOURCES[which], "").await?;
        let mut index = self.index.write();
        let mut gone = std::mem::take(&mut known[which]);
        let mut current = Known::with_capacity(objects.len());
        for object in &objects {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
            let (key, version) = ((text("namespace"), text("name")), text("resourceVersion"));
            if gone.remove(&key).as_ref() != Some(&version) {
                set(&mut index, which, &key, Some(object));
            }
            current.insert(key, version);
        }
        for key in gone.keys() {
            set(&mut index, which, key, None);
        }
        known[which] = current;
        // The list is at least as new as the revision it was made for.
        self.revisions[which].store(revision, Ordering::Release);
        Ok(())
    }
}

fn set(index: &mut RbacIndex, which: usize, (namespace, name): &(String, String), object: Option<&Value>) {
    match RESOURCES[which] {
        "clusterroles" => index.set_cluster_role(name, object),
        "roles" => index.set_role(namespace, name, object),
        "clusterrolebindings" => index.set_cluster_role_binding(name, object),
        _ => index.set_role_binding(namespace, name, object),
    }
}

/// The same question, for the pure rules.
pub(super) fn request(attributes: &Attributes) -> Request<'_> {
    Request {
        verb: &attributes.verb,
        group: &attributes.group,
        resource: &attributes.resource,
        subresource: &attributes.subresource,
        namespace: &attributes.namespace,
        name: &attributes.name,
        path: &attributes.path,
        is_resource: attributes.is_resource,
        field_selector: &attributes.field_selector,
    }
}

#[async_trait]
impl Authorizer for Rbac {
    fn name(&self) -> &'static str {
        "RBAC"
    }

    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if let Err(status) = self.refresh().await {
            return Decision::NoOpinion(format!("RBAC: roles cannot be read: {}", status.message));
        }
        match self.index.read().authorize(user, &request(attributes)) {
            Answer::Allowed(reason) => Decision::Allow(reason),
            Answer::NoRule(missing) if missing.is_empty() => Decision::NoOpinion(String::new()),
            Answer::NoRule(missing) => Decision::NoOpinion(format!("RBAC: {}", missing.join(", "))),
        }
    }
}
