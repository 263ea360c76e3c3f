//! JSON web tokens, as far as service accounts need them (RFC 7519, RFC 7515 compact form).
//!
//! A token is verified only by a key of the configured set, and only with that key's own algorithm: what the
//! header says can make it fail but never choose another way to verify (no `none`, no public key as a MAC key).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isopod_api::Value;
use serde_json::json;

use super::keys::{KeyError, SigningKey, VerifyingKey};

/// A token longer than this is not looked at; ours have about a thousand bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Makes a signed token.
pub(super) fn sign(key: &SigningKey, claims: &Value) -> Result<String, KeyError> {
    let header = json!({"alg": key.public.algorithm.name(), "kid": key.public.id});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(&header), encode(claims));
    let signature = key.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The claims of a token, unverified: to see whether it is one of ours at all.
pub(super) fn unverified_claims(token: &str) -> Option<Value> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// Whether one of the keys signed the token.
pub(super) fn verify<'a>(token: &str, keys: impl Iterator<Item = &'a VerifyingKey>) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let Some((header, _)) = message.split_once('.') else { return false };
    let header =
        URL_SAFE_NO_PAD.decode(header).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(header) = header else { return false };
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    // An extension we must understand and do not.
    if header.get("crit").is_some() {
        return false;
    }
    let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or("");
    let id = header.get("kid").and_then(Value::as_str).unwrap_or("");
    keys.filter(|key| key.algorithm.name() == algorithm && (id.is_empty() || key.id == id))
        .any(|key| key.verify(message.as_bytes(), &signature))
}
