//! Keys that sign and verify service account tokens: ECDSA P-256 (ES256) and RSA (RS256).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isopod_api::Value;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::json;
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("service account key: {0}")]
pub struct KeyError(String);

/// The algorithms there are. A token's header chooses among them only as far as its key is of that algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A key that verifies.
pub(super) struct VerifyingKey {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    /// The point, or the PKCS#1 public key.
    raw: Vec<u8>,
    jwk: Value,
}

/// A key that signs.
pub(super) struct SigningKey {
    pub(super) public: VerifyingKey,
    private: Private,
    random: SystemRandom,
}

enum Private {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl VerifyingKey {
    /// From a PEM public key (`PUBLIC KEY`).
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| KeyError(format!("no public key in the PEM text: {error}")))?;
        Self::from_spki(spki.as_ref())
    }

    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let bad = |why: &str| KeyError(why.to_owned());
        let (_, info) =
            SubjectPublicKeyInfo::from_der(spki).map_err(|_| bad("public key cannot be parsed"))?;
        let raw = info.subject_public_key.data.to_vec();
        // As upstream: the key's identifier is the digest of its SubjectPublicKeyInfo.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (algorithm, mut jwk) = match info.parsed().map_err(|_| bad("public key cannot be parsed"))? {
            ParsedKey::EC(point) if point.data().len() == 65 => {
                let (x, y) = (&point.data()[1..33], &point.data()[33..65]);
                (Algorithm::Es256, json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)}))
            }
            ParsedKey::EC(_) => return Err(bad("of the elliptic curves only P-256 is supported")),
            ParsedKey::RSA(rsa) => {
                let trim =
                    |bytes: &[u8]| encode(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
                (Algorithm::Rs256, json!({"kty": "RSA", "n": trim(rsa.modulus), "e": trim(rsa.exponent)}))
            }
            _ => return Err(bad("neither an elliptic curve nor an RSA key")),
        };
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(algorithm.name());
        jwk["kid"] = json!(id);
        Ok(Self { id, algorithm, raw, jwk })
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self.algorithm {
            Algorithm::Es256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.raw).verify(message, signature)
            }
            Algorithm::Rs256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.raw).verify(message, signature)
            }
        };
        verified.is_ok()
    }

    pub(super) fn jwk(&self) -> &Value {
        &self.jwk
    }
}

impl SigningKey {
    /// From a PEM private key (PKCS#8, or PKCS#1 of RSA).
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| KeyError(format!("no private key in the PEM text: {error}")))?;
        let random = SystemRandom::new();
        let private = match &der {
            PrivateKeyDer::Pkcs1(key) => rsa(RsaKeyPair::from_der(key.secret_pkcs1_der()))?,
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
                    Ok(key) => Private::Ec(Box::new(key)),
                    Err(_) => rsa(RsaKeyPair::from_pkcs8(der))?,
                }
            }
            _ => return Err(KeyError("an elliptic curve key must be PKCS#8 (BEGIN PRIVATE KEY)".into())),
        };
        let spki = match &private {
            Private::Ec(key) => ec_spki(key.public_key().as_ref()),
            Private::Rsa(key) => rsa_spki(key.public().as_ref()),
        };
        Ok(Self { public: VerifyingKey::from_spki(&spki)?, private, random })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError("signing failed".into());
        match &self.private {
            Private::Ec(key) => Ok(key.sign(&self.random, message).map_err(failed)?.as_ref().to_vec()),
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

fn rsa(parsed: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Private, KeyError> {
    let rejected = |error: ring::error::KeyRejected| KeyError(format!("private key cannot be used: {error}"));
    parsed.map(|key| Private::Rsa(Box::new(key))).map_err(rejected)
}

/// SubjectPublicKeyInfo of a P-256 point: the header is the same for all of them.
fn ec_spki(point: &[u8]) -> Vec<u8> {
    const ALGORITHM: &[u8] = &[
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    spki(ALGORITHM, point)
}

fn rsa_spki(public: &[u8]) -> Vec<u8> {
    const ALGORITHM: &[u8] =
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    spki(ALGORITHM, public)
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = [&[0], key].concat();
    tagged(0x30, &[algorithm, &tagged(0x03, &bits)].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    let length = content.len();
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    der.extend(content);
    der
}
