//! The file that `spool export` writes and `verify --export` reads: frames one after the other.
//!
//! magic "AFEXPRT1" · then, until the end: length `u32` little-endian · that many bytes, a frame (see [`crate::frame`])
//!
//! It is read with bounded memory: eight bytes, then four and a frame at a time. A file that ends within a frame was
//! cut off.

use crate::frame::MAX_FRAME_LEN;
use crate::layout::ParseError;

/// How the file begins.
pub const MAGIC: [u8; 8] = *b"AFEXPRT1";
/// The length of what stands before each frame.
pub const PREFIX_LEN: usize = 4;

/// What stands before a frame that [`crate::FrameWriter`] made.
pub fn prefix(frame: &[u8]) -> [u8; PREFIX_LEN] {
    (frame.len() as u32).to_le_bytes()
}

/// How many bytes the frame after this prefix has.
pub fn frame_len(prefix: [u8; PREFIX_LEN]) -> Result<usize, ParseError> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len <= MAX_FRAME_LEN {
        return Ok(len);
    }
    let (found, bound) = (len as u64, MAX_FRAME_LEN as u64);
    Err(ParseError::OutOfBounds { what: "export", field: "bytes in one frame", found, bound })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameWriter;

    #[test]
    fn frame_is_found_again_by_its_prefix_and_an_absurd_one_is_refused() {
        let frame = FrameWriter::new().finish();
        assert_eq!(frame_len(prefix(&frame)), Ok(frame.len()));
        assert!(frame_len([0xFF; 4]).is_err());
    }
}
