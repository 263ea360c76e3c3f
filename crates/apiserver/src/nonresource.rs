//! Paths that are no resources: health, version, metrics, discovery, OpenAPI.

use std::sync::Arc;

use isopod_api::status::Status;
use serde_json::json;

use crate::context::Ctx;
use crate::respond::{self, Answer};
use crate::server::ApiServer;
use crate::{discovery, health, metrics, openapi};

/// Version of the API that is served.
pub const GIT_VERSION: &str = "v1.36.3+isopod";

/// Answers a non-resource request.
pub(crate) async fn serve(server: &Arc<ApiServer>, ctx: &Arc<Ctx>) -> Answer {
    if !matches!(ctx.parts.method, http::Method::GET | http::Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let path = ctx.info.path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments[..] {
        ["version"] => Ok(respond::json_value(200, &version())),
        ["metrics"] => {
            let mut response = respond::text(200, metrics::render(server));
            let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            Ok(response)
        }
        ["healthz" | "livez" | "readyz", ..] => Ok(health::serve(server, ctx, &segments).await),
        ["openapi", ..] => openapi::serve(server, ctx, &segments).await,
        [] | ["" | "api" | "apis", ..] => discovery::serve(server, ctx, &segments),
        [".well-known", "openid-configuration"] | ["openid", "v1", "jwks"] => {
            let Some(tokens) = &server.config.authentication.service_accounts else {
                return Err(Status::no_such_resource());
            };
            if segments[0] == "openid" {
                let mut response = respond::json_value(200, &tokens.key_set());
                let kind = http::HeaderValue::from_static("application/jwk-set+json");
                response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                return Ok(response);
            }
            Ok(respond::json_value(200, &tokens.discovery_document()))
        }
        _ => Ok(respond::text(404, "404 page not found\n")),
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}
