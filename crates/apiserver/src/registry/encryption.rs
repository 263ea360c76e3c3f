//! Encryption of chosen resources in the store: AES-256-GCM, in the form of upstream's `aesgcm` provider.
//!
//! A stored value is `k8s:enc:aesgcm:v1:KEYNAME:` followed by nonce, ciphertext and tag; the store key is
//! authenticated with it, so that a value cannot be moved to another object. The first key encrypts, all
//! decrypt, and values without the prefix are read as they are: a cluster can be encrypted later.

use base64::Engine as _;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::SecureRandom as _;

/// Start of every encrypted value.
const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:";

/// Keys and what they are for.
pub struct Encryption {
    keys: Vec<(String, LessSafeKey)>,
    resources: Vec<String>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encryption({} keys for {:?})", self.keys.len(), self.resources)
    }
}

/// Why a value or key cannot be used. Nothing secret is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// The key has another length.
    #[error("encryption key {0:?}: 32 bytes are needed, as base64")]
    Key(String),
    /// No key was given.
    #[error("encryption: at least one key is needed")]
    NoKey,
    /// The value was encrypted with a key that is not configured.
    #[error("the stored value was encrypted with a key that is not configured")]
    UnknownKey,
    /// The value is damaged, or belongs to another object.
    #[error("the stored value cannot be decrypted")]
    Damaged,
    /// The system's source of randomness failed.
    #[error("no randomness for encryption")]
    Randomness,
}

impl Encryption {
    /// Encryption of `resources` (`secrets`, `deployments.apps`) with named base64 keys, the first for writing.
    pub fn new(keys: &[(String, String)], resources: &[String]) -> Result<Encryption, EncryptionError> {
        let mut made = Vec::new();
        for (name, text) in keys {
            let wrong = || EncryptionError::Key(name.clone());
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| wrong())?;
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong())?;
            made.push((name.clone(), LessSafeKey::new(key)));
        }
        if made.is_empty() {
            return Err(EncryptionError::NoKey);
        }
        Ok(Encryption { keys: made, resources: resources.to_vec() })
    }

    /// Whether a resource is to be encrypted.
    pub fn covers(&self, group: &str, plural: &str) -> bool {
        let name = isopod_api::status::qualified(group, plural);
        self.resources.contains(&name)
    }

    /// Encrypts a value for a store key.
    pub fn seal(&self, store_key: &str, value: Vec<u8>) -> Result<Vec<u8>, EncryptionError> {
        let (name, key) = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        ring::rand::SystemRandom::new().fill(&mut nonce).map_err(|_| EncryptionError::Randomness)?;
        let mut sealed = value;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(store_key.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| EncryptionError::Damaged)?;
        Ok([PREFIX, name.as_bytes(), b":", &nonce, &sealed].concat())
    }

    /// Decrypts a value of a store key; `None` if it is not encrypted.
    pub fn open(&self, store_key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, EncryptionError> {
        let Some(rest) = value.strip_prefix(PREFIX) else { return Ok(None) };
        for (name, key) in &self.keys {
            let Some(rest) = rest.strip_prefix(name.as_bytes()).and_then(|r| r.strip_prefix(b":")) else {
                continue;
            };
            if rest.len() < NONCE_LEN {
                return Err(EncryptionError::Damaged);
            }
            let (nonce, sealed) = rest.split_at(NONCE_LEN);
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| EncryptionError::Damaged)?;
            let mut bytes = sealed.to_vec();
            let opened = key.open_in_place(nonce, Aad::from(store_key.as_bytes()), &mut bytes);
            let len = opened.map_err(|_| EncryptionError::Damaged)?.len();
            bytes.truncate(len);
            return Ok(Some(bytes));
        }
        Err(EncryptionError::UnknownKey)
    }
}

/// Whether a stored value is encrypted.
pub fn is_encrypted(value: &[u8]) -> bool {
    value.starts_with(b"k8s:enc:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let key = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        let secrets = ["secrets".to_owned()];
        let old = Encryption::new(&[("a".into(), key(1))], &secrets).unwrap();
        let new = Encryption::new(&[("b".into(), key(2)), ("a".into(), key(1))], &secrets).unwrap();
        assert!(old.covers("", "secrets") && !old.covers("", "configmaps"));
        let sealed = old.seal("/k", b"value".to_vec()).unwrap();
        assert!(is_encrypted(&sealed) && !sealed.windows(5).any(|w| w == b"value"));
        assert_eq!(new.open("/k", &sealed), Ok(Some(b"value".to_vec())));
        assert_eq!(new.open("/other", &sealed), Err(EncryptionError::Damaged));
        assert_eq!(new.open("/k", b"k8s\0plain"), Ok(None));
        let unknown = Encryption::new(&[("c".into(), key(3))], &secrets).unwrap();
        assert_eq!(unknown.open("/k", &sealed), Err(EncryptionError::UnknownKey));
        assert!(Encryption::new(&[("a".into(), "c2hvcnQ=".into())], &secrets).is_err());
    }
}
