//! Join tokens: `AUTHORITY.ID.SECRET`.
//!
//! The first part is the SHA-256 of the cluster's serving authority, by which the joining server knows whom it talks
//! to; the others are a bootstrap token of Kubernetes, by which the cluster knows the joining server. The secret also
//! encrypts what is handed out, so that it is worth nothing to those who can read Secrets but have no token.

use anyhow::{Context, Result, bail};
use isopod_pki::tls::certificates;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::str::FromStr;

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 16;
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    authority: [u8; 32],
    pub(crate) id: String,
    secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of logs.
        write!(f, "Token({})", self.id)
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Letters and digits, evenly drawn.
fn random_text(length: usize) -> Result<String> {
    let random = SystemRandom::new();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut byte = [0];
        random.fill(&mut byte).ok().context("the system gives no random numbers")?;
        // Beyond the largest multiple of 36 some letters would come more often.
        if byte[0] < 252 {
            text.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
        }
    }
    Ok(text)
}

impl Token {
    /// A new token for the cluster of an authority.
    pub(crate) fn new(authority_pem: &str) -> Result<Self> {
        let authority = certificates(authority_pem).context("the serving authority")?;
        let authority = hash(authority.first().context("the serving authority is empty")?);
        Ok(Token { authority, id: random_text(ID_BYTES)?, secret: random_text(SECRET_BYTES)? })
    }

    /// The part that Kubernetes knows: what goes into the header of a request.
    pub(crate) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The secret alone.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether a certificate, in DER, is the authority that this token means.
    pub(crate) fn is_authority(&self, certificate: &[u8]) -> bool {
        hash(certificate) == self.authority
    }

    /// Refuses an authority, in PEM, that this token does not mean.
    pub(crate) fn check_authority(&self, pem: &str) -> Result<()> {
        let found = certificates(pem).context("the serving authority")?;
        if !found.iter().any(|certificate| self.is_authority(certificate)) {
            bail!("the token is for another authority");
        }
        Ok(())
    }

    fn key(&self) -> Result<LessSafeKey> {
        let pseudo_random = Salt::new(HKDF_SHA256, b"isopod join bundle").extract(self.secret.as_bytes());
        let info = [self.id.as_bytes()];
        let expanded = pseudo_random.expand(&info, &AES_256_GCM).ok().context("derive a key")?;
        Ok(LessSafeKey::new(UnboundKey::from(expanded)))
    }

    /// Encrypts what only the holder of the token may read.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok().context("the system gives no random numbers")?;
        let mut sealed = plain.to_vec();
        self.key()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .ok()
            .context("encrypt")?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Decrypts it.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let (nonce, sealed) =
            sealed.split_first_chunk::<NONCE_LEN>().context("what was sent is too short")?;
        let mut plain = sealed.to_vec();
        let length = self
            .key()?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut plain)
            .ok()
            .context("what was sent is not encrypted with this token")?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.authority {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ".{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let plain = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| LETTERS.contains(&byte))
        };
        let [authority, id, secret] = parts[..] else { bail!("a join token has three parts") };
        if authority.len() != 64 || !plain(id, ID_BYTES) || !plain(secret, SECRET_BYTES) {
            bail!("it is not a join token as `isopod token create` prints it");
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            let digits = authority.get(at..at + 2).context("the authority's hash is not hexadecimal")?;
            *byte = u8::from_str_radix(digits, 16).context("the authority's hash is not hexadecimal")?;
        }
        Ok(Token { authority: bytes, id: id.to_owned(), secret: secret.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { authority: [7; 32], id: "abcdef".into(), secret: "0123456789abcdef".into() }
    }

    #[test]
    fn text_and_back() {
        let text = token().to_string();
        assert_eq!(text.parse::<Token>().expect("a token"), token());
        assert!(!format!("{:?}", token()).contains("0123456789"));
        for bad in
            ["", "a.b", "x.abcdef.0123456789abcdef", &text[2..], &text.replace("abcdef", "ABCDEF"), "é.é.é"]
        {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        let strange = format!("{}é.abcdef.0123456789abcdef", "0".repeat(62));
        assert!(strange.parse::<Token>().is_err());
    }

    #[test]
    fn only_the_token_opens_what_it_sealed() {
        let sealed = token().seal(b"keys").expect("sealed");
        assert!(!sealed.windows(4).any(|part| part == b"keys"));
        assert_eq!(token().open(&sealed).expect("opened"), b"keys");
        let other = Token { secret: "0123456789abcdeg".into(), ..token() };
        assert!(other.open(&sealed).is_err());
        let mut damaged = sealed.clone();
        damaged[NONCE_LEN] ^= 1;
        assert!(token().open(&damaged).is_err());
        assert!(token().open(b"short").is_err());
        assert_ne!(token().seal(b"keys").expect("sealed"), sealed, "a nonce is used once");
    }
}
