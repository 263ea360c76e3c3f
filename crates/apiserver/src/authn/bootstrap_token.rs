//! Bootstrap tokens, by which a new node makes itself known: `<id>.<secret>`, kept as Secrets in `kube-system`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isopod_api::Value;
use isopod_api::identity::{GROUP_AUTHENTICATED, UserInfo};
use jiff::Timestamp;

use crate::layers::{AuthenticationError, Objects};

const GROUP: &str = "system:bootstrappers";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 16;

/// Splits a token; `None` when it is not of that form.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (id.len() == ID_BYTES && secret.len() == SECRET_BYTES && plain(id) && plain(secret))
        .then_some((id, secret))
}

/// Whom the token stands for; `None` when it is no valid bootstrap token.
pub(super) async fn authenticate(
    token: &str,
    objects: &dyn Objects,
    now: Timestamp,
) -> Result<Option<UserInfo>, AuthenticationError> {
    let Some((id, secret)) = split(token) else { return Ok(None) };
    let name = format!("bootstrap-token-{id}");
    let found = objects.get("", "secrets", "kube-system", &name).await;
    let found = found.map_err(|_| AuthenticationError("bootstrap token: Secrets cannot be read".into()))?;
    let Some(object) = found else { return Ok(None) };
    Ok(check(&object, id, secret, now))
}

fn check(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    if object["metadata"].get("deletionTimestamp").is_some_and(|time| !time.is_null())
        || object["type"] != "bootstrap.kubernetes.io/token"
    {
        return None;
    }
    let data = |key: &str| {
        let bytes = STANDARD.decode(object["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let stored = data("token-secret")?;
    let same = equal_in_constant_time(stored.as_bytes(), secret.as_bytes());
    if !same || data("token-id")? != id || data("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    if let Some(end) = data("expiration").filter(|end| !end.is_empty())
        && end.parse::<Timestamp>().ok().is_none_or(|end| end <= now)
    {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        let allowed =
            |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || matches!(byte, b':' | b'-');
        let rest = group.strip_prefix("system:bootstrappers:")?;
        let end = rest.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !end || rest.len() > 256 || !rest.bytes().all(allowed) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// Takes as long for a near miss as for a far one.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |diff, (left, right)| diff | (left ^ right)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_ends_and_groups() {
        let now: Timestamp = "2026-05-01T00:00:00Z".parse().expect("a timestamp");
        let encode = |text: &str| STANDARD.encode(text);
        let token = |change: &[(&str, &str)]| {
            let mut object = json!({"type": "bootstrap.kubernetes.io/token", "data": {
                "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                "usage-bootstrap-authentication": encode("true"), "expiration": encode("2026-05-02T00:00:00Z")}});
            for (key, value) in change {
                object["data"][*key] = json!(encode(value));
            }
            check(&object, "abcdef", "0123456789abcdef", now)
        };
        let user = token(&[("auth-extra-groups", "system:bootstrappers:workers")]).expect("valid");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]
        );
        for bad in [
            ("token-secret", "0123456789abcdeg"),
            ("token-id", "abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2026-04-30T00:00:00Z"),
            ("expiration", "tomorrow"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
        ] {
            assert_eq!(token(&[bad]), None, "{bad:?}");
        }
        for (text, valid) in
            [("abcdef.0123456789abcdef", true), ("ABCDEF.0123456789abcdef", false), ("abcdef.", false)]
        {
            assert_eq!(split(text).is_some(), valid, "{text}");
        }
    }
}
