//! Pod template hashes and equality.
//!
//! The hash is FNV-1a over the template's JSON, in upstream's vowel-free alphabet; its bytes need not equal
//! upstream's, since an existing ReplicaSet is recognised by its template and never by its hash.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;
use serde_json::Value;

/// Label that tells the ReplicaSets of a Deployment apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Spells a number's decimal digits with letters that make no words.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// Hash of a value, with the count of collisions met so far.
pub fn hash<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(value).expect("a typed object is always JSON");
    if let Some(count) = collisions {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// Whether two templates say the same, apart from the hash label. Absent and empty are equal, as for upstream's
/// semantic equality.
pub fn equal_ignoring_hash(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut copy = template.clone();
        if let Some(labels) = copy.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(POD_TEMPLATE_HASH);
        }
        copy
    };
    let (a, b) = (strip(a), strip(b));
    a == b || semantically_equal(&a, &b)
}

/// Equality in which absent, null and empty are the same.
pub fn semantically_equal<T: Serialize>(a: &T, b: &T) -> bool {
    let normal = |value: &T| {
        let mut value = serde_json::to_value(value).expect("a typed object is always JSON");
        prune(&mut value);
        value
    };
    normal(a) == normal(b)
}

fn prune(value: &mut Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => {
            map.retain(|_, inner| !prune(inner));
            map.is_empty()
        }
        Value::Array(items) => {
            for item in items.iter_mut() {
                prune(item);
            }
            items.is_empty()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn ignores_hash_and_emptiness() {
        let a = template(
            json!({"metadata":{"labels":{"a":"b","pod-template-hash":"x"}},"spec":{"containers":[]}}),
        );
        let b = template(
            json!({"metadata":{"labels":{"a":"b"},"annotations":{}},"spec":{"containers":[],"volumes":[]}}),
        );
        assert!(equal_ignoring_hash(&a, &b));
        let c = template(json!({"metadata":{"labels":{"a":"c"}},"spec":{"containers":[]}}));
        assert!(!equal_ignoring_hash(&a, &c));
    }

    #[test]
    fn hash_is_stable_and_counts_collisions() {
        let a = template(json!({"spec":{"containers":[{"name":"a","image":"b"}]}}));
        assert_eq!(hash(&a, None), hash(&a.clone(), None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
        assert!(hash(&a, None).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
