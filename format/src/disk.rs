//! The merged device over the blobs of its layers.
//!
//! A read is planned first and then done: look up the sectors, sort what is wanted by block, read each run of stored
//! blocks at once, decompress each block once. A block that is wanted whole goes straight into the caller's buffer; one
//! that is wanted in part is kept, since whoever reads a part of it will read its neighbours.

mod cache;
mod fill;
mod plan;

use core::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::address::ByteRange;
use crate::block::{BlockDecoder, read_span, spans};
use crate::index::Index;
use crate::layer::{Layer, OpenLayerError};
use crate::read_at::{ReadAt, beyond_the_end};
use crate::stack::{self, MAX_LAYERS};
use cache::{BlockCache, BlockKey};
use fill::{BlockRead, copy, lost, target, zero_between};
use plan::Fragment;

/// Bytes of the device that are planned and read at a time: bounds what one large read holds in memory.
const READ_LEN: usize = 4 << 20;

/// Sets of buffers and contexts that are kept for the next read. More readers at once make their own.
const MAX_IDLE_WORKSPACES: usize = 8;

/// Bytes of such a buffer that are kept: what sequential readers use. Larger ones are made for one read.
const MAX_IDLE_STORED_LEN: usize = 1 << 20;

/// One device made of layers, of which the upper hides the lower. Reads may come from many threads at once.
pub struct Disk {
    layers: Vec<Layer<Arc<dyn ReadAt>>>,
    index: Index,
    len: u64,
    /// Held for look-ups only, never while reading or decompressing. None where nothing is kept.
    cache: Option<Mutex<BlockCache>>,
    idle: Mutex<Vec<Workspace>>,
}

/// What a read needs and the next one can use again.
#[derive(Debug, Default)]
struct Workspace {
    decoder: BlockDecoder,
    stored: Vec<u8>,
    /// For blocks of which a part is wanted and nothing is kept.
    spare: Vec<u8>,
}

impl Disk {
    /// Opens the layers, the bottom one first, and merges their indexes. At most `cache_len` bytes of decompressed blocks
    /// are kept.
    ///
    /// # Errors
    /// If a blob does not open as a layer, there is none or more than 255, or none says how large the device is.
    pub fn open(blobs: Vec<Arc<dyn ReadAt>>, cache_len: u64) -> Result<Self, OpenLayerError> {
        check_count(blobs.len())?;
        let open = |(position, blob)| {
            Layer::open(blob).map_err(|source| OpenLayerError::Position {
                position,
                source: Box::new(source),
            })
        };
        let layers = blobs.into_iter().enumerate().map(open);
        Self::of_layers(layers.collect::<Result<_, _>>()?, cache_len)
    }

    /// The same of layers that are open already, as those are that were opened side by side.
    ///
    /// # Errors
    /// If there is no layer or more than 255, or none says how large the device is.
    pub fn of_layers(
        layers: Vec<Layer<Arc<dyn ReadAt>>>,
        cache_len: u64,
    ) -> Result<Self, OpenLayerError> {
        check_count(layers.len())?;
        let indexes: Vec<Index> = layers.iter().map(|layer| layer.index().clone()).collect();
        let sizes = layers.iter().rev().map(Layer::virtual_size);
        let len = sizes
            .into_iter()
            .find(|size| *size > 0)
            .ok_or(OpenLayerError::NoVirtualSize)?;
        let cache = (cache_len > 0).then(|| Mutex::new(BlockCache::new(cache_len)));
        Ok(Self {
            layers,
            index: stack::merge(&indexes),
            len,
            cache,
            idle: Mutex::default(),
        })
    }

    /// Size of the device in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the device has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The layers, the bottom one first.
    pub fn layers(&self) -> &[Layer<Arc<dyn ReadAt>>] {
        &self.layers
    }

