//! Ed25519 keys in two roles that the compiler keeps apart: a node signs what it saw, a site what it stored.
//!
//! Fed by the agent's key file and the collector's secret file; feeds everything that is signed. Secrets are wiped
//! from memory when dropped and never appear in `Debug`. A key id finds a key, it proves nothing.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::{Digest, KeyId, RandomError, parse_hex};
use crate::statement::BadSignature;

/// A node's secret key.
pub type NodeKey = SecretKey<Node>;
/// What a node's signatures are checked with.
pub type NodePublicKey = PublicKey<Node>;
/// The site's secret key, held by the acknowledging roles alone.
pub type SiteKey = SecretKey<Site>;
/// What acknowledgements are checked with; pinned on the node at enrolment.
pub type SitePublicKey = PublicKey<Site>;

/// Marks a node's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {}
/// Marks the site's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {}

/// Who a key speaks for.
pub trait Role: sealed::Sealed + Copy + Eq + std::fmt::Debug {
    /// In `Debug` and in errors.
    const NAME: &'static str;
}

impl Role for Node {
    const NAME: &'static str = "node key";
}

impl Role for Site {
    const NAME: &'static str = "site key";
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Node {}
    impl Sealed for super::Site {}
}

/// Why a key could not be read or written. Never quotes the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 64 hexadecimal digits.
    #[error("not a key: give 64 lowercase hexadecimal digits")]
    Hex,
    /// Not an Ed25519 key in PKCS#8 PEM.
    #[error("not an ed25519 private key in pkcs#8 pem: restore the key file or enrol again")]
    Pem,
    /// 32 bytes that no honest signer's public key consists of.
    #[error("not an ed25519 public key")]
    Public,
}

/// A secret key. Cloning it is allowed (threads), printing it is not possible.
#[derive(Clone)]
pub struct SecretKey<R> {
    key: SigningKey,
    role: PhantomData<R>,
}

impl<R: Role> SecretKey<R> {
    /// A new random key.
    pub fn generate() -> Result<Self, RandomError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let key = Self::from_seed(&seed);
        seed.fill(0);
        Ok(key)
    }

    /// The key of a 32-byte secret seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed), role: PhantomData }
    }

    /// The key of a seed in hexadecimal.
    pub fn from_seed_hex(text: &str) -> Result<Self, KeyError> {
        parse_hex(text.trim()).map(|seed| Self::from_seed(&seed)).ok_or(KeyError::Hex)
    }

    /// The secret seed in hexadecimal: for a file only its owner may read.
    pub fn to_seed_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(self.key.as_bytes())
    }

    /// Reads PKCS#8 PEM as OpenSSL writes it (`openssl genpkey -algorithm ed25519`).
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(text).map_err(|_| KeyError::Pem)?;
        Ok(Self { key, role: PhantomData })
    }

    /// Writes PKCS#8 PEM, which TLS libraries take as well.
    pub fn to_pkcs8_pem(&self) -> Result<String, KeyError> {
        self.key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.as_str().to_owned()).map_err(|_| KeyError::Pem)
    }

    /// What others check signatures with.
    pub fn public(&self) -> PublicKey<R> {
        PublicKey { key: self.key.verifying_key(), role: PhantomData }
    }

    /// The public key's id.
    pub fn id(&self) -> KeyId {
        self.public().id()
    }

    pub(crate) fn sign(&self, digest: &Digest) -> [u8; 64] {
        self.key.sign(digest.as_bytes()).to_bytes()
    }
}

impl<R: Role> fmt::Debug for SecretKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {} {}", R::NAME, self.id())
    }
}

/// A public key.
#[derive(Clone, Copy)]
pub struct PublicKey<R> {
    key: VerifyingKey,
    role: PhantomData<R>,
}

impl<R: Role> PublicKey<R> {
    /// Refuses bytes that are no curve point, and points of small order, under which anybody could sign.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Public)?;
        if key.is_weak() {
            return Err(KeyError::Public);
        }
        Ok(Self { key, role: PhantomData })
    }

    /// The key as it travels.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        let hash = Domain("auditflow key id v1").digest(self.as_bytes());
        let (id, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; KeyId::LEN], &[]));
        KeyId::from_bytes(*id)
    }

    /// Strict verification: one valid signature per message and key, no malleability.
    pub(crate) fn verify(&self, digest: &Digest, signature: &[u8; 64]) -> Result<(), BadSignature> {
        let signature = Signature::from_bytes(signature);
        self.key.verify_strict(digest.as_bytes(), &signature).map_err(|_| BadSignature { key: self.id() })
    }
}

impl<R> PartialEq for PublicKey<R> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<R> Eq for PublicKey<R> {}

impl<R: Role> fmt::Display for PublicKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::HEXLOWER.encode_display(self.as_bytes()).fmt(f)
    }
}

impl<R: Role> fmt::Debug for PublicKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "public {} {self}", R::NAME)
    }
}

impl<R: Role> FromStr for PublicKey<R> {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&parse_hex(text).ok_or(KeyError::Hex)?)
    }
}

impl<R: Role> Serialize for PublicKey<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, R: Role> Deserialize<'de> for PublicKey<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The public keys one party has used, current and past, found by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing<R: Role> {
    keys: Vec<(KeyId, PublicKey<R>)>,
}

impl<R: Role> KeyRing<R> {
    /// The key with this id.
    pub fn get(&self, id: KeyId) -> Option<&PublicKey<R>> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key)
    }

    /// All keys, in the order in which they were added.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &PublicKey<R>> {
        self.keys.iter().map(|(_, key)| key)
    }

    /// Adds a key that the caller trusts.
    pub fn add(&mut self, key: PublicKey<R>) {
        if self.get(key.id()).is_none() {
            self.keys.push((key.id(), key));
        }
    }
}

impl<R: Role> Default for KeyRing<R> {
    fn default() -> Self {
        Self { keys: Vec::new() }
    }
}

impl<R: Role> FromIterator<PublicKey<R>> for KeyRing<R> {
    fn from_iter<I: IntoIterator<Item = PublicKey<R>>>(keys: I) -> Self {
        let mut ring = Self::default();
        keys.into_iter().for_each(|key| ring.add(key));
        ring
    }
}

/// What a hash is for: mixed in first, so that no two uses can share a digest.
#[derive(Debug, Clone, Copy)]
pub struct Domain(pub(crate) &'static str);

impl Domain {
    /// BLAKE3(domain ‖ NUL ‖ bytes).
    pub(crate) fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes()).update(&[0]).update(bytes);
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }
}
