//! The node authoriser on what is stored.
//!
//! The graph is brought up to date only when it does not already permit the request, and then only as far as the
//! request needs: the pods of one namespace, say. A kubelet asks for what a pod needs once for each pod, so this
//! costs little, and nothing when no kubelet asks.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use isopod_rules::rbac::node::{NodeGraph, authorize};
use isopod_rules::rbac::{Request, Rule, bootstrap};
use parking_lot::RwLock;

use super::rbac::request;
use crate::layers::{Attributes, Authorizer, Decision, Objects};

/// Decides for kubelets.
pub(super) struct Node {
    objects: Arc<dyn Objects>,
    graph: RwLock<NodeGraph>,
    rules: Vec<Rule>,
}

impl Node {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, graph: RwLock::new(NodeGraph::new()), rules: bootstrap::rules_of("system:node") }
    }

    fn decide(&self, node: &str, request: &Request<'_>) -> Result<(), String> {
        authorize(&self.graph.read(), &self.rules, node, request)
    }

    /// Reads what the graph lacks for this request. Says whether there is anything to read.
    async fn refresh(&self, request: &Request<'_>) -> Result<bool, Status> {
        match (request.group, request.resource) {
            ("", "persistentvolumes") => {
                let volume = self.volume(request.name).await?;
                let claim = volume.as_ref().and_then(|v| v.pointer("/spec/claimRef/namespace")?.as_str());
                if let Some(namespace) = claim {
                    self.pods(namespace).await?;
                }
            }
            ("storage.k8s.io", "volumeattachments") => {
                let found = self.objects.get(request.group, request.resource, "", request.name).await?;
                self.graph.write().set_attachment(request.name, found.as_ref());
            }
            ("", "secrets") => {
                self.pods(request.namespace).await?;
                // A secret may also be one that a volume's driver needs.
                for volume in self.objects.list("", "persistentvolumes", "").await? {
                    let name =
                        volume.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("").to_owned();
                    self.graph.write().set_volume(&name, Some(&volume));
                }
            }
            ("", "configmaps" | "persistentvolumeclaims" | "serviceaccounts" | "pods")
            | ("resource.k8s.io", "resourceclaims")
                if !request.namespace.is_empty() && !request.name.is_empty() =>
            {
                self.pods(request.namespace).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn pods(&self, namespace: &str) -> Result<(), Status> {
        let pods = self.objects.list("", "pods", namespace).await?;
        self.graph.write().set_pods_of(namespace, &pods);
        Ok(())
    }

    async fn volume(&self, name: &str) -> Result<Option<Value>, Status> {
        let volume = self.objects.get("", "persistentvolumes", "", name).await?;
        self.graph.write().set_volume(name, volume.as_ref());
        Ok(volume)
    }
}

#[async_trait]
impl Authorizer for Node {
    fn name(&self) -> &'static str {
        "Node"
    }

    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let Some(node) = user.node_name() else { return Decision::NoOpinion(String::new()) };
        let request = request(attributes);
        let Err(reason) = self.decide(node, &request) else { return Decision::Allow(String::new()) };
        match self.refresh(&request).await {
            Ok(false) => Decision::NoOpinion(reason),
            Ok(true) => match self.decide(node, &request) {
                Ok(()) => Decision::Allow(String::new()),
                Err(reason) => Decision::NoOpinion(reason),
            },
            Err(status) => Decision::NoOpinion(status.message),
        }
    }
}
