//! Encryption of chosen resources in the store, in upstream's forms.
//!
//! A stored value is `k8s:enc:PROVIDER:v1:KEYNAME:` followed by what the provider makes of it, so that an upstream
//! cluster's store can be taken over and handed back. Of a resource's providers the first encrypts and all decrypt;
//! values in the clear are read only if `identity` is among them. What was written by another key than the first is
//! stale: the next update writes it anew even if it changes nothing.

mod ciphers;
mod config;

use std::sync::Arc;

pub use config::{ConfigError, parse};

use ciphers::Cipher;

/// Start of every encrypted value.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// Why a value cannot be stored or read. Nothing secret is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// The value was encrypted with a key that is not configured, or is in the clear where that is not allowed.
    #[error("the stored value was not written by any of the configured encryption providers")]
    UnknownKey,
    /// The value is damaged, or belongs to another object.
    #[error("the stored value cannot be decrypted")]
    Damaged,
    /// The system's source of randomness failed.
    #[error("no randomness for encryption")]
    Randomness,
}

/// One key of one provider, or none: values in the clear.
enum Step {
    Identity,
    Key { prefix: Vec<u8>, cipher: Cipher },
}

impl Step {
    fn wrote(&self, value: &[u8]) -> bool {
        match self {
            Step::Identity => !value.starts_with(ENCRYPTED),
            Step::Key { prefix, .. } => value.starts_with(prefix),
        }
    }
}

/// How the values of some resources are stored.
pub struct Transformer {
    /// Resources as the configuration writes them: `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`.
    resources: Vec<String>,
    /// In the order of the configuration; never empty.
    steps: Vec<Step>,
}

impl std::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transformer({} providers for {:?})", self.steps.len(), self.resources)
    }
}

/// How the values of all resources are stored.
#[derive(Debug, Clone)]
pub struct Encryption(Vec<Arc<Transformer>>);

impl Encryption {
    /// How a resource is stored; `None`: in the clear.
    pub fn of(&self, group: &str, plural: &str) -> Option<Arc<Transformer>> {
        self.0.iter().find(|transformer| transformer.covers(group, plural)).cloned()
    }
}

impl Transformer {
    fn covers(&self, group: &str, plural: &str) -> bool {
        self.resources.iter().any(|pattern| match pattern.split_once('.') {
            Some(("*", "*")) => true,
            Some(("*", of)) => of == group,
            Some((resource, of)) => resource == plural && of == group,
            None => pattern == plural && group.is_empty(),
        })
    }

    /// The bytes to store for a value of a store key.
    pub fn seal(&self, store_key: &str, value: Vec<u8>) -> Result<Vec<u8>, EncryptionError> {
        match &self.steps[0] {
            Step::Identity => Ok(value),
            Step::Key { prefix, cipher } => cipher.seal(prefix, store_key, &value),
        }
    }

