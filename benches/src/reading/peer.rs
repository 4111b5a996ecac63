//! What reading cannot go below: the stored blocks of all layers, read and decompressed bare.
//!
//! No look-up, no checksum, no copy: one read of the file and one call of the library for each block. Of all layers, as a device is:
//! one layer alone compresses differently, and less of it has to stay in the processor's caches.

use super::image::Image;
use super::{Random, SEQUENTIAL_LEN, rate};
use anyhow::{Context, Result};
use std::sync::Arc;
use tranship_format::{Codec, Layer, ReadAt};

/// Bytes of the CRC behind a stored block.
const CRC_LEN: usize = 4;

/// Random blocks a second.
pub(super) fn blocks_per_second(image: &Image) -> Result<f64> {
    let mut bare = Bare::open(image)?;
    let mut random = Random(1);
    let count = bare.count();
    for _ in 0..count.min(20_000) {
        bare.read(random.below(count), 1)?;
    }
    rate(|| {
        for _ in 0..64 {
            bare.read(random.below(count), 1)?;
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
        if next >= bare.count() {
            next = 0;
        }
        let len = bare.read(next, run)?;
        next += run;
        #[expect(clippy::cast_precision_loss, reason = "about a mebibyte")]
        Ok(len as f64 / 1e6)
    })
}

struct Bare {
    /// Each with the number of its whole blocks: the last one may be short.
    layers: Vec<(Layer<Arc<dyn ReadAt>>, u64)>,
    codec: Codec,
    zstd: zstd::bulk::Decompressor<'static>,
    block_len: usize,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

impl Bare {
    fn open(image: &Image) -> Result<Self> {
        let (mut layers, mut block_len) = (Vec::new(), 0);
        for blob in image.blobs()? {
            let layer = Layer::open(blob).context("opening a layer")?;
            let table = layer.blocks().context("the layer is compressed")?;
            block_len = table.block_len() as usize;
            let count = table.count().saturating_sub(1);
            layers.push((layer, count));
        }
        Ok(Self {
            layers,
            codec: image.codec(),
            zstd: zstd::bulk::Decompressor::new().context("a zstd context")?,
            block_len,
            stored: Vec::new(),
            plain: vec![0; SEQUENTIAL_LEN.max(block_len)],
        })
    }

    /// Blocks of all layers.
    fn count(&self) -> u64 {
        self.layers.iter().map(|(_, count)| count).sum()
    }

    /// Reads up to `most` blocks of one layer, from the one on that is number `first` of all; says how many bytes they hold.
    fn read(&mut self, mut first: u64, most: u64) -> Result<usize> {
        let mut layers = self.layers.iter();
        let (layer, blocks) = loop {
            let (layer, count) = layers.next().context("a block of some layer")?;
            if first < *count {
                break (layer, first..(first + most).min(*count));
            }
            first -= count;
        };
        let table = layer.blocks().context("the layer is compressed")?;
        let range = table.stored(blocks.clone());
        self.stored
            .resize(usize::try_from(range.len()).context("a short read")?, 0);
        let payload = layer.payload();
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
