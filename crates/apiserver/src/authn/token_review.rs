//! `TokenReview`: whom a token stands for; `SelfSubjectReview`: who the client itself is.

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use serde_json::json;

use super::BearerTokens;
use crate::layers::{VirtualRequest, VirtualResource};

/// `UserInfo` of `authentication.k8s.io/v1`.
fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

/// Reviews tokens for others.
pub(super) struct TokenReview(BearerTokens);

impl TokenReview {
    pub(super) fn new(tokens: BearerTokens) -> Self {
        Self(tokens)
    }
}

#[async_trait]
impl VirtualResource for TokenReview {
    fn resource(&self) -> (&'static str, &'static str, &'static str) {
        ("authentication.k8s.io", "tokenreviews", "")
    }

    async fn create(&self, request: &VirtualRequest<'_>, mut object: Value) -> Result<Value, Status> {
        if !request.namespace.is_empty() {
            return Err(Status::bad_request(format!(
                "namespace is not allowed on this type: {}",
                request.namespace
            )));
        }
        let token = object.pointer("/spec/token").and_then(Value::as_str).unwrap_or("").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> = object
            .pointer("/spec/audiences")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let audiences = if asked.is_empty() { self.0.audiences().to_vec() } else { asked.clone() };
        object["status"] = match self.0.identify(&token, &audiences).await {
            // Who asks for no audience of ours is not told that the token is good for others.
            Ok(Some((user, for_them))) if !for_them.is_empty() => {
                let mut status = json!({"authenticated": true, "user": user_value(&user)});
                if !asked.is_empty() {
                    status["audiences"] = json!(for_them);
                } else {
                    status["audiences"] = json!(audiences);
                }
                status
            }
            Ok(_) => json!({"user": {}}),
            // The reason is for the log; a reviewer learns that the token is no good.
            Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
        };
        Ok(object)
    }
}

/// Tells a client who it is.
pub(super) struct SelfSubjectReview;

#[async_trait]
impl VirtualResource for SelfSubjectReview {
    fn resource(&self) -> (&'static str, &'static str, &'static str) {
        ("authentication.k8s.io", "selfsubjectreviews", "")
    }

    async fn create(&self, request: &VirtualRequest<'_>, mut object: Value) -> Result<Value, Status> {
        object["status"] = json!({"userInfo": user_value(request.user)});
        Ok(object)
    }
}
