//! The Auth service, and who a client is.
//!
//! A client shows a token it has authenticated for, in the metadata of each request, or else is whom its certificate
//! names. What it may do is decided where the request takes effect: commands when they are applied, reads around
//! their execution.

use std::sync::Arc;

use http::HeaderMap;
use isopod_kv::{
    AlarmRequest, AlarmResponse, AuthDisableRequest, AuthDisableResponse, AuthEnableRequest,
    AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest,
    AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse,
    AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
    AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, Error,
    alarm_request,
};
use isopod_mvcc::{Caller, Op, State};

use super::kv::own;
use crate::engine::{Engine, current_caller};

/// What a client shows of itself.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// From the request's metadata.
    token: Option<String>,
    /// From the certificate, which the handshake has verified.
    common_name: Option<String>,
}

impl Credentials {
    pub(super) fn new(headers: &HeaderMap, common_name: Option<String>) -> Credentials {
        // Clients put it under the first name, gateways under the second.
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        let token = token.and_then(|value| value.to_str().ok());
        let token = token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token).to_owned());
        Credentials { token, common_name }
    }

    /// Who the client is, as of now.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`].
    pub(super) async fn caller(&self, engine: &Engine) -> Result<Caller, Error> {
        if self.token.is_none() && self.common_name.is_none() {
            return Ok(Caller::default());
        }
        let (enabled, revision) = engine.with_auth(|auth| (auth.is_enabled(), auth.revision()));
        match (&self.token, &self.common_name) {
            (Some(token), _) if enabled => engine.token_caller(token).await,
            (None, Some(name)) => Ok(Caller { user: name.clone(), revision }),
            _ => Ok(Caller::default()),
        }
    }
}

/// What is asked of the caller of a method before it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Nothing, not even a valid token.
    Nobody,
    /// Nothing here: the method looks at the caller, or its command does.
    Method,
    /// To have authenticated, if authentication is on.
    Known,
    /// To be root, if authentication is on.
    Root,
}

impl Rights {
    pub(super) fn check(self, engine: &Engine, caller: &Caller) -> Result<(), Error> {
        match self {
            Rights::Nobody | Rights::Method => Ok(()),
            Rights::Known => engine.with_auth(|auth| auth.check_authenticated(caller)),
            Rights::Root => engine.with_auth(|auth| auth.check_root(caller)),
        }
    }
}

/// Methods whose command, or the change it makes, is all there is to them.
macro_rules! changes {
    ($($name:ident($request:ident) -> $response:ident = $op:ident;)*) => {$(
        pub(super) async fn $name(engine: Arc<Engine>, request: $request) -> Result<$response, Error> {
            Ok($response { header: engine.change_auth(Op::$op(request)).await? })
        }
    )*};
}

changes! {
    enable(AuthEnableRequest) -> AuthEnableResponse = AuthEnable;
    disable(AuthDisableRequest) -> AuthDisableResponse = AuthDisable;
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = UserDelete;
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse = UserGrantRole;
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse = UserRevokeRole;
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse = RoleAdd;
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = RoleDelete;
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse
        = RoleRevokePermission;
}

pub(super) async fn role_grant_permission(
    engine: Arc<Engine>,
    mut request: AuthRoleGrantPermissionRequest,
) -> Result<AuthRoleGrantPermissionResponse, Error> {
    if let Some(permission) = &mut request.perm {
        own(&mut permission.key);
        own(&mut permission.range_end);
    }
    let header = engine.change_auth(Op::RoleGrantPermission(request)).await?;
    Ok(AuthRoleGrantPermissionResponse { header })
}

pub(super) async fn user_add(
    engine: Arc<Engine>,
    request: AuthUserAddRequest,
) -> Result<AuthUserAddResponse, Error> {
    root(&engine).await?;
    Ok(AuthUserAddResponse { header: engine.user_add(request).await? })
}

pub(super) async fn user_change_password(
    engine: Arc<Engine>,
    request: AuthUserChangePasswordRequest,
) -> Result<AuthUserChangePasswordResponse, Error> {
    root(&engine).await?;
    Ok(AuthUserChangePasswordResponse { header: engine.user_change_password(request).await? })
}

/// Refuses whoever is not root before a password is hashed for them; the command is checked again.
async fn root(engine: &Engine) -> Result<(), Error> {
    engine.checked(|state, caller| state.auth().check_root(caller), async { Ok(()) }).await
}

pub(super) async fn authenticate(
    engine: Arc<Engine>,
    request: AuthenticateRequest,
) -> Result<AuthenticateResponse, Error> {
    let (header, token) = engine.authenticate(&request.name, &request.password).await?;
    Ok(AuthenticateResponse { header, token })
}

pub(super) async fn status(
    engine: Arc<Engine>,
    _request: AuthStatusRequest,
) -> Result<AuthStatusResponse, Error> {
    engine.catch_up().await?;
    let (enabled, auth_revision) = engine.with_auth(|auth| (auth.is_enabled(), auth.revision()));
    Ok(AuthStatusResponse { header: engine.shared().header(), enabled, auth_revision })
}

pub(super) async fn user_get(
    engine: Arc<Engine>,
    request: AuthUserGetRequest,
) -> Result<AuthUserGetResponse, Error> {
    let check = |state: &State, caller: &Caller| state.auth().check_user(caller, &request.name);
    let read = async {
        engine.catch_up().await?;
        engine.with_auth(|auth| auth.user_roles(&request.name).map(<[String]>::to_vec))
    };
    let roles = engine.checked(check, read).await?;
    Ok(AuthUserGetResponse { header: engine.shared().header(), roles })
}

pub(super) async fn role_get(
    engine: Arc<Engine>,
    request: AuthRoleGetRequest,
) -> Result<AuthRoleGetResponse, Error> {
    let check = |state: &State, caller: &Caller| state.auth().check_role(caller, &request.role);
    let read = async {
        engine.catch_up().await?;
        engine.with_auth(|auth| auth.role_permissions(&request.role))
    };
    let perm = engine.checked(check, read).await?;
    Ok(AuthRoleGetResponse { header: engine.shared().header(), perm })
}

pub(super) async fn user_list(
    engine: Arc<Engine>,
    _request: AuthUserListRequest,
) -> Result<AuthUserListResponse, Error> {
    let read = async {
        engine.catch_up().await?;
        Ok(engine.with_auth(|auth| auth.users().cloned().collect()))
    };
    let users = engine.checked(|state, caller| state.auth().check_root(caller), read).await?;
    Ok(AuthUserListResponse { header: engine.shared().header(), users })
}

pub(super) async fn role_list(
    engine: Arc<Engine>,
    _request: AuthRoleListRequest,
) -> Result<AuthRoleListResponse, Error> {
    let read = async {
        engine.catch_up().await?;
        Ok(engine.with_auth(|auth| auth.roles().cloned().collect()))
    };
    let roles = engine.checked(|state, caller| state.auth().check_root(caller), read).await?;
    Ok(AuthRoleListResponse { header: engine.shared().header(), roles })
}

/// Whose name a client's certificate carries.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// Alarms may be listed by everybody who has authenticated, and changed by root.
pub(super) async fn alarm(engine: Arc<Engine>, request: AlarmRequest) -> Result<AlarmResponse, Error> {
    let list = request.action == alarm_request::AlarmAction::Get as i32;
    let rights = if list { Rights::Known } else { Rights::Root };
    if let Some(caller) = current_caller() {
        rights.check(&engine, &caller)?;
    }
    engine.alarm(request).await
}