    /// The value in stored bytes of a store key; `None` if they are it.
    pub fn open(&self, store_key: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, EncryptionError> {
        let mut result = Err(EncryptionError::UnknownKey);
        for step in self.steps.iter().filter(|step| step.wrote(stored)) {
            let opened = match step {
                Step::Identity => return Ok(None),
                Step::Key { prefix, cipher } => cipher.open(store_key, &stored[prefix.len()..]),
            };
            match opened {
                Ok(value) => return Ok(Some(value)),
                // Another key may have the same name.
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Whether stored bytes would be written otherwise now.
    pub fn is_stale(&self, stored: &[u8]) -> bool {
        !self.steps[0].wrote(stored)
    }
}

/// Whether a stored value is encrypted.
pub fn is_encrypted(value: &[u8]) -> bool {
    value.starts_with(ENCRYPTED)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use expect_test::expect;

    use super::*;

    const KEY: &str = "/registry/secrets/default/s";

    fn key(byte: u8) -> String {
        base64::engine::general_purpose::STANDARD.encode([byte; 32])
    }

    /// A configuration for Secrets with these providers: `aesgcm:a:1` is a key `a` of bytes 1.
    fn secrets(providers: &[&str]) -> Arc<Transformer> {
        let providers: String = providers
            .iter()
            .map(|text| match text.split(':').collect::<Vec<_>>()[..] {
                [provider, name, byte] => {
                    let secret = key(byte.parse().unwrap());
                    format!("  - {provider}: {{keys: [{{name: {name}, secret: {secret}}}]}}\n")
                }
                _ => "  - identity: {}\n".to_owned(),
            })
            .collect();
        let text = format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  providers:\n{providers}"
        );
        parse(&text).unwrap().of("", "secrets").unwrap()
    }

    #[test]
    fn all_providers_there_and_back() {
        for provider in ["aesgcm", "aescbc", "secretbox"] {
            let text = format!("{provider}:a:1");
            let transformer = secrets(&[&text, "identity"]);
            for value in [&b""[..], b"value", &[7; 4096]] {
                let sealed = transformer.seal(KEY, value.to_vec()).unwrap();
                assert!(sealed.starts_with(format!("k8s:enc:{provider}:v1:a:").as_bytes()));
                assert!(value.is_empty() || !sealed.windows(value.len()).any(|w| w == value));
                assert_eq!(transformer.open(KEY, &sealed), Ok(Some(value.to_vec())));
                assert_ne!(transformer.seal(KEY, value.to_vec()).unwrap(), sealed, "a nonce is used once");
                for cut in [sealed.len() - 1, sealed.len() - 20, 20, 8] {
                    assert!(transformer.open(KEY, &sealed[..cut]).is_err(), "{provider} cut at {cut}");
                }
            }
            assert_eq!(transformer.open(KEY, b"k8s\0plain"), Ok(None));
        }
    }

    #[test]
    fn the_first_key_writes_all_read_and_the_rest_is_stale() {
        let old = secrets(&["aesgcm:a:1"]);
        let new = secrets(&["aescbc:b:2", "aesgcm:a:1"]);
        let sealed = old.seal(KEY, b"value".to_vec()).unwrap();
        assert_eq!(new.open(KEY, &sealed), Ok(Some(b"value".to_vec())));
        assert!(new.is_stale(&sealed) && !old.is_stale(&sealed));
        assert!(!new.is_stale(&new.seal(KEY, b"value".to_vec()).unwrap()));
        // A key of the same name is tried as well.
        let rolled = secrets(&["aesgcm:a:9", "aesgcm:a:1"]);
        assert_eq!(rolled.open(KEY, &sealed), Ok(Some(b"value".to_vec())));
        assert_eq!(secrets(&["aesgcm:c:3"]).open(KEY, &sealed), Err(EncryptionError::UnknownKey));
        assert_eq!(secrets(&["aesgcm:a:3"]).open(KEY, &sealed), Err(EncryptionError::Damaged));
        // A value cannot be moved to another object, nor put there in the clear.
        assert_eq!(old.open("/registry/secrets/default/t", &sealed), Err(EncryptionError::Damaged));
        assert_eq!(old.open(KEY, b"k8s\0plain"), Err(EncryptionError::UnknownKey));
        let off = secrets(&["identity", "aesgcm:a:1"]);
        assert_eq!(off.seal(KEY, b"value".to_vec()), Ok(b"value".to_vec()));
        assert!(off.is_stale(&sealed));
    }

    #[test]
    fn resources_and_wildcards() {
        let of = |resources: &str| {
            let text = format!(
                "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: {resources}\n  providers: [identity: {{}}]\n"
            );
            let encryption = parse(&text).unwrap();
            let all = [("", "secrets"), ("", "configmaps"), ("apps", "deployments"), ("batch", "jobs")];
            let covered = all.iter().filter(|(group, plural)| encryption.of(group, plural).is_some());
            covered.map(|(_, plural)| *plural).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("[secrets]"), "secrets");
        assert_eq!(of("['*.']"), "secrets configmaps");
        assert_eq!(of("['*.apps', jobs.batch]"), "deployments jobs");
        assert_eq!(of("['*.*']"), "secrets configmaps deployments jobs");
        assert_eq!(of("[deployments]"), "");
    }

    #[test]
    fn what_is_printed_holds_no_key() {
        expect![[r#"Transformer(2 providers for ["secrets"])"#]]
            .assert_eq(&format!("{:?}", secrets(&["aesgcm:a:1", "identity"])));
    }
}
