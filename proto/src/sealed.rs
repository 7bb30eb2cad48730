//! Sealing a secret for one node-helper: the controller closes it, only that helper opens it, and what lies between (the
//! orchestrator's objects, the node agent, the volume's properties) sees bytes.
//!
//! A sealed secret is `1 ‖ ephemeral X25519 key (32) ‖ ChaCha20-Poly1305 of the secret`. The cipher's key is
//! HKDF-SHA256 (RFC 5869) of the shared point, salted with both public keys; each seal has an ephemeral key of its own, so
//! the nonce is zero. [`Context`] (volume and host) is authenticated with it: a seal that is moved to another volume or
//! node does not open.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use uuid::Uuid;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Format of a sealed secret; its first byte.
const VERSION: u8 = 1;
/// Bytes before the ciphertext.
const HEADER: usize = 33;
/// Says what the derived keys are for.
const PURPOSE: &[u8] = b"tns-csi sealed secret v1";

/// What a sealed secret belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// What the secret is, e.g. `dhchap`.
    pub kind: &'a str,
    /// CSI volume id.
    pub volume: &'a str,
    /// UUID of the host that may open it.
    pub host: Uuid,
}

impl Context<'_> {
    /// Unambiguous: every part has its length before it.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for part in [self.kind.as_bytes(), self.volume.as_bytes(), self.host.as_bytes()] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// A secret that was not sealed or opened. Says nothing about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The public key is no usable point.
    #[error(
        "the node's public key is not a usable X25519 key; restart its node-helper and register the node again"
    )]
    PublicKey,
    /// Too short, or of another format.
    #[error("the sealed secret has a format that this version does not know")]
    Format,
    /// It was made for another key, volume or host, or was changed.
    #[error(
        "the sealed secret does not open with this host's key: it was made for another host, volume or key; publish \
         the volume to this node again"
    )]
    Closed,
}

/// Closes `secret` so that only the holder of `recipient`'s private key opens it.
///
/// # Errors
/// [`SealError::PublicKey`] for a key that gives no shared secret.
pub fn seal(recipient: &[u8; 32], context: &Context<'_>, secret: &[u8]) -> Result<Vec<u8>, SealError> {
    let ephemeral = PrivateKey::generate();
    let public = ephemeral.public_key();
    let cipher = ephemeral.cipher(recipient, &public, recipient).ok_or(SealError::PublicKey)?;
    let payload = Payload { msg: secret, aad: &context.bytes() };
    // Fails only for secrets of more than 256 GiB.
    let sealed = cipher.encrypt(&Nonce::default(), payload).map_err(|_| SealError::Format)?;
    let mut bytes = Vec::with_capacity(HEADER + sealed.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&public);
    bytes.extend_from_slice(&sealed);
    Ok(bytes)
}

/// A helper's private key; wiped when dropped.
pub struct PrivateKey(StaticSecret);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

impl PrivateKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        // The generator is seeded by the operating system and refreshed from it (crate rand, ThreadRng).
        let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
        Self::from_bytes(&bytes)
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// Its bytes, for the file that keeps it.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The key that others seal with.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// Opens what was sealed for this key.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, context: &Context<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, ciphertext) = sealed.split_at_checked(HEADER).ok_or(SealError::Format)?;
        let (&[version], ephemeral) = header.split_at_checked(1).ok_or(SealError::Format)? else {
            return Err(SealError::Format);
        };
        let ephemeral: [u8; 32] = ephemeral.try_into().map_err(|_| SealError::Format)?;
        if version != VERSION {
            return Err(SealError::Format);
        }
        let cipher = self.cipher(&ephemeral, &ephemeral, &self.public_key()).ok_or(SealError::Closed)?;
        let payload = Payload { msg: ciphertext, aad: &context.bytes() };
        cipher.decrypt(&Nonce::default(), payload).map(Zeroizing::new).map_err(|_| SealError::Closed)
    }

    /// The cipher shared with `other`; none when the other key gives no secret (a point of small order).
    fn cipher(
        &self,
        other: &[u8; 32],
        ephemeral: &[u8; 32],
        recipient: &[u8; 32],
    ) -> Option<ChaCha20Poly1305> {
        let shared = self.0.diffie_hellman(&PublicKey::from(*other));
        if !shared.was_contributory() {
            return None;
        }
        let salt = [ephemeral.as_slice(), recipient.as_slice()].concat();
        let mut key = Zeroizing::new([0_u8; 32]);
        Hkdf::<Sha256>::new(Some(&salt), shared.as_bytes()).expand(PURPOSE, key.as_mut_slice()).ok()?;
        Some(ChaCha20Poly1305::new(&Key::from(*key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(volume: &str) -> Context<'_> {
        Context { kind: "dhchap", volume, host: Uuid::from_u128(7) }
    }

    #[test]
    fn only_its_helper_opens_a_seal_and_only_for_its_volume() {
        let (helper, other) = (PrivateKey::generate(), PrivateKey::generate());
        let sealed = seal(&helper.public_key(), &context("tank/v"), b"hushhush").unwrap();
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        assert_eq!(helper.open(&context("tank/v"), &sealed).unwrap().as_slice(), b"hushhush");
        assert_eq!(other.open(&context("tank/v"), &sealed), Err(SealError::Closed));
        assert_eq!(helper.open(&context("tank/w"), &sealed), Err(SealError::Closed));
        let elsewhere = Context { host: Uuid::from_u128(8), ..context("tank/v") };
        assert_eq!(helper.open(&elsewhere, &sealed), Err(SealError::Closed));
        let kept = PrivateKey::from_bytes(&helper.to_bytes());
        assert_eq!(kept.open(&context("tank/v"), &sealed).unwrap().as_slice(), b"hushhush");
    }

    #[test]
    fn every_changed_byte_is_noticed_and_nothing_panics() {
        let helper = PrivateKey::generate();
        let sealed = seal(&helper.public_key(), &context("v"), b"hush").unwrap();
        for n in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[n] ^= 1;
            assert!(helper.open(&context("v"), &changed).is_err(), "byte {n}");
            assert!(helper.open(&context("v"), &sealed[..n]).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn two_seals_of_one_secret_differ() {
        let key = PrivateKey::generate().public_key();
        assert_ne!(seal(&key, &context("v"), b"x"), seal(&key, &context("v"), b"x"));
    }

    #[test]
    fn a_key_that_gives_no_secret_is_refused() {
        assert_eq!(seal(&[0; 32], &context("v"), b"x"), Err(SealError::PublicKey));
        assert!(!format!("{:?}", PrivateKey::from_bytes(&[7; 32])).contains('7'));
    }

    #[test]
    fn parts_of_a_context_cannot_flow_together() {
        let (a, b) = (Context { kind: "ab", ..context("c") }, Context { kind: "a", ..context("bc") });
        assert_ne!(a.bytes(), b.bytes());
    }
}
