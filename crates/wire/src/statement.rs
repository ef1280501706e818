//! The common frame of everything signed but the batch header: acknowledgement, state, fold, rotation, checkpoint.
//!
//! ```text
//! offset size
//!      0    4  magic, one per kind
//!      4    2  format version, 1
//!      6    8  signing-key id
//!     14    …  body (see the kind's module)
//!    -64   64  Ed25519 signature over BLAKE3(domain ‖ 0x00 ‖ everything before it)
//! ```
//!
//! A parsed statement is kept with its verbatim bytes and its content stays behind [`Signed::verify`]; what is needed
//! to find the key ([`Signed::key`], [`Signed::unverified`]) is in reach before.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::{Digest, KeyId};
use crate::keys::{Domain, PublicKey, Role, SecretKey};
use crate::layout::{ParseError, Reader, Writer};

const VERSION: u16 = 1;
const SIGNATURE_LEN: usize = 64;

/// A signature that the named key did not make over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature is not by key {key}, or the signed bytes were altered")]
pub struct BadSignature {
    /// The key that it was checked against, or that it names if that key is not known.
    pub key: KeyId,
}

/// Something that is signed and sent. Implemented by this crate's statements only.
pub trait Statement: Sized {
    /// Its name in errors.
    const WHAT: &'static str;
    /// Its first four bytes.
    const MAGIC: [u8; 4];
    /// Its digest's domain.
    const DOMAIN: Domain;
    /// The most bytes it may have, signature included.
    const MAX_LEN: usize;
    /// Who signs it.
    type Signer: Role;

    #[doc(hidden)]
    fn write(&self, out: &mut Writer);

    #[doc(hidden)]
    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError>;
}

/// A statement with its verbatim bytes and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    key: KeyId,
    bytes: Box<[u8]>,
}

impl<T: Statement> Signed<T> {
    /// Signs `value`.
    pub fn sign(value: T, key: &SecretKey<T::Signer>) -> Self {
        let mut out = Writer::with_capacity(256);
        out.raw(&T::MAGIC);
        out.u16(VERSION);
        out.raw(key.id().as_bytes());
        value.write(&mut out);
        let signature = key.sign(&T::DOMAIN.digest(out.as_bytes()));
        out.raw(&signature);
        Self { value, key: key.id(), bytes: out.into_bytes().into() }
    }

    /// Parses bytes from outside; nothing is proved yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > T::MAX_LEN {
            let (found, bound) = (bytes.len() as u64, T::MAX_LEN as u64);
            return Err(ParseError::OutOfBounds { what: T::WHAT, field: "bytes", found, bound });
        }
        let body = bytes.len().checked_sub(SIGNATURE_LEN).and_then(|end| bytes.get(..end));
        let mut reader = Reader::new(T::WHAT, body.ok_or(ParseError::Truncated(T::WHAT))?);
        reader.magic(T::MAGIC)?;
        let version = reader.u16()?;
        if version != VERSION {
            return Err(ParseError::UnknownVersion { what: T::WHAT, version });
        }
        let key = reader.key()?;
        let value = T::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { value, key, bytes: bytes.into() })
    }

    /// The id of the key that it says it was signed with.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The content before it is proved: to find the right key and to log, not to act on.
    pub fn unverified(&self) -> &T {
        &self.value
    }

    /// The content, if `key` signed these very bytes.
    pub fn verify(&self, key: &PublicKey<T::Signer>) -> Result<&T, BadSignature> {
        let split = self.bytes.split_last_chunk::<SIGNATURE_LEN>();
        let (signed, signature) = split.ok_or(BadSignature { key: self.key })?;
        if key.id() != self.key {
            return Err(BadSignature { key: key.id() });
        }
        key.verify(&T::DOMAIN.digest(signed), signature)?;
        Ok(&self.value)
    }

    /// The digest of what was signed.
    pub fn digest(&self) -> Digest {
        let signed = self.bytes.split_last_chunk::<SIGNATURE_LEN>().map_or(&[][..], |(signed, _)| signed);
        T::DOMAIN.digest(signed)
    }

    /// The verbatim bytes, signature included: what travels and what is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// In files and in JSON: the verbatim bytes, hexadecimal.
impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&data_encoding::HEXLOWER.encode_display(&self.bytes))
    }
}

impl<'de, T: Statement> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        Self::parse(&bytes).map_err(de::Error::custom)
    }
}
