//! What reading cannot go below: stored blocks of the bottom layer, read and decompressed bare.
//!
//! No look-up, no checksum, no copy: one read of the file and one call of the library for each block.

use super::image::Image;
use super::{Random, SEQUENTIAL_LEN, rate};
use anyhow::{Context, Result};
use std::ops::Range;
use std::sync::Arc;
use tranship_format::{Codec, Layer, ReadAt};

/// Bytes of the CRC behind a stored block.
const CRC_LEN: usize = 4;

/// Random blocks a second.
pub(super) fn blocks_per_second(image: &Image) -> Result<f64> {
    let mut bare = Bare::open(image)?;
    let mut random = Random(1);
    for _ in 0..bare.count.min(20_000) {
        let block = random.below(bare.count);
        bare.read(block..block + 1)?;
    }
    rate(|| {
        for _ in 0..64 {
            let block = random.below(bare.count);
            bare.read(block..block + 1)?;
        }
        Ok(64.0)
    })
}

/// Megabytes a second of blocks in order, a mebibyte of them with each read of the file.
pub(super) fn megabytes_per_second(image: &Image) -> Result<f64> {
    let mut bare = Bare::open(image)?;
    let run = (SEQUENTIAL_LEN / bare.block_len) as u64;
    let mut next = 0;
    rate(|| {
        if next + run > bare.count {
            next = 0;
        }
        let len = bare.read(next..next + run)?;
        next += run;
        #[expect(clippy::cast_precision_loss, reason = "about a mebibyte")]
        Ok(len as f64 / 1e6)
    })
}

struct Bare {
    layer: Layer<Arc<dyn ReadAt>>,
    codec: Codec,
    zstd: zstd::bulk::Decompressor<'static>,
    block_len: usize,
    count: u64,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

impl Bare {
    fn open(image: &Image) -> Result<Self> {
        let blob = image
            .blobs()?
            .into_iter()
            .next()
            .context("a bottom layer")?;
        let layer = Layer::open(blob).context("opening the bottom layer")?;
        let table = layer.blocks().context("the layer is compressed")?;
        let (block_len, count) = (table.block_len() as usize, table.count());
        Ok(Self {
            layer,
            codec: image.codec(),
            zstd: zstd::bulk::Decompressor::new().context("a zstd context")?,
            block_len,
            // The last one may be short.
            count: count.saturating_sub(1),
            stored: Vec::new(),
            plain: vec![0; SEQUENTIAL_LEN.max(block_len)],
        })
    }

    fn read(&mut self, blocks: Range<u64>) -> Result<usize> {
        let table = self.layer.blocks().context("the layer is compressed")?;
        let range = table.stored(blocks.clone());
        self.stored
            .resize(usize::try_from(range.len()).context("a short read")?, 0);
        let payload = self.layer.payload();
        payload
            .read_exact_at(range.start, &mut self.stored)
            .context("reading blocks")?;
        let (mut rest, mut done) = (self.stored.as_slice(), 0);
        for (block, plain) in blocks.zip(self.plain.chunks_mut(self.block_len)) {
            let len = usize::try_from(table.stored(block..block + 1).len()).context("a block")?;
            let (block, after) = rest.split_at_checked(len).context("a whole block")?;
            rest = after;
            let bytes = block.get(..len.saturating_sub(CRC_LEN)).unwrap_or(block);
            done += match self.codec {
                Codec::Lz4 => lz4_flex::block::decompress_into(bytes, plain).context("LZ4")?,
                Codec::Zstd => self
                    .zstd
                    .decompress_to_buffer(bytes, plain)
                    .context("zstd")?,
            };
        }
        Ok(done)
    }
}
