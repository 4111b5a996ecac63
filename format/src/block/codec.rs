//! Compressing and decompressing one block.
//!
//! zstd's contexts are large: making one for each block costs four times the work itself, so both sides own theirs and
//! use them again.

use core::fmt;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// How the blocks of a blob are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// LZ4's block format: the fastest to read, a third larger.
    Lz4,
    /// One zstd frame a block.
    #[default]
    Zstd,
}

impl Codec {
    /// The codec with this number in the format. 0 is a kind of LZO that no tool ever wrote.
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in the format.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

/// The zstd level that overlaybd uses, and the last one before speed falls off.
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// zstd levels that may be asked for: those that mean a trade, without the ones that only keep more memory busy.
pub(crate) const ZSTD_LEVELS: core::ops::RangeInclusive<i32> = 1..=19;

/// Compresses blocks, one after the other.
pub(super) enum BlockEncoder {
    Lz4,
    Zstd(Compressor<'static>),
}

impl BlockEncoder {
    /// `level` is zstd's; LZ4 has none.
    pub(super) fn new(codec: Codec, level: i32) -> io::Result<Self> {
        Ok(match codec {
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd(Compressor::new(level)?),
        })
    }

    /// Bytes that `plain_len` bytes take when they do not compress at all.
    pub(super) const fn bound(plain_len: usize) -> usize {
        // LZ4 adds 1/255 and zstd 1/256 and a few bytes at most, but the LZ4 encoder wants room for a tenth before it begins.
        plain_len.saturating_add(plain_len / 8).saturating_add(128)
    }

    /// Compresses `plain` into `stored`, which has room for [`bound`](Self::bound) bytes; says how many it took.
    pub(super) fn encode(&mut self, plain: &[u8], stored: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Lz4 => lz4_flex::block::compress_into(plain, stored).map_err(io::Error::other),
            Self::Zstd(compressor) => compressor.compress_to_buffer(plain, stored),
        }
    }
}

impl fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lz4 => "BlockEncoder(Lz4)",
            Self::Zstd(_) => "BlockEncoder(Zstd)",
        })
    }
}

/// Decompresses blocks, one after the other.
#[derive(Default)]
pub(crate) struct BlockDecoder {
    /// Made when the first zstd block is met: most images have one codec.
    zstd: Option<Decompressor<'static>>,
}

impl BlockDecoder {
    /// Decompresses `stored` into `plain`, which it must fill exactly.
    pub(super) fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        plain: &mut [u8],
    ) -> io::Result<()> {
        let len = match codec {
            Codec::Lz4 => {
                lz4_flex::block::decompress_into(stored, plain).map_err(io::Error::other)?
            }
            Codec::Zstd => self.zstd()?.decompress_to_buffer(stored, plain)?,
        };
        must_be(len, plain.len())
    }

    /// Decompresses `stored` into a buffer of its own of `len` bytes, which it must fill exactly. The buffer is not cleared
    /// first, as one of the caller's must be.
    pub(super) fn decode_alone(
        &mut self,
        codec: Codec,
        stored: &[u8],
        len: usize,
    ) -> io::Result<Vec<u8>> {
        let plain = match codec {
            Codec::Lz4 => lz4_flex::block::decompress(stored, len).map_err(io::Error::other)?,
            Codec::Zstd => {
                let mut plain = Vec::with_capacity(len);
                self.zstd()?.decompress_to_buffer(stored, &mut plain)?;
                plain
            }
        };
        must_be(plain.len(), len)?;
        Ok(plain)
    }

    fn zstd(&mut self) -> io::Result<&mut Decompressor<'static>> {
        let decompressor = match self.zstd.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new()?,
        };
        Ok(self.zstd.insert(decompressor))
    }
}

fn must_be(found: usize, wanted: usize) -> io::Result<()> {
    if found == wanted {
        return Ok(());
    }
    let why = format!("it holds {found} bytes and must hold {wanted}");
    Err(io::Error::other(why))
}

impl fmt::Debug for BlockDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDecoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no codec makes smaller.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        core::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn a_block_comes_back_as_it_was_and_fits_its_bound() {
        let mut decoder = BlockDecoder::default();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut encoder = BlockEncoder::new(codec, ZSTD_LEVEL).unwrap();
            for plain in [
                noise(65536),
                vec![0; 65536],
                noise(1),
                b"tranship ".repeat(1000),
                noise(4096),
            ] {
                let mut stored = vec![0; BlockEncoder::bound(plain.len())];
                let len = encoder.encode(&plain, &mut stored).unwrap();
                let mut again = vec![1; plain.len()];
                decoder.decode(codec, &stored[..len], &mut again).unwrap();
                assert!(again == plain);
                let alone = decoder.decode_alone(codec, &stored[..len], plain.len());
                assert!(alone.unwrap() == plain);
            }
        }
    }

    #[test]
    fn a_block_of_another_length_is_refused() {
        let mut decoder = BlockDecoder::default();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut stored = vec![0; 8192];
            let len = BlockEncoder::new(codec, ZSTD_LEVEL)
                .unwrap()
                .encode(&noise(4096), &mut stored)
                .unwrap();
            for wrong in [0, 1, 4095, 4097] {
                assert!(
                    decoder
                        .decode(codec, &stored[..len], &mut vec![0; wrong])
                        .is_err(),
                    "{codec:?} {wrong}"
                );
                let alone = decoder.decode_alone(codec, &stored[..len], wrong);
                assert!(alone.is_err(), "{codec:?} {wrong}");
            }
            assert!(
                decoder
                    .decode(codec, &stored[..len / 2], &mut [0; 4096])
                    .is_err()
            );
            assert!(decoder.decode(codec, &[], &mut [0; 4096]).is_err());
            decoder
                .decode(codec, &stored[..len], &mut [0; 4096])
                .unwrap();
        }
    }
}
