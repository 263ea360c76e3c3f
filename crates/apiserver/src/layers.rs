//! The named layers a request passes, and the traits of those that others supply.
//!
//! The order is fixed (see [`Layers`]): authenticate → classify and queue → authorise → decode → mutate →
//! prepare → validate → validate (admission) → one store transaction → respond. Authenticators and
//! authorisers are lists: the first that has an opinion decides.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use rustls::pki_types::CertificateDer;

/// The client's certificate chain, leaf first, already verified against the client CA by the TLS layer;
/// empty without TLS or without a client certificate. Set as a request extension by the connection.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// Why credentials were refused; the text goes to the log only, never to the client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// Turns credentials into an identity.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Name for logs and metrics, such as `x509` or `serviceaccount`.
    fn name(&self) -> &'static str;
    /// `None` if the request carries no credentials of this sort; an error if it carries bad ones. The
    /// other authenticators are asked in both cases.
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        peer: &PeerCertificates,
    ) -> Result<Option<UserInfo>, AuthenticationError>;
}

/// What an authoriser is asked about.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// `get`, `list`, `create`, … or the lower-case method of a non-resource request.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource; empty for a non-resource request.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Object name or empty.
    pub name: String,
    /// Path of a non-resource request.
    pub path: String,
    /// Whether this is about a resource.
    pub is_resource: bool,
    /// `fieldSelector` of a list, watch or deletecollection, as sent.
    pub field_selector: String,
    /// `labelSelector` of a list, watch or deletecollection, as sent.
    pub label_selector: String,
}

/// An authoriser's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Permitted, with the reason kept for the audit log.
    Allow(String),
    /// Refused for good: later authorisers are not asked.
    Deny(String),
    /// This authoriser has no opinion; the reason appears in the final refusal.
    NoOpinion(String),
}

/// Decides whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Name for logs and metrics, such as `Node` or `RBAC`.
    fn name(&self) -> &'static str;
    /// Decides about one request.
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}

/// Stored objects, as layers read and write them: from the watch cache, in the storage version, without
/// authentication, authorisation or admission. The registry of the server implements it.
#[async_trait]
pub trait Objects: Send + Sync {
    /// One object; `namespace` is empty for cluster-scoped resources.
    async fn get(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status>;
    /// The same, but never older than the moment of the call.
    async fn get_latest(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status>;
    /// All objects of a resource, of one namespace unless `namespace` is empty.
    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Status>;
    /// Revision of the newest change to any object of the resource that the cache has seen. Whoever keeps
    /// something derived from [`Objects::list`] (a compiled RBAC index, say) rebuilds it when this moves.
    async fn revision(&self, group: &str, resource: &str) -> Result<i64, Status>;
    /// Creates an object as the system itself: metadata is filled in, defaults and rules apply.
    async fn create(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status>;
    /// Changes a stored object, trying again when somebody else changed it meanwhile. `change` gets the
    /// current object and gives the new one, or `None` to leave it.
    async fn update(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        change: &mut (dyn FnMut(Value) -> Result<Option<Value>, Status> + Send),
    ) -> Result<Value, Status>;
}

/// The kind of change an admission plugin is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object (update or patch).
    Update,
    /// A deleted object.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// What admission plugins see of a change. Objects are in the storage version of their kind.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// The kind of change.
    pub operation: Operation,
    /// Who asks.
    pub user: &'a UserInfo,
    /// API group of the resource.
    pub group: &'a str,
    /// Version of the resource that `object` is in.
    pub version: &'a str,
    /// Kind of the resource (of the subresource's object for `binding`, `eviction`, `scale`, `token`).
    pub kind: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name; may be empty for a create with `generateName`.
    pub name: &'a str,
    /// The object to be stored; `Null` for delete.
    pub object: &'a mut Value,
    /// The object as stored; `Null` for create.
    pub old: &'a Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Warnings to be returned to the client.
    pub warnings: Vec<String>,
    /// Annotations for the audit log.
    pub annotations: Vec<(&'static str, String)>,
    /// What must be undone if the write fails after all (quota usage and the like), newest last.
    pub rollbacks: Vec<Rollback>,
}

/// Undoes a reservation of an admission plugin when the write did not happen.
pub struct Rollback(pub Box<dyn FnOnce() -> futures::future::BoxFuture<'static, ()> + Send + Sync>);

impl std::fmt::Debug for Rollback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rollback")
    }
}

/// An admission plugin: may change the object, may refuse it.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Name as upstream's `--enable-admission-plugins` knows it.
    fn name(&self) -> &'static str;
    /// Whether the plugin looks at such requests at all (cheap filter).
    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool;
    /// Mutating phase, in list order.
    async fn admit(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        Ok(())
    }
    /// Validating phase, after the kind's own validation.
    async fn validate(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// Handles POSTs to a resource that is answered and not stored, such as `subjectaccessreviews`,
/// `tokenreviews`, `selfsubjectreviews` or `serviceaccounts/token`.
#[async_trait]
pub trait VirtualResource: Send + Sync {
    /// Group, plural resource and subresource (or empty) that this answers.
    fn resource(&self) -> (&'static str, &'static str, &'static str);
    /// Answers a create. `object` is decoded, defaulted and in the requested version.
    async fn create(&self, request: &VirtualRequest<'_>, object: Value) -> Result<Value, Status>;
}

/// The request a [`VirtualResource`] answers.
#[derive(Debug)]
pub struct VirtualRequest<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Version in the path.
    pub version: &'a str,
    /// Namespace in the path or empty.
    pub namespace: &'a str,
    /// Name in the path (of the parent object of a subresource) or empty.
    pub name: &'a str,
    /// Whether `dryRun=All` was asked for.
    pub dry_run: bool,
}

/// The pluggable layers of one server, in the order they are asked.
#[derive(Default, Clone)]
pub struct Layers {
    /// Authenticators; an in-process caller skips them, its identity came with the request.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Authorisers; without any, everything is refused.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// Admission plugins.
    pub admission: Vec<Arc<dyn Admission>>,
    /// Resources that are answered and not stored.
    pub virtual_resources: Vec<Arc<dyn VirtualResource>>,
}

impl Layers {
    /// Asks the authorisers in order.
    pub async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(user, attributes).await {
                Decision::NoOpinion(reason) => {
                    if !reason.is_empty() {
                        reasons.push(reason);
                    }
                }
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }

    /// The handler of a resource that is answered and not stored.
    pub fn virtual_resource(
        &self,
        group: &str,
        resource: &str,
        sub: &str,
    ) -> Option<&Arc<dyn VirtualResource>> {
        self.virtual_resources.iter().find(|v| v.resource() == (group, resource, sub))
    }
}
