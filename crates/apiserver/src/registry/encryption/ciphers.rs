//! What upstream's local providers do with a value.
//!
//! - `aesgcm`: a nonce of 12 bytes, AES-GCM with the store key authenticated, so that a value cannot be moved.
//! - `aescbc`: an initialisation vector of 16 bytes, AES-CBC with PKCS#7 padding. Nothing authenticates the value;
//!   it is here for clusters that have it.
//! - `secretbox`: a nonce of 24 bytes, XSalsa20 and Poly1305 as NaCl has them, the tag first.

use cipher::block_padding::Pkcs7;
use cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use crypto_secretbox::aead::AeadInPlace as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::SecureRandom as _;

use super::EncryptionError;

const CBC_BLOCK: usize = 16;
const BOX_NONCE: usize = 24;
const BOX_TAG: usize = 16;

/// A key, for one of the providers.
pub(super) enum Cipher {
    Gcm(Box<LessSafeKey>),
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Cipher {
    /// A key of a provider; `None` if the provider knows no keys of this length.
    pub(super) fn new(provider: &str, key: &[u8]) -> Option<Cipher> {
        match (provider, key.len()) {
            ("aesgcm", 16) => Some(gcm(UnboundKey::new(&AES_128_GCM, key).ok()?)),
            ("aesgcm", 32) => Some(gcm(UnboundKey::new(&AES_256_GCM, key).ok()?)),
            ("aescbc", 16 | 24 | 32) => Some(Cipher::Cbc(key.to_vec())),
            ("secretbox", 32) => {
                Some(Cipher::Secretbox(Box::new(XSalsa20Poly1305::new_from_slice(key).ok()?)))
            }
            _ => None,
        }
    }

    /// `start`, followed by the encrypted value.
    pub(super) fn seal(
        &self,
        start: &[u8],
        store_key: &str,
        value: &[u8],
    ) -> Result<Vec<u8>, EncryptionError> {
        match self {
            Cipher::Gcm(key) => {
                let nonce: [u8; NONCE_LEN] = random()?;
                let mut out = [start, &nonce].concat();
                let mut body = value.to_vec();
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(store_key.as_bytes()),
                    &mut body,
                )
                .map_err(|_| EncryptionError::Damaged)?;
                out.append(&mut body);
                Ok(out)
            }
            Cipher::Cbc(key) => {
                let vector: [u8; CBC_BLOCK] = random()?;
                let body = cbc_seal(key, &vector, value)?;
                Ok([start, &vector, &body].concat())
            }
            Cipher::Secretbox(key) => {
                let nonce: [u8; BOX_NONCE] = random()?;
                let mut body = value.to_vec();
                let tag = key
                    .encrypt_in_place_detached((&nonce).into(), b"", &mut body)
                    .map_err(|_| EncryptionError::Damaged)?;
                Ok([start, &nonce, tag.as_slice(), &body].concat())
            }
        }
    }

    /// The value in what follows the start.
    pub(super) fn open(&self, store_key: &str, sealed: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let damaged = || EncryptionError::Damaged;
        match self {
            Cipher::Gcm(key) => {
                let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
                let mut body = body.to_vec();
                let opened = key.open_in_place(nonce, Aad::from(store_key.as_bytes()), &mut body);
                let len = opened.map_err(|_| damaged())?.len();
                body.truncate(len);
                Ok(body)
            }
            Cipher::Cbc(key) => {
                let (vector, body) = sealed.split_at_checked(CBC_BLOCK).ok_or_else(damaged)?;
                cbc_open(key, vector, body)
            }
            Cipher::Secretbox(key) => {
                let (nonce, rest) = sealed.split_at_checked(BOX_NONCE).ok_or_else(damaged)?;
                let (tag, body) = rest.split_at_checked(BOX_TAG).ok_or_else(damaged)?;
                let nonce: &[u8; BOX_NONCE] = nonce.try_into().map_err(|_| damaged())?;
                let tag: &[u8; BOX_TAG] = tag.try_into().map_err(|_| damaged())?;
                let mut body = body.to_vec();
                key.decrypt_in_place_detached(nonce.into(), b"", &mut body, tag.into())
                    .map_err(|_| damaged())?;
                Ok(body)
            }
        }
    }
}

fn gcm(key: UnboundKey) -> Cipher {
    Cipher::Gcm(Box::new(LessSafeKey::new(key)))
}

fn random<const N: usize>() -> Result<[u8; N], EncryptionError> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| EncryptionError::Randomness)?;
    Ok(bytes)
}

fn cbc_seal(key: &[u8], vector: &[u8], value: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    macro_rules! seal {
        ($aes:ty) => {
            cbc::Encryptor::<$aes>::new_from_slices(key, vector)
                .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(value))
        };
    }
    match key.len() {
        16 => seal!(aes::Aes128),
        24 => seal!(aes::Aes192),
        _ => seal!(aes::Aes256),
    }
    .map_err(|_| EncryptionError::Damaged)
}

fn cbc_open(key: &[u8], vector: &[u8], body: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    macro_rules! open {
        ($aes:ty) => {
            cbc::Decryptor::<$aes>::new_from_slices(key, vector)
                .ok()
                .and_then(|cipher| cipher.decrypt_padded_vec_mut::<Pkcs7>(body).ok())
        };
    }
    match key.len() {
        16 => open!(aes::Aes128),
        24 => open!(aes::Aes192),
        _ => open!(aes::Aes256),
    }
    .ok_or(EncryptionError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// NaCl's own example of a secretbox.
    #[test]
    fn secretbox_is_nacls() {
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let tag = bytes("f3ffc7703f9400e52a7dfb4b3d3305d9");
        let body = bytes(
            "8e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let opened = Cipher::new("secretbox", &key).unwrap().open("", &[nonce, tag, body].concat()).unwrap();
        assert_eq!(opened[..8], bytes("be075fc53c81f2d5"));
        assert_eq!(opened.len(), 131);
    }

    /// The first block of NIST SP 800-38A F.2.5, and its padding.
    #[test]
    fn cbc_is_nists() {
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let vector = bytes("000102030405060708090a0b0c0d0e0f");
        let value = bytes("6bc1bee22e409f96e93d7e117393172a");
        let sealed = cbc_seal(&key, &vector, &value).unwrap();
        assert_eq!(sealed[..16], bytes("f58c4c04d6e5f1ba779eabfb5f7bfbd6"));
        assert_eq!((sealed.len(), cbc_open(&key, &vector, &sealed)), (32, Ok(value)));
    }

    #[test]
    fn lengths_of_keys() {
        for (provider, lengths) in
            [("aesgcm", &[16, 32][..]), ("aescbc", &[16, 24, 32]), ("secretbox", &[32]), ("other", &[])]
        {
            for length in 0..40 {
                let fits = Cipher::new(provider, &vec![1; length]).is_some();
                assert_eq!(fits, lengths.contains(&length), "{provider} {length}");
            }
        }
    }
}
