//! Registry credentials from `imagePullSecrets`.
//!
//! Never logged, never in an error: [`Keyring`] has no `Debug` that shows them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isopod_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// Registry that image names without one belong to.
const DEFAULT_REGISTRY: &str = "docker.io";

#[derive(Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials by registry, in the order to try them.
#[derive(Default)]
pub(crate) struct Keyring(Vec<(String, Entry)>);

impl Keyring {
    /// Adds those of a secret; what cannot be read adds nothing.
    pub(crate) fn add(&mut self, secret: &Secret) {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        let entries = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
                .and_then(|d| serde_json::from_slice::<DockerConfigJson>(d).ok())
                .map(|c| c.auths),
            Some("kubernetes.io/dockercfg") => {
                data(".dockercfg").and_then(|d| serde_json::from_slice::<BTreeMap<String, Entry>>(d).ok())
            }
            _ => None,
        };
        self.0.extend(entries.into_iter().flatten());
        // The most specific key first.
        self.0.sort_by_key(|(k, _)| std::cmp::Reverse(normal(k).len()));
    }

    /// The credentials that fit an image.
    pub(crate) fn find(&self, image: &str) -> Vec<AuthConfig> {
        let full = qualify(image);
        self.0.iter().filter(|(key, _)| fits(&normal(key), &full)).map(|(key, e)| auth(key, e)).collect()
    }
}

fn auth(key: &str, e: &Entry) -> AuthConfig {
    let mut out = AuthConfig {
        username: e.username.clone(),
        password: e.password.clone(),
        server_address: key.to_owned(),
        identity_token: e.identitytoken.clone(),
        registry_token: e.registrytoken.clone(),
        ..AuthConfig::default()
    };
    if out.username.is_empty()
        && let Ok(bytes) = STANDARD.decode(e.auth.trim())
        && let Some((user, password)) = String::from_utf8_lossy(&bytes).split_once(':')
    {
        out.username = user.to_owned();
        out.password = password.trim_end_matches('\0').to_owned();
    }
    out
}

/// A key without scheme, version suffix and trailing slash.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        other => other.to_owned(),
    }
}

/// The image's name with its registry in front.
fn qualify(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            image.strip_prefix("index.").unwrap_or(image).to_owned()
        }
        Some(_) => format!("{DEFAULT_REGISTRY}/{image}"),
        None => format!("{DEFAULT_REGISTRY}/library/{image}"),
    }
}

/// Whether a key covers an image: host label by label (`*` stands for one), then path as a prefix.
fn fits(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let labels = |h: &str| h.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (k, h) = (labels(key_host), labels(host));
    k.len() == h.len() && k.iter().zip(&h).all(|(k, h)| k == "*" || k == h) && path.starts_with(key_path)
}

/// Checks an image reference, and gives it a tag where it has neither tag nor digest.
///
/// # Errors
/// The text for an `InvalidImageName`.
pub(crate) fn reference(image: &str) -> Result<String, String> {
    let fail = || {
        Err(format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        ))
    };
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let (path, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    let word = |s: &str| {
        !s.is_empty()
            && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost") {
        parts.remove(0);
    }
    let tag_ok = tag.is_none_or(|t| {
        !t.is_empty()
            && t.len() <= 128
            && !t.starts_with(['.', '-'])
            && t.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    });
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':')
            .is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32 && h.chars().all(|c| c.is_ascii_hexdigit()))
    });
    if parts.is_empty() || !parts.iter().all(|p| word(p)) || !tag_ok || !digest_ok {
        return fail();
    }
    if tag.is_none() && digest.is_none() { Ok(format!("{image}:latest")) } else { Ok(image.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn finds_by_registry_and_path() {
        let mut ring = Keyring::default();
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "*.example.com/team": {"username": "a", "password": "b"},
            "127.0.0.1:5000": {"username": "c", "password": "d"}}}"#;
        ring.add(&Secret {
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.into()))].into()),
            ..Secret::default()
        });
        let user =
            |image: &str| ring.find(image).into_iter().map(|a| a.username).collect::<Vec<_>>().join(",");
        assert_eq!(user("busybox"), "u");
        assert_eq!(user("reg.example.com/team/x"), "a");
        assert_eq!(user("reg.example.com/other/x"), "");
        assert_eq!(user("127.0.0.1:5000/x:1"), "c");
    }

    #[test]
    fn references() {
        assert_eq!(reference("busybox").unwrap(), "busybox:latest");
        assert_eq!(reference("127.0.0.1:5000/a/b").unwrap(), "127.0.0.1:5000/a/b:latest");
        assert_eq!(reference("a/b:1.2_x").unwrap(), "a/b:1.2_x");
        for bad in ["", "Upper", "a b", "a:", "a//b", "a@sha256:x", "-a"] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }
}
