//! `serviceaccounts/<name>/token`: a client asks for a token of a service account.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::field::{Error, Path};
use isopod_api::identity::GROUP_NODES;
use isopod_api::status::Status;
use isopod_api::{Value, object::split_api_version};
use isopod_client::Clock;
use isopod_rules::admission::node_may_request_token;
use jiff::Timestamp;
use serde_json::json;

use super::ServiceAccountTokens;
use super::service_account::{Bound, TokenSpec};
use crate::layers::{Objects, VirtualRequest, VirtualResource};

const GROUP: &str = "authentication.k8s.io";
/// Life of a token when the client names none.
const DEFAULT_SECONDS: i64 = 3600;
/// Shortest life a client may ask for.
const MIN_SECONDS: i64 = 600;

/// Issues tokens.
pub(super) struct TokenRequest {
    tokens: Arc<ServiceAccountTokens>,
    objects: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
}

impl TokenRequest {
    pub(super) fn new(
        tokens: Arc<ServiceAccountTokens>,
        objects: Arc<dyn Objects>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { tokens, objects, clock }
    }

    async fn must_get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let found = self.objects.get_latest("", resource, namespace, name).await?;
        found.ok_or_else(|| Status::not_found("", resource, name))
    }

    /// NodeRestriction: a kubelet gets tokens of the pods on its node alone.
    async fn check_node(&self, request: &VirtualRequest<'_>, object: &Value) -> Result<(), Status> {
        if !request.user.in_group(GROUP_NODES) {
            return Ok(());
        }
        let node = request.user.node_name().unwrap_or("");
        let pod = match object.pointer("/spec/boundObjectRef/name").and_then(Value::as_str) {
            Some(name) => self.objects.get_latest("", "pods", request.namespace, name).await?,
            None => None,
        };
        node_may_request_token(node, object, pod.as_ref())
            .map_err(|why| Status::forbidden("", "serviceaccounts", request.name, &why))
    }

    /// Fills in what the token is bound to.
    async fn bind(&self, spec: &mut TokenSpec, reference: &Value) -> Result<(), Status> {
        let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or("");
        let (name, kind) = (text("name"), text("kind"));
        let (group, version) = split_api_version(text("apiVersion"));
        let namespace = spec.namespace.clone();
        let object = match (group, kind) {
            ("", "Pod") => {
                let pod = self.must_get("pods", &namespace, name).await?;
                let runs_as = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("");
                if runs_as != spec.account.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        spec.account.name
                    )));
                }
                if let Some(node) =
                    pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty())
                {
                    let found = self.objects.get("", "nodes", "", node).await?;
                    let uid = found.as_ref().map(uid_of).unwrap_or_default();
                    spec.node = Some(Bound { name: node.to_owned(), uid });
                }
                spec.pod = Some(Bound { name: name.to_owned(), uid: uid_of(&pod) });
                pod
            }
            ("", "Secret") => {
                let secret = self.must_get("secrets", &namespace, name).await?;
                spec.secret = Some(Bound { name: name.to_owned(), uid: uid_of(&secret) });
                secret
            }
            ("", "Node") => {
                let node = self.must_get("nodes", "", name).await?;
                spec.node = Some(Bound { name: name.to_owned(), uid: uid_of(&node) });
                node
            }
            _ => {
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let wanted = text("uid");
        if !wanted.is_empty() && wanted != uid_of(&object) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(Status::conflict(group, kind, name, &why));
        }
        Ok(())
    }
}

fn uid_of(object: &Value) -> String {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("").to_owned()
}

fn validate(spec: &Value) -> Vec<Error> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(seconds) = spec.get("expirationSeconds").and_then(Value::as_i64) {
        let path = path.child("expirationSeconds");
        if seconds < MIN_SECONDS {
            errors.push(Error::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            errors.push(Error::invalid(
                &path,
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
    }
    errors
}

#[async_trait]
impl VirtualResource for TokenRequest {
    fn resource(&self) -> (&'static str, &'static str, &'static str) {
        ("", "serviceaccounts", "token")
    }

    async fn create(&self, request: &VirtualRequest<'_>, mut object: Value) -> Result<Value, Status> {
        let account = self.must_get("serviceaccounts", request.namespace, request.name).await?;
        for (field, own) in [("name", request.name), ("namespace", request.namespace)] {
            let given = object["metadata"].get(field).and_then(Value::as_str).unwrap_or("").to_owned();
            if !given.is_empty() && given != own {
                return Err(Status::bad_request(format!(
                    "the {field} of the provided object does not match the {field} sent on the request"
                )));
            }
            object["metadata"][field] = json!(own);
        }
        let asked = object.get("spec").cloned().unwrap_or_default();
        self.check_node(request, &object).await?;
        let errors = validate(&asked);
        if !errors.is_empty() {
            return Err(Status::invalid(GROUP, "TokenRequest", request.name, &errors));
        }
        let seconds = asked.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
        let seconds = seconds.min(self.tokens.max_seconds);
        let audiences: Vec<String> = asked
            .get("audiences")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let mut spec = TokenSpec {
            namespace: request.namespace.to_owned(),
            account: Bound { name: request.name.to_owned(), uid: uid_of(&account) },
            audiences: if audiences.is_empty() { self.tokens.audiences().to_vec() } else { audiences },
            seconds,
            pod: None,
            secret: None,
            node: None,
        };
        if let Some(reference) = asked.get("boundObjectRef").filter(|reference| !reference.is_null()) {
            self.bind(&mut spec, reference).await?;
        }
        let now = self.clock.now();
        let id = uuid::Uuid::new_v4().to_string();
        let token = self.tokens.issue(&spec, &id, now).map_err(Status::internal)?;
        let end = Timestamp::from_second(now.as_second() + seconds).map_err(Status::internal)?;
        object["metadata"]["creationTimestamp"] = json!(whole_seconds(now));
        object["spec"]["audiences"] = json!(spec.audiences);
        object["spec"]["expirationSeconds"] = json!(seconds);
        object["status"] = json!({"token": token, "expirationTimestamp": whole_seconds(end)});
        Ok(object)
    }
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
