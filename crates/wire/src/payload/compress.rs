//! zstd with the dictionary of the schema version, both ways, contexts kept.

use std::sync::OnceLock;

use zstd::bulk;
use zstd::dict::DecoderDictionary;
use zstd::zstd_safe::{CParameter, get_frame_content_size};

use super::{MAX_DECODED_LEN, PayloadError};
use crate::ids::{DictionaryId, Digest};

/// The dictionary of schema version 1, made by `examples/train_dictionary.rs`. It never changes; a better one is a
/// second dictionary with an id of its own, and this one stays for what was made with it.
pub const DICTIONARY: &[u8] = include_bytes!("../../dictionaries/v1.zdict");

/// The id of [`DICTIONARY`].
pub fn dictionary_id() -> DictionaryId {
    static ID: OnceLock<DictionaryId> = OnceLock::new();
    *ID.get_or_init(|| {
        let [a, b, c, d, ..] = *Digest::of(DICTIONARY).as_bytes();
        DictionaryId::from_bytes([a, b, c, d])
    })
}

pub(super) struct Compressor {
    context: bulk::Compressor<'static>,
}

impl Compressor {
    pub(super) fn new(level: i32) -> Result<Self, PayloadError> {
        let mut context = bulk::Compressor::with_dictionary(level, DICTIONARY).map_err(PayloadError::Zstd)?;
        // The header names the dictionary already.
        context.set_parameter(CParameter::DictIdFlag(false)).map_err(PayloadError::Zstd)?;
        Ok(Self { context })
    }

    pub(super) fn compress(&mut self, raw: &[u8]) -> Result<Vec<u8>, PayloadError> {
        self.context.compress(raw).map_err(PayloadError::Zstd)
    }
}

pub(super) struct Decompressor {
    plain: bulk::Decompressor<'static>,
    dictionary: bulk::Decompressor<'static>,
}

impl Decompressor {
    pub(super) fn new() -> Result<Self, PayloadError> {
        static PREPARED: OnceLock<DecoderDictionary<'static>> = OnceLock::new();
        let prepared = PREPARED.get_or_init(|| DecoderDictionary::copy(DICTIONARY));
        Ok(Self {
            plain: bulk::Decompressor::new().map_err(PayloadError::Zstd)?,
            dictionary: bulk::Decompressor::with_prepared_dictionary(prepared).map_err(PayloadError::Zstd)?,
        })
    }

    pub(super) fn plain(&mut self, payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
        expand(&mut self.plain, payload)
    }

    pub(super) fn with_dictionary(
        &mut self,
        payload: &[u8],
        id: DictionaryId,
    ) -> Result<Vec<u8>, PayloadError> {
        if id != dictionary_id() {
            return Err(PayloadError::UnknownDictionary(id));
        }
        expand(&mut self.dictionary, payload)
    }
}

/// The frame must state its size, keep to it, and keep to the bound: all that is allocated is known before.
fn expand(context: &mut bulk::Decompressor<'static>, payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let malformed = || PayloadError::Zstd(std::io::ErrorKind::InvalidData.into());
    let size = get_frame_content_size(payload).ok().flatten().ok_or_else(malformed)?;
    let size =
        usize::try_from(size).ok().filter(|size| *size <= MAX_DECODED_LEN).ok_or(PayloadError::TooLarge)?;
    let raw = context.decompress(payload, size).map_err(PayloadError::Zstd)?;
    if raw.len() == size { Ok(raw) } else { Err(malformed()) }
}
