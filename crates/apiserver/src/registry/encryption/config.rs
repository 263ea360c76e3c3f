//! `apiserver.config.k8s.io/v1` `EncryptionConfiguration`.

use std::sync::Arc;

use base64::Engine as _;
use isopod_api::Value;
use serde::Deserialize;

use super::ciphers::Cipher;
use super::{Encryption, Step, Transformer};

/// Why a configuration cannot be used. Nothing secret is in the text.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no EncryptionConfiguration. The parser's text is left out, since it may quote a key.
    #[error("not an apiserver.config.k8s.io/v1 EncryptionConfiguration{0}")]
    Form(String),
    /// Another version or kind.
    #[error(
        "apiVersion and kind are {0:?} and {1:?}, expected apiserver.config.k8s.io/v1 and EncryptionConfiguration"
    )]
    Kind(String, String),
    /// Something in it is missing or wrong.
    #[error("{place}: {why}")]
    Entry {
        /// The field, as a path.
        place: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Value,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Providers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Providers {
    identity: Option<Value>,
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    kms: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// Reads a configuration: YAML or JSON.
///
/// # Errors
/// When it cannot be followed to the letter.
pub fn parse(text: &str) -> Result<Encryption, ConfigError> {
    let place = |location: Option<serde_yaml_ng::Location>| {
        location.map(|l| format!(": line {}, column {}", l.line(), l.column())).unwrap_or_default()
    };
    let document: Document =
        serde_yaml_ng::from_str(text).map_err(|e| ConfigError::Form(place(e.location())))?;
    if document.api_version != "apiserver.config.k8s.io/v1" || document.kind != "EncryptionConfiguration" {
        return Err(ConfigError::Kind(document.api_version, document.kind));
    }
    if document.resources.is_empty() {
        return Err(entry("resources", "at least one is needed"));
    }
    let entries = document.resources.into_iter().enumerate();
    let transformers = entries.map(|(at, resources)| transformer(&format!("resources[{at}]"), resources));
    Ok(Encryption(transformers.map(|t| t.map(Arc::new)).collect::<Result<_, _>>()?))
}

fn entry(place: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Entry { place: place.to_owned(), why: why.into() }
}

fn transformer(place: &str, resources: Resources) -> Result<Transformer, ConfigError> {
    if resources.resources.is_empty() {
        return Err(entry(&format!("{place}.resources"), "at least one is needed"));
    }
    for (at, pattern) in resources.resources.iter().enumerate() {
        let (resource, group) = pattern.split_once('.').unwrap_or((pattern, ""));
        let whole = resource == "*" || !resource.contains('*');
        let whole_group = group == "*" || !group.contains('*');
        let all_groups = group == "*" && resource != "*";
        if resource.is_empty() || !whole || !whole_group || all_groups || pattern == "*" {
            let why = format!("{pattern:?} is none of resource, resource.group, *.group, *. and *.*");
            return Err(entry(&format!("{place}.resources[{at}]"), why));
        }
    }
    let mut steps = Vec::new();
    for (at, provider) in resources.providers.into_iter().enumerate() {
        steps.append(&mut provider_steps(&format!("{place}.providers[{at}]"), provider)?);
    }
    if steps.is_empty() {
        return Err(entry(&format!("{place}.providers"), "at least one is needed"));
    }
    Ok(Transformer { resources: resources.resources, steps })
}

fn provider_steps(place: &str, provider: Providers) -> Result<Vec<Step>, ConfigError> {
    let Providers { identity, aesgcm, aescbc, secretbox, kms } = provider;
    if kms.is_some() {
        return Err(entry(place, "the provider kms is not supported"));
    }
    let mut keyed = [("aesgcm", aesgcm), ("aescbc", aescbc), ("secretbox", secretbox)]
        .into_iter()
        .filter_map(|(name, keys)| Some((name, keys?)));
    match (identity, keyed.next(), keyed.next()) {
        (Some(_), None, _) => Ok(vec![Step::Identity]),
        (None, Some((name, keys)), None) => key_steps(&format!("{place}.{name}"), name, keys),
        _ => Err(entry(place, "exactly one of aescbc, aesgcm, identity and secretbox is needed")),
    }
}

fn key_steps(place: &str, provider: &str, keys: Keys) -> Result<Vec<Step>, ConfigError> {
    if keys.keys.is_empty() {
        return Err(entry(&format!("{place}.keys"), "at least one is needed"));
    }
    let steps = keys.keys.into_iter().enumerate().map(|(at, key)| {
        let place = format!("{place}.keys[{at}]");
        if key.name.is_empty() || key.name.contains(':') {
            return Err(entry(&format!("{place}.name"), "a name without colons is needed"));
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(key.secret.trim());
        let bytes = bytes.map_err(|_| entry(&format!("{place}.secret"), "not base64"))?;
        let cipher = Cipher::new(provider, &bytes).ok_or_else(|| {
            let lengths = match provider {
                "aesgcm" => "16 or 32",
                "aescbc" => "16, 24 or 32",
                _ => "32",
            };
            let why = format!("a key of {lengths} bytes is needed, this one has {}", bytes.len());
            entry(&format!("{place}.secret"), why)
        })?;
        Ok(Step::Key { prefix: format!("k8s:enc:{provider}:v1:{}:", key.name).into_bytes(), cipher })
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_place_and_no_key() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
        let secret = "c2VjcmV0LWtleS1tYXRlcmlhbA==";
        let with = |resources: &str, providers: &str| {
            format!("{head}resources:\n- resources: {resources}\n  providers: {providers}\n")
        };
        let keys = |provider: &str, name: &str| {
            format!("[{provider}: {{keys: [{{name: '{name}', secret: {secret}}}]}}]")
        };
        for (text, want) in [
            ("kind: Config".to_owned(), "not an apiserver.config.k8s.io/v1"),
            (
                "apiVersion: v1\nkind: EncryptionConfiguration".to_owned(),
                "expected apiserver.config.k8s.io/v1",
            ),
            (head.to_owned(), "resources: at least one is needed"),
            (with("[]", "[identity: {}]"), "resources[0].resources: at least one"),
            (with("[secrets]", "[]"), "resources[0].providers: at least one"),
            (with("['*']", "[identity: {}]"), "resources[0].resources[0]"),
            (with("['se*']", "[identity: {}]"), "resources[0].resources[0]"),
            (with("['secrets.*']", "[identity: {}]"), "resources[0].resources[0]"),
            (with("[secrets]", "[{}]"), "exactly one of"),
            (with("[secrets]", "[kms: {name: a}]"), "kms is not supported"),
            (with("[secrets]", "[aesgcm: {keys: []}]"), "aesgcm.keys: at least one"),
            (with("[secrets]", &keys("aesgcm", "a")), "16 or 32 bytes is needed, this one has 19"),
            (with("[secrets]", &keys("aescbc", "a:b")), "without colons"),
            (with("[secrets]", &keys("aesgmc", "a")), "not an apiserver"),
            (with("[secrets]", &format!("[aesgcm: {{keys: [{secret}]}}]")), "line 5"),
        ] {
            let error = parse(&text).expect_err(&text).to_string();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.contains(&secret[..8]), "{error}");
        }
    }
}
