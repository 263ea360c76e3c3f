//! Bootstrap tokens: Secrets by which new nodes make themselves known, deleted when their time is over.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

/// The type of these Secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they lie; elsewhere they mean nothing.
pub const NAMESPACE: &str = "kube-system";

/// What is to be done about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has no end.
    Keep,
    /// It is to be looked at again then.
    Until(Timestamp),
    /// Its time is over, or nobody can tell when it is.
    Delete,
}

/// Judges one Secret. An end that cannot be read counts as over: such a token authenticates nobody either.
pub fn judge(secret: &Secret, now: Timestamp) -> Verdict {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.namespace.as_deref() != Some(NAMESPACE) {
        return Verdict::Keep;
    }
    let end = secret.data.as_ref().and_then(|data| data.get("expiration")).map(|end| &end.0);
    let Some(end) = end.filter(|end| !end.is_empty()) else { return Verdict::Keep };
    match std::str::from_utf8(end).ok().and_then(|end| end.parse::<Timestamp>().ok()) {
        Some(end) if end > now => Verdict::Until(end),
        _ => Verdict::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn expired_ones_go() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |namespace: &str, kind: &str, end: Option<&str>| {
            let mut secret = Secret::default();
            secret.metadata.namespace = Some(namespace.to_owned());
            secret.type_ = Some(kind.to_owned());
            secret.data = end.map(|end| [("expiration".to_owned(), ByteString(end.into()))].into());
            judge(&secret, now)
        };
        let later = "2026-01-01T00:00:01Z";
        assert_eq!(token(NAMESPACE, TYPE, Some(later)), Verdict::Until(later.parse().unwrap()));
        assert_eq!(token(NAMESPACE, TYPE, Some("2026-01-01T00:00:00Z")), Verdict::Delete);
        assert_eq!(token(NAMESPACE, TYPE, Some("2026-01-01T05:00:00+06:00")), Verdict::Delete);
        assert_eq!(token(NAMESPACE, TYPE, Some("tomorrow")), Verdict::Delete);
        assert_eq!(token(NAMESPACE, TYPE, Some("")), Verdict::Keep);
        assert_eq!(token(NAMESPACE, TYPE, None), Verdict::Keep);
        assert_eq!(token("default", TYPE, Some("tomorrow")), Verdict::Keep);
        assert_eq!(token(NAMESPACE, "Opaque", Some("tomorrow")), Verdict::Keep);
    }
}