    /// The merged index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Fills `buf` with the device's bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, `InvalidData` if stored bytes do not decompress or fail their checksum, and the
    /// blob's own.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let fits =
            ByteRange::at(offset, buf.len() as u64).is_some_and(|range| range.end <= self.len);
        if !fits {
            return Err(beyond_the_end(offset, buf.len(), self.len));
        }
        let mut workspace = lock(&self.idle).pop().unwrap_or_default();
        let mut at = offset;
        let mut result = Ok(());
        for part in buf.chunks_mut(READ_LEN) {
            result = self.read_part(at, part, &mut workspace);
            if result.is_err() {
                break;
            }
            at = at.saturating_add(part.len() as u64);
        }
        workspace.stored.truncate(MAX_IDLE_STORED_LEN);
        workspace.stored.shrink_to(MAX_IDLE_STORED_LEN);
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE_WORKSPACES {
            idle.push(workspace);
        }
        result
    }

    /// Where the bytes of a range of the device are stored: the layer (bottom is 0) and bytes of its blob, in the order in
    /// which a reader meets them. Zeros are stored nowhere.
    pub fn stored_ranges(&self, range: ByteRange) -> Vec<(usize, ByteRange)> {
        let range = range.intersection(ByteRange::new(0, self.len));
        let mut ranges: Vec<(usize, ByteRange)> = Vec::new();
        for piece in plan::pieces(&self.index, range) {
            let number = usize::from(piece.layer);
            let Some(layer) = self.layers.get(number) else {
                continue;
            };
            let stored = layer.stored(piece.plain);
            match ranges.last_mut() {
                // Two pieces often share a block; the second then begins within the first.
                Some((last, before))
                    if *last == number
                        && before.start <= stored.start
                        && stored.start <= before.end =>
                {
                    before.end = before.end.max(stored.end);
                }
                _ => ranges.push((number, stored)),
            }
        }
        ranges
    }

    /// The parts of a range of the device that are stored somewhere, in order and apart from each other; all between them reads as zeros.
    /// At most `max_count` of them: what lies behind the last is then left open.
    pub fn data_ranges(&self, range: ByteRange, max_count: usize) -> Vec<ByteRange> {
        let range = range.intersection(ByteRange::new(0, self.len));
        let mut ranges: Vec<ByteRange> = Vec::new();
        for piece in plan::pieces(&self.index, range) {
            let start = range.start.saturating_add(piece.to);
            let end = start.saturating_add(piece.plain.len());
            let count = ranges.len();
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ if count == max_count => break,
                _ => ranges.push(ByteRange::new(start, end)),
            }
        }
        ranges
    }

    /// Lets go of the blocks and buffers that are kept for the next read.
    pub fn rest(&self) {
        if let Some(cache) = &self.cache {
            lock(cache).clear();
        }
        lock(&self.idle).clear();
    }

    fn read_part(&self, offset: u64, buf: &mut [u8], workspace: &mut Workspace) -> io::Result<()> {
        let range = ByteRange::new(offset, offset.saturating_add(buf.len() as u64));
        let pieces = plan::pieces(&self.index, range);
        zero_between(&pieces, buf);
        let mut fragments = Vec::new();
        for piece in pieces {
            let layer = self.layers.get(usize::from(piece.layer)).ok_or_else(lost)?;
            match layer.blocks() {
                Some(table) => fragments.extend(plan::fragments(piece, table.block_len())),
                None => layer
                    .payload()
                    .read_exact_at(piece.plain.start, target(buf, &piece)?)?,
            }
        }
        fragments.sort_unstable();
        let missing = self.copy_cached(&fragments, buf)?;
        for run in missing.chunk_by(|one, next| {
            one.first()
                .zip(next.first())
                .is_some_and(|(one, next)| adjoin(one, next))
        }) {
            self.read_run(run, buf, workspace)?;
        }
        Ok(())
    }

    /// Copies what is in the cache; gives back the fragments of each block that is not.
    fn copy_cached<'a>(
        &self,
        fragments: &'a [Fragment],
        buf: &mut [u8],
    ) -> io::Result<Vec<&'a [Fragment]>> {
        let wanted = fragments.chunk_by(|one, next| key(one) == key(next));
        let mut found: Vec<(&[Fragment], Bytes)> = Vec::new();
        let mut missing = Vec::new();
        let Some(cache) = &self.cache else {
            return Ok(wanted.collect());
        };
        {
            let mut cache = lock(cache);
            for of_block in wanted {
                match of_block.first().and_then(|first| cache.get(key(first))) {
                    Some(block) => found.push((of_block, block)),
                    None => missing.push(of_block),
                }
            }
        }
        for (of_block, block) in found {
            copy(of_block, &block, buf)?;
        }
        Ok(missing)
    }

    /// Reads and decompresses consecutive blocks of one layer, each given by its fragments.
    fn read_run(
        &self,
        run: &[&[Fragment]],
        buf: &mut [u8],
        workspace: &mut Workspace,
    ) -> io::Result<()> {
        let first = run
            .first()
            .and_then(|of_block| of_block.first())
            .ok_or_else(lost)?;
        let layer = self.layers.get(usize::from(first.layer)).ok_or_else(lost)?;
        let table = layer.blocks().ok_or_else(lost)?;
        let blocks = first.block..first.block.saturating_add(run.len() as u64);
        let mut rest = run.iter();
        let mut fresh: Vec<(BlockKey, Bytes)> = Vec::new();
        for span in spans(table, blocks) {
            let Workspace {
                decoder,
                stored,
                spare,
            } = workspace;
            read_span(layer.payload(), table, &span, stored)?;
            for (block, of_block) in span.clone().zip(rest.by_ref()) {
                let read = BlockRead {
                    table,
                    span: &span,
                    stored,
                    block,
                };
                let spare = self.cache.is_none().then_some(&mut *spare);
                fresh.extend(
                    read.into_buf(of_block, buf, decoder, spare)?
                        .map(|plain| ((first.layer, block), plain)),
                );
            }
        }
        if let Some(cache) = self.cache.as_ref().filter(|_| !fresh.is_empty()) {
            let mut cache = lock(cache);
            for (key, plain) in fresh {
                cache.put(key, plain);
            }
        }
        Ok(())
    }
}

fn check_count(count: usize) -> Result<(), OpenLayerError> {
    if (1..=MAX_LAYERS).contains(&count) {
        Ok(())
    } else {
        Err(OpenLayerError::Count { count })
    }
}

const fn key(fragment: &Fragment) -> BlockKey {
    (fragment.layer, fragment.block)
}

fn adjoin(one: &Fragment, next: &Fragment) -> bool {
    one.layer == next.layer && one.block.checked_add(1) == Some(next.block)
}

/// Nothing is half done while one of these locks is held, so a panic elsewhere leaves their content whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("layers", &self.layers.len())
            .field("mappings", &self.index.mappings().len())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
