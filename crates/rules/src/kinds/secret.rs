//! Secrets.

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::{Map, Value, names};

use super::base64;
use super::columns::Column;
use super::configmap::{entries, immutable};
use super::shared::{at, str_at};
use super::{Context, Strategy};

/// Most bytes of all values together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Secret",
    prepare_for_create: |new, _| merge_string_data(new),
    prepare_for_update: |new, _, _| merge_string_data(new),
    validate,
    validate_update,
    selectable: &[("type", "type")],
    columns: &[Column::text("Type", "Kind of the secret."), Column::text("Data", "Entries of the secret.")],
    row: |secret, _| vec![str_at(secret, "type").into(), entries(secret, "data").into()],
    ..Strategy::DEFAULT
}];

/// `stringData` is never stored; its entries win over those of `data`.
fn merge_string_data(secret: &mut Value) {
    let Some(map) = secret.as_object_mut() else { return };
    let Some(Value::Object(texts)) = map.remove("stringData") else { return };
    let data = isopod_api::object::child_mut(secret, "data");
    for (key, value) in texts {
        if let Some(text) = value.as_str() {
            data.insert(key, base64::encode(text.as_bytes()).into());
        }
    }
}

fn validate(secret: &Value, _: &Context<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let data = secret.get("data").and_then(Value::as_object);
    let mut size = 0;
    let path = Path::new("data");
    for (key, value) in data.into_iter().flatten() {
        let entry = path.key(key);
        errors.extend(
            names::is_config_map_key(key).into_iter().map(|m| Error::invalid(&entry, key.as_str(), m)),
        );
        size += value.as_str().map_or(0, |v| v.len() / 4 * 3);
    }
    if size > DATA_BYTES_MAX {
        errors.push(Error::too_long(&path, DATA_BYTES_MAX));
    }
    let required: &[&str] = match str_at(secret, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in required {
        if !data.is_some_and(|d| d.contains_key(*key)) {
            errors.push(Error::required(&path.key(key), ""));
        }
    }
    let has = |key: &str| data.is_some_and(|d| d.contains_key(key));
    match str_at(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let annotation = at(secret, "metadata.annotations").and_then(|a| a.get(account)?.as_str());
            if annotation.unwrap_or_default().is_empty() {
                errors.push(Error::required(&Path::new("metadata").child("annotations").key(account), ""));
            }
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.push(Error::required(&path.key("username"), ""));
            errors.push(Error::required(&path.key("password"), ""));
        }
        "kubernetes.io/ssh-auth"
            if !data.is_some_and(|d| d.get("ssh-privatekey").is_some_and(|v| v != "")) =>
        {
            errors.push(Error::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/dockercfg" => json_object(data, ".dockercfg", &mut errors),
        "kubernetes.io/dockerconfigjson" => json_object(data, ".dockerconfigjson", &mut errors),
        _ => {}
    }
    errors
}

/// A registry's configuration is JSON; what is wrong with it is told without showing it.
fn json_object(data: Option<&Map>, key: &str, errors: &mut ErrorList) {
    let Some(text) = data.and_then(|d| d.get(key)?.as_str()) else { return };
    let wrong = match base64::decode(text) {
        Some(bytes) => serde_json::from_slice::<Map>(&bytes).err().map(|e| format!("line {}", e.line())),
        None => Some("not base64".to_owned()),
    };
    if let Some(why) = wrong {
        let detail = format!("must be a JSON object ({why})");
        errors.push(Error::invalid(&Path::new("data").key(key), "<secret contents redacted>", detail));
    }
}

fn validate_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = immutable(new, old, &["data"]);
    if new.get("type") != old.get("type") {
        errors.push(Error::invalid(&Path::new("type"), str_at(new, "type"), "field is immutable"));
    }
    errors.extend(validate(new, context));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_is_merged() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"a": "hello", "b": "hi"}});
        merge_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "aGVsbG8=", "b": "aGk="}}));
    }

    #[test]
    fn types_need_their_keys() {
        let context = Context::TEST;
        for (secret, want) in [
            (
                json!({"type": "kubernetes.io/tls"}),
                vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}}),
                vec![
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": must be a JSON object (line 1)",
                ],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (json!({"type": "Opaque", "data": {"a": "eA=="}}), vec![]),
            (
                json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}),
                vec!["data[ssh-privatekey]: Required value"],
            ),
        ] {
            let texts: Vec<String> = validate(&secret, &context).iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        }
    }
}
